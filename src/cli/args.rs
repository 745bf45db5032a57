//! The command line as it is typed: the flags, and the words that argh takes made of the
//! forms that people write. No complaint ever repeats a credential.

use std::collections::VecDeque;
use std::ffi::OsString;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};

/// Reverse proxy to one fixed upstream, directly, through SOCKS5 or by CONNECT.
// Every option is a list of which the last wins, so that argh never complains about (and
// repeats) a value given twice; every value is checked after flags and variables are merged.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"), usage = "-u HOST:PORT [OPTION]...")]
pub struct Args {
    /// where every request goes, HOST:PORT; port 443 means TLS [env: UPSTREAM_HOST]
    #[argh(option, short = 'u', arg_name = "host:port")]
    pub(crate) upstream_host: Vec<String>,
    /// port to listen on, 0 for any free one (80) [env: LISTEN_PORT]
    #[argh(option, short = 'p', arg_name = "port")]
    pub(crate) listen_port: Vec<String>,
    /// address to listen on (every one, IPv6 and IPv4)
    #[argh(option, short = 'b', arg_name = "address")]
    pub(crate) bind: Vec<String>,
    /// socks5://[USER:PASS@]HOST[:1080]; it resolves the names [env: SOCKS_PROXY]
    #[argh(option, short = 's', arg_name = "url")]
    pub(crate) socks_proxy: Vec<String>,
    /// http[s]://[USER:PASS@]HOST[:PORT], used by CONNECT [env: HTTP_PROXY]
    #[argh(option, arg_name = "url")]
    pub(crate) http_proxy: Vec<String>,
    /// the same, preferred when the upstream speaks TLS [env: HTTPS_PROXY]
    #[argh(option, arg_name = "url")]
    pub(crate) https_proxy: Vec<String>,
    /// use no proxy, whatever the environment says
    #[argh(switch, short = 'd')]
    pub(crate) direct: bool,
    /// TLS to the upstream: auto (port 443), on or off (auto)
    #[argh(option, arg_name = "mode")]
    pub(crate) tls: Vec<String>,
    /// server name sent in TLS, and checked by --tls-verify
    #[argh(option, arg_name = "name")]
    pub(crate) tls_name: Vec<String>,
    /// refuse an upstream certificate that is not valid
    #[argh(switch)]
    pub(crate) tls_verify: bool,
    /// PEM file of roots to trust beside the system's
    #[argh(option, arg_name = "file")]
    pub(crate) tls_ca: Vec<String>,
    /// send this Host instead of the client's
    #[argh(option, arg_name = "name")]
    pub(crate) host_header: Vec<String>,
    /// also let this Upgrade token through; may be repeated
    #[argh(option, arg_name = "token")]
    pub(crate) upgrade: Vec<String>,
    /// add X-Forwarded-For, -Host and -Proto, and Via
    #[argh(switch)]
    pub(crate) forwarded: bool,
    /// seconds to resolve, connect and shake hands (10)
    #[argh(option, arg_name = "seconds")]
    pub(crate) connect_timeout: Vec<String>,
    /// seconds for a client to send a request head (30)
    #[argh(option, arg_name = "seconds")]
    pub(crate) head_timeout: Vec<String>,
    /// seconds for the upstream to begin its answer, and for a stalled body; 0 is off (300)
    #[argh(option, arg_name = "seconds")]
    pub(crate) response_timeout: Vec<String>,
    /// seconds that an idle client connection is kept (75)
    #[argh(option, arg_name = "seconds")]
    pub(crate) keepalive_timeout: Vec<String>,
    /// seconds after which an idle WebSocket is closed; 0 is never (0)
    #[argh(option, arg_name = "seconds")]
    pub(crate) tunnel_timeout: Vec<String>,
    /// seconds that open exchanges may go on at SIGTERM (10)
    #[argh(option, arg_name = "seconds")]
    pub(crate) drain_timeout: Vec<String>,
    /// threads that serve connections (one per core)
    #[argh(option, arg_name = "n")]
    pub(crate) threads: Vec<String>,
    /// clients served at once (as many as descriptors allow)
    #[argh(option, arg_name = "n")]
    pub(crate) max_connections: Vec<String>,
    /// answer GET of this path here: 200, or 503 when draining (none)
    #[argh(option, arg_name = "path")]
    pub(crate) health_path: Vec<String>,
    /// serve metrics for Prometheus at http://ADDRESS:PORT/metrics (off)
    #[argh(option, arg_name = "address:port")]
    pub(crate) metrics_listen: Vec<String>,
    /// language of the log: zh or en (zh)
    #[argh(option, arg_name = "lang")]
    pub(crate) log_lang: Vec<String>,
    /// form of the log: text, or json, one object a line (text)
    #[argh(option, arg_name = "format")]
    pub(crate) log_format: Vec<String>,
    /// log errors only
    #[argh(switch, short = 'q')]
    pub(crate) quiet: bool,
    /// log each connection in detail
    #[argh(switch, short = 'v')]
    pub(crate) verbose: bool,
    /// try the way to the upstream once, print each step, and exit
    #[argh(switch)]
    pub(crate) check: bool,
    /// with --check, also try a WebSocket on this path
    #[argh(option, arg_name = "path")]
    pub(crate) check_path: Vec<String>,
    /// print the version and exit
    #[argh(switch, short = 'V')]
    pub(crate) version: bool,
}

/// A bad flag or setting: one line, and whether the usage hint follows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage(pub(crate) String);

impl Usage {
    pub(crate) fn new(source: impl std::fmt::Display, problem: impl std::fmt::Display) -> Usage {
        Usage(format!("{source}: {problem}"))
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "simple-proxy: {}", self.0)?;
        f.write_str("Try 'simple-proxy --help' for more information.")
    }
}

/// Rewrites `--name=value`, `-p80` and `-vq` into the separate words that argh takes, and
/// refuses what it would refuse, without repeating values. Driven by argh's own table.
pub(crate) fn separate(args: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, Usage> {
    let info = Args::get_args_info();
    let is_switch = |flag: &FlagInfo<'_>| matches!(flag.kind, FlagInfoKind::Switch);
    let mut words = Vec::new();
    let mut args = args.into_iter().collect::<VecDeque<_>>();
    let text = |word: OsString| {
        word.into_string()
            .map_err(|_| Usage::new("command line", "an argument is not UTF-8"))
    };
    while let Some(word) = args.pop_front() {
        let word = text(word)?;
        if word == "-h" || word == "--help" {
            return Ok(vec![word]);
        }
        let value_for = |name: &str, args: &mut VecDeque<OsString>| {
            let value = args.pop_front();
            text(value.ok_or_else(|| Usage::new(name, "a value is missing"))?)
        };
        if let Some((name, value)) =
            word.strip_prefix("--")
                .filter(|rest| !rest.is_empty())
                .map(|_| match word.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (word.as_str(), None),
                })
        {
            let flag = info.flags.iter().find(|flag| flag.long == name);
            let flag = flag.ok_or_else(|| no_such_option(name))?;
            words.push(name.to_owned());
            match value {
                Some(_) if is_switch(flag) => {
                    return Err(Usage::new(name, "this option takes no value"))
                }
                Some(value) => words.push(value.to_owned()),
                None if is_switch(flag) => {}
                None => words.push(value_for(name, &mut args)?),
            }
        } else if let Some(cluster) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            if word == "--" {
                match args.pop_front() {
                    Some(extra) => return Err(unexpected(&text(extra)?)),
                    None => break,
                }
            }
            let mut letters = cluster.chars();
            while let Some(letter) = letters.next() {
                if letter == 'h' {
                    return Ok(vec!["-h".to_owned()]);
                }
                let name = format!("-{letter}");
                let flag = info.flags.iter().find(|flag| flag.short == Some(letter));
                let flag = flag.ok_or_else(|| Usage::new(printable(&name), "no such option"))?;
                words.push(name.clone());
                if !is_switch(flag) {
                    let rest = letters.as_str();
                    words.push(match rest {
                        "" => value_for(&name, &mut args)?,
                        _ => rest.to_owned(),
                    });
                    break;
                }
            }
        } else {
            return Err(unexpected(&word));
        }
    }
    Ok(words)
}

fn no_such_option(name: &str) -> Usage {
    // A proxy URL joined to its flag without a sign may hold a password.
    if name.contains(['@', ':']) {
        Usage::new("command line", "no such option")
    } else {
        Usage::new(printable(name), "no such option")
    }
}

fn unexpected(word: &str) -> Usage {
    // A proxy URL typed without its flag may hold a password.
    if word.contains('@') {
        Usage::new("command line", "an argument belongs to no option")
    } else {
        Usage::new(printable(word), "this argument belongs to no option")
    }
}

fn printable(text: &str) -> String {
    text.escape_debug().take(80).collect()
}
