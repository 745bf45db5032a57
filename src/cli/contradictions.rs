//! Settings that are valid on their own but not together.

use crate::both;
use crate::cli::flags::Settings;
use crate::cli::settings::Given;
use crate::cli::variables::{source_of, ROUTE};
use crate::complaint::Complaint;
use crate::language::Words;

/// Fails with the first two settings that contradict each other, or the first that has no
/// effect because of another.
pub(super) fn refuse_contradictions(
    settings: &Settings,
    given: &[Vec<Given>],
) -> Result<(), Complaint> {
    let source = |flag: &'static str| source_of(given, flag).unwrap_or(flag);
    let combined = |flag, other| {
        let other = source(other);
        let problem = both!(
            "cannot be combined with {other}; leave one of them out",
            "不能与 {other} 合用；请去掉其一"
        );
        Err(Complaint::new(source(flag), problem))
    };
    if settings.direct {
        let mut proxies = ROUTE.into_iter().filter(|flag| *flag != "--direct");
        if let Some(flag) = proxies.find(|flag| source_of(given, flag).is_some()) {
            return combined("--direct", flag);
        }
    }
    let proxies = [
        ("--socks-proxy", &settings.socks_proxy),
        ("--http-proxy", &settings.http_proxy),
        ("--https-proxy", &settings.https_proxy),
    ];
    let proxy = proxies.iter().find(|(_, proxies)| proxies.is_some());
    if let (true, Some((flag, _))) = (settings.upstream_host.authority.is_local(), proxy) {
        let proxy = source(flag);
        let problem = both!(
            "a proxy cannot reach a unix socket or a link-local address of this machine; add --direct, or leave out {proxy}",
            "代理无法访问本机的 unix 套接字或链路本地地址；请加上 --direct，或去掉 {proxy}"
        );
        return Err(Complaint::new(source("--upstream-host"), problem));
    }
    if let (Some(by_flag), Some(by_scheme)) = (settings.tls, settings.upstream_host.tls) {
        if by_flag != by_scheme {
            let upstream = source("--upstream-host");
            let problem = both!(
                "contradicts the scheme of {upstream}; leave one of them out",
                "与 {upstream} 的协议矛盾；请去掉其一"
            );
            return Err(Complaint::new(source("--tls"), problem));
        }
    }
    if settings.quiet && settings.verbose {
        return combined("--quiet", "--verbose");
    }
    let without_effect = [
        ("--tls-name", settings.tls_name.is_some()),
        ("--tls-verify", settings.tls_verify),
        ("--tls-cert", settings.tls_cert.is_some()),
        ("--tls-key", settings.tls_key.is_some()),
    ];
    let useless = without_effect.iter().find(|(_, is_given)| *is_given);
    if let (false, Some((flag, _))) = (settings.upstream_host.speaks_tls(settings.tls), useless) {
        let problem = Words::new(
            "has no effect without TLS to the upstream; add --tls on, or leave this out",
            "到上游不使用 TLS 时此项无效；请加上 --tls on，或去掉此项",
        );
        return Err(Complaint::new(source(flag), problem));
    }
    Ok(())
}
