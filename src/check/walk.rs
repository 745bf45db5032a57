//! Connects to the upstream once, sends a request, and records how long each step took or
//! which one failed.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{Engine, BASE64_STANDARD};

use crate::authority::Authority;
use crate::both;
use crate::check::certificate::{inspect, Inspection};
use crate::check::names::Origins;
use crate::complaint::Complaint;
use crate::config::{Config, Route};
use crate::error::{describe, Error, Stage};
use crate::http::fields::{values, write_field};
use crate::http::framing::Framing;
use crate::http::head::HeadError;
use crate::http::read::read_head;
use crate::http::request::{Protocol, Request};
use crate::http::response::{self, RULES};
use crate::language::Words;
use crate::net::deadline::{Deadline, TimedOut, Timers};
use crate::net::reactor::next_turn;
use crate::net::stream::Connection;
use crate::route::dial::Dialer;
use crate::route::steps::{Step, Steps};
use crate::text::Escaped;

/// One step that was done, as a line of the report.
pub struct Line {
    /// The step, as the log names it.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// The address, name or answer that the step was about.
    pub detail: Words,
}

/// One run of the check, and what it has found.
pub struct Walk {
    /// The settings.
    pub config: Arc<Config>,
    dialer: Dialer,
    /// The Host that is sent.
    host: String,
    /// The server name for the TLS handshake.
    server_name: String,
    deadline: Deadline,
    /// The steps that were done.
    pub lines: Vec<Line>,
    /// The upstream's certificate and the negotiated TLS, if inspected.
    pub inspection: Option<Inspection>,
    /// Whether the upstream has requested a client certificate and none is configured.
    pub lacks_certificate: bool,
    /// The origins of the proxy, for a browser on this machine, and of the upstream.
    pub origins: Origins,
    /// The problems that such a browser would have with the response.
    pub remarks: Vec<Words>,
}

/// What the check needs from a response head.
struct Answered {
    status: String,
    /// Its Sec-WebSocket-Accept, if it switches to WebSocket.
    accept: Option<Vec<u8>>,
    remarks: Vec<Words>,
}

/// The upstream's answer to a WebSocket handshake.
struct Handshake {
    status: String,
    /// Why the handshake failed, if it did.
    problem: Option<String>,
}

impl Handshake {
    fn is_forbidden(&self) -> bool {
        self.status.starts_with("403")
    }
}

impl Walk {
    /// A check that has not begun. Fails if the TLS settings cannot be used.
    pub fn new(config: Arc<Config>, timers: &Rc<Timers>) -> Result<Walk, Complaint> {
        let dialer = Dialer::new(config.clone())?;
        let host = config.rewrite.host.clone();
        let host = host.unwrap_or_else(|| config.default_host());
        let mut server_name = String::new();
        dialer.server_name(host.as_bytes(), &mut server_name);
        Ok(Walk {
            host,
            server_name,
            deadline: Deadline::new(timers),
            dialer,
            origins: Origins::of(&config),
            remarks: Vec::new(),
            config,
            lines: Vec::new(),
            inspection: None,
            lacks_certificate: false,
        })
    }

    /// Runs all steps: dials through each proxy, inspects the certificate, sends a HEAD
    /// request, and opens a WebSocket on the given path, if any.
    pub async fn all(&mut self, websocket: Option<&str>) -> Result<(), Error> {
        let proxies = self.config.route.proxies().len();
        let mut reached = None;
        let mut failure = None;
        for proxy in 0..proxies.max(1) {
            let dialer = match proxies {
                0 | 1 => self.dialer.clone(),
                _ => self.dialer.only(proxy),
            };
            match self.dial(&dialer, proxy).await {
                Ok(connection) => reached = reached.or(Some((dialer, connection))),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let at_tls = |error: &Error| error.stage == Stage::Tls;
        if self.config.tls.is_some() && (reached.is_some() || failure.as_ref().is_some_and(at_tls))
        {
            self.look_at_certificate().await;
        }
        let Some((dialer, connection)) = reached else {
            return failure.map_or(Ok(()), Err);
        };
        self.dialer = dialer;
        self.ask(connection, websocket).await?;
        // The check fails if any proxy fails, although requests would use another.
        failure.map_or(Ok(()), Err)
    }

    /// Sends a HEAD request over the connection, and opens a WebSocket on the given path, if any.
    async fn ask(
        &mut self,
        mut connection: Connection,
        websocket: Option<&str>,
    ) -> Result<(), Error> {
        let start = Instant::now();
        let request = format!(
            "HEAD / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.host
        );
        let Answered {
            status, remarks, ..
        } = self
            .answer(&mut connection, &request, &request_of(true, false))
            .await?;
        self.remarks = remarks;
        let host = &self.host;
        let detail = both!(
            "HEAD / with Host {host} returned {status}",
            "HEAD /（Host: {host}）的响应为 {status}"
        );
        self.line("http", start.elapsed(), detail);
        // nginx completes the handshake and then answers 400.
        if self.lacks_certificate && status.starts_with("400") {
            let cause = format!("HEAD / returned {status}");
            let error = Error::new(Stage::Response, "http_protocol_error", cause);
            return Err(error.at(&self.config.upstream));
        }
        match websocket {
            Some(path) => self.websocket(path).await,
            None => Ok(()),
        }
    }

    /// Dials once and records the steps and, if there are several proxies, which one was used
    /// and how it failed.
    async fn dial(&mut self, dialer: &Dialer, proxy: usize) -> Result<Connection, Error> {
        let proxies = self.config.route.proxies();
        let is_one_of_several = proxies.len() > 1;
        if is_one_of_several {
            let (number, count, name) = (proxy + 1, proxies.len(), &proxies[proxy]);
            let detail = both!(
                "{number} of {count}: {name}",
                "第 {number} 个，共 {count} 个：{name}"
            );
            self.line("through", Duration::ZERO, detail);
        }
        let steps = Steps::begin();
        let dialled = dialer.dial(&self.server_name, &self.deadline, &steps);
        let dialled = dialled.await;
        for (step, took) in steps.taken() {
            let detail = self.detail(step, steps.first_hop(), proxy);
            self.line(step.name(), took, detail);
        }
        if let (true, Err(error)) = (is_one_of_several, &dialled) {
            let detail = format!("[{}] {}", error.stage.name(), error.in_full());
            self.line("failed", Duration::ZERO, Words::same(detail));
        }
        dialled
    }

    fn line(&mut self, name: &'static str, took: Duration, detail: Words) {
        self.lines.push(Line { name, took, detail });
    }

    fn detail(&self, step: Step, first_hop: Option<SocketAddr>, proxy: usize) -> Words {
        let (upstream, name) = (&self.config.upstream, &self.server_name);
        match (step, &self.config.route) {
            (Step::PassedOver, _) => Words::same(""),
            (Step::Resolve, _) => Words::same(self.first_hop(proxy).to_string()),
            (Step::Connect, _) => Words::same(match first_hop {
                Some(address) => address.to_string(),
                None => self.first_hop(proxy).to_string(),
            }),
            (Step::ProxyTls, _) => Words::new("the proxy's certificate is valid", "代理的证书有效"),
            (Step::Proxy, Route::Connect(_)) => {
                both!("CONNECT to {upstream}", "CONNECT 到 {upstream}")
            }
            (Step::Proxy, _) => both!("SOCKS5 to {upstream}", "SOCKS5 到 {upstream}"),
            (Step::Tls, _) if name.parse::<IpAddr>().is_ok() => {
                Words::new("no server name (SNI) sent", "未发送服务器名称（SNI）")
            }
            (Step::Tls, _) => both!("server name (SNI) {name}", "服务器名称（SNI）{name}"),
        }
    }

    /// The authority of a proxy, or of the upstream on the direct route.
    fn first_hop(&self, proxy: usize) -> &Authority {
        let proxy = self.config.route.proxies().get(proxy);
        proxy.map_or(&self.config.upstream, |proxy| &proxy.authority)
    }

    /// Inspects the certificate over a separate connection, because native-tls, which makes the
    /// others, does not expose what the report shows.
    async fn look_at_certificate(&mut self) {
        let Ok(connection) = self.dialer.reach(&self.deadline, &Steps::begin()).await else {
            return;
        };
        let mut asked = false;
        let looking = inspect(connection, &self.server_name, &self.config, &mut asked);
        let timeout = self.config.limits.connect_timeout;
        if let Ok(Ok(inspection)) = self.deadline.limit(timeout, looking).await {
            self.inspection = Some(inspection);
        }
        self.lacks_certificate = asked && self.config.identity.is_none();
    }

    /// Sends a request, with the fields that `--header` sets, and reads the response head.
    async fn answer(
        &self,
        connection: &mut Connection,
        text: &str,
        request: &Request,
    ) -> Result<Answered, Error> {
        let mut bytes = text.trim_end().as_bytes().to_vec();
        bytes.extend_from_slice(b"\r\n");
        for (name, value) in self.config.rewrite.request_fields.written() {
            write_field(&mut bytes, name, value);
        }
        bytes.extend_from_slice(b"\r\n");
        let upstream = &self.config.upstream;
        let broken = |token, cause: &str| Error::new(Stage::Response, token, cause).at(upstream);
        let Connection {
            stream, received, ..
        } = connection;
        let exchange = async {
            let sent = stream.write_all(&bytes).await;
            sent.map_err(HeadError::Io)?;
            loop {
                let extent = read_head(stream, received, RULES).await?;
                let bytes = &received.bytes()[..extent.length];
                let is_interim =
                    response::read(bytes, extent.has_bare_lf, request, |h| h.is_interim());
                if is_interim != Ok(true) {
                    return Ok(extent);
                }
                // Endless interim responses are cut off by the deadline below.
                received.consume(extent.length);
                next_turn().await;
            }
        };
        // A person waits for the report, so the response timeout would be too long.
        let timeout = self.config.limits.connect_timeout;
        let extent = match self.deadline.limit(timeout, exchange).await {
            Ok(Ok(extent)) => extent,
            Ok(Err(HeadError::Closed)) => {
                return Err(broken(
                    "connection_terminated",
                    "the upstream closed without a response",
                ))
            }
            Ok(Err(HeadError::Io(error))) => {
                return Err(broken("connection_terminated", &describe(&error)))
            }
            Ok(Err(_)) => return Err(broken("http_protocol_error", "the response is not HTTP/1")),
            Err(TimedOut) => return Err(Error::timed_out(Stage::Response, timeout).at(upstream)),
        };
        let bytes = &received.bytes()[..extent.length];
        response::read(bytes, extent.has_bare_lf, request, |head| {
            let accept = head.switches_to("websocket").then(|| {
                let accept = values(head.fields(), "sec-websocket-accept").next();
                accept.unwrap_or_default().to_vec()
            });
            let status = format!("{} {}", head.status, Escaped(head.reason()));
            let fields = head.fields().iter();
            let remarks =
                fields.filter_map(|field| self.origins.remark(field.name, field.value, &self.host));
            Answered {
                status: status.trim_end().to_owned(),
                accept,
                remarks: remarks.collect(),
            }
        })
        .map_err(|problem: String| broken("http_protocol_error", &problem))
    }

    /// Opens a WebSocket without Origin, as a program does, and then with one, as a page in a
    /// browser on this machine does. An upstream that checks Origin may refuse either.
    async fn websocket(&mut self, path: &str) -> Result<(), Error> {
        let mut start = Instant::now();
        let (host, page_host) = (self.host.clone(), self.origins.host.clone());
        let mut shaken = self.handshake(path, &host, None).await?;
        // An Origin set with --header is sent for programs and pages alike.
        let is_ours = self.config.rewrite.request_fields.replaces("Origin");
        if !is_ours && (shaken.problem.is_none() || shaken.is_forbidden()) {
            let began = Instant::now();
            let origin = self.origins.origin_sent().to_owned();
            let paged = self.handshake(path, &page_host, Some(&origin)).await;
            match (&shaken.problem, paged) {
                (None, Ok(paged)) if paged.is_forbidden() => {
                    let remark = self.origins.origin_is_refused(&host);
                    self.remarks.push(remark);
                }
                (Some(_), Ok(paged)) if paged.problem.is_none() => {
                    (start, shaken) = (began, paged);
                }
                _ => {}
            }
        }
        let Handshake { status, problem } = shaken;
        if let Some(problem) = problem {
            let error = Error::new(Stage::Response, "http_protocol_error", problem);
            return Err(error.at(&self.config.upstream));
        }
        let detail = both!(
            "GET {path} returned {status}",
            "GET {path} 的响应为 {status}"
        );
        self.line("websocket", start.elapsed(), detail);
        Ok(())
    }

    /// Performs a WebSocket handshake over a new connection.
    async fn handshake(
        &self,
        path: &str,
        host: &str,
        origin: Option<&str>,
    ) -> Result<Handshake, Error> {
        let steps = Steps::begin();
        let dialled = self.dialer.dial(&self.server_name, &self.deadline, &steps);
        let mut connection = dialled.await?;
        // The nonce: 16 random bytes (RFC 6455 §4.1).
        let bytes: [u64; 2] = std::array::from_fn(|n| RandomState::new().hash_one(n));
        let key = BASE64_STANDARD.encode(bytes.map(u64::to_ne_bytes).concat());
        let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             {origin}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        let Answered { status, accept, .. } = self
            .answer(&mut connection, &request, &request_of(false, true))
            .await?;
        let wanted =
            openssl::sha::sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
        let problem = match accept {
            Some(accept) if accept == BASE64_STANDARD.encode(wanted).as_bytes() => None,
            Some(_) => Some("the upstream's Sec-WebSocket-Accept is wrong".to_owned()),
            None => Some(format!(
                "the WebSocket handshake on {path} returned {status}, not 101"
            )),
        };
        Ok(Handshake { status, problem })
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
        binds_connection: false,
        upgrade: upgrade.then_some(Protocol::WebSocket),
    }
}
