//! Connects to the first hop of a route: finds its addresses and connects to whichever answers
//! first.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use async_io::Timer;

use crate::authority::{Authority, Host};
use crate::error::{Error, Result, Stage};
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::route::names::{Addresses, Names};
use crate::route::resolver::on_link;
use crate::route::steps::{Step, Steps};

/// How long to wait for an address before the next one is tried in parallel (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first hop, marking the stage in `progress`.
pub(super) async fn first_hop<'a>(
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
        Host::Ip(address) => Addresses::all_of(vec![SocketAddr::new(*address, authority.port)]),
        Host::Zoned(address, zone) => {
            let found = on_link(*address, zone, authority.port);
            let unknown = || Error::new(Stage::Resolve, "dns_error", "no such network interface");
            Addresses::all_of(vec![found.ok_or_else(unknown)?])
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

/// How far a dial has come, for the error if it times out.
pub(super) struct Progress<'a> {
    /// The stage that was begun last, and the authority that it concerns.
    pub(super) at: Cell<(Stage, &'a Authority)>,
    pub(super) in_flight: InFlight,
    /// The proxies that did not answer, and why, for the log.
    pub(super) passed_over: RefCell<String>,
}

impl<'a> Progress<'a> {
    /// The progress of a dial that begins with this hop.
    pub(super) fn begin(first_hop: &'a Authority) -> Progress<'a> {
        Progress {
            at: Cell::new((Stage::Resolve, first_hop)),
            in_flight: InFlight::default(),
            passed_over: RefCell::default(),
        }
    }
}

/// The addresses of the first hop that are being connected to.
pub(super) type InFlight = RefCell<Vec<SocketAddr>>;

/// Connects to whichever address answers first. The next address is tried when the last one has
/// failed or has not answered for a while, in parallel with the attempts still in flight (RFC
/// 8305 §5). Fails with the first failure. Each address that fails is reported to `names`.
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
            // The other attempts are dropped; their addresses do not count as failed.
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
    use std::net::TcpListener;

    use super::*;

    async fn connect(addresses: [SocketAddr; 2]) -> io::Result<Socket> {
        let addresses = Addresses::all_of(addresses.to_vec());
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
    fn a_silent_address_does_not_delay_the_next() {
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
