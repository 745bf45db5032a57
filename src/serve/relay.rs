//! Relays two streams: first the bytes that are already buffered, then both directions at once
//! until each has ended.

use std::future::{poll_fn, Future};
use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
use std::pin::{pin, Pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future;

use crate::net::buffer::Buffer;
use crate::net::deadline::{Deadline, TimedOut};
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::serve::carry::{carry, Movement, Outlet};
use crate::serve::linger::{finish, FINISH_IDLE};
use crate::serve::worker::Worker;

/// How long the other direction may go on in total once one has ended. Unit tests use a shorter
/// time.
const FINISH_TOTAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// What a relay carried, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The client has reset its connection: nothing more comes from it, and nothing can be sent
    /// to it.
    pub client_reset: bool,
    /// Bytes from the client to the upstream.
    pub to_upstream: u64,
    /// Bytes from the upstream to the client.
    pub to_downstream: u64,
}

/// Carries bytes both ways until both directions have ended, or one has ended and the other does
/// not end in time, or nothing moves for the tunnel timeout, or either side resets.
pub async fn relay(
    worker: &Worker,
    downstream: &mut Connection,
    upstream: &mut Connection,
) -> Carried {
    let deadline = &Deadline::new(&worker.timers);
    let movement = Movement::new(deadline, worker.config.limits.tunnel_timeout);
    let counters = worker.counters();
    #[cfg(target_os = "linux")]
    let _watched = worker.tunnels.watch(&downstream.stream, &upstream.stream);
    let mut to_upstream = Outlet::new(&upstream.stream, &movement, &counters.bytes_up);
    let mut to_downstream = Outlet::new(&downstream.stream, &movement, &counters.bytes_down);
    let client_reset = {
        let up = direction(
            Side::Client,
            &downstream.stream,
            &mut downstream.received,
            &mut to_upstream,
        );
        let down = direction(
            Side::Upstream,
            &upstream.stream,
            &mut upstream.received,
            &mut to_downstream,
        );
        let (mut up, mut down) = (pin!(up), pin!(down));
        let race = first(up.as_mut(), down.as_mut());
        let stuck = poll_fn(|cx| {
            let reset = End::Reset(Side::Client);
            if let Poll::Ready(end) = poll_stuck(cx, &downstream.stream, &upstream.stream, reset) {
                return Poll::Ready(end);
            }
            let reset = End::Reset(Side::Upstream);
            poll_stuck(cx, &upstream.stream, &downstream.stream, reset)
        });
        let race = future::or(race, stuck);
        let mut end = deadline.limit(movement.rest.get(), race).await;
        // What follows the race is rare, and is boxed to keep an idle relay small.
        if let Ok(End::Stuck) = end {
            let race = first(up.as_mut(), down.as_mut());
            end = Box::pin(deliver(&movement, race)).await.ok_or(TimedOut);
        }
        match end {
            Ok(End::Up(Ok(()))) => {
                let down = Box::pin(finish(worker, &movement, down, FINISH_TOTAL)).await;
                matches!(down, Some(Err(Side::Client)))
            }
            Ok(End::Down(Ok(()))) => {
                let up = Box::pin(finish(worker, &movement, up, FINISH_TOTAL)).await;
                matches!(up, Some(Err(Side::Client)))
            }
            // A reset ends both directions at once, and so does the tunnel timeout. But a write
            // to the side that has reset may fail before everything that it had sent is read;
            // the kernel still holds those bytes, and they are delivered.
            Ok(End::Up(Err(Side::Upstream)) | End::Reset(Side::Upstream)) => {
                let down = Box::pin(deliver(&movement, down)).await;
                matches!(down, Some(Err(Side::Client)))
            }
            Ok(End::Down(Err(Side::Client))) => {
                Box::pin(deliver(&movement, up)).await;
                true
            }
            Ok(End::Up(Err(side)) | End::Down(Err(side)) | End::Reset(side)) => {
                side == Side::Client
            }
            Ok(End::Stuck) | Err(TimedOut) => false,
        }
    };
    Carried {
        client_reset,
        to_upstream: to_upstream.carried,
        to_downstream: to_downstream.carried,
    }
}

/// Which of the two connections of a relay has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

/// How the race of a relay ends.
enum End {
    /// The direction to the upstream has ended.
    Up(Result<(), Side>),
    /// The direction to the client has ended.
    Down(Result<(), Side>),
    /// One side has sent a FIN while writes to the other block.
    Stuck,
    /// This side has reset its connection while writes to the other block.
    Reset(Side),
}

/// Waits until one of the two directions has ended.
fn first<'d, D: Future<Output = Result<(), Side>>>(
    up: Pin<&'d mut D>,
    down: Pin<&'d mut D>,
) -> impl Future<Output = End> + use<'d, D> {
    let up = async move { End::Up(up.await) };
    future::race(up, async move { End::Down(down.await) })
}

/// Delivers what was sent before the end, for as long as the receiver keeps taking it. `None`
/// when it stops.
async fn deliver<T>(movement: &Movement<'_>, rest: impl Future<Output = T>) -> Option<T> {
    movement.rest.set(FINISH_IDLE);
    movement.deadline.limit(FINISH_IDLE, rest).await.ok()
}

/// Waits until `from` has ended while writes to `to` block: then nothing reads from `from`,
/// which would otherwise reveal its end.
fn poll_stuck(cx: &mut Context<'_>, from: &Stream, to: &Stream, reset: End) -> Poll<End> {
    if to.with_socket(Socket::is_writable) {
        // Only a write of the race can make it block. The race is polled by the same task just
        // before this, so no waker is needed here.
        return Poll::Pending;
    }
    let hung_up = from.with_socket(|socket| socket.poll_hung_up(cx));
    hung_up.map(|error| match error {
        Some(error) if error.kind() == ConnectionReset => reset,
        _ => End::Stuck,
    })
}

/// Carries one direction from `source` to its end and then sends the sink a FIN. Fails with the
/// side that has failed.
// A block in a function, here and elsewhere: an async fn would store each argument twice.
#[allow(clippy::manual_async_fn)]
fn direction<'a, 's>(
    source: Side,
    from: &'a Stream,
    received: &'a mut Buffer,
    sink: &'a mut Outlet<'s>,
) -> impl Future<Output = Result<(), Side>> + use<'a, 's> {
    async move {
        match carry(from, received, sink).await {
            // The sink had already closed, and what it had sent was read. TLS that ends without
            // close_notify counts as an end, too: the protocol inside can tell whether its data
            // is complete.
            Err(error) if matches!(error.kind(), BrokenPipe | UnexpectedEof) => {}
            Err(_) if sink.failed => return Err(source.other()),
            Err(_) => return Err(source),
            Ok(()) => {}
        }
        // If this fails, the sink is gone, and there is nothing left to end.
        let _ = sink.stream.shutdown_write().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;

    use socket2::SockRef;

    use super::*;
    use crate::cli::resolve::{resolve, Command};
    use crate::net::reactor::block_on;
    use crate::report::metrics::Registry;
    use crate::route::dial::Dialer;
    use crate::route::pool::Shelves;
    use crate::route::spares::Spares;

    fn worker() -> Worker {
        let args = ["-d", "-u", "127.0.0.1:1"].map(OsString::from);
        let Ok(Command::Serve(config, _)) = resolve(args, []) else {
            panic!("these settings are good")
        };
        let config = Arc::new(*config);
        let dialer = Dialer::new(config.clone()).expect("no TLS is wanted");
        let shelves = Arc::new(Shelves::new(1, &config.limits));
        let spares = Arc::new(Spares::new(0));
        Worker::new(config, dialer, shelves, spares, Registry::new(1), 0)
    }

    /// A connection of the proxy and its peer, with small socket buffers if wanted.
    fn pair(small: bool) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        if small {
            let listening = SockRef::from(&listener);
            listening.set_recv_buffer_size(4096).expect("a socket");
        }
        let here = TcpStream::connect(address).expect("it listens");
        let (there, _) = listener.accept().expect("a connection is queued");
        here.set_nonblocking(true).expect("a socket");
        if small {
            let sending = SockRef::from(&here);
            sending.set_send_buffer_size(4096).expect("a socket");
        }
        let stream = Stream::Plain(Socket::new(here).expect("the thread has a reactor"));
        (Connection::new(stream), there)
    }

    /// It gets everything, however slowly: the time limits are for the other direction.
    #[test]
    fn a_slow_reader_gets_what_was_sent_before_the_end() {
        read_slowly(300_000, drop);
    }

    /// It gets as much as has arrived here, which on loopback is what fits the first window.
    #[test]
    fn a_slow_reader_gets_what_was_sent_before_a_reset() {
        read_slowly(40_000, |server| {
            let linger = SockRef::from(&server).set_linger(Some(Duration::ZERO));
            linger.expect("a socket");
        });
    }

    fn read_slowly(length: usize, close: fn(TcpStream)) {
        let worker = worker();
        let relaying = async {
            let (mut downstream, mut client) = pair(true);
            let (mut upstream, mut server) = pair(false);
            let reading = thread::spawn(move || {
                let mut got = 0;
                let mut room = [0; 8192];
                loop {
                    thread::sleep(Duration::from_millis(100));
                    match client.read(&mut room) {
                        Ok(0) => return got,
                        Ok(n) => got += n,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => panic!("after {got} bytes: {error}"),
                    }
                }
            });
            server.write_all(&vec![7; length]).expect("open");
            close(server);
            let carried = relay(&worker, &mut downstream, &mut upstream).await;
            drop(downstream);
            let read = smol::unblock(|| reading.join().expect("it reads to the end")).await;
            (carried.to_downstream, read)
        };
        let sweep = async {
            worker.timers.sweep().await;
            unreachable!("the sweep never ends")
        };
        let done = block_on(future::or(relaying, sweep), || None);
        let expected = (length as u64, length);
        assert_eq!(done.expect("the reactor runs"), expected);
    }
}
