//! Flags and the environment: what was typed becomes a `Config`, or one line
//! that names the source and the problem. No line ever repeats a credential.

use std::ffi::OsString;

use argh::FromArgs;

use crate::both;
use crate::cli::args::{separate, Separated, Usage};
use crate::cli::flags::{Args, Settings, TABLE};
use crate::cli::help::help;
use crate::cli::settings::{list, Given, Setting};
use crate::cli::values::{http_proxy, socks5_proxy};
use crate::config::{
    Access, Config, Language, Limits, Listen, LogSettings, Rewrite, Route, UpstreamTls, Verbosity,
    MAX_PIPES,
};
use crate::edits::FieldEdits;
use crate::identity::Identity;
use crate::language::Words;

/// What the command line asks for.
pub enum Command {
    /// Run with these settings; the second form is how they are shown.
    Serve(Box<Config>, Vec<Setting>),
    /// Try these settings once.
    Check(Box<Check>),
    /// Print this on standard output and exit.
    Print(String),
}

/// What `--check` needs to know.
pub struct Check {
    /// The settings.
    pub config: Config,
    /// The same, as they are shown.
    pub settings: Vec<Setting>,
    /// The path on which a WebSocket is tried, if one is.
    pub websocket: Option<String>,
}

/// Makes settings of the arguments (without the program's name) and the environment.
/// A flag overrides a variable, a variable a default; an empty variable counts as unset.
pub fn resolve(
    args: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Usage> {
    let words = match separate(args)? {
        Separated::Words(words) => words,
        Separated::Help => return Ok(Command::Print(help(Language::English))),
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let args = Args::from_args(&["simple-proxy"], &words);
    // `separate` has refused all that argh would.
    let args = args.map_err(|_| {
        Usage::new(
            "simple-proxy",
            Words::new("not understood", "无法理解命令行"),
        )
    })?;
    let mut given = merge(args, environment)?;
    // The version is told whatever else is wrong.
    if given_as_flag(&given, "--version") {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(Command::Print(format!("simple-proxy {version}\n")));
    }
    let unfit = set_aside_unfit(&mut given);
    let mut settings = Settings::read(&given)?;
    let ignored = losers(unfit, &settings)?;
    refuse_contradictions(&settings, &given)?;
    let shown = list(&settings, &given);
    let websocket = settings.check_path.take();
    let check = settings.check;
    let identity = identity(&mut settings)?;
    let config = Config {
        ignored,
        ..config(settings, identity)
    };
    match (check, websocket) {
        (true, websocket) => Ok(Command::Check(Box::new(Check {
            settings: in_effect(shown, &config),
            config,
            websocket,
        }))),
        (false, Some(_)) => Err(Usage::new(
            "--check-path",
            Words::new("requires --check", "须与 --check 合用"),
        )),
        (false, None) => {
            let settings = in_effect(shown, &config);
            Ok(Command::Serve(Box::new(config), settings))
        }
    }
}

/// The flags that say which way to the upstream is taken.
const ROUTE: [&str; 4] = ["--socks-proxy", "--http-proxy", "--https-proxy", "--direct"];

/// The values of each flag in the order of the table: those of the command line, else the
/// variable's. Any flag of the route makes the variables of all of them ignored.
fn merge(
    args: Args,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Vec<Given>>, Usage> {
    let given = args.values().into_iter().zip(TABLE).map(|(values, flag)| {
        let given = values.into_iter().map(|text| Given {
            source: flag.long,
            text,
        });
        given.collect()
    });
    let mut given: Vec<Vec<Given>> = given.collect();
    let route_is_given = ROUTE.iter().any(|flag| given_as_flag(&given, flag));
    for (values, flag) in given.iter_mut().zip(TABLE) {
        let Some(name) = flag.variable.filter(|_| values.is_empty()) else {
            continue;
        };
        if route_is_given && ROUTE.contains(&flag.long) {
            continue;
        }
        if let Some(value) = environment(name).filter(|value| !value.is_empty()) {
            let text = value
                .into_string()
                .map_err(|_| Usage::new(name, Words::new("not UTF-8", "不是 UTF-8")))?;
            values.push(Given { source: name, text });
        }
    }
    Ok(given)
}

/// A variable that names a proxy, in a form that cannot serve.
struct Unfit {
    /// The flag that it stands for.
    long: &'static str,
    source: &'static str,
    problem: Words,
}

/// Takes the variables out that name proxies in a form that cannot serve, such as HTTP_PROXY
/// with a SOCKS URL: other programs may have a use for them.
fn set_aside_unfit(given: &mut [Vec<Given>]) -> Vec<Unfit> {
    let mut unfit = Vec::new();
    for (flag, values) in TABLE.iter().zip(given) {
        let read = match flag.long {
            "--socks-proxy" => socks5_proxy,
            "--http-proxy" | "--https-proxy" => http_proxy,
            _ => continue,
        };
        let Some(value) = values.last().filter(|value| value.source != flag.long) else {
            continue;
        };
        if let Err(problem) = read(&value.text) {
            unfit.push(Unfit {
                long: flag.long,
                source: value.source,
                problem,
            });
            values.clear();
        }
    }
    unfit
}

/// Those that another proxy wins over. One that would win is an error.
fn losers(unfit: Vec<Unfit>, settings: &Settings) -> Result<Vec<(&'static str, Words)>, Usage> {
    let fit = [
        ("--socks-proxy", settings.socks_proxy.is_some()),
        ("--http-proxy", settings.http_proxy.is_some()),
        ("--https-proxy", settings.https_proxy.is_some()),
    ];
    let by_preference = match speaks_tls(settings) {
        true => [0, 2, 1],
        false => [0, 1, 2],
    };
    for n in by_preference {
        let (long, is_fit) = fit[n];
        if is_fit {
            break;
        }
        if let Some(first) = unfit.iter().find(|unfit| unfit.long == long) {
            return Err(Usage::new(first.source, first.problem.clone()));
        }
    }
    let ignored = unfit.into_iter();
    Ok(ignored.map(|unfit| (unfit.source, unfit.problem)).collect())
}

/// Whether the command line has the flag.
fn given_as_flag(given: &[Vec<Given>], long: &str) -> bool {
    let found = TABLE.iter().zip(given).find(|(flag, _)| flag.long == long);
    found.is_some_and(|(_, values)| values.iter().any(|value| value.source == long))
}

/// The flag, or the variable that speaks in its place.
fn source_of(given: &[Vec<Given>], long: &'static str) -> &'static str {
    let found = TABLE.iter().zip(given).find(|(flag, _)| flag.long == long);
    let last = found.and_then(|(_, values)| values.last());
    last.map_or(long, |value| value.source)
}

/// Settings that are good alone and not together.
fn refuse_contradictions(settings: &Settings, given: &[Vec<Given>]) -> Result<(), Usage> {
    let combined = |flag: &'static str, other: &str| {
        let problem = both!("cannot be combined with {other}", "不能与 {other} 合用");
        Err(Usage::new(flag, problem))
    };
    if settings.direct {
        let proxies = ROUTE.iter().filter(|flag| **flag != "--direct");
        if let Some(flag) = proxies.into_iter().find(|flag| given_as_flag(given, flag)) {
            return combined("--direct", flag);
        }
    }
    let proxies = [
        ("--socks-proxy", &settings.socks_proxy),
        ("--http-proxy", &settings.http_proxy),
        ("--https-proxy", &settings.https_proxy),
    ];
    let proxy = proxies.iter().find(|(_, proxies)| proxies.is_some());
    if let (true, Some((flag, _))) = (settings.upstream_host.is_local(), proxy) {
        let source = source_of(given, flag);
        let problem = both!(
            "no proxy can reach a unix socket or a link of this machine; add --direct, or leave out {source}",
            "代理无法访问本机的 unix 套接字或链路；请加上 --direct，或去掉 {source}"
        );
        return Err(Usage::new(source_of(given, "--upstream-host"), problem));
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
    if let (false, Some((flag, _))) = (speaks_tls(settings), useless) {
        let problem = Words::new(
            "the upstream speaks no TLS; add --tls on, or leave this out",
            "到上游不使用 TLS；请加上 --tls on，或去掉此项",
        );
        return Err(Usage::new(*flag, problem));
    }
    Ok(())
}

/// Whether the upstream speaks TLS: as told, else by its port.
fn speaks_tls(settings: &Settings) -> bool {
    settings.tls.unwrap_or(settings.upstream_host.port == 443)
}

/// The client certificate with its key: neither is of use alone.
fn identity(settings: &mut Settings) -> Result<Option<Identity>, Usage> {
    let alone = |flag, other: &str| {
        let problem = both!("requires {other}", "须与 {other} 合用");
        Err(Usage::new(flag, problem))
    };
    match (settings.tls_cert.take(), settings.tls_key.take()) {
        (None, None) => Ok(None),
        (Some(_), None) => alone("--tls-cert", "--tls-key"),
        (None, Some(_)) => alone("--tls-key", "--tls-cert"),
        (Some(chain), Some(key)) => Identity::new(chain.certificates, key.key)
            .map(Some)
            .map_err(|problem| Usage::new("--tls-key", problem)),
    }
}

fn config(settings: Settings, identity: Option<Identity>) -> Config {
    let with_tls = speaks_tls(&settings);
    Config {
        ignored: Vec::new(),
        listen: Listen {
            bind: settings.bind,
            port: settings.listen_port,
            mode: settings.listen_mode.0,
        },
        upstream: settings.upstream_host,
        // SOCKS first, then the HTTP proxy that suits the upstream, then the other.
        route: match (
            settings.socks_proxy,
            settings.http_proxy,
            settings.https_proxy,
        ) {
            (Some(proxy), _, _) => Route::Socks5(proxy),
            (None, http, https) => {
                let proxy = if with_tls {
                    https.or(http)
                } else {
                    http.or(https)
                };
                proxy.map_or(Route::Direct, Route::Connect)
            }
        },
        tls: with_tls.then_some(UpstreamTls {
            name: settings.tls_name,
            verify: settings.tls_verify,
        }),
        identity,
        tls_min: settings.tls_min,
        roots: settings
            .tls_ca
            .map(|roots| roots.certificates)
            .unwrap_or_default(),
        rewrite: Rewrite {
            host: settings.host_header,
            upgrades: settings.upgrade,
            forwarded: settings.forwarded,
            map_off: settings.map == "off",
            request_fields: FieldEdits::all(settings.header),
            response_fields: FieldEdits::all(settings.response_header),
        },
        access: Access {
            clients: settings.allow,
            hosts: settings.allow_host,
            origins: settings.allow_origin,
        },
        limits: Limits {
            connect_timeout: settings.connect_timeout,
            head_timeout: settings.head_timeout,
            response_timeout: settings.response_timeout,
            abandon_timeout: settings.abandon_timeout,
            keepalive_timeout: settings.keepalive_timeout,
            tunnel_timeout: settings.tunnel_timeout,
            drain_timeout: settings.drain_timeout,
            max_connections: settings.max_connections,
            upstream_idle: settings.upstream_idle,
            spares: settings.spares,
            max_head_bytes: settings.max_head,
            idle_upstreams: 256,
            pipes: MAX_PIPES,
        },
        threads: settings
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        health_path: settings.health_path,
        metrics: settings.metrics_listen,
        status: settings.status_listen,
        log: LogSettings {
            language: settings.log_lang.unwrap_or(Language::Chinese),
            format: settings.log_format,
            verbosity: match (settings.quiet, settings.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, true) => Verbosity::Verbose,
                (false, false) => Verbosity::Normal,
            },
        },
    }
}

/// Adds to the values as given what they amount to.
fn in_effect(mut settings: Vec<Setting>, config: &Config) -> Vec<Setting> {
    for setting in &mut settings {
        setting.value = match setting.name {
            "tls" if config.tls.is_some() => Words::new("on", "开"),
            "tls" => Words::new("off", "关"),
            "threads" => Words::same(config.threads.to_string()),
            "upgrade" => {
                let others = config.rewrite.upgrades.iter().map(String::as_str);
                let all: Vec<&str> = std::iter::once("websocket").chain(others).collect();
                Words::same(all.join(", "))
            }
            _ => continue,
        };
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::flags;

    fn resolve_with(args: &[&str], variables: &[(&str, &str)]) -> Result<Command, Usage> {
        resolve(args.iter().map(OsString::from), |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn config(args: &[&str], variables: &[(&str, &str)]) -> Config {
        match resolve_with(args, variables) {
            Ok(Command::Serve(config, _)) => *config,
            Ok(Command::Check(_)) => panic!("{args:?} checks"),
            Ok(Command::Print(text)) => panic!("{args:?} prints {text}"),
            Err(usage) => panic!("{args:?}: {usage}"),
        }
    }

    fn error(args: &[&str], variables: &[(&str, &str)]) -> String {
        match resolve_with(args, variables) {
            Err(usage) => usage.to_string()["simple-proxy: ".len()..].to_owned(),
            Ok(_) => panic!("{args:?} {variables:?} was accepted"),
        }
    }

    #[test]
    fn a_flag_overrides_a_variable_and_the_last_wins() {
        let variables = [("UPSTREAM_HOST", "a:1"), ("LISTEN_PORT", "8080")];
        let settings = config(&[], &variables);
        assert_eq!(settings.upstream.to_string(), "a:1");
        assert_eq!(settings.listen.port, 8080);
        let settings = config(&["-u", "b:2", "--upstream-host=c:3", "-p0"], &variables);
        assert_eq!(settings.upstream.to_string(), "c:3");
        assert_eq!(settings.listen.port, 0);
        assert_eq!(config(&["-ua:1"], &[("LISTEN_PORT", "")]).listen.port, 80);
    }

    #[test]
    fn the_route_comes_from_one_source() {
        let all = [
            ("SOCKS_PROXY", "s"),
            ("HTTP_PROXY", "h"),
            ("HTTPS_PROXY", "t"),
        ];
        for (args, variables, expected) in [
            (&["-u", "a:80"][..], &all[..], "SOCKS5 socks5://s:1080"),
            (&["-u", "a:80"], &all[1..], "CONNECT http://h:80"),
            (&["-u", "a:443"], &all[1..], "CONNECT http://t:80"),
            (&["-u", "a:443"], &all[1..2], "CONNECT http://h:80"),
            (&["-u", "a:80"], &all[2..], "CONNECT http://t:80"),
            (
                &["-u", "a:8443", "--tls", "on"],
                &all[1..],
                "CONNECT http://t:80",
            ),
            (&["-u", "a:80"], &[], "direct"),
            (&["-u", "a:80", "-d"], &all, "direct"),
            (
                &["-u", "a:80", "--http-proxy", "f"],
                &all,
                "CONNECT http://f:80",
            ),
            (&["-u", "a:80"], &[("SOCKS_PROXY", "")], "direct"),
            (
                &["-u", "a:80"],
                &[("socks_proxy", "x"), ("ALL_PROXY", "y")],
                "direct",
            ),
        ] {
            let route = config(args, variables).route.to_string();
            assert_eq!(route, expected, "{args:?} {variables:?}");
        }
    }

    #[test]
    fn a_variable_that_cannot_serve_is_ignored_where_another_wins() {
        let (socks, other) = (("SOCKS_PROXY", "s"), ("HTTP_PROXY", "socks5://u:secret@h"));
        let config_of = |args: &[&str], variables: &[(&str, &str)]| {
            let config = config(args, variables);
            let ignored = config.ignored.iter().map(|(source, problem)| {
                let problem = problem.say(Language::English);
                assert!(!problem.contains("secret"), "{problem}");
                *source
            });
            (ignored.collect::<Vec<_>>(), config.route.to_string())
        };
        let (ignored, route) = config_of(&["-u", "a:80"], &[socks, other]);
        assert_eq!(
            (&ignored[..], &*route),
            (&["HTTP_PROXY"][..], "SOCKS5 socks5://s:1080")
        );
        let https = ("HTTPS_PROXY", "t");
        let (ignored, route) = config_of(&["-u", "a:443"], &[https, other]);
        assert_eq!(
            (&ignored[..], &*route),
            (&["HTTP_PROXY"][..], "CONNECT http://t:80")
        );
        // A flag makes variables ignored without a word, and is itself never let pass.
        let (ignored, _) = config_of(&["-u", "a:80", "-d"], &[other]);
        assert!(ignored.is_empty());
        let an_http_proxy = "HTTP_PROXY: an HTTP proxy is";
        for variables in [&[other][..], &[https, other]] {
            let line = error(&["-u", "a:80"], variables);
            assert!(line.starts_with(an_http_proxy), "{line}");
        }
        let line = error(&["-u", "a:80", "-s", "s", "--http-proxy", other.1], &[]);
        assert!(line.starts_with("--http-proxy: an HTTP proxy is"), "{line}");
    }

    #[test]
    fn tls_follows_the_port_unless_told() {
        assert!(config(&["-u", "a:443"], &[]).tls.is_some());
        assert!(config(&["-u", "a:80"], &[]).tls.is_none());
        assert!(config(&["-u", "a:443", "--tls", "off"], &[]).tls.is_none());
        assert!(config(&["-u", "a:80", "--tls=on"], &[]).tls.is_some());
    }

    #[test]
    fn each_problem_names_its_source() {
        let up = ("UPSTREAM_HOST", "a:80");
        for (args, variables, expected) in [
            (&[][..], &[][..], "UPSTREAM_HOST: not set"),
            (&["-u", "a"], &[], "--upstream-host: a port is missing"),
            (
                &[],
                &[("UPSTREAM_HOST", "a")],
                "UPSTREAM_HOST: a port is missing",
            ),
            (&["-p", "+80"], &[up], "--listen-port: not a port"),
            (&[], &[up, ("LISTEN_PORT", "x")], "LISTEN_PORT: not a port"),
            (&["-b", "localhost"], &[up], "--bind: not an IP address"),
            (
                &["--socks-proxy", ""],
                &[up],
                "--socks-proxy: the value is empty",
            ),
            (&["-s"], &[up], "-s: a value is missing"),
            (
                &["-d", "-s", "h"],
                &[up],
                "--direct: cannot be combined with --socks-proxy",
            ),
            (&["-qv"], &[up], "--quiet: cannot be combined"),
            (
                &["-u", "unix:/run/app"],
                &[("SOCKS_PROXY", "h")],
                "--upstream-host: no proxy can reach a unix socket",
            ),
            (
                &["-s", "h"],
                &[("UPSTREAM_HOST", "[fe80::1%lo]:80")],
                "UPSTREAM_HOST: no proxy can reach",
            ),
            (&["--nope=secret"], &[up], "--nope: no such option"),
            (&["-x"], &[up], "-x: no such option"),
            (
                &["--direct=1"],
                &[up],
                "--direct: this option takes no value",
            ),
            (&["extra"], &[up], "extra: unexpected argument"),
            (&["--", "extra"], &[up], "extra: unexpected argument"),
            (&["--tls", "maybe"], &[up], "--tls: must be auto"),
            (&["--tls-name", "a b"], &[up], "--tls-name: not a DNS name"),
            (
                &["--tls-verify"],
                &[up],
                "--tls-verify: the upstream speaks no TLS",
            ),
            (
                &["--tls-name", "a"],
                &[up],
                "--tls-name: the upstream speaks no TLS",
            ),
            (
                &["--tls-ca", "/nonexistent"],
                &[up],
                "--tls-ca: cannot read",
            ),
            (
                &["--host-header", "a b"],
                &[up],
                "--host-header: not a host",
            ),
            (&["--upgrade", "H2C"], &[up], "--upgrade: h2c is never"),
            (
                &["--connect-timeout", "0"],
                &[up],
                "--connect-timeout: not a number",
            ),
            (
                &["--connect-timeout", "inf"],
                &[up],
                "--connect-timeout: not a number",
            ),
            (
                &["--response-timeout", "-1"],
                &[up],
                "--response-timeout: not a number",
            ),
            (&["--threads", "0"], &[up], "--threads: not a number"),
            (
                &["--max-connections", "+1"],
                &[up],
                "--max-connections: not a number",
            ),
            (&["--log-lang", "fr"], &[up], "--log-lang: must be"),
            (
                &[],
                &[up, ("SOCKS_PROXY", "ftp://x")],
                "SOCKS_PROXY: the scheme",
            ),
        ] {
            let line = error(args, variables);
            assert!(line.starts_with(expected), "{args:?} {variables:?}: {line}");
        }
    }

    #[test]
    fn no_problem_repeats_a_credential() {
        let up = ("UPSTREAM_HOST", "a:80");
        for args in [
            &["socks5://u:secret@h"][..],
            &["-s", "ftp://u:secret@h"],
            &["-s", "socks5://u:secret@h:x", "-s", "socks5://u:secret@h:y"],
            &["--socks-prox=socks5://u:secret@h"],
            &["--socks-proxysocks5://u:secret@h"],
            &["--socks5://u:secret@h"],
            &["-d", "-s", "socks5://u:secret@h"],
            &["--http-proxy=http://u:secret@h/path"],
        ] {
            let line = error(args, &[up]);
            assert!(!line.contains("secret"), "{args:?}: {line}");
        }
    }

    #[test]
    fn help_and_version_are_printed_whatever_else_is_given() {
        for args in [&["-h"][..], &["--help"], &["-p", "80", "-vh"]] {
            let Ok(Command::Print(help)) = resolve_with(args, &[]) else {
                panic!("{args:?} prints no help")
            };
            for flag in flags() {
                assert!(help.contains(flag.long), "{}", flag.long);
            }
        }
        let Ok(Command::Print(version)) = resolve_with(&["-V"], &[]) else {
            panic!("-V prints nothing")
        };
        assert_eq!(
            version,
            format!("simple-proxy {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}
