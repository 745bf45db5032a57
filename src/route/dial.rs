//! Dials the upstream along the route under one deadline: the first hop, the proxy handshake,
//! TLS. Decides the server name for TLS. Leaves to `connect` how the first hop is resolved and
//! connected to, and to `own` which addresses are this program's.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
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
use crate::net::stream::Connection;
use crate::net::tls::{openssl_words, Tls, TlsClient, Verify};
use crate::proxy::{Proxy, Scheme};
use crate::route::connect::{first_hop, Progress};
use crate::route::hops::{Dial, Hops, Plan};
use crate::route::names::Names;
use crate::route::own::Own;
use crate::route::steps::{Step, Steps};
use crate::route::{http_connect, socks5};

/// Makes connections to the upstream.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<Config>,
    upstream_tls: Option<Tls>,
    proxy_tls: Option<Tls>,
    names: Names,
    hops: Arc<Hops>,
    /// The only proxy to use, where the others are not to be tried.
    only: Option<usize>,
    /// Where this program itself listens.
    own: Own,
}

impl Dialer {
    /// Prepares TLS where the route needs it. Fails with a message for the operator.
    pub fn new(config: Arc<Config>) -> std::result::Result<Dialer, Complaint> {
        let tls = |verify, identity| {
            let client = TlsClient {
                verify,
                roots: &config.roots,
                identity,
                oldest: config.tls_min,
            };
            Tls::new(&client).map_err(|error| {
                let words = openssl_words(&error.to_string());
                Complaint::new(
                    "TLS",
                    both!("cannot be set up: {words}", "无法建立：{words}"),
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

    /// A dialer that uses only one of the proxies, by its number from 0.
    pub(crate) fn only(&self, proxy: usize) -> Dialer {
        Dialer {
            only: Some(proxy),
            ..self.clone()
        }
    }

    /// The state of the proxies.
    pub(crate) fn hops(&self) -> &Arc<Hops> {
        &self.hops
    }

    /// A dialer that refuses direct connections to these addresses, at which this program
    /// listens.
    pub fn never_to(self, own: Own) -> Dialer {
        Dialer { own, ..self }
    }

    /// Appends the name for SNI and for certificate verification to `name`: the configured one;
    /// else the upstream's own; for an upstream that is an address, the name in the Host that is
    /// sent there. If there is none, the upstream's address is appended, for which no SNI is
    /// sent. Appends nothing without TLS.
    pub(crate) fn server_name(&self, host: &[u8], name: &mut String) {
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

    /// Connects to the upstream along the route, recording each step in `steps`. Never tries
    /// another route.
    pub(crate) async fn dial(
        &self,
        server_name: &str,
        deadline: &Deadline,
        steps: &Steps,
    ) -> Result<Connection> {
        let timeout = self.config.limits.connect_timeout;
        self.dial_within(timeout, server_name, deadline, steps)
            .await
    }

    /// Like [`dial`](Self::dial), with `left` of the connect timeout remaining.
    pub(crate) async fn dial_within(
        &self,
        left: Duration,
        server_name: &str,
        deadline: &Deadline,
        steps: &Steps,
    ) -> Result<Connection> {
        self.dial_as_far(Some(server_name), left, deadline, steps)
            .await
    }

    /// The error of a dial for which no time was left before it began.
    pub(crate) fn no_time_left(&self) -> Error {
        let stage = match self.config.route {
            Route::Direct => Stage::Connect,
            Route::Socks5(_) | Route::Connect(_) => Stage::ProxyConnect,
        };
        Error::timed_out(stage, self.config.limits.connect_timeout).at(self.first_hop(0))
    }

    /// Like [`dial`](Self::dial), without TLS to the upstream.
    pub(crate) async fn reach(&self, deadline: &Deadline, steps: &Steps) -> Result<Connection> {
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
        let walk = self.walk(server_name, left, &progress, steps);
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

    /// The error of a dial that has timed out, at the stage that it had reached.
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
        left: Duration,
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
            Route::Socks5(_) | Route::Connect(_) => {
                self.through_any_proxy(left, progress, steps).await?
            }
        };
        if let (Some(tls), Some(server_name)) = (&self.upstream_tls, server_name) {
            progress.at.set((Stage::Tls, upstream));
            let secured = tls.connect(server_name, connection).await;
            connection = secured.map_err(|error| tls_error(Stage::Tls, &error))?;
            steps.done(Step::Tls);
        }
        Ok(connection)
    }

    /// Connects through the first proxy that answers. Each gets an equal share of the remaining
    /// time. What a proxy answers about the upstream, or about the login, is final.
    async fn through_any_proxy<'a>(
        &'a self,
        left: Duration,
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
                    let share = left.saturating_sub(began.elapsed()) / (others + 1);
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

    /// Connects through one proxy, and records the outcome unless this future is dropped before.
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

    /// Records how a dial through a proxy ended.
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

    /// Probes a proxy on a separate thread, so that no request waits for it. At most one thread
    /// per proxy, every ten seconds, for at most the connect timeout.
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

/// Whether the proxy has not answered, so that another may be tried. A reply that the upstream
/// cannot be reached, or that the login is refused, is an answer. A close without a reply is
/// not, although it most often means that the upstream could not be reached.
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

/// The address that is verified in TLS where no name is sent. A unix socket stands for this
/// machine.
fn address_of(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Ip(address) => address.to_string(),
        Host::Zoned(address, _) => address.to_string(),
        Host::Unix(_) => Ipv4Addr::LOCALHOST.to_string(),
    }
}

/// The name in a Host that can be sent as SNI (RFC 6066 §3): not an address, and not localhost.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
