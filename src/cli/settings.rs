//! The settings in effect, as `--check` shows them, and where each came from.

use std::time::Duration;

use crate::cli::args::Args;
use crate::config::{Config, Language, LogFormat};
use crate::proxy::Proxy;

/// A setting in effect, as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The long flag, without its hyphens.
    pub name: &'static str,
    /// What it is, a password hidden.
    pub value: String,
    /// The flag or variable that it came from, or `default`.
    pub source: &'static str,
}

/// The proxies for SOCKS, HTTP and HTTPS, also those that lose, and the flag or variable that
/// names each.
pub type Proxies = [Option<(&'static str, Proxy)>; 3];

/// Every setting, in the order of the flags. `variables` says which variables speak, by the
/// setting's name.
pub fn list(
    args: &Args,
    config: &Config,
    proxies: &Proxies,
    variables: &[(&str, Option<&'static str>)],
) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut row = |flag: &'static str, values: &[String], value: String| {
        settings.push(Setting {
            name: flag.trim_start_matches('-'),
            value,
            source: if values.is_empty() { "default" } else { flag },
        });
    };
    let or =
        |value: &Option<String>, other: &str| value.clone().unwrap_or_else(|| other.to_owned());
    let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
    let Config {
        listen,
        tls,
        rewrite,
        limits,
        log,
        ..
    } = config;
    let [socks, http, https] = proxies;
    let proxy = |proxy: &Option<(&str, Proxy)>| match proxy {
        Some((_, proxy)) => proxy.to_string(),
        None => "none".to_owned(),
    };
    row(
        "--upstream-host",
        &args.upstream_host,
        config.upstream.to_string(),
    );
    row("--listen-port", &args.listen_port, listen.port.to_string());
    let every = "every address".to_owned();
    row(
        "--bind",
        &args.bind,
        listen.address.map_or(every, |a| a.to_string()),
    );
    row("--socks-proxy", &args.socks_proxy, proxy(socks));
    row("--http-proxy", &args.http_proxy, proxy(http));
    row("--https-proxy", &args.https_proxy, proxy(https));
    let switch = |on: bool| if on { vec![String::new()] } else { Vec::new() };
    row("--direct", &switch(args.direct), on_or_off(args.direct));
    row("--tls", &args.tls, on_or_off(tls.is_some()));
    let name = tls.as_ref().and_then(|tls| tls.name.clone());
    row(
        "--tls-name",
        &args.tls_name,
        or(&name, "as the upstream is named"),
    );
    row(
        "--tls-verify",
        &switch(args.tls_verify),
        on_or_off(args.tls_verify),
    );
    row(
        "--tls-ca",
        &args.tls_ca,
        or(&args.tls_ca.last().cloned(), "the system's alone"),
    );
    row(
        "--host-header",
        &args.host_header,
        or(&rewrite.host, "the client's"),
    );
    let upgrades = ["websocket"].into_iter();
    let upgrades = upgrades.chain(rewrite.upgrades.iter().map(String::as_str));
    row(
        "--upgrade",
        &args.upgrade,
        upgrades.collect::<Vec<_>>().join(", "),
    );
    row(
        "--forwarded",
        &switch(args.forwarded),
        on_or_off(args.forwarded),
    );
    for (flag, values, time) in [
        (
            "--connect-timeout",
            &args.connect_timeout,
            limits.connect_timeout,
        ),
        ("--head-timeout", &args.head_timeout, limits.head_timeout),
        (
            "--response-timeout",
            &args.response_timeout,
            limits.response_timeout,
        ),
        (
            "--keepalive-timeout",
            &args.keepalive_timeout,
            limits.keepalive_timeout,
        ),
        (
            "--tunnel-timeout",
            &args.tunnel_timeout,
            limits.tunnel_timeout,
        ),
        ("--drain-timeout", &args.drain_timeout, limits.drain_timeout),
    ] {
        row(flag, values, seconds(time));
    }
    row("--threads", &args.threads, config.threads.to_string());
    let most = limits.max_connections.map(|most| most.to_string());
    row(
        "--max-connections",
        &args.max_connections,
        or(&most, "as descriptors allow"),
    );
    row(
        "--health-path",
        &args.health_path,
        or(&config.health_path, "none"),
    );
    let metrics = config.metrics.map(|address| address.to_string());
    row(
        "--metrics-listen",
        &args.metrics_listen,
        or(&metrics, "off"),
    );
    let language = match log.language {
        Language::Chinese => "zh",
        Language::English => "en",
    };
    row("--log-lang", &args.log_lang, language.to_owned());
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    row("--log-format", &args.log_format, format.to_owned());
    row("--quiet", &switch(args.quiet), on_or_off(args.quiet));
    row("--verbose", &switch(args.verbose), on_or_off(args.verbose));
    // Variables speak only where no flag does.
    let source = |proxy: &Option<(&'static str, Proxy)>| proxy.as_ref().map(|(source, _)| *source);
    let proxies = [
        ("socks-proxy", source(socks)),
        ("http-proxy", source(http)),
        ("https-proxy", source(https)),
    ];
    for (name, variable) in proxies.iter().chain(variables) {
        let setting = settings.iter_mut().find(|setting| setting.name == *name);
        if let (Some(setting), Some(variable)) = (setting, variable) {
            if setting.source == "default" {
                setting.source = variable;
            }
        }
    }
    settings
}

fn on_or_off(on: bool) -> String {
    let word = if on { "on" } else { "off" };
    word.to_owned()
}
