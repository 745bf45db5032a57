//! The relay of two streams: left-over bytes first, then a race of two copies. Also how a
//! connection is closed without losing what is still on its way.

use std::future::{poll_fn, Future};
use std::io::{
    self,
    ErrorKind::{BrokenPipe, UnexpectedEof},
};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future;

use crate::buffer::Buffer;
use crate::carry::{carry, Movement, Outlet};
use crate::deadline::{Deadline, TimedOut};
use crate::socket::Socket;
use crate::stream::{Connection, Stream};
use crate::worker::Worker;

/// Once one direction has ended, how long the other may rest.
const FINISH_IDLE: Duration = Duration::from_secs(10);

/// Once one direction has ended, how long the other may go on in all.
const FINISH_TOTAL: Duration = Duration::from_secs(60);

/// How long what a client still sends is read once nothing is to come for it any more.
const LINGER_TOTAL: Duration = Duration::from_secs(15);

/// What a relay carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the client to the upstream.
    pub to_upstream: u64,
    /// Bytes from the upstream to the client.
    pub to_downstream: u64,
}

/// Carries bytes both ways until both directions have ended, or one has and the other
/// does not end in time, or nothing moves for the tunnel timeout, or either side resets.
pub async fn relay(
    worker: &Worker,
    downstream: &mut Connection,
    upstream: &mut Connection,
) -> Carried {
    let deadline = &Deadline::new(&worker.timers);
    let movement = Movement::new(deadline, worker.config.limits.tunnel_timeout);
    let counters = worker.counters();
    let mut to_upstream = Outlet::new(&upstream.stream, &movement, &counters.bytes_up);
    let mut to_downstream = Outlet::new(&downstream.stream, &movement, &counters.bytes_down);
    {
        let up = direction(
            &downstream.stream,
            &mut downstream.received,
            &mut to_upstream,
        );
        let down = direction(&upstream.stream, &mut upstream.received, &mut to_downstream);
        let (mut up, mut down) = (pin!(up), pin!(down));
        let race = future::race(async { End::Up(up.as_mut().await) }, async {
            End::Down(down.as_mut().await)
        });
        let stuck = poll_fn(|cx| {
            if let Poll::Ready(end) = poll_stuck(cx, &downstream.stream, &upstream.stream) {
                return Poll::Ready(end);
            }
            poll_stuck(cx, &upstream.stream, &downstream.stream)
        });
        // What comes after the race is rare, and boxed to keep an idle relay small.
        match deadline
            .limit(movement.rest.get(), future::or(race, stuck))
            .await
        {
            Ok(End::Up(Ok(()))) => Box::pin(finish(worker, &movement, down, FINISH_TOTAL)).await,
            Ok(End::Down(Ok(()))) => Box::pin(finish(worker, &movement, up, FINISH_TOTAL)).await,
            Ok(End::Stuck) => {
                let both = async { future::try_zip(up, down).await.map(drop) };
                Box::pin(finish(worker, &movement, both, FINISH_TOTAL)).await;
            }
            // A reset ends both at once; so does a relay at rest.
            Ok(End::Up(Err(_)) | End::Down(Err(_)) | End::Reset) | Err(TimedOut) => {}
        }
    }
    Carried {
        to_upstream: to_upstream.carried,
        to_downstream: to_downstream.carried,
    }
}

/// How a relay comes to its end.
enum End {
    /// The direction to the upstream has ended.
    Up(io::Result<()>),
    /// The direction to the client has.
    Down(io::Result<()>),
    /// One side has sent its last, and the other takes nothing.
    Stuck,
    /// The same, but it has reset the connection.
    Reset,
}

/// Waits until `from` has ended while `to` takes nothing: nobody reads from `from` then, and
/// nobody else would notice.
fn poll_stuck(cx: &mut Context<'_>, from: &Stream, to: &Stream) -> Poll<End> {
    if to.with_socket(Socket::is_writable) {
        // The one who finds that it is not polls this again.
        return Poll::Pending;
    }
    let hung_up = from.with_socket(|socket| socket.poll_hung_up(cx));
    hung_up.map(|reset| if reset { End::Reset } else { End::Stuck })
}

/// Lets what is left of a connection's other direction end, within bounds.
async fn finish(
    worker: &Worker,
    movement: &Movement<'_>,
    rest: impl Future<Output = io::Result<()>>,
    in_all: Duration,
) {
    movement.rest.set(FINISH_IDLE);
    let total = Deadline::new(&worker.timers);
    let bounded = movement.deadline.limit(FINISH_IDLE, rest);
    let _ = total.limit(in_all, bounded).await;
}

/// Ends a connection behind its last byte: our side is shut down, then what the client
/// still sends is read and discarded for a while. Closing at once would reset the
/// connection and destroy what the client has not yet read.
pub async fn linger(worker: &Worker, mut connection: Connection, deadline: &Deadline) {
    let movement = Movement::new(deadline, FINISH_IDLE);
    let rest = async {
        connection.stream.shutdown_write().await?;
        loop {
            let n = connection.received.len();
            connection.received.consume(n);
            if connection.fill().await? == 0 {
                return Ok(());
            }
            movement.happened();
        }
    };
    finish(worker, &movement, rest, LINGER_TOTAL).await;
}

/// Carries one direction to its end and then shuts down the sink's writing side.
// A block in a function, here and elsewhere: an async fn would hold each argument twice.
#[allow(clippy::manual_async_fn)]
fn direction<'a, 's>(
    from: &'a Stream,
    received: &'a mut Buffer,
    sink: &'a mut Outlet<'s>,
) -> impl Future<Output = io::Result<()>> + use<'a, 's> {
    async move {
        match carry(from, received, sink).await {
            // Closed, and our own bytes came too late for it: what it had sent was read.
            // So is TLS that ends without close_notify: the protocol inside knows better.
            Err(error) if matches!(error.kind(), BrokenPipe | UnexpectedEof) => {}
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        // A sink that is gone needs no end.
        let _ = sink.stream.shutdown_write().await;
        Ok(())
    }
}
