//! Proxy variables without our prefix whose values this program cannot use, such as HTTP_PROXY
//! with a SOCKS URL. Other programs may use them, so they are an error only if no other proxy
//! takes precedence.

use crate::cli::flags::{Settings, TABLE};
use crate::cli::refused::with_value;
use crate::cli::settings::Given;
use crate::cli::values::{http_proxy, socks5_proxy};
use crate::complaint::Complaint;
use crate::language::Words;

/// A proxy variable without our prefix whose value cannot be used.
pub(super) struct Unfit {
    /// The flag that it sets.
    long: &'static str,
    source: &'static str,
    problem: Words,
}

/// Removes the values of proxy variables without our prefix that cannot be used.
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

/// The unusable variables, each with its problem, to be ignored because another proxy takes
/// precedence over them. Fails if one of them would take precedence itself.
pub(super) fn overridden(
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
