//! What the settings mean: plain data that has been validated, so that its users need not check
//! it again. Knows nothing of flags or variables.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use native_tls::Certificate;

use crate::authority::{Authority, Host};
use crate::edits::{is_twin, FieldEdits};
use crate::identity::Identity;
use crate::language::Words;
use crate::network::Network;
use crate::proxy::{Proxies, Proxy};

pub use crate::language::Language;

/// The whole configuration of the program.
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The host and port that every request is forwarded to.
    pub upstream: Authority,
    /// How connections reach the upstream.
    pub route: Route,
    /// TLS to the upstream, if any.
    pub tls: Option<UpstreamTls>,
    /// PEM roots to trust in addition to the system's.
    pub roots: Vec<Certificate>,
    /// The client certificate to present to an upstream that asks for one.
    pub identity: Option<Identity>,
    /// The oldest version of TLS to use with the upstream and with a proxy.
    pub tls_min: TlsVersion,
    /// How heads are changed when they are forwarded.
    pub rewrite: Rewrite,
    /// Which requests are served.
    pub access: Access,
    /// Sizes and times.
    pub limits: Limits,
    /// How many threads serve connections.
    pub threads: usize,
    /// The path of the health check, which the program answers itself.
    pub health_path: Option<String>,
    /// The address that serves the Prometheus metrics.
    pub metrics: Option<SocketAddr>,
    /// The address that serves the status page.
    pub status: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Variables that have no effect, and why, to be logged at the start.
    pub ignored: Vec<(String, Words)>,
}

impl Config {
    /// Whether the proxy may authenticate requests to the upstream: by the value of a field that
    /// it sets, or by a client certificate.
    pub(crate) fn adds_a_credential(&self) -> bool {
        self.rewrite.request_fields.sets_a_value() || self.identity.is_some()
    }

    /// The Host for requests that have none: the upstream's authority without the default port
    /// of its scheme and without a zone, which has a meaning on this machine only (RFC 6874 §1);
    /// `localhost` for a unix socket.
    pub(crate) fn default_host(&self) -> String {
        let Authority { host, port } = &self.upstream;
        let host = match host {
            Host::Name(name) => name.clone(),
            Host::Ip(IpAddr::V4(address)) => address.to_string(),
            Host::Ip(IpAddr::V6(address)) | Host::Zoned(address, _) => format!("[{address}]"),
            Host::Unix(_) => return "localhost".to_owned(),
        };
        match (self.tls.is_some(), port) {
            (true, 443) | (false, 80) => host,
            _ => format!("{host}:{port}"),
        }
    }
}

/// Where to listen, and whether with TLS.
#[derive(Clone)]
pub struct Listen {
    /// What to bind; none is every address of both families.
    pub bind: Option<Bind>,
    /// The port of an address; 0 is any free one.
    pub port: u16,
    /// The permissions of a unix socket.
    pub mode: u32,
    /// The certificate for clients, if they connect with TLS.
    pub tls: Option<ListenTls>,
}

/// The certificate for clients, as read from its files at the start.
#[derive(Clone)]
pub struct ListenTls {
    /// The file of the certificate chain.
    pub certificate_file: String,
    /// The file of its key.
    pub key_file: String,
    /// The contents of the two files.
    pub identity: Identity,
}

/// What a listening socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// An address of this machine.
    Address(IpAddr),
    /// The absolute path of a unix socket.
    Unix(String),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Listen {
    /// Whether clients connect with TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// How connections reach the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Directly.
    Direct,
    /// Through a SOCKS5 proxy (RFC 1928).
    Socks5(Proxies),
    /// Through an HTTP proxy, by CONNECT (RFC 9110 §9.3.6).
    Connect(Proxies),
}

impl Route {
    /// The proxies, first to last; none on the direct route.
    pub(crate) fn proxies(&self) -> &[Proxy] {
        match self {
            Route::Direct => &[],
            Route::Socks5(proxies) | Route::Connect(proxies) => proxies.as_slice(),
        }
    }
}

/// TLS to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The server name for SNI and verification, instead of the default one.
    pub name: Option<String>,
    /// Whether an invalid certificate is refused.
    pub verify: bool,
}

/// Which requests are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The clients that are served, by `--allow`; all if the list is empty.
    pub clients: Vec<Network>,
    /// The Hosts that `--allow-host` lists, in lower case.
    pub hosts: Vec<String>,
    /// The origins whose pages `--allow-origin` lists, in lower case.
    pub origins: Vec<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.0, of 1999
    V1_0,
    /// 1.1, of 2006
    V1_1,
    /// 1.2, of 2008
    V1_2,
    /// 1.3, of 2018
    V1_3,
}

impl TlsVersion {
    /// Every version and its spelling.
    pub(crate) const ALL: [(TlsVersion, &'static str); 4] = [
        (TlsVersion::V1_0, "1.0"),
        (TlsVersion::V1_1, "1.1"),
        (TlsVersion::V1_2, "1.2"),
        (TlsVersion::V1_3, "1.3"),
    ];
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TlsVersion::ALL[*self as usize].1)
    }
}

/// How heads are changed when they are forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The Host to send instead of the client's.
    pub host: Option<String>,
    /// The protocols allowed in Upgrade in addition to `websocket`, in lower case.
    pub upgrades: Vec<String>,
    /// Whether X-Forwarded-* and Via are added.
    pub forwarded: Forwarded,
    /// Whether fields that name the client's or the upstream's origin are left untranslated.
    pub map_off: bool,
    /// Changes to the fields of requests.
    pub request_fields: FieldEdits,
    /// Changes to the fields of responses.
    pub response_fields: FieldEdits,
}

impl Rewrite {
    /// Whether a client's field of that name is replaced or removed. So are its twins with `_`,
    /// which CGI and WSGI do not distinguish.
    pub(crate) fn gives_way(&self, name: &str) -> bool {
        const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        let is_forwarded = |name: &str| FORWARDED.iter().any(|known| is_twin(known, name));
        let gives_way = match self.forwarded {
            Forwarded::Off => false,
            Forwarded::Replace => is_forwarded(name),
            // X-Forwarded-For is rewritten with the received values included; the other two are
            // forwarded unchanged.
            Forwarded::Append => {
                is_forwarded(name) && (name.contains('_') || is_twin("x-forwarded-for", name))
            }
        };
        gives_way || self.request_fields.replaces(name)
    }
}

/// Whether X-Forwarded-* and Via are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing is added.
    #[default]
    Off,
    /// Those of the client are replaced.
    Replace,
    /// Those of a trusted front proxy are kept and extended.
    Append,
}

/// Sizes and times. A time of zero means no limit where the manual says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For the whole dial.
    pub connect_timeout: Duration,
    /// For a client to send a whole request head.
    pub head_timeout: Duration,
    /// For the upstream to begin its response, and for either side to continue a body.
    pub response_timeout: Duration,
    /// For an upstream to continue its response after the client has left and the proxy has sent
    /// FIN; zero is as long as `response_timeout`.
    pub abandon_timeout: Duration,
    /// For an idle client connection.
    pub keepalive_timeout: Duration,
    /// For an idle relay.
    pub tunnel_timeout: Duration,
    /// For the connections that are open at SIGTERM.
    pub drain_timeout: Duration,
    /// The most clients served at once; none is as many as descriptors allow.
    pub max_connections: Option<usize>,
    /// How long an idle upstream connection is kept at most; zero keeps none.
    pub upstream_idle: Duration,
    /// How many spare connections to the upstream are kept ready, in all.
    pub spares: usize,
    /// The longest request head, in bytes.
    pub max_head_bytes: usize,
    /// The most idle upstream connections that one thread keeps.
    pub idle_upstreams: usize,
    /// The most pipes that one thread may have in use for splicing.
    pub pipes: usize,
}

/// The default limit for a request head, in bytes.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The most fields in one request head.
pub const MAX_FIELDS: usize = 128;

/// The largest response head, in bytes, and the most that consecutive interim responses may have
/// in all while nothing else moves.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 256 * 1024;

/// The most fields in one response head.
pub const MAX_RESPONSE_FIELDS: usize = 512;

/// The largest trailer section of a request or a response, in bytes.
pub const MAX_TRAILER_BYTES: usize = 32 * 1024;

/// The most pipes that one thread has in use: enough for both directions of 64 streams. Streams
/// that copy for lack of a pipe get a smaller share of the bandwidth.
pub(crate) const MAX_PIPES: usize = 128;

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The language of the lines.
    pub language: Language,
    /// The form of the lines.
    pub format: LogFormat,
    /// How much is logged.
    pub verbosity: Verbosity,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people, in a language.
    Text,
    /// One JSON object per line.
    Json,
    /// Text for people, and each request in the combined format of access logs.
    Combined,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Each request.
    Normal,
    /// Each connection in detail.
    Verbose,
}

impl Route {
    /// The proxies of the route, for display, if any.
    pub(crate) fn shown_proxies(&self) -> Option<&Proxies> {
        match self {
            Route::Direct => None,
            Route::Socks5(proxies) | Route::Connect(proxies) => Some(proxies),
        }
    }

    /// The route as text in either language, with passwords hidden.
    pub(crate) fn words(&self) -> Words {
        match self {
            Route::Direct => Words::new("direct", "直连"),
            route => Words::same(route.to_string()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Direct => f.write_str("direct"),
            Route::Socks5(proxies) => write!(f, "SOCKS5 {proxies}"),
            Route::Connect(proxies) => write!(f, "CONNECT {proxies}"),
        }
    }
}
