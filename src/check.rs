//! `--check`: walks the route once and tells what each step took, or which one failed, why,
//! and what to try.

use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{Engine, BASE64_STANDARD};
use futures_lite::future;

use crate::body::Framing;
use crate::certificate::{inspect, Inspection};
use crate::cli::Check;
use crate::config::{Config, LogFormat, Route};
use crate::deadline::{Deadline, TimedOut, Timers};
use crate::dial::Dialer;
use crate::error::{describe, Error, Stage};
use crate::head::{no_fields, read_head, values, HeadError};
use crate::json::{self, Value};
use crate::log::millis;
use crate::reactor::{self, next_turn};
use crate::request::{Protocol, Request};
use crate::response::{check_start_line, ResponseHead};
use crate::settings::Setting;
use crate::steps::{Step, Steps};
use crate::stream::Connection;
use crate::text::Escaped;
use crate::worker::default_host;

/// Runs the check and gives its report, and whether all went well.
pub fn run(check: Check) -> Result<(String, bool), String> {
    let Check {
        config,
        settings,
        websocket,
    } = check;
    let config = Arc::new(config);
    let dialer = Dialer::new(config.clone())?;
    let timers = Rc::new(Timers::default());
    let mut walk = Walk {
        host: config
            .rewrite
            .host
            .clone()
            .unwrap_or_else(|| default_host(&config.upstream, config.tls.is_some())),
        server_name: String::new(),
        deadline: Deadline::new(&timers),
        dialer,
        config,
        lines: Vec::new(),
        inspection: None,
    };
    let (host, dialer) = (walk.host.clone(), walk.dialer.clone());
    dialer.server_name(host.as_bytes(), &mut walk.server_name);
    let walking = async {
        let outcome = walk.all(websocket.as_deref()).await;
        (walk, outcome)
    };
    let forever = async {
        timers.sweep().await;
        future::pending().await
    };
    let walked = reactor::block_on(future::or(walking, forever), || None);
    let (walk, outcome) = walked.map_err(|error| describe(&error))?;
    let report = Report {
        settings: &settings,
        walk: &walk,
        failure: outcome.as_ref().err(),
    };
    let text = match walk.config.log.format {
        LogFormat::Text => report.to_string(),
        LogFormat::Json => report.json(),
    };
    Ok((text, outcome.is_ok()))
}

/// One thing that was done.
struct Line {
    name: &'static str,
    took: Duration,
    detail: String,
}

struct Walk {
    config: Arc<Config>,
    dialer: Dialer,
    /// The Host that is sent.
    host: String,
    /// The name that TLS is made for.
    server_name: String,
    deadline: Deadline,
    lines: Vec<Line>,
    inspection: Option<Inspection>,
}

impl Walk {
    async fn all(&mut self, websocket: Option<&str>) -> Result<(), Error> {
        let steps = Steps::begin();
        let dialled = self.dialer.dial(&self.server_name, &self.deadline, &steps);
        let dialled = dialled.await;
        for (step, took) in steps.taken() {
            let detail = self.detail(step, steps.first_hop());
            self.line(step.name(), took, detail);
        }
        let at_tls = |error: &Error| error.stage == Stage::Tls;
        if self.config.tls.is_some() && dialled.as_ref().err().is_none_or(at_tls) {
            self.look_at_certificate().await;
        }
        let mut connection = dialled?;
        let start = Instant::now();
        let request = format!(
            "HEAD / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.host
        );
        let (status, _) = self
            .answer(&mut connection, &request, &request_of(true, false))
            .await?;
        let detail = format!("HEAD / with Host {} was answered {status}", self.host);
        self.line("http", start.elapsed(), detail);
        match websocket {
            Some(path) => self.websocket(path).await,
            None => Ok(()),
        }
    }

    fn line(&mut self, name: &'static str, took: Duration, detail: String) {
        self.lines.push(Line { name, took, detail });
    }

    fn detail(&self, step: Step, first_hop: Option<SocketAddr>) -> String {
        match (step, &self.config.route) {
            (Step::Resolve, Route::Direct) => self.config.upstream.to_string(),
            (Step::Resolve, Route::Socks5(proxy) | Route::Connect(proxy)) => {
                proxy.authority.to_string()
            }
            (Step::Connect, _) => first_hop
                .map(|address| address.to_string())
                .unwrap_or_default(),
            (Step::ProxyTls, _) => "the proxy's certificate is valid".to_owned(),
            (Step::Proxy, Route::Connect(_)) => format!("CONNECT to {}", self.config.upstream),
            (Step::Proxy, _) => format!("SOCKS5 to {}", self.config.upstream),
            (Step::Tls, _) if self.server_name.parse::<IpAddr>().is_ok() => {
                "no server name (SNI) sent".to_owned()
            }
            (Step::Tls, _) => format!("server name (SNI) {}", self.server_name),
        }
    }

    /// By a connection of its own: the one that serves does not tell.
    async fn look_at_certificate(&mut self) {
        let Ok(connection) = self.dialer.reach(&self.deadline, &Steps::begin()).await else {
            return;
        };
        let looking = inspect(connection, &self.server_name, &self.config.roots);
        let timeout = self.config.limits.connect_timeout;
        if let Ok(Ok(inspection)) = self.deadline.limit(timeout, looking).await {
            self.inspection = Some(inspection);
        }
    }

    /// Sends a request and gives the status of the response, and whether it switches to
    /// WebSocket for the key given.
    async fn answer(
        &self,
        connection: &mut Connection,
        text: &str,
        request: &Request,
    ) -> Result<(String, Option<Vec<u8>>), Error> {
        let upstream = &self.config.upstream;
        let broken = |token, cause: &str| Error::new(Stage::Response, token, cause).at(upstream);
        let Connection { stream, received } = connection;
        let exchange = async {
            let sent = stream.write_all(text.as_bytes()).await;
            sent.map_err(HeadError::Io)?;
            loop {
                let length = read_head(stream, received, check_start_line).await?;
                let mut fields = no_fields();
                let head = ResponseHead::parse(&received.bytes()[..length], &mut fields, request);
                if !head.is_ok_and(|head| head.is_interim()) {
                    return Ok(length);
                }
                // Without an end they are ended by the time.
                received.consume(length);
                next_turn().await;
            }
        };
        // Somebody waits for it: the response timeout would be too long.
        let timeout = self.config.limits.connect_timeout;
        let length = match self.deadline.limit(timeout, exchange).await {
            Ok(Ok(length)) => length,
            Ok(Err(HeadError::Closed)) => {
                return Err(broken(
                    "connection_terminated",
                    "the upstream closed without a response",
                ))
            }
            Ok(Err(HeadError::Io(error))) => {
                return Err(broken("connection_terminated", &describe(&error)))
            }
            Ok(Err(_)) => return Err(broken("http_protocol_error", "this is no HTTP/1 response")),
            Err(TimedOut) => return Err(Error::timed_out(Stage::Response, timeout).at(upstream)),
        };
        let mut fields = no_fields();
        let head = ResponseHead::parse(&received.bytes()[..length], &mut fields, request)
            .map_err(|problem| broken("http_protocol_error", &problem))?;
        let accept = head.switches_to("websocket").then(|| {
            let accept = values(head.fields(), "sec-websocket-accept").next();
            accept.unwrap_or_default().to_vec()
        });
        let reason = Escaped(head.reason().as_bytes());
        let status = format!("{} {reason}", head.status);
        Ok((status.trim_end().to_owned(), accept))
    }

    async fn websocket(&mut self, path: &str) -> Result<(), Error> {
        let start = Instant::now();
        let steps = Steps::begin();
        let dialled = self.dialer.dial(&self.server_name, &self.deadline, &steps);
        let mut connection = dialled.await?;
        // RFC 6455 §4.1: 16 bytes that nobody could have guessed.
        let bytes: [u64; 2] = std::array::from_fn(|n| RandomState::new().hash_one(n));
        let key = BASE64_STANDARD.encode(bytes.map(u64::to_ne_bytes).concat());
        let host = &self.host;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        let (status, accept) = self
            .answer(&mut connection, &request, &request_of(false, true))
            .await?;
        let wanted =
            openssl::sha::sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
        let problem = match accept {
            Some(accept) if accept == BASE64_STANDARD.encode(wanted).as_bytes() => {
                let detail = format!("GET {path} was answered {status}");
                self.line("websocket", start.elapsed(), detail);
                return Ok(());
            }
            Some(_) => "the upstream's Sec-WebSocket-Accept does not fit".to_owned(),
            None => format!("the WebSocket handshake on {path} was answered {status}, not 101"),
        };
        let error = Error::new(Stage::Response, "http_protocol_error", problem);
        Err(error.at(&self.config.upstream))
    }
}

fn request_of(is_head: bool, upgrade: bool) -> Request {
    Request {
        minor: 1,
        framing: Framing::None,
        persistent: false,
        is_head,
        expects_continue: false,
        is_idempotent: true,
        upgrade: upgrade.then_some(Protocol::WebSocket),
    }
}

/// What to try, for the person who reads it.
fn advice(error: &Error, config: &Config) -> &'static str {
    let direct = config.route == Route::Direct;
    let certificate = error.token == "tls_certificate_error";
    match error.stage {
        Stage::Resolve if direct => {
            "check the spelling of the upstream's name; give its address instead, or a proxy that knows the name"
        }
        Stage::Resolve => "check the spelling of the proxy's name, or give its address",
        Stage::Connect if error.timed_out => {
            "a firewall may be in the way; can it be reached only through a proxy?"
        }
        Stage::Connect => {
            "does the upstream listen on this port? can it be reached only through a proxy?"
        }
        Stage::ProxyConnect if certificate => {
            "trust the proxy's root with --tls-ca, or speak to it by http://"
        }
        Stage::ProxyConnect => {
            "does the proxy listen on this port, and is it of this kind (socks5, http, https)?"
        }
        Stage::ProxyAuth => {
            "check user and password in the proxy's URL; write % as %25, / as %2F, ? as %3F, # as %23"
        }
        Stage::ProxyRefused => {
            "the proxy works: may it connect to this host and port, and can it reach them?"
        }
        Stage::Tls if certificate => {
            "trust its root with --tls-ca, name it with --tls-name, or leave --tls-verify out"
        }
        Stage::Tls if error.timed_out => "does the upstream speak TLS on this port? if not, --tls off",
        Stage::Tls => {
            "does the upstream speak TLS on this port? if not, --tls off; if it wants a name, --tls-name"
        }
        Stage::Response if error.cause.contains("WebSocket") => {
            "check the path, and whether the upstream wants another Host (--host-header)"
        }
        Stage::Response if config.tls.is_none() => {
            "does the upstream speak TLS on this port? then --tls on; does it speak HTTP/1.1?"
        }
        Stage::Response => "does the upstream speak HTTP/1.1, and does it answer a HEAD of / at all?",
    }
}

struct Report<'a> {
    settings: &'a [Setting],
    walk: &'a Walk,
    failure: Option<&'a Error>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "settings")?;
        for Setting {
            name,
            value,
            source,
        } in self.settings
        {
            writeln!(f, "  {name:<18} {value:<38} {source}")?;
        }
        let Walk {
            config,
            lines,
            inspection,
            ..
        } = self.walk;
        writeln!(f, "route {} to {}", config.route, config.upstream)?;
        for Line { name, took, detail } in lines {
            let line = format!("  {name:<9} {:>8} ms  {detail}", millis(*took).to_string());
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(inspection) = inspection {
            let Inspection {
                version, cipher, ..
            } = inspection;
            writeln!(f, "certificate, by {version} with {cipher}")?;
            writeln!(f, "  subject   {}", inspection.subject)?;
            writeln!(f, "  issuer    {}", inspection.issuer)?;
            let days = inspection.days_left;
            writeln!(f, "  expires   {} (in {days} days)", inspection.expires)?;
            match &inspection.objection {
                None => writeln!(f, "  verified  yes")?,
                Some(why) => writeln!(f, "  verified  no: {why}")?,
            }
        }
        match self.failure {
            None => writeln!(f, "all is well"),
            Some(error) => {
                let (stage, address, cause) = (error.stage.name(), &error.address, error.in_full());
                wrap(f, &format!("failed: [{stage}] {address}: {cause}"))?;
                wrap(f, &format!("try: {}", advice(error, config)))
            }
        }
    }
}

/// Writes words in lines of at most 80 columns, where they let it.
fn wrap(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut column = 0;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > 80 {
            write!(f, "\n  {word}")?;
            column = 2 + width;
        } else {
            let blank = if column > 0 { " " } else { "" };
            write!(f, "{blank}{word}")?;
            column += blank.len() + width;
        }
    }
    writeln!(f)
}

impl Report<'_> {
    fn json(&self) -> String {
        let members: Vec<_> = self
            .settings
            .iter()
            .map(
                |Setting {
                     name,
                     value,
                     source,
                 }| {
                    [
                        ("name", Value::Text(name)),
                        ("value", Value::Text(value)),
                        ("source", Value::Text(source)),
                    ]
                },
            )
            .collect();
        let settings: Vec<_> = members.iter().map(|m| Value::Object(m)).collect();
        let members: Vec<_> = self
            .walk
            .lines
            .iter()
            .map(|Line { name, took, detail }| {
                [
                    ("name", Value::Text(name)),
                    ("seconds", Value::Seconds(*took)),
                    ("detail", Value::Text(detail)),
                ]
            })
            .collect();
        let steps: Vec<_> = members.iter().map(|m| Value::Object(m)).collect();
        let inspected;
        let certificate = match &self.walk.inspection {
            None => Value::Null,
            Some(inspection) => {
                let text = |text| Value::Text(text);
                inspected = [
                    ("version", text(inspection.version.as_str())),
                    ("cipher", text(&inspection.cipher)),
                    ("subject", text(&inspection.subject)),
                    ("issuer", text(&inspection.issuer)),
                    ("expires", text(&inspection.expires)),
                    ("days_left", Value::Signed(inspection.days_left.into())),
                    ("verified", Value::Flag(inspection.objection.is_none())),
                    (
                        "objection",
                        inspection.objection.as_deref().map_or(Value::Null, text),
                    ),
                ];
                Value::Object(&inspected)
            }
        };
        let (failed, cause);
        let failure = match self.failure {
            None => Value::Null,
            Some(error) => {
                cause = error.in_full();
                failed = [
                    ("stage", Value::Text(error.stage.name())),
                    ("address", Value::Text(&error.address)),
                    ("cause", Value::Text(&cause)),
                    ("try", Value::Text(advice(error, &self.walk.config))),
                ];
                Value::Object(&failed)
            }
        };
        let mut out = String::new();
        json::write(
            &mut out,
            Value::Object(&[
                ("ok", Value::Flag(self.failure.is_none())),
                ("settings", Value::List(&settings)),
                ("route", Value::Shown(&self.walk.config.route)),
                ("steps", Value::List(&steps)),
                ("certificate", certificate),
                ("failure", failure),
            ]),
        );
        let _ = writeln!(out);
        out
    }
}
