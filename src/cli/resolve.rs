//! Flags and the environment: what was typed becomes a `Config`, or one line
//! that names the source and the problem. No line ever repeats a credential.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use argh::FromArgs;
use native_tls::Certificate;

use crate::authority::{is_dns_name, parse_port, Authority};
use crate::cli::args::{separate, Args, Usage};
use crate::cli::settings::{self, Proxies, Setting};
use crate::config::{
    Config, Language, Limits, Listen, LogFormat, LogSettings, Rewrite, Route, UpstreamTls,
    Verbosity, MAX_PIPES,
};
use crate::proxy::Proxy;

/// What the command line asks for.
pub enum Command {
    /// Run with these settings.
    Serve(Box<Config>),
    /// Try these settings once.
    Check(Box<Check>),
    /// Print this on standard output and exit.
    Print(String),
}

/// Makes settings of the arguments (without the program's name) and the environment.
/// A flag overrides a variable, a variable a default; an empty variable counts as unset.
pub fn resolve(
    args: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Usage> {
    let words = separate(args)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let args = match Args::from_args(&["simple-proxy"], &words) {
        Ok(args) => args,
        Err(early) if early.status.is_ok() => return Ok(Command::Print(early.output)),
        // `separate` has refused all that argh would.
        Err(_) => return Err(Usage::new("command line", "not understood")),
    };
    if args.version {
        return Ok(Command::Print(format!(
            "simple-proxy {}\n",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let source = Source { environment };
    let config = source.config(&args)?;
    let websocket = flag("--check-path", &args.check_path)?;
    let websocket = websocket.map(|given| given.parse(parse_path)).transpose()?;
    match (args.check, websocket) {
        (true, websocket) => Ok(Command::Check(Box::new(Check {
            settings: source.settings(&args, &config)?,
            config,
            websocket,
        }))),
        (false, Some(_)) => Err(Usage::new("--check-path", "goes with --check")),
        (false, None) => Ok(Command::Serve(Box::new(config))),
    }
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

/// A setting as given: where it came from, and its text.
struct Given {
    source: &'static str,
    text: String,
}

impl Given {
    fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Usage> {
        parse(&self.text).map_err(|problem| Usage::new(self.source, problem))
    }
}

/// Merges flags with the environment.
struct Source<E> {
    environment: E,
}

impl<E: Fn(&str) -> Option<OsString>> Source<E> {
    fn config(&self, args: &Args) -> Result<Config, Usage> {
        let upstream = self
            .setting("--upstream-host", &args.upstream_host, "UPSTREAM_HOST")?
            .ok_or_else(|| {
                Usage::new(
                    "UPSTREAM_HOST",
                    "not set; give --upstream-host HOST:PORT or set the variable",
                )
            })?
            .parse(Authority::parse)?;
        let port = self.setting("--listen-port", &args.listen_port, "LISTEN_PORT")?;
        let port = port.map_or(Ok(80), |given| {
            given.parse(|text| parse_port(text).ok_or("not a port from 0 to 65535".to_owned()))
        })?;
        let address = flag("--bind", &args.bind)?
            .map(|given| given.parse(parse_bind))
            .transpose()?;

        let mode = flag("--tls", &args.tls)?;
        let with_tls = mode.map_or(Ok(upstream.port == 443), |given| {
            given.parse(|text| match text {
                "auto" => Ok(upstream.port == 443),
                "on" => Ok(true),
                "off" => Ok(false),
                _ => Err("must be auto, on or off".to_owned()),
            })
        })?;
        let name = flag("--tls-name", &args.tls_name)?
            .map(|given| {
                given.parse(|text| match is_dns_name(text) {
                    true => Ok(text.trim_end_matches('.').to_owned()),
                    false => Err("not a DNS name".to_owned()),
                })
            })
            .transpose()?;
        let without_effect = [
            ("--tls-name", name.is_some()),
            ("--tls-verify", args.tls_verify),
        ];
        if let (false, Some((flag, _))) = (with_tls, without_effect.iter().find(|(_, on)| *on)) {
            return Err(Usage::new(
                flag,
                "the upstream speaks no TLS; add --tls on, or leave this out",
            ));
        }
        let tls = with_tls.then_some(UpstreamTls {
            name,
            verify: args.tls_verify,
        });
        let roots = flag("--tls-ca", &args.tls_ca)?
            .map(|given| given.parse(read_roots))
            .transpose()?
            .unwrap_or_default();

        Ok(Config {
            listen: Listen { address, port },
            route: self.route(args, with_tls)?,
            upstream,
            tls,
            roots,
            rewrite: Rewrite {
                host: flag("--host-header", &args.host_header)?
                    .map(|given| given.parse(parse_host_header))
                    .transpose()?,
                upgrades: parse_upgrades(&args.upgrade)?,
                forwarded: args.forwarded,
            },
            limits: limits(args)?,
            health_path: flag("--health-path", &args.health_path)?
                .map(|given| given.parse(parse_path_alone))
                .transpose()?,
            metrics: flag("--metrics-listen", &args.metrics_listen)?
                .map(|given| given.parse(parse_socket_address))
                .transpose()?,
            threads: match flag("--threads", &args.threads)? {
                Some(given) => given.parse(|text| parse_count(text, 1024))?,
                None => std::thread::available_parallelism().map_or(1, usize::from),
            },
            log: LogSettings {
                language: match flag("--log-lang", &args.log_lang)? {
                    Some(given) => given.parse(|text| match text {
                        "zh" => Ok(Language::Chinese),
                        "en" => Ok(Language::English),
                        _ => Err("must be zh or en".to_owned()),
                    })?,
                    None => Language::Chinese,
                },
                format: match flag("--log-format", &args.log_format)? {
                    Some(given) => given.parse(|text| match text {
                        "text" => Ok(LogFormat::Text),
                        "json" => Ok(LogFormat::Json),
                        _ => Err("must be text or json".to_owned()),
                    })?,
                    None => LogFormat::Text,
                },
                verbosity: match (args.quiet, args.verbose) {
                    (true, true) => {
                        return Err(Usage::new("--quiet", "cannot be combined with --verbose"))
                    }
                    (true, false) => Verbosity::Quiet,
                    (false, true) => Verbosity::Verbose,
                    (false, false) => Verbosity::Normal,
                },
            },
        })
    }

    /// The flag's last value, else the variable's when it is not empty.
    fn setting(
        &self,
        name: &'static str,
        values: &[String],
        variable: &'static str,
    ) -> Result<Option<Given>, Usage> {
        if let Some(given) = flag(name, values)? {
            return Ok(Some(given));
        }
        self.variable(variable)
    }

    fn variable(&self, name: &'static str) -> Result<Option<Given>, Usage> {
        let value = (self.environment)(name).filter(|value| !value.is_empty());
        value
            .map(|value| match value.into_string() {
                Ok(text) => Ok(Given { source: name, text }),
                Err(_) => Err(Usage::new(name, "not UTF-8")),
            })
            .transpose()
    }

    fn settings(&self, args: &Args, config: &Config) -> Result<Vec<Setting>, Usage> {
        let source = |variable| Ok(self.variable(variable)?.map(|given| given.source));
        let variables = [
            ("upstream-host", source("UPSTREAM_HOST")?),
            ("listen-port", source("LISTEN_PORT")?),
        ];
        Ok(settings::list(
            args,
            config,
            &self.proxies(args)?,
            &variables,
        ))
    }

    /// SOCKS first, then the HTTP proxy that suits the upstream, then the other.
    fn route(&self, args: &Args, with_tls: bool) -> Result<Route, Usage> {
        let [socks, http, https] = self.proxies(args)?;
        let connect = if with_tls {
            https.or(http)
        } else {
            http.or(https)
        };
        Ok(match (socks, connect) {
            (Some((_, proxy)), _) => Route::Socks5(proxy),
            (None, Some((_, proxy))) => Route::Connect(proxy),
            (None, None) => Route::Direct,
        })
    }

    /// The proxies for SOCKS, HTTP and HTTPS and where each came from. Any proxy flag, or
    /// `--direct`, makes all proxy variables ignored.
    fn proxies(&self, args: &Args) -> Result<Proxies, Usage> {
        let socks = flag("--socks-proxy", &args.socks_proxy)?;
        let http = flag("--http-proxy", &args.http_proxy)?;
        let https = flag("--https-proxy", &args.https_proxy)?;
        let given = [&socks, &http, &https].into_iter().flatten().next();
        let [socks, http, https] = match (given, args.direct) {
            (Some(given), true) => {
                return Err(Usage::new(
                    "--direct",
                    format_args!("cannot be combined with {}", given.source),
                ))
            }
            (None, true) => return Ok([None, None, None]),
            (Some(_), false) => [socks, http, https],
            (None, false) => [
                self.variable("SOCKS_PROXY")?,
                self.variable("HTTP_PROXY")?,
                self.variable("HTTPS_PROXY")?,
            ],
        };
        // Each one is checked, also those that lose: a typo should not wait for its day.
        let parse = |given: Option<Given>, parse: fn(&str) -> Result<Proxy, String>| {
            let Some(given) = given else { return Ok(None) };
            Ok(Some((given.source, given.parse(parse)?)))
        };
        Ok([
            parse(socks, Proxy::parse_socks5)?,
            parse(http, Proxy::parse_http)?,
            parse(https, Proxy::parse_http)?,
        ])
    }
}

/// The last value of an option; an empty one is an error.
fn flag(name: &'static str, values: &[String]) -> Result<Option<Given>, Usage> {
    match values.last() {
        Some(text) if text.is_empty() => Err(Usage::new(name, "the value is empty")),
        Some(text) => Ok(Some(Given {
            source: name,
            text: text.clone(),
        })),
        None => Ok(None),
    }
}

fn parse_bind(text: &str) -> Result<std::net::IpAddr, String> {
    let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = literal.unwrap_or(text).parse();
    address.map_err(|_| "not an IP address; the port goes with --listen-port".to_owned())
}

fn parse_socket_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse();
    address.map_err(|_| "write ADDRESS:PORT, an IPv6 address in brackets".to_owned())
}

/// A target in origin-form (RFC 9112 §3.2.1).
fn parse_path(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match text.starts_with('/') && printable {
        true => Ok(text.to_owned()),
        false => Err("a path begins with / and has no blanks".to_owned()),
    }
}

fn parse_path_alone(text: &str) -> Result<String, String> {
    match text.contains('?') {
        true => Err("the path must have no query".to_owned()),
        false => parse_path(text),
    }
}

fn parse_host_header(text: &str) -> Result<String, String> {
    match crate::http::syntax::is_host(text.as_bytes()) {
        true => Ok(text.to_owned()),
        false => Err("not a host, with or without a port".to_owned()),
    }
}

fn parse_upgrades(tokens: &[String]) -> Result<Vec<String>, Usage> {
    let check = |token: &String| {
        if !crate::http::syntax::is_protocol(token.as_bytes()) {
            return Err(Usage::new("--upgrade", "not an Upgrade token"));
        }
        let token = token.to_ascii_lowercase();
        // HTTP/2 frames behind the upgrade would hide requests from every check.
        if token == "h2c" {
            return Err(Usage::new("--upgrade", "h2c is never let through"));
        }
        Ok(token)
    };
    tokens.iter().map(check).collect()
}

fn parse_count(text: &str, most: usize) -> Result<usize, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if plain && (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("not a number from 1 to {most}")),
    }
}

fn read_roots(path: &str) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path)
        .map_err(|error| format!("cannot read the file: {}", crate::error::describe(&error)))?;
    match Certificate::stack_from_pem(&pem) {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        _ => Err("the file holds no PEM certificate".to_owned()),
    }
}

fn limits(args: &Args) -> Result<Limits, Usage> {
    let seconds = |name, values: &[String], default: u64, zero: bool| {
        let given = flag(name, values)?;
        given.map_or(Ok(Duration::from_secs(default)), |given| {
            given.parse(|text| parse_seconds(text, zero))
        })
    };
    Ok(Limits {
        connect_timeout: seconds("--connect-timeout", &args.connect_timeout, 10, false)?,
        head_timeout: seconds("--head-timeout", &args.head_timeout, 30, false)?,
        response_timeout: seconds("--response-timeout", &args.response_timeout, 300, true)?,
        keepalive_timeout: seconds("--keepalive-timeout", &args.keepalive_timeout, 75, false)?,
        tunnel_timeout: seconds("--tunnel-timeout", &args.tunnel_timeout, 0, true)?,
        drain_timeout: seconds("--drain-timeout", &args.drain_timeout, 10, true)?,
        max_connections: flag("--max-connections", &args.max_connections)?
            .map(|given| given.parse(|text| parse_count(text, 10_000_000)))
            .transpose()?,
        idle_upstreams: 256,
        pipes: MAX_PIPES,
    })
}

/// Seconds, with or without decimals, up to a year.
fn parse_seconds(text: &str, zero: bool) -> Result<Duration, String> {
    const YEAR: f64 = 365.0 * 86_400.0;
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let parsed = text.parse::<f64>().ok();
    let parsed = parsed.filter(|seconds| plain && *seconds <= YEAR);
    // A duration too short to be told from none would be without limit.
    match parsed.map(Duration::from_secs_f64) {
        Some(duration) if zero || !duration.is_zero() => Ok(duration),
        _ if zero => Err("not a number of seconds from 0".to_owned()),
        _ => Err("not a number of seconds above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo;

    use super::*;

    fn resolve_with(args: &[&str], variables: &[(&str, &str)]) -> Result<Command, Usage> {
        resolve(args.iter().map(OsString::from), |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn config(args: &[&str], variables: &[(&str, &str)]) -> Config {
        match resolve_with(args, variables) {
            Ok(Command::Serve(config)) => *config,
            Ok(Command::Check(_)) => panic!("{args:?} checks"),
            Ok(Command::Print(text)) => panic!("{args:?} prints {text}"),
            Err(usage) => panic!("{args:?}: {usage}"),
        }
    }

    fn error(args: &[&str], variables: &[(&str, &str)]) -> String {
        match resolve_with(args, variables) {
            Err(usage) => usage.0,
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
            (&["--nope=secret"], &[up], "--nope: no such option"),
            (&["-x"], &[up], "-x: no such option"),
            (
                &["--direct=1"],
                &[up],
                "--direct: this option takes no value",
            ),
            (
                &["extra"],
                &[up],
                "extra: this argument belongs to no option",
            ),
            (&["--", "extra"], &[up], "extra: this argument"),
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
            for flag in Args::get_args_info().flags {
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
