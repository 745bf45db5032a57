//! A client that leaves before its answer: noticed without reading on, and passed on to the
//! upstream. A reset is an end at once. A client that ends its side may still read: the
//! upstream has half a second of silence to answer before it sees that end, too.

use std::future::{poll_fn, Future};
use std::io;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_lite::future;

use crate::config::MAX_HEAD_BYTES;
use crate::http::request::Request;
use crate::net::buffer::Buffer;
use crate::net::deadline::Deadline;
use crate::net::socket::{Direction, Socket};
use crate::net::stream::{Connection, Stream};
use crate::serve::answering::client_gone;
use crate::serve::forward::{Failure, Progress};
use crate::serve::worker::Worker;

/// How long an upstream may be silent behind its client's end before our side towards it is
/// ended. Of servers that see a client's end while they work, two in five give no answer; for
/// `nc -N` and its like, what is answered promptly is answered before.
const SILENCE: Duration = Duration::from_millis(500);

/// How long a dial, or the wait for a slot, may go on behind its client's end, unless it is for
/// an upgrade: as much as a way of 100 ms through SOCKS5 to TLS takes, and some.
const DIAL: Duration = Duration::from_secs(1);

/// How a client is found to have sent its last.
enum End {
    /// It has ended its side behind its last request; it may still read.
    Closed,
    /// The connection is no more.
    Reset,
    /// There is another request, or a part of one. Its own exchange finds the end.
    More,
}

/// Waits for the client's end. What it sends meanwhile is left to the kernel, unless TLS has
/// to be read to see the end; then it is kept in `received`.
fn poll_end(
    cx: &mut Context<'_>,
    stream: &Stream,
    received: &mut Buffer,
    upgrades: bool,
) -> Poll<End> {
    if let Some(socket) = stream.plain() {
        // Told by the reactor, so that nothing is asked of the kernel before the end.
        if ready!(socket.poll_hung_up(cx)).is_some() {
            return Poll::Ready(End::Reset);
        }
        socket.look_again();
    }
    let mut skipped = 0;
    loop {
        // Behind a request an empty line is nothing (RFC 9112 §2.2); behind an upgrade's head
        // it belongs to the protocol that follows.
        while !upgrades && received.bytes().starts_with(b"\r\n") {
            received.consume(2);
            skipped += 2;
        }
        // Whoever sends so many is refused where they are read as a next request.
        if !matches!(received.bytes(), b"" | b"\r") || skipped > MAX_HEAD_BYTES {
            return Poll::Ready(End::More);
        }
        if stream.plain().is_none() && stream.none_waiting() {
            received.release();
            ready!(stream.with_socket(|socket| socket.poll_ready(Direction::Read, cx)));
        }
        match stream.try_read(received.space()) {
            Ok(0) => return Poll::Ready(End::Closed),
            Ok(n) => received.received(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                received.release();
                let _ = ready!(stream.poll_unblocked(cx));
            }
            // TLS without close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Poll::Ready(End::Closed)
            }
            Err(_) => return Poll::Ready(End::Reset),
        }
    }
}

fn reset() -> Failure {
    client_gone(&io::ErrorKind::ConnectionReset.into())
}

/// The client has ended its side, and got no response.
fn left() -> Failure {
    Failure::Broken("client: closed before its response".to_owned())
}

/// Fails where the thread was told that nobody waits for the response any more: the request
/// must not be sent.
pub fn still_there(client: &Stream) -> Result<(), Failure> {
    match client.with_socket(Socket::is_broken) {
        true => Err(reset()),
        false => Ok(()),
    }
}

/// Does `work`, a dial or the wait for a slot, for as long as the client waits for it.
pub async fn while_present<T>(
    worker: &Worker,
    client: &mut Connection,
    request: &Request,
    work: impl Future<Output = T>,
) -> Result<T, Failure> {
    let Connection {
        stream, received, ..
    } = client;
    let stream: &Stream = stream;
    let upgrades = request.upgrade.is_some();
    let leaving = async {
        // Where a part of the request may be unread, the client cannot be read on to find its
        // end.
        let end = match request.has_body() || upgrades {
            true => {
                match poll_fn(|cx| stream.with_socket(|socket| socket.poll_hung_up(cx))).await {
                    Some(_) => End::Reset,
                    None => End::Closed,
                }
            }
            false => poll_fn(|cx| poll_end(cx, stream, received, upgrades)).await,
        };
        let broken = poll_fn(|cx| stream.with_socket(|socket| socket.poll_broken(cx)));
        match end {
            End::Reset => Err(reset()),
            End::Closed => {
                // A client that has ended its side can send nothing over the upgraded
                // connection, so that it is given less time.
                let patience = if upgrades { SILENCE } else { DIAL };
                let deadline = Deadline::new(&worker.timers);
                match deadline.limit(patience, broken).await {
                    Ok(()) => Err(reset()),
                    Err(_) => Err(left()),
                }
            }
            End::More => {
                broken.await;
                Err(reset())
            }
        }
    };
    future::or(leaving, async { Ok(work.await) }).await
}

/// The client of an exchange whose request was read whole.
pub enum Client {
    /// It may yet send more, or end.
    Open,
    /// It has sent more than this request: its end concerns the next one.
    Pipelines,
    /// It has ended its side.
    Closed(Box<Closed>),
}

/// A client that has ended its side while its answer is awaited.
pub struct Closed {
    deadline: Deadline,
    stage: Stage,
}

enum Stage {
    /// The upstream may yet answer as if nothing were.
    Waiting,
    /// Our side towards the upstream is being ended.
    Ending,
    /// What the upstream makes of that is delivered.
    Abandoned,
}

/// Who takes part in an exchange whose client may leave.
pub struct Parties<'a> {
    /// What the connections of this thread share.
    pub worker: &'a Worker,
    /// What is known of the request.
    pub request: &'a Request,
    /// How far the attempt has come.
    pub progress: &'a Progress,
    /// The client's stream.
    pub client: &'a Stream,
    /// The upstream's.
    pub upstream: &'a Stream,
}

impl Parties<'_> {
    /// Waits until the exchange is over because the client has left. To be polled behind the
    /// answering half, whose progress counts as the upstream's words.
    pub fn poll_left(
        &self,
        cx: &mut Context<'_>,
        state: &mut Client,
        received: &mut Buffer,
    ) -> Poll<Failure> {
        let upgrades = self.request.upgrade.is_some();
        if let Client::Open = state {
            *state = match ready!(poll_end(cx, self.client, received, upgrades)) {
                End::Reset => return Poll::Ready(reset()),
                End::More => Client::Pipelines,
                End::Closed => {
                    received.release();
                    let deadline = Deadline::new(&self.worker.timers);
                    deadline.arm(SILENCE);
                    self.progress.heard.set(false);
                    Client::Closed(Box::new(Closed {
                        deadline,
                        stage: Stage::Waiting,
                    }))
                }
            };
        }
        let broken = self.client.with_socket(|socket| socket.poll_broken(cx));
        if broken.is_ready() {
            return Poll::Ready(reset());
        }
        match state {
            Client::Open | Client::Pipelines => Poll::Pending,
            Client::Closed(closed) => self.poll_closed(cx, closed),
        }
    }

    /// The same while the request is still being read. The upload sees the client's end; an
    /// upload that waits for the upstream to take more sees nothing.
    pub fn poll_stuck(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        if self.upstream.with_socket(Socket::is_writable) {
            // The upload is waiting to read from the client, and so sees its end itself.
            return Poll::Pending;
        }
        let broken = self.client.with_socket(|socket| socket.poll_broken(cx));
        broken.map(|()| reset())
    }

    fn poll_closed(&self, cx: &mut Context<'_>, closed: &mut Closed) -> Poll<Failure> {
        let Closed { deadline, stage } = closed;
        loop {
            let patience = match stage {
                Stage::Waiting => SILENCE,
                Stage::Ending => {
                    // A failure means that the upstream is gone already. One that reads nothing
                    // keeps close_notify pending, and the deadline strikes all the same.
                    if self.upstream.poll_shutdown_write(cx).is_ready() {
                        *stage = Stage::Abandoned;
                    }
                    self.worker.config.limits.abandon_timeout
                }
                Stage::Abandoned => self.worker.config.limits.abandon_timeout,
            };
            if self.progress.heard.take() {
                deadline.arm(patience);
            }
            ready!(deadline.poll_struck(cx));
            if !self.client.with_socket(Socket::is_writable) {
                // It is the client that takes nothing, and the upstream is not read.
                deadline.arm(patience);
                continue;
            }
            match stage {
                Stage::Waiting => {
                    // From here on a part of close_notify may have been sent.
                    self.progress.ended.set(true);
                    *stage = Stage::Ending;
                    deadline.arm(self.worker.config.limits.abandon_timeout);
                }
                _ => return Poll::Ready(left()),
            }
        }
    }
}
