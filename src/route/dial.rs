//! The route to the upstream, walked under one deadline: resolve, connect, the proxy's
//! handshake, TLS. Decides the server name for TLS.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::future;

use crate::authority::{is_dns_name, Authority, Host};
use crate::both;
use crate::complaint::Complaint;
use crate::config::{Config, Route};
use crate::error::{Error, Result, Stage};
use crate::http::syntax::split_port;
use crate::net::deadline::{Deadline, TimedOut};
use crate::net::reactor;
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::net::tls::{openssl_words, Tls, TlsClient, Verify};
use crate::proxy::{Proxy, Scheme};
use crate::route::hops::{Dial, Hops, Plan};
use crate::route::names::{on_link, Addresses, Names};
use crate::route::steps::{Step, Steps};
use crate::route::{http_connect, socks5};

/// How long an address may stay silent before the next is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Makes connections to the upstream.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<Config>,
    upstream_tls: Option<Tls>,
    proxy_tls: Option<Tls>,
    names: Names,
    hops: Arc<Hops>,
    /// The one proxy to go through, where several are not tried in turn.
    only: Option<usize>,
    /// Where this program itself listens.
    own: Own,
}

/// The addresses at which this program itself listens.
#[derive(Clone, Default)]
pub struct Own(Arc<[SocketAddr]>);

impl Own {
    /// Those of these listeners.
    pub fn new(addresses: &[SocketAddr]) -> Own {
        Own(addresses.into())
    }

    /// Whether a connection to `address` would reach one of them.
    pub fn includes(&self, address: SocketAddr) -> bool {
        // An address of this machine is one that can be bound.
        let is_local = |ip| UdpSocket::bind((ip, 0)).is_ok();
        self.0.iter().any(|own| reaches(*own, address, is_local))
    }

    /// Whether a connection has reached one of them.
    fn is_peer_of(&self, socket: &Socket) -> bool {
        let Ok(peer) = socket.peer() else {
            return false;
        };
        // The kernel gives a connection to an address of this machine the same at this end.
        let is_local = |ip: IpAddr| {
            ip.is_loopback()
                || socket
                    .local()
                    .is_ok_and(|local| local.ip().to_canonical() == ip)
        };
        self.0.iter().any(|own| reaches(*own, peer, is_local))
    }
}

/// Whether a connection to `address` reaches a listener at `own`.
fn reaches(own: SocketAddr, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
    let (own_ip, ip) = (own.ip().to_canonical(), address.ip().to_canonical());
    // One of all IPv6 addresses takes IPv4 as well; the reverse is not so.
    let takes_its_family = own_ip.is_ipv6() || ip.is_ipv4();
    own.port() == address.port()
        && (own_ip == ip
            || (own_ip.is_unspecified()
                && takes_its_family
                && (ip.is_unspecified() || is_local(ip))))
}

impl Dialer {
    /// Prepares TLS where the route needs it. Fails with words for the operator.
    pub fn new(config: Arc<Config>) -> std::result::Result<Dialer, Complaint> {
        let tls = |verify, identity| {
            let client = TlsClient {
                verify,
                roots: &config.roots,
                identity,
                oldest: config.tls_min,
            };
            Tls::new(&client).map_err(|error| {
                Complaint::new(
                    "TLS",
                    both!("cannot be set up: {error}", "无法建立：{error}"),
                )
            })
        };
        let identity = config.identity.as_ref();
        let upstream_tls = match &config.tls {
            Some(settings) if settings.verify => Some(tls(Verify::Full, identity)?),
            Some(_) => Some(tls(Verify::Nothing, identity)?),
            None => None,
        };
        let proxies = config.route.proxies();
        let with_tls = proxies.iter().any(|proxy| proxy.scheme == Scheme::Https);
        let proxy_tls = with_tls.then(|| tls(Verify::Full, None)).transpose()?;
        let hops = Arc::new(Hops::new(proxies.len()));
        Ok(Dialer {
            config,
            upstream_tls,
            proxy_tls,
            names: Names::default(),
            hops,
            only: None,
            own: Own::default(),
        })
    }

    /// A dialer that goes through one of the proxies alone, by its number from 0.
    pub fn only(&self, proxy: usize) -> Dialer {
        Dialer {
            only: Some(proxy),
            ..self.clone()
        }
    }

    /// How the proxies are doing.
    pub fn hops(&self) -> &Arc<Hops> {
        &self.hops
    }

    /// Never connects directly to one of these addresses, at which this program listens.
    pub fn never_to(self, own: &[SocketAddr]) -> Dialer {
        let own = Own::new(own);
        Dialer { own, ..self }
    }

    /// Appends the name for SNI, and for verification, to `name`: the configured one; the
    /// upstream's own; for an upstream that is an address, the name in the Host that is
    /// sent there. An address stands for no SNI. Empty without TLS.
    pub fn server_name(&self, host: &[u8], name: &mut String) {
        let Some(tls) = &self.config.tls else { return };
        let configured_host = self.config.rewrite.host.as_deref();
        let host = configured_host.map_or(host, str::as_bytes);
        match (&tls.name, &self.config.upstream.host) {
            (Some(configured), _) => name.push_str(configured),
            (None, Host::Name(upstream)) => name.push_str(upstream.trim_end_matches('.')),
            (None, upstream) => match sni_of(host) {
                Some(host) => name.push_str(host),
                None => name.push_str(&address_of(upstream)),
            },
        }
    }

    /// Connects to the upstream along the route, marking `steps` on the way. Never tries
    /// another route.
    pub async fn dial(
        &self,
        server_name: &str,
        deadline: &Deadline,
        steps: &Steps,
    ) -> Result<Connection> {
        let timeout = self.config.limits.connect_timeout;
        self.dial_within(timeout, server_name, deadline, steps)
            .await
    }

    /// Does the same where only a part of the time is left.
    pub async fn dial_within(
        &self,
        left: Duration,
        server_name: &str,
        deadline: &Deadline,
        steps: &Steps,
    ) -> Result<Connection> {
        self.dial_as_far(Some(server_name), left, deadline, steps)
            .await
    }

    /// The time for the whole dial was over before the dial began.
    pub fn no_time_left(&self) -> Error {
        let stage = match self.config.route {
            Route::Direct => Stage::Connect,
            Route::Socks5(_) | Route::Connect(_) => Stage::ProxyConnect,
        };
        Error::timed_out(stage, self.config.limits.connect_timeout).at(self.first_hop(0))
    }

    /// Does the same but for TLS with the upstream.
    pub async fn reach(&self, deadline: &Deadline, steps: &Steps) -> Result<Connection> {
        let timeout = self.config.limits.connect_timeout;
        self.dial_as_far(None, timeout, deadline, steps).await
    }

    async fn dial_as_far(
        &self,
        server_name: Option<&str>,
        left: Duration,
        deadline: &Deadline,
        steps: &Steps,
    ) -> Result<Connection> {
        let timeout = self.config.limits.connect_timeout;
        let progress = Progress::begin(self.first_hop(0));
        let walk = self.walk(server_name, &progress, steps);
        let mut error = match deadline.limit(left, walk).await {
            Ok(Ok(connection)) => {
                steps.first_hop().inspect(|at| self.names.succeeded(*at));
                return Ok(connection);
            }
            Ok(Err(error)) => error.at(progress.at.get().1),
            Err(TimedOut) => self.out_of_time(timeout, &progress, steps),
        };
        let passed_over = progress.passed_over.take();
        error.said = format!("{}{passed_over}", error.said)
            .trim_start()
            .to_owned();
        if self.config.route == Route::Direct {
            steps.first_hop().inspect(|at| self.names.failed(*at));
        }
        Err(error)
    }

    /// What a walk had come to when its time was over.
    fn out_of_time(&self, after: Duration, progress: &Progress, steps: &Steps) -> Error {
        let (stage, address) = progress.at.get();
        let in_flight = progress.in_flight.take();
        in_flight.iter().for_each(|at| self.names.failed(*at));
        let error = Error::timed_out(stage, after).at(address);
        if let Some(proxy) = steps.proxy() {
            self.note(proxy, Some(&error), steps);
        }
        error
    }

    /// The authority of a proxy, or of the upstream on the direct route.
    fn first_hop(&self, proxy: usize) -> &Authority {
        let proxies = self.config.route.proxies();
        proxies
            .get(proxy)
            .map_or(&self.config.upstream, |proxy| &proxy.authority)
    }

    async fn walk<'a>(
        &'a self,
        server_name: Option<&str>,
        progress: &Progress<'a>,
        steps: &Steps,
    ) -> Result<Connection> {
        let upstream = &self.config.upstream;
        let mut connection = match self.config.route {
            Route::Direct => {
                let hop = first_hop(&self.names, upstream, Stage::Connect, progress, steps).await?;
                if hop.stream.with_socket(|socket| self.own.is_peer_of(socket)) {
                    let cause = "the upstream is this program itself";
                    return Err(Error::new(Stage::Connect, "proxy_loop_detected", cause));
                }
                hop
            }
            Route::Socks5(_) | Route::Connect(_) => self.through_any_proxy(progress, steps).await?,
        };
        if let (Some(tls), Some(server_name)) = (&self.upstream_tls, server_name) {
            progress.at.set((Stage::Tls, upstream));
            let secured = tls.connect(server_name, connection).await;
            connection = secured.map_err(|error| tls_error(Stage::Tls, &error))?;
            steps.done(Step::Tls);
        }
        Ok(connection)
    }

    /// Goes through the first proxy that answers. Each has a fair share of the time; what one
    /// says about the upstream, or about our login, is final.
    async fn through_any_proxy<'a>(
        &'a self,
        progress: &Progress<'a>,
        steps: &Steps,
    ) -> Result<Connection> {
        let began = Instant::now();
        let Plan { order, probe } = match self.only {
            Some(only) => Plan {
                order: vec![only],
                probe: None,
            },
            None => self.hops.plan(),
        };
        if let Some(proxy) = probe {
            self.probe(proxy);
        }
        for (tried, &proxy) in order.iter().enumerate() {
            let others = order.len() - tried - 1;
            steps.through(proxy);
            let walk = self.through(proxy, progress, steps);
            let walked = match u32::try_from(others) {
                Ok(0) | Err(_) => walk.await,
                Ok(others) => {
                    let timeout = self.config.limits.connect_timeout;
                    let share = timeout.saturating_sub(began.elapsed()) / (others + 1);
                    let late = async {
                        Timer::after(share).await;
                        Err(self.out_of_time(share, progress, steps))
                    };
                    future::or(walk, late).await
                }
            };
            let error = match walked {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if others == 0 || !is_failure_of_proxy(&error) {
                return Err(error);
            }
            let Error { address, cause, .. } = &error;
            let passed_over = format!(" (before it, {address}: {cause})");
            progress.passed_over.borrow_mut().push_str(&passed_over);
            steps.passed_over();
        }
        unreachable!("a route through proxies has one")
    }

    /// Goes through one proxy, and notes how that went unless it is cut off.
    async fn through<'a>(
        &'a self,
        proxy: usize,
        progress: &Progress<'a>,
        steps: &Steps,
    ) -> Result<Connection> {
        let walked = self.ask(proxy, progress, steps).await;
        let walked = walked.map_err(|error| error.at(self.first_hop(proxy)));
        self.note(proxy, walked.as_ref().err(), steps);
        walked
    }

    async fn ask<'a>(
        &'a self,
        proxy: usize,
        progress: &Progress<'a>,
        steps: &Steps,
    ) -> Result<Connection> {
        let Proxy {
            scheme,
            authority,
            credentials,
        } = &self.config.route.proxies()[proxy];
        let (stage, upstream) = (Stage::ProxyConnect, &self.config.upstream);
        let mut hop = first_hop(&self.names, authority, stage, progress, steps).await?;
        if let (Scheme::Https, Some(tls)) = (scheme, &self.proxy_tls) {
            hop = tls_to_proxy(tls, authority, hop).await?;
            steps.done(Step::ProxyTls);
        }
        match scheme {
            Scheme::Socks5 => {
                socks5::connect(&mut hop.stream, upstream, credentials.as_ref()).await?;
            }
            Scheme::Http | Scheme::Https => {
                http_connect::connect(&mut hop, upstream, credentials.as_ref()).await?;
            }
        }
        steps.done(Step::Proxy);
        Ok(hop)
    }

    /// Notes how a dial through a proxy went.
    fn note(&self, proxy: usize, error: Option<&Error>, steps: &Steps) {
        let dial = match error {
            None => Dial::Done,
            Some(error) if is_failure_of_proxy(error) => Dial::Failed,
            Some(error) if error.stage == Stage::Tls => return,
            Some(_) => Dial::Refused,
        };
        if dial == Dial::Failed {
            steps.first_hop().inspect(|at| self.names.failed(*at));
        }
        self.hops.ended(proxy, dial);
    }

    /// Tries a proxy on a thread of its own, so that nobody waits for it. At most one thread
    /// for each proxy, once in ten seconds, for as long as a dial may take.
    fn probe(&self, proxy: usize) {
        let dialer = self.clone();
        let probe = move || {
            let timeout = dialer.config.limits.connect_timeout;
            let (progress, steps) = (Progress::begin(dialer.first_hop(proxy)), Steps::begin());
            steps.through(proxy);
            let walk = async {
                let walk = dialer.through(proxy, &progress, &steps);
                let late = async {
                    Timer::after(timeout).await;
                    Err(dialer.out_of_time(timeout, &progress, &steps))
                };
                let _ = future::or(walk, late).await;
            };
            if reactor::block_on(walk, || None).is_err() {
                dialer.hops.ended(proxy, Dial::Failed);
            }
        };
        let thread = thread::Builder::new().name("probe".to_owned());
        if thread.spawn(probe).is_err() {
            self.hops.ended(proxy, Dial::Failed);
        }
    }
}

/// Whether the proxy has not answered, so that another may be asked. A failure to reach the
/// upstream, which the proxy tells, and a refused login are answers; to close behind the
/// request is none, although it most often means the former.
fn is_failure_of_proxy(error: &Error) -> bool {
    match error.stage {
        Stage::Resolve | Stage::ProxyConnect => true,
        Stage::ProxyRefused => error.token == socks5::UNANSWERED,
        Stage::Connect | Stage::ProxyAuth | Stage::Tls | Stage::Response => false,
    }
}

async fn tls_to_proxy(tls: &Tls, proxy: &Authority, hop: Connection) -> Result<Connection> {
    let name = match &proxy.host {
        Host::Name(name) => name.trim_end_matches('.').to_owned(),
        host => address_of(host),
    };
    let secured = tls.connect(&name, hop).await;
    secured.map_err(|error| tls_error(Stage::ProxyConnect, &error))
}

fn tls_error(stage: Stage, error: &native_tls::Error) -> Error {
    let words = openssl_words(&error.to_string());
    let token = if words.contains("certificate verify failed") {
        "tls_certificate_error"
    } else if words.contains("alert") {
        "tls_alert_received"
    } else {
        "tls_protocol_error"
    };
    let cause = match stage {
        Stage::ProxyConnect => format!("TLS with the proxy failed: {words}"),
        _ => format!("the handshake failed: {words}"),
    };
    Error::new(stage, token, cause)
}

/// The address that stands for a host in TLS, where no name is sent. Behind a unix socket is
/// this machine.
fn address_of(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Ip(address) => address.to_string(),
        Host::Zoned(address, _) => address.to_string(),
        Host::Unix(_) => Ipv4Addr::LOCALHOST.to_string(),
    }
}

/// The name in a Host that can be sent as SNI (RFC 6066 §3): no address, not localhost.
fn sni_of(host: &[u8]) -> Option<&str> {
    let (host, _) = split_port(host);
    let name = std::str::from_utf8(host).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let usable = is_dns_name(name)
        && !name.ends_with('.')
        && name.parse::<IpAddr>().is_err()
        && !name.eq_ignore_ascii_case("localhost");
    usable.then_some(name)
}

/// Connects to the first hop, marking the stage in `progress`.
async fn first_hop<'a>(
    names: &Names,
    authority: &'a Authority,
    stage: Stage,
    progress: &Progress<'a>,
    steps: &Steps,
) -> Result<Connection> {
    progress.at.set((Stage::Resolve, authority));
    let failed = |error| Error::io(stage, &error);
    let addresses = match &authority.host {
        Host::Unix(path) => {
            steps.done(Step::Resolve);
            progress.at.set((stage, authority));
            let socket = Socket::connect_unix(path).await.map_err(failed)?;
            steps.connected(None);
            return Ok(Connection::new(Stream::Plain(socket)));
        }
        Host::Ip(address) => vec![SocketAddr::new(*address, authority.port)].into(),
        Host::Zoned(address, zone) => {
            let found = on_link(*address, zone, authority.port);
            let unknown = || Error::new(Stage::Resolve, "dns_error", "no such network interface");
            vec![found.ok_or_else(unknown)?].into()
        }
        Host::Name(name) => {
            let found = names.resolve(name, authority.port).await;
            found.map_err(|words| Error::new(Stage::Resolve, "dns_error", words))?
        }
    };
    steps.done(Step::Resolve);
    progress.at.set((stage, authority));
    let socket = connect_any(addresses, names, &progress.in_flight).await;
    let socket = socket.map_err(failed)?;
    steps.connected(socket.peer().ok());
    Ok(Connection::new(Stream::Plain(socket)))
}

/// How far a walk has come, should time run out.
struct Progress<'a> {
    at: Cell<(Stage, &'a Authority)>,
    in_flight: InFlight,
    /// The proxies that did not answer, and why, for the log.
    passed_over: RefCell<String>,
}

impl<'a> Progress<'a> {
    /// A walk begins with this hop.
    fn begin(first_hop: &'a Authority) -> Progress<'a> {
        Progress {
            at: Cell::new((Stage::Resolve, first_hop)),
            in_flight: InFlight::default(),
            passed_over: RefCell::default(),
        }
    }
}

/// The addresses of the first hop that are being connected to.
type InFlight = RefCell<Vec<SocketAddr>>;

/// Connects to whichever address answers first. Each next one is tried when the last has
/// failed or has been silent for a while, beside those still trying (RFC 8305 §5). Fails
/// with the first failure. `names` is told of each that fails.
async fn connect_any(
    mut addresses: Addresses,
    names: &Names,
    in_flight: &InFlight,
) -> io::Result<Socket> {
    type Attempt = Pin<Box<dyn Future<Output = io::Result<Socket>>>>;
    let mut attempts: Vec<(SocketAddr, Attempt)> = Vec::new();
    let mut first_failure = None;
    let mut pause = Timer::never();
    let mut is_next_due = true;
    poll_fn(|cx| loop {
        let mut connected = None;
        attempts.retain_mut(|(address, attempt)| match attempt.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(socket)) => {
                connected = Some(socket);
                false
            }
            Poll::Ready(Err(error)) => {
                names.failed(*address);
                in_flight.borrow_mut().retain(|one| one != address);
                first_failure.get_or_insert(error);
                is_next_due = true;
                false
            }
        });
        if let Some(socket) = connected {
            // Those still trying are given up, which is no failure of theirs.
            in_flight.borrow_mut().clear();
            return Poll::Ready(Ok(socket));
        }
        is_next_due |= Pin::new(&mut pause).poll(cx).is_ready();
        if !is_next_due {
            return Poll::Pending;
        }
        match addresses.poll_next(cx) {
            Poll::Ready(Some(address)) => {
                attempts.push((address, Box::pin(Socket::connect(address))));
                in_flight.borrow_mut().push(address);
                is_next_due = false;
                pause = match addresses.has_more() {
                    true => Timer::after(ATTEMPT_DELAY),
                    false => Timer::never(),
                };
            }
            Poll::Ready(None) if attempts.is_empty() => {
                let failure = first_failure.take();
                return Poll::Ready(Err(failure.unwrap_or(io::ErrorKind::NotFound.into())));
            }
            Poll::Ready(None) | Poll::Pending => return Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (own, address, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "[::ffff:127.0.0.1]:80", true),
            ("[::]:80", "192.0.2.1:80", false),
            ("[::1]:80", "127.0.0.1:80", false),
        ] {
            let reached = reaches(at(own), at(address), |ip| ip.is_loopback());
            assert_eq!(reached, expected, "{own} {address}");
        }
    }
    use std::net::TcpListener;

    #[test]
    fn sni() {
        for (host, expected) in [
            ("a.example", Some("a.example")),
            ("a.example:8080", Some("a.example")),
            ("A.Example.", Some("A.Example")),
            ("localhost:80", None),
            ("127.0.0.1", None),
            ("[::1]:80", None),
            ("", None),
            ("a!b", None),
            ("a..", None),
        ] {
            assert_eq!(sni_of(host.as_bytes()), expected, "{host}");
        }
    }

    #[test]
    fn openssl_speaks_plainly() {
        for (text, words) in [
            (
                "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate \
                 verify failed:../ssl/statem/statem_clnt.c:1889: (self-signed certificate)",
                "certificate verify failed (self-signed certificate)",
            ),
            (
                "error:0A00010B:SSL routines:ssl3_get_record:wrong version number:\
                 ../ssl/record/ssl3_record.c:354:",
                "wrong version number",
            ),
            ("unexpected EOF", "unexpected EOF"),
        ] {
            assert_eq!(openssl_words(text), words);
        }
    }

    async fn connect(addresses: [SocketAddr; 2]) -> io::Result<Socket> {
        let addresses = Addresses::from(addresses.to_vec());
        connect_any(addresses, &Names::default(), &InFlight::default()).await
    }

    #[test]
    fn every_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let good = listener.local_addr().expect("bound");
        let dead = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let refused = dead.local_addr().expect("bound");
        drop(dead);
        let tried = async {
            let connected = connect([refused, good]).await;
            assert!(connected.is_ok());
            let failed = connect([refused, refused]).await;
            let kind = failed.err().map(|error| error.kind());
            assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused));
        };
        crate::net::reactor::block_on(tried, || None).expect("the reactor runs");
    }

    #[test]
    fn a_silent_address_does_not_eat_the_time_of_the_next() {
        // A listener with a full backlog answers no SYN.
        let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        rustix::net::listen(&silent, 0).expect("a smaller backlog is allowed");
        let address = silent.local_addr().expect("bound");
        let _full: Vec<_> = (0..2)
            .map(|_| {
                let socket = socket2::Socket::new(
                    socket2::Domain::IPV4,
                    socket2::Type::STREAM.nonblocking(),
                    None,
                );
                let socket = socket.expect("a socket");
                let _ = socket.connect(&address.into());
                socket
            })
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let good = listener.local_addr().expect("bound");
        let tried = connect([address, good]);
        let connected = crate::net::reactor::block_on(tried, || None).expect("the reactor runs");
        assert!(connected.is_ok());
    }
}
