//! The route to the upstream, walked under one deadline: resolve, connect, the proxy's
//! handshake, TLS. Decides the server name for TLS.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_io::Timer;

use crate::authority::{is_dns_name, Authority, Host};
use crate::config::{Config, Route};
use crate::error::{Error, Result, Stage};
use crate::http::syntax::split_port;
use crate::net::deadline::{Deadline, TimedOut};
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::net::tls::{Tls, Verify};
use crate::proxy::{Proxy, Scheme};
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
}

impl Dialer {
    /// Prepares TLS where the route needs it. Fails with words for the operator.
    pub fn new(config: Arc<Config>) -> std::result::Result<Dialer, String> {
        let tls = |verify| {
            Tls::new(verify, &config.roots)
                .map_err(|error| format!("TLS cannot be set up: {error}"))
        };
        let upstream_tls = match &config.tls {
            Some(settings) if settings.verify => Some(tls(Verify::Full)?),
            Some(_) => Some(tls(Verify::Nothing)?),
            None => None,
        };
        let proxy_tls = match &config.route {
            Route::Connect(proxy) if proxy.scheme == Scheme::Https => Some(tls(Verify::Full)?),
            _ => None,
        };
        Ok(Dialer {
            config,
            upstream_tls,
            proxy_tls,
        })
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
            (None, Host::Ip(address)) => match sni_of(host) {
                Some(host) => name.push_str(host),
                None => name.push_str(&address.to_string()),
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
        self.dial_as_far(Some(server_name), deadline, steps).await
    }

    /// Does the same but for TLS with the upstream.
    pub async fn reach(&self, deadline: &Deadline, steps: &Steps) -> Result<Connection> {
        self.dial_as_far(None, deadline, steps).await
    }

    async fn dial_as_far(
        &self,
        server_name: Option<&str>,
        deadline: &Deadline,
        steps: &Steps,
    ) -> Result<Connection> {
        let timeout = self.config.limits.connect_timeout;
        let first_hop = match &self.config.route {
            Route::Direct => &self.config.upstream,
            Route::Socks5(proxy) | Route::Connect(proxy) => &proxy.authority,
        };
        // Where the walk is, should time run out.
        let at = Cell::new((Stage::Resolve, first_hop));
        match deadline
            .limit(timeout, self.walk(server_name, &at, steps))
            .await
        {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error.at(at.get().1)),
            Err(TimedOut) => {
                let (stage, address) = at.get();
                Err(Error::timed_out(stage, timeout).at(address))
            }
        }
    }

    async fn walk<'a>(
        &'a self,
        server_name: Option<&str>,
        at: &Cell<(Stage, &'a Authority)>,
        steps: &Steps,
    ) -> Result<Connection> {
        let upstream = &self.config.upstream;
        let mut connection = match &self.config.route {
            Route::Direct => first_hop(upstream, Stage::Connect, at, steps).await?,
            Route::Socks5(proxy) => {
                let mut hop = first_hop(&proxy.authority, Stage::ProxyConnect, at, steps).await?;
                let credentials = proxy.credentials.as_ref();
                socks5::connect(&mut hop.stream, upstream, credentials).await?;
                steps.done(Step::Proxy);
                hop
            }
            Route::Connect(proxy) => {
                let mut hop = first_hop(&proxy.authority, Stage::ProxyConnect, at, steps).await?;
                if let Some(tls) = &self.proxy_tls {
                    hop = tls_to_proxy(tls, proxy, hop).await?;
                    steps.done(Step::ProxyTls);
                }
                http_connect::connect(&mut hop, upstream, proxy.credentials.as_ref()).await?;
                steps.done(Step::Proxy);
                hop
            }
        };
        if let (Some(tls), Some(server_name)) = (&self.upstream_tls, server_name) {
            at.set((Stage::Tls, upstream));
            let secured = tls.connect(server_name, connection).await;
            connection = secured.map_err(|error| tls_error(Stage::Tls, &error))?;
            steps.done(Step::Tls);
        }
        Ok(connection)
    }
}

async fn tls_to_proxy(tls: &Tls, proxy: &Proxy, hop: Connection) -> Result<Connection> {
    let name = match &proxy.authority.host {
        Host::Name(name) => name.trim_end_matches('.').to_owned(),
        Host::Ip(address) => address.to_string(),
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

/// The reason in an OpenSSL error, without its number, function and source line:
/// `error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:DATA (VERDICT)`.
fn openssl_words(text: &str) -> String {
    let mut parts = text.splitn(8, ':');
    if parts.next() != Some("error") {
        return text.to_owned();
    }
    let reason = parts.nth(3).unwrap_or(text);
    match parts.nth(2).and_then(|data| data.rsplit_once('(')) {
        Some((_, verdict)) => format!("{reason} ({verdict}"),
        None => reason.to_owned(),
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

/// Resolves and connects to the first hop, marking the stage in `at`.
async fn first_hop<'a>(
    authority: &'a Authority,
    stage: Stage,
    at: &Cell<(Stage, &'a Authority)>,
    steps: &Steps,
) -> Result<Connection> {
    at.set((Stage::Resolve, authority));
    let addresses = resolve(authority).await?;
    steps.done(Step::Resolve);
    at.set((stage, authority));
    let socket = connect_any(addresses).await;
    let socket = socket.map_err(|error| Error::io(stage, &error))?;
    steps.connected(socket.peer().ok());
    Ok(Connection::new(Stream::Plain(socket)))
}

async fn resolve(authority: &Authority) -> Result<VecDeque<SocketAddr>> {
    let port = authority.port;
    match &authority.host {
        Host::Ip(address) => Ok(VecDeque::from([SocketAddr::new(*address, port)])),
        Host::Name(name) => {
            let name = name.clone();
            let found = smol::unblock(move || {
                let addresses = (name.as_str(), port).to_socket_addrs()?;
                io::Result::Ok(addresses.collect::<Vec<_>>())
            });
            match found.await {
                Ok(found) if !found.is_empty() => Ok(interleave(&found)),
                Ok(_) => Err(no_such_name("the name has no address")),
                Err(error) => Err(no_such_name(&resolver_words(&error))),
            }
        }
    }
}

fn no_such_name(cause: &str) -> Error {
    Error::new(Stage::Resolve, "dns_error", cause)
}

/// The resolver's own words, which the standard library puts behind a fixed preface.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.rsplit(": ").next().unwrap_or(&text);
    words.to_lowercase()
}

/// The addresses in the resolver's order, families taking turns (RFC 8305 §4).
fn interleave(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut these, mut those): (VecDeque<_>, VecDeque<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = VecDeque::with_capacity(addresses.len());
    while let Some(address) = these.pop_front() {
        turns.push_back(address);
        std::mem::swap(&mut these, &mut those);
        if these.is_empty() {
            std::mem::swap(&mut these, &mut those);
        }
    }
    turns
}

/// Connects to whichever address answers first. Each next one is tried when the last has
/// failed or has been silent for a while, beside those still trying (RFC 8305 §5). Fails
/// with the first failure.
async fn connect_any(mut addresses: VecDeque<SocketAddr>) -> io::Result<Socket> {
    type Attempt = Pin<Box<dyn Future<Output = io::Result<Socket>>>>;
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut first_failure = None;
    let mut pause = Timer::never();
    poll_fn(|cx| loop {
        let mut failed = false;
        let mut connected = None;
        attempts.retain_mut(|attempt| match attempt.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(socket)) => {
                connected = Some(socket);
                false
            }
            Poll::Ready(Err(error)) => {
                first_failure.get_or_insert(error);
                failed = true;
                false
            }
        });
        if let Some(socket) = connected {
            return Poll::Ready(Ok(socket));
        }
        let overdue = Pin::new(&mut pause).poll(cx).is_ready();
        match addresses.front() {
            Some(_) if attempts.is_empty() || failed || overdue => {
                let address = addresses.pop_front().expect("there is a front");
                attempts.push(Box::pin(Socket::connect(address)));
                pause = match addresses.is_empty() {
                    true => Timer::never(),
                    false => Timer::after(ATTEMPT_DELAY),
                };
            }
            None if attempts.is_empty() => {
                let failure = first_failure.take();
                return Poll::Ready(Err(failure.unwrap_or(io::ErrorKind::NotFound.into())));
            }
            _ => return Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

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

    #[test]
    fn families_take_turns() {
        let v4 = |n| SocketAddr::new(Ipv4Addr::new(192, 0, 2, n).into(), 1);
        let v6 = |n| SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into(), 1);
        let turns = interleave(&[v6(1), v6(2), v6(3), v4(1), v4(2)]);
        assert_eq!(turns, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(interleave(&[v4(1), v4(2)]), [v4(1), v4(2)]);
    }

    #[test]
    fn every_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let good = listener.local_addr().expect("bound");
        let dead = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let refused = dead.local_addr().expect("bound");
        drop(dead);
        let tried = async {
            let connected = connect_any(VecDeque::from([refused, good])).await;
            assert!(connected.is_ok());
            let failed = connect_any(VecDeque::from([refused, refused])).await;
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
        let tried = connect_any(VecDeque::from([address, good]));
        let connected = crate::net::reactor::block_on(tried, || None).expect("the reactor runs");
        assert!(connected.is_ok());
    }
}
