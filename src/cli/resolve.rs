//! Turns the flags and the environment into a `Config`, or into an error that names the
//! source and the problem and never repeats a credential. Leaves to `contradictions` which
//! settings exclude each other, to `identities` which belong together, and to `unfit` the
//! proxy variables that are meant for other programs.

use std::ffi::OsString;

use argh::FromArgs;

use crate::cli::args::{separate, Separated};
use crate::cli::contradictions::refuse_contradictions;
use crate::cli::flags::{Args, Settings};
use crate::cli::help::help;
use crate::cli::identities::Identities;
use crate::cli::manner::Manner;
use crate::cli::settings::{list, Setting};
use crate::cli::unfit::{overridden, set_aside_unfit};
use crate::cli::variables::{merge, source_of, Environment};
use crate::complaint::Complaint;
use crate::config::{
    Access, Config, Language, Limits, Listen, LogSettings, Rewrite, Route, UpstreamTls, Verbosity,
    MAX_PIPES,
};
use crate::edits::FieldEdits;
use crate::language::Words;

/// What the command line asks for.
pub enum Command {
    /// Run with these settings; the list is for the status page.
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
    /// The same, as the report lists them.
    pub settings: Vec<Setting>,
    /// The path to try a WebSocket on, if one is set.
    pub websocket: Option<String>,
    /// The language of the report.
    pub language: Language,
}

/// Resolves the arguments (without the program's name) and the environment into a command.
/// A flag overrides a variable, and a variable a default; an empty variable counts as unset.
/// Fails only because of a bad flag or setting.
pub fn resolve(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Command, Complaint> {
    let environment = Environment::new(variables);
    let args: Vec<OsString> = args.into_iter().collect();
    let manner = Manner::of(&args, |name| environment.get(name));
    let words = match separate(args)? {
        Separated::Words(words) => words,
        Separated::Help => return Ok(Command::Print(help(manner.language))),
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let args = Args::from_args(&["simple-proxy"], &words);
    // `separate` has refused whatever argh would refuse.
    let args = args.map_err(|_| {
        Complaint::new(
            "simple-proxy",
            Words::new("not understood", "无法理解命令行"),
        )
    })?;
    let mut given = merge(args, &environment)?;
    // `--version` works even if other settings are wrong.
    if source_of(&given, "--version").is_some() {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(Command::Print(format!("simple-proxy {version}\n")));
    }
    let unfit = set_aside_unfit(&mut given);
    let mut settings = Settings::read(&given)?;
    let mut ignored = overridden(unfit, &settings)?;
    ignored.extend(environment.near_misses());
    ignored.extend(environment.proxy_not_read(&settings));
    refuse_contradictions(&settings, &given)?;
    let shown = list(&settings, &given);
    let websocket = settings.check_path.take();
    let check = settings.check;
    let identities = Identities::take(&mut settings, &given)?;
    let config = Config {
        ignored,
        ..config(settings, identities)
    };
    match (check, websocket) {
        (true, websocket) => Ok(Command::Check(Box::new(Check {
            settings: in_effect(shown, &config),
            config,
            websocket,
            language: manner.language,
        }))),
        // The variable of --check-path may be set without --check; the flag may not.
        (false, Some(_)) if source_of(&given, "--check-path") == Some("--check-path") => {
            let problem = Words::new("requires --check", "须与 --check 合用");
            Err(Complaint::new("--check-path", problem))
        }
        (false, _) => {
            let settings = in_effect(shown, &config);
            Ok(Command::Serve(Box::new(config), settings))
        }
    }
}

fn config(settings: Settings, identities: Identities) -> Config {
    let with_tls = settings.upstream_host.speaks_tls(settings.tls);
    Config {
        ignored: Vec::new(),
        listen: Listen {
            bind: settings.bind,
            port: settings.listen_port,
            mode: settings.listen_mode.0,
            tls: identities.clients,
        },
        upstream: settings.upstream_host.authority,
        // A SOCKS proxy is preferred, then the HTTP proxy for the upstream's scheme, then the
        // other HTTP proxy.
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
        identity: identities.upstream,
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
            tunnel_timeout: settings.tunnel_timeout.unwrap_or_default(),
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

/// Replaces values that depend on other settings or on the machine, such as `auto`, by the
/// ones in effect.
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
    use crate::config::Forwarded;

    fn resolve_with(args: &[&str], variables: &[(&str, &str)]) -> Result<Command, Complaint> {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| (OsString::from(name), value.into()));
        resolve(args.iter().map(OsString::from), variables)
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
            Err(complaint) => {
                // The Chinese text must not repeat a credential either.
                let chinese = complaint.say(Language::Chinese);
                assert!(!chinese.contains("secret"), "{chinese}");
                assert!(!chinese.is_ascii(), "{chinese}");
                complaint.to_string()
            }
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
    fn an_unusable_proxy_variable_is_ignored_if_another_proxy_wins() {
        let (socks, other) = (("SOCKS_PROXY", "s"), ("HTTP_PROXY", "socks5://u:secret@h"));
        let config_of = |args: &[&str], variables: &[(&str, &str)]| {
            let config = config(args, variables);
            let route = config.route.to_string();
            let ignored = config.ignored.into_iter().map(|(source, problem)| {
                let problem = problem.say(Language::English);
                assert!(!problem.contains("secret"), "{problem}");
                source
            });
            (ignored.collect::<Vec<_>>(), route)
        };
        let (ignored, route) = config_of(&["-u", "a:80"], &[socks, other]);
        assert_eq!(
            (&ignored[..], &*route),
            (&["HTTP_PROXY".to_owned()][..], "SOCKS5 socks5://s:1080")
        );
        let https = ("HTTPS_PROXY", "t");
        let (ignored, route) = config_of(&["-u", "a:443"], &[https, other]);
        assert_eq!(
            (&ignored[..], &*route),
            (&["HTTP_PROXY".to_owned()][..], "CONNECT http://t:80")
        );
        // A flag overrides variables without a warning; an unusable flag is always an error.
        let (ignored, _) = config_of(&["-u", "a:80", "-d"], &[other]);
        assert!(ignored.is_empty());
        let an_http_proxy = "HTTP_PROXY: an HTTP proxy must";
        for variables in [&[other][..], &[https, other]] {
            let line = error(&["-u", "a:80"], variables);
            assert!(line.starts_with(an_http_proxy), "{line}");
        }
        let line = error(&["-u", "a:80", "-s", "s", "--http-proxy", other.1], &[]);
        assert!(
            line.starts_with("--http-proxy: an HTTP proxy must"),
            "{line}"
        );
    }

    #[test]
    fn every_flag_has_a_variable() {
        let settings = config(
            &["--head-timeout", "5"],
            &[
                ("UPSTREAM_HOST", "a:80"),
                ("SIMPLE_PROXY_UPSTREAM_HOST", "b:443"),
                ("SIMPLE_PROXY_CONNECT_TIMEOUT", "3"),
                ("SIMPLE_PROXY_HEAD_TIMEOUT", "4"),
                ("SIMPLE_PROXY_DRAIN_TIMEOUT", ""),
                ("SIMPLE_PROXY_TLS_VERIFY", "Yes"),
                ("SIMPLE_PROXY_FORWARDED", "append"),
                ("SIMPLE_PROXY_UPGRADE", "ircd\n\n foo\r\n"),
                ("SIMPLE_PROXY_CHECK", "1"),
                ("SIMPLE_PROXY_VERSION", "1"),
                ("SIMPLE_PROXY_CHECK_PATH", "/ws"),
                ("SIMPLE_PROXY_PORT", "tcp://10.0.0.1:80"),
                ("SIMPLE_PROXY_SERVICE_HOST", "10.0.0.1"),
                ("SIMPLE_PROXY_LOG_LANG", "en"),
                ("SIMPLE_PROXY_TREADS", "4"),
            ],
        );
        assert_eq!(settings.upstream.to_string(), "b:443");
        let seconds = std::time::Duration::from_secs;
        assert_eq!(settings.limits.connect_timeout, seconds(3));
        assert_eq!(settings.limits.head_timeout, seconds(5));
        assert_eq!(settings.limits.drain_timeout, seconds(10));
        assert!(settings.tls.is_some_and(|tls| tls.verify));
        assert_eq!(settings.rewrite.forwarded, Forwarded::Append);
        assert_eq!(settings.rewrite.upgrades, ["ircd", "foo"]);
        assert_eq!(settings.log.language, Language::English);
        let ignored = settings.ignored.iter();
        let ignored: Vec<&str> = ignored.map(|(name, _)| name.as_str()).collect();
        assert_eq!(ignored, ["SIMPLE_PROXY_TREADS"]);
        for flag in flags() {
            let name = flag.long[2..].replace('-', "_").to_uppercase();
            let expected = match flag.long {
                "--help" | "--version" | "--check" => None,
                _ => Some(format!("SIMPLE_PROXY_{name}")),
            };
            assert_eq!(flag.prefixed_variable(), expected.as_deref());
        }
    }

    #[test]
    fn a_switch_is_turned_off_by_its_variable_too() {
        let up = ("UPSTREAM_HOST", "a:443");
        for (value, expected) in [
            ("1", true),
            ("true", true),
            ("YES", true),
            ("on", true),
            ("0", false),
            ("False", false),
            ("no", false),
            ("off", false),
        ] {
            let settings = config(&[], &[up, ("SIMPLE_PROXY_TLS_VERIFY", value)]);
            let verifies = settings.tls.is_some_and(|tls| tls.verify);
            assert_eq!(verifies, expected, "{value}");
            let settings = config(&[], &[up, ("SIMPLE_PROXY_FORWARDED", value)]);
            let adds = settings.rewrite.forwarded != Forwarded::Off;
            assert_eq!(adds, expected, "{value}");
        }
        let quiet = [up, ("SIMPLE_PROXY_QUIET", "on")];
        assert_eq!(config(&[], &quiet).log.verbosity, Verbosity::Quiet);
        assert_eq!(config(&["-v"], &quiet).log.verbosity, Verbosity::Verbose);
        let verify = [up, ("SIMPLE_PROXY_TLS_VERIFY", "off")];
        let settings = config(&["--tls-verify"], &verify);
        assert!(settings.tls.is_some_and(|tls| tls.verify));
    }

    #[test]
    fn a_bad_variable_is_named() {
        let up = ("UPSTREAM_HOST", "a:80");
        for (variable, expected) in [
            (
                ("SIMPLE_PROXY_CONNECT_TIMEOUT", "x"),
                "SIMPLE_PROXY_CONNECT_TIMEOUT: must be a",
            ),
            (
                ("SIMPLE_PROXY_FORWARDED", "maybe"),
                "SIMPLE_PROXY_FORWARDED: must be",
            ),
            (
                ("SIMPLE_PROXY_TLS_VERIFY", "maybe"),
                "SIMPLE_PROXY_TLS_VERIFY: must be 1,",
            ),
            (
                ("SIMPLE_PROXY_TLS_VERIFY", "1"),
                "SIMPLE_PROXY_TLS_VERIFY: has no effect without TLS",
            ),
            (
                ("SIMPLE_PROXY_LISTEN_PORT", "x"),
                "SIMPLE_PROXY_LISTEN_PORT: must be a",
            ),
            (
                ("SIMPLE_PROXY_TLS_CERT", "/nonexistent"),
                "SIMPLE_PROXY_TLS_CERT: ",
            ),
            // No other program reads this variable, so an unusable value is an error.
            (
                ("SIMPLE_PROXY_HTTP_PROXY", "socks5://u:secret@h"),
                "SIMPLE_PROXY_HTTP_PROXY: an HTTP proxy must",
            ),
        ] {
            let line = error(&[], &[up, variable, ("SOCKS_PROXY", "s")]);
            assert!(line.starts_with(expected), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn a_route_variable_with_the_prefix_overrides_those_without() {
        let common = [
            ("UPSTREAM_HOST", "a:80"),
            ("SOCKS_PROXY", "s"),
            ("HTTP_PROXY", "h"),
        ];
        for (args, more, expected) in [
            (
                &[][..],
                ("SIMPLE_PROXY_HTTP_PROXY", "o"),
                "CONNECT http://o:80",
            ),
            (&[], ("SIMPLE_PROXY_DIRECT", "true"), "direct"),
            (
                &[],
                ("SIMPLE_PROXY_DIRECT", "off"),
                "SOCKS5 socks5://s:1080",
            ),
            (&[], ("SIMPLE_PROXY_DIRECT", ""), "SOCKS5 socks5://s:1080"),
            (&["-d"], ("SIMPLE_PROXY_SOCKS_PROXY", "o"), "direct"),
            (
                &["-s", "f"],
                ("SIMPLE_PROXY_DIRECT", "1"),
                "SOCKS5 socks5://f:1080",
            ),
        ] {
            let variables = [&common[..], &[more]].concat();
            let route = config(args, &variables).route.to_string();
            assert_eq!(route, expected, "{args:?} {more:?}");
        }
        let both = [
            ("UPSTREAM_HOST", "a:80"),
            ("SIMPLE_PROXY_DIRECT", "1"),
            ("SIMPLE_PROXY_SOCKS_PROXY", "o"),
        ];
        let line = error(&[], &both);
        let expected = "SIMPLE_PROXY_DIRECT: cannot be combined with SIMPLE_PROXY_SOCKS_PROXY";
        assert!(line.starts_with(expected), "{line}");
    }

    #[test]
    fn tls_follows_the_port_unless_set() {
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
            (&["-p", "+80"], &[up], "--listen-port: must be a port"),
            (
                &[],
                &[up, ("LISTEN_PORT", "x")],
                "LISTEN_PORT: must be a port",
            ),
            (
                &["-b", "example.com"],
                &[up],
                "--bind: must be an IP address",
            ),
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
                "--upstream-host: a proxy cannot reach a unix socket",
            ),
            (
                &["-s", "h"],
                &[("UPSTREAM_HOST", "[fe80::1%lo]:80")],
                "UPSTREAM_HOST: a proxy cannot reach",
            ),
            (&["--nope=secret"], &[up], "--nope: no such option"),
            (&["-x"], &[up], "-x: no such option"),
            (
                &["--tls-verfy"],
                &[up],
                "--tls-verfy: no such option; did you mean --tls-verify?",
            ),
            (
                &["--direct=1"],
                &[up],
                "--direct: this option takes no value",
            ),
            (&["extra"], &[up], "extra: unexpected argument"),
            (&["--", "extra"], &[up], "extra: unexpected argument"),
            (&["--tls", "maybe"], &[up], "--tls: must be auto"),
            (
                &["--tls-name", "a b"],
                &[up],
                "--tls-name: must be a DNS name",
            ),
            (
                &["--tls-verify"],
                &[up],
                "--tls-verify: has no effect without TLS",
            ),
            (
                &["--tls-name", "a"],
                &[up],
                "--tls-name: has no effect without TLS",
            ),
            (
                &["--tls-ca", "/nonexistent"],
                &[up],
                "--tls-ca: cannot read",
            ),
            (
                &["--host-header", "a b"],
                &[up],
                "--host-header: must be NAME",
            ),
            (&["--upgrade", "H2C"], &[up], "--upgrade: h2c is never"),
            (
                &["--connect-timeout", "0"],
                &[up],
                "--connect-timeout: must be a time above 0",
            ),
            (
                &["--connect-timeout", "inf"],
                &[up],
                "--connect-timeout: must be a time above 0",
            ),
            (
                &["--response-timeout", "-1"],
                &[up],
                "--response-timeout: must be a time",
            ),
            (&["--threads", "0"], &[up], "--threads: must be a number"),
            (
                &["--max-connections", "+1"],
                &[up],
                "--max-connections: must be a number",
            ),
            (&["--log-lang", "fr"], &[up], "--log-lang: must be"),
            (
                &[],
                &[up, ("SOCKS_PROXY", "ftp://x")],
                "SOCKS_PROXY: unknown scheme",
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
