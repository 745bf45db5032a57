//! Common variables that name a proxy in a form that cannot serve, such as HTTP_PROXY with a
//! SOCKS URL: other programs may have a use for them, so that they are an error only where no
//! other proxy wins over them.

use crate::cli::flags::{Settings, TABLE};
use crate::cli::refused::with_value;
use crate::cli::settings::Given;
use crate::cli::values::{http_proxy, socks5_proxy};
use crate::complaint::Complaint;
use crate::language::Words;

/// A common variable that names a proxy, in a form that cannot serve.
pub(super) struct Unfit {
    /// The flag that it stands for.
    long: &'static str,
    source: &'static str,
    problem: Words,
}

/// Takes the common variables out that name proxies in a form that cannot serve.
pub(super) fn set_aside_unfit(given: &mut [Vec<Given>]) -> Vec<Unfit> {
    let mut unfit = Vec::new();
    for (flag, values) in TABLE.iter().zip(given) {
        let read = match flag.long {
            "--socks-proxy" => socks5_proxy,
            "--http-proxy" | "--https-proxy" => http_proxy,
            _ => continue,
        };
        let is_common = |value: &&Given| Some(value.source) == flag.variable;
        let Some(value) = values.last().filter(is_common) else {
            continue;
        };
        if let Err(problem) = read(&value.text) {
            unfit.push(Unfit {
                long: flag.long,
                source: value.source,
                problem: with_value(&problem, flag, &value.text),
            });
            values.clear();
        }
    }
    unfit
}

/// Those that another proxy wins over. One that would win is an error.
pub(super) fn losers(
    unfit: Vec<Unfit>,
    settings: &Settings,
) -> Result<Vec<(String, Words)>, Complaint> {
    let fit = [
        ("--socks-proxy", settings.socks_proxy.is_some()),
        ("--http-proxy", settings.http_proxy.is_some()),
        ("--https-proxy", settings.https_proxy.is_some()),
    ];
    let by_preference = match settings.upstream_host.speaks_tls(settings.tls) {
        true => [0, 2, 1],
        false => [0, 1, 2],
    };
    for n in by_preference {
        let (long, is_fit) = fit[n];
        if is_fit {
            break;
        }
        if let Some(first) = unfit.iter().find(|unfit| unfit.long == long) {
            return Err(Complaint::new(first.source, first.problem.clone()));
        }
    }
    let ignored = unfit.into_iter();
    let ignored = ignored.map(|unfit| (unfit.source.to_owned(), unfit.problem));
    Ok(ignored.collect())
}
