//! A client that leaves before it has its response: it is noticed without reading further
//! requests, and the upstream is told. A reset ends the exchange at once. A client that has sent
//! a FIN may still read, so the upstream may take up to half a second of silence to answer
//! before it is sent a FIN, too.

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

/// How long an upstream may be silent after its client has sent a FIN before a FIN is sent to
/// the upstream. Of the servers that notice such a FIN while they work, two in five give no
/// response; for `nc -N` and similar clients, a prompt response is given before this.
const SILENCE: Duration = Duration::from_millis(500);

/// How long a dial, or the wait for a slot, may continue after the client has sent a FIN, unless
/// it is for an upgrade: a dial through SOCKS5 to TLS over a path with a round trip of 100 ms,
/// and some reserve.
const DIAL: Duration = Duration::from_secs(1);

/// What was found while waiting for the end of a client's connection.
enum End {
    /// It has sent a FIN after its last request; it may still read.
    Closed,
    /// The connection was reset.
    Reset,
    /// There is another request, or a part of one. The exchange of that request will find the
    /// end.
    More,
}

/// Waits for the end of the client's connection. What the client sends meanwhile is left in the
/// kernel, unless TLS must be read to find the end; then it is kept in `received`.
fn poll_end(
    cx: &mut Context<'_>,
    stream: &Stream,
    received: &mut Buffer,
    upgrades: bool,
) -> Poll<End> {
    if let Some(socket) = stream.plain() {
        // The HUP comes from the reactor, so there is no system call before the end.
        if ready!(socket.poll_hung_up(cx)).is_some() {
            return Poll::Ready(End::Reset);
        }
        socket.look_again();
    }
    let mut skipped = 0;
    loop {
        // An empty line after a request is ignored (RFC 9112 §2.2); after the head of an upgrade
        // it belongs to the next protocol.
        while !upgrades && received.bytes().starts_with(b"\r\n") {
            received.consume(2);
            skipped += 2;
        }
        // A client that sends too many of them is refused when they are read as a next request.
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
            // TLS ended without close_notify.
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

/// The failure of an exchange whose client has closed before its response.
fn left() -> Failure {
    Failure::Broken("client: closed before its response".to_owned())
}

/// Fails if the reactor knows that the client's connection is reset: the request must not be
/// sent.
pub fn still_there(client: &Stream) -> Result<(), Failure> {
    match client.with_socket(Socket::is_broken) {
        true => Err(reset()),
        false => Ok(()),
    }
}

/// Performs `work`, a dial or the wait for a slot, for as long as the client is there.
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
        // If a part of the request may be unread, reading on to find the end is not possible.
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
                // After a FIN the client can send nothing over the upgraded connection, so it is
                // given less time.
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

/// The state of a client whose request was read whole.
pub enum Client {
    /// It may still send more, or end.
    Open,
    /// It has sent more after this request: its end concerns the next one.
    Pipelines,
    /// It has sent a FIN.
    Closed(Box<Closed>),
}

/// A client that has sent a FIN while its response is awaited.
pub struct Closed {
    deadline: Deadline,
    stage: Stage,
}

enum Stage {
    /// The upstream does not know yet, and may answer.
    Waiting,
    /// A FIN, or close_notify, is being sent to the upstream.
    Ending,
    /// The upstream has been sent the end; what it still answers is delivered.
    Abandoned,
}

/// The parties of an exchange whose client may leave.
pub struct Parties<'a> {
    /// The state that the connections of this thread share.
    pub worker: &'a Worker,
    /// What is known of the request.
    pub request: &'a Request,
    /// How far the attempt has come.
    pub progress: &'a Progress,
    /// The client's stream.
    pub client: &'a Stream,
    /// The upstream's stream.
    pub upstream: &'a Stream,
}

impl Parties<'_> {
    /// Waits until the exchange is over because the client has left. Must be polled after the
    /// answering half, whose progress counts as activity of the upstream.
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

    /// The same while the request is still being read. The upload notices the client's end while
    /// it reads; this notices a reset while the upload waits for the upstream to take more.
    pub fn poll_stuck(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        if self.upstream.with_socket(Socket::is_writable) {
            // The upload is waiting to read from the client, and so notices its end.
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
                    // A failure means that the upstream is gone already. If it reads nothing,
                    // close_notify stays pending, and the deadline expires all the same.
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
                // The client is not reading, and therefore the upstream is not read.
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
