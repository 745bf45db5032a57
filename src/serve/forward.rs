//! One exchange: sends the request upstream while already waiting for the response; then the
//! connections are kept, closed, or returned for a tunnel.

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::config::Limits;
use crate::error::{describe, Error, Stage};
use crate::http::body::{self, BodyError, Sink, Source};
use crate::http::framing::Framing;
use crate::http::head::Reading;
use crate::http::naming::Names;
use crate::http::rejection::Rejection;
use crate::http::request::Request;
use crate::net::deadline::{Deadline, TimedOut};
use crate::net::reactor::now;
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::net::tick::Tick;
use crate::report::subject::Subject;
use crate::serve::answering::{Answer, Answering, CONNECTION_TERMINATED};
use crate::serve::bound::Bound;
use crate::serve::leaving::{still_there, while_present, Client, Parties};
use crate::serve::upstream::{Obtained, Wanted};
use crate::serve::worker::Worker;

/// The largest body that any upstream's kernel takes before the upstream reads.
const SHORT_BODY: u64 = 8 * 1024;

/// The outcome of a request that was answered.
pub enum Outcome {
    /// The response was delivered whole.
    Delivered {
        /// Its status.
        status: u16,
        /// Its body's length.
        bytes: u64,
        /// Whether the client's connection stays open.
        persistent: bool,
        /// Whether the whole request was read, so that no more of it is coming.
        request_read: bool,
    },
    /// The upstream switched protocols, the client has been sent the 101, and this connection
    /// carries the new protocol.
    Switched(Connection),
}

/// Why a request was not answered by a whole response.
#[derive(Debug)]
pub enum Failure {
    /// The upstream gave no response; nothing was delivered.
    Upstream(Error),
    /// The kept connection had ended before the request could reach the upstream on it, with the
    /// cause. Nothing was delivered, and a client whose connection is closed without a response
    /// may repeat the request (RFC 9112 §9.3.1).
    Raced(&'static str),
    /// The client's request is invalid or incomplete; nothing was delivered.
    Request(Rejection),
    /// The exchange failed when a status could no longer be sent, with the cause.
    Broken(String),
    /// The same, after a part of a response that is delimited by the close of the connection:
    /// the client must see a reset.
    Cut(String),
}

/// An end that comes within this time of a request, or within two round trips, was sent before
/// the request arrived.
const RACE: Duration = Duration::from_millis(50);

/// One request and its response.
pub struct Exchange<'a> {
    /// The state that the connections of this thread share.
    pub worker: &'a Worker,
    /// What is known of the request.
    pub request: &'a Request,
    /// The head that is sent upstream.
    pub head: &'a mut Vec<u8>,
    /// The name that TLS is made for.
    pub server_name: &'a str,
    /// The client's connection has served a request before: the client may repeat this one on
    /// another connection when it is closed without a response.
    pub is_reused: bool,
    /// Set once the request was read whole.
    pub request_read: &'a Cell<bool>,
    /// The upstream connection that the client has authenticated, if any.
    pub bound: &'a mut Option<Box<Bound>>,
    /// Its two origins, if they may differ.
    pub names: Option<&'a Names>,
    /// The session's deadline.
    pub deadline: &'a Deadline,
    /// The request as it is named in the log.
    pub subject: &'a Subject,
}

/// How far the current attempt has come.
pub struct Progress {
    /// The upstream connection serves this client only: the client has authenticated it, or does
    /// so with this request.
    pub bound: bool,
    /// When the request was ready to send.
    pub began: Tick,
    /// The request was sent whole.
    pub uploaded: Cell<bool>,
    /// The client was sent a 100, or has begun to send the body without it.
    pub continued: Cell<bool>,
    /// Bytes of a response have arrived.
    pub answered: Cell<bool>,
    /// TCP_USER_TIMEOUT is set, until bytes of a response arrive.
    pub guarded: Cell<bool>,
    /// A part of a response may have been delivered.
    pub delivered: Cell<bool>,
    /// The bytes of interim responses since body bytes of the request last moved.
    pub interim_bytes: Cell<usize>,
    /// The upstream has sent bytes since this was last read.
    pub heard: Cell<bool>,
    /// The upstream was sent a FIN because the client has sent one.
    pub ended: Cell<bool>,
}

impl Progress {
    /// The progress of an attempt that begins now. `bound` says that the upstream connection
    /// serves this client only.
    pub fn begin(bound: bool) -> Progress {
        Progress {
            bound,
            began: now(),
            uploaded: Cell::default(),
            continued: Cell::default(),
            answered: Cell::default(),
            guarded: Cell::default(),
            delivered: Cell::default(),
            interim_bytes: Cell::default(),
            heard: Cell::default(),
            ended: Cell::default(),
        }
    }
}

impl Exchange<'_> {
    /// Sends the request and delivers the response. Tries once more on a new connection when a
    /// reused one turns out to be closed and the request cannot have been processed twice.
    pub async fn run(mut self, downstream: &mut Connection) -> Result<Outcome, Failure> {
        still_there(&downstream.stream)?;
        self.request_read.set(!self.request.has_body());
        let server_name = self.server_name;
        if let Some(bound) = self.bound.take_if(|bound| bound.is_for(server_name)) {
            let ended = || Failure::Raced("the authenticated upstream connection has ended");
            let upstream = bound.take().ok_or_else(ended)?;
            let progress = Progress::begin(true);
            let outcome = self.attempt(upstream, downstream, &progress).await;
            return match outcome {
                Err(Failure::Upstream(error)) if self.was_race(&progress, &error) => Err(ended()),
                outcome => outcome,
            };
        }
        let binds = self.request.binds_connection;
        let wanted = Wanted {
            worker: self.worker,
            server_name,
            may_be_sent_twice: self.request.is_idempotent && !self.request.has_body(),
            deadline: self.deadline,
            subject: self.subject,
        };
        let mut obtained = match wanted.at_hand() {
            Some(at_hand) => at_hand,
            None => self.dial(&wanted, downstream, false).await?,
        };
        let habits = self.worker.pool.habits();
        loop {
            let Obtained {
                connection,
                rest,
                is_new,
            } = obtained;
            let progress = Progress::begin(binds);
            // A longer body may have to wait for an upstream that does not read.
            let patience = match self.request.framing {
                Framing::None | Framing::Length(..=SHORT_BODY) => {
                    rest.and_then(|rest| habits.patience(rest))
                }
                _ => None,
            };
            if let Some(patience) = patience {
                let guard = |socket: &Socket| socket.set_user_timeout(Some(patience));
                connection.stream.with_socket(guard);
                progress.guarded.set(true);
            }
            let outcome = self.attempt(connection, downstream, &progress).await;
            let answered = progress.answered.get();
            if let (Some(rest), true) = (rest, answered) {
                habits.served_again(rest, now);
            }
            match outcome {
                Err(Failure::Upstream(error)) if !is_new && !answered && !error.timed_out => {
                    let raced = self.was_race(&progress, &error);
                    if let (Some(rest), true) = (rest, raced) {
                        habits.ended(rest, now());
                    }
                    if !wanted.may_be_sent_twice {
                        return Err(match raced && self.is_reused {
                            true => Failure::Raced("the kept upstream connection has ended"),
                            false => Failure::Upstream(error),
                        });
                    }
                }
                outcome => return outcome,
            }
            obtained = self.dial(&wanted, downstream, true).await?;
        }
    }

    /// Dials for as long as the client is there.
    async fn dial(
        &self,
        wanted: &Wanted<'_>,
        downstream: &mut Connection,
        must_be_new: bool,
    ) -> Result<Obtained, Failure> {
        let dial = wanted.dial(must_be_new);
        // Boxed, because most requests do not dial.
        let dialled = Box::pin(while_present(self.worker, downstream, self.request, dial));
        dialled.await?.map_err(Failure::Upstream)
    }

    /// Whether an attempt over a kept connection has failed because the upstream was just
    /// closing it, and not while processing the request: the end came so soon that it was sent
    /// before the request arrived.
    fn was_race(&self, progress: &Progress, error: &Error) -> bool {
        let round_trip = self.worker.pool.habits().round_trip();
        let took = now().since(progress.began);
        !progress.answered.get()
            && error.token == CONNECTION_TERMINATED
            && took <= RACE.max(2 * round_trip)
    }

    fn limits(&self) -> &Limits {
        &self.worker.config.limits
    }

    /// One attempt over one upstream connection. The response timeout begins again whenever
    /// bytes move.
    async fn attempt(
        &mut self,
        mut upstream: Connection,
        downstream: &mut Connection,
        progress: &Progress,
    ) -> Result<Outcome, Failure> {
        let timeout = self.limits().response_timeout;
        let deadline = self.deadline;
        let exchanged = {
            // Pinned where it is created: it is large, and would otherwise be moved twice.
            let exchange = pin!(self.exchange(&mut upstream, downstream, progress));
            deadline.limit(timeout, exchange).await
        };
        self.request_read.set(progress.uploaded.get());
        if progress.ended.get() && !matches!(exchanged, Ok(Ok(_))) {
            // The upstream was sent a FIN because the client has left, and has not answered.
            let left = "client: closed before the end of its response".to_owned();
            return Err(match progress.delivered.get() {
                true => Failure::Cut(left),
                false => Failure::Broken(left),
            });
        }
        let answer = match exchanged {
            Ok(answer) => answer?,
            Err(TimedOut) => {
                let is_taking = upstream.stream.with_socket(Socket::is_writable);
                // A client that expects a 100 may rightly wait for it.
                let may_send = !self.request.expects_continue || progress.continued.get();
                let client_owes = !progress.uploaded.get() && is_taking && may_send;
                return Err(match (progress.delivered.get(), client_owes) {
                    (true, _) => Failure::Cut(format!("stalled for {timeout:?}")),
                    (false, true) => Failure::Request(Rejection {
                        status: 408,
                        reason: "the request body did not arrive in time",
                    }),
                    (false, false) => Failure::Upstream(
                        Error::timed_out(Stage::Response, timeout).at(&self.worker.config.upstream),
                    ),
                });
            }
        };
        if answer.is_good() {
            self.worker.spares.used(self.server_name, now);
        }
        Ok(match answer {
            Answer::Switched => Outcome::Switched(upstream),
            Answer::Delivered {
                status,
                bytes,
                upstream_persistent,
                promised,
                downstream_persistent,
            } => {
                let goes_on = progress.uploaded.get() && !progress.ended.get();
                let mut persistent = downstream_persistent && goes_on;
                // Bytes after the response answer no request: such a connection is not used
                // again.
                let keeps = upstream_persistent && goes_on && upstream.received.is_empty();
                if progress.bound {
                    // A bound pair of connections ends together.
                    persistent &= keeps;
                }
                if keeps {
                    upstream.received.release();
                    match (progress.bound, persistent) {
                        (true, true) => {
                            let bound = Bound::new(upstream, self.server_name);
                            *self.bound = Some(Box::new(bound));
                        }
                        (true, false) => {}
                        (false, _) => {
                            let pool = &self.worker.pool;
                            pool.put(upstream, self.server_name, promised);
                        }
                    }
                }
                Outcome::Delivered {
                    status,
                    bytes,
                    persistent,
                    request_read: progress.uploaded.get(),
                }
            }
        })
    }

    /// Uploads the request and delivers the response concurrently: an upstream may answer before
    /// it has read everything.
    async fn exchange(
        &mut self,
        upstream: &mut Connection,
        downstream: &mut Connection,
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        let timeout = self.limits().response_timeout;
        let counters = self.worker.counters();
        let Connection {
            stream: upstream,
            received: from_upstream,
            ..
        } = upstream;
        let Connection {
            stream: downstream,
            received: from_downstream,
            ..
        } = downstream;
        let client: &Stream = downstream;
        let upstream: &Stream = upstream;
        let client_waits = Cell::new(from_downstream.is_empty());
        let answering = Answering {
            worker: self.worker,
            request: self.request,
            subject: self.subject,
            names: self.names,
            deadline: self.deadline,
            progress,
            client_waits: &client_waits,
            upstream,
            downstream,
        };
        let deadline = self.deadline;
        let has_body = self.request.has_body();
        let (request, worker) = (self.request, self.worker);
        let head = &mut *self.head;
        let uploading = async {
            let received = from_downstream;
            let outcome = if !has_body {
                // The head is kept whole for a second attempt.
                upstream.write_all(head).await.map_err(BodyError::Sink)
            } else {
                // A request with a body is never sent twice, however much of it was sent.
                let started = Cell::default();
                let source = Source {
                    stream: client,
                    received: &mut *received,
                    framing: request.framing,
                    reading: Reading::Strict,
                    takes_end_unannounced: false,
                };
                let sink = Sink {
                    stream: upstream,
                    pending: head,
                    framing: request.framing,
                    started: &started,
                    drops: &|name| self.worker.config.rewrite.gives_way(name),
                };
                let moved = |bytes| {
                    deadline.arm(timeout);
                    progress.interim_bytes.set(0);
                    progress
                        .continued
                        .set(progress.continued.get() || bytes > 0);
                    counters.bytes_up.add(bytes);
                };
                body::copy(source, sink, moved).await.map(drop)
            };
            progress.uploaded.set(outcome.is_ok());
            (outcome, received)
        };
        let parties = Parties {
            worker,
            request,
            progress,
            client,
            upstream,
        };
        let mut leaving = Client::Open;
        let mut uploading = pin!(uploading);
        let mut answering = pin!(answering.run(from_upstream));
        // The client's buffer, once the upload has ended.
        let mut read_to = None;
        poll_fn(|cx| {
            if read_to.is_none() {
                if let Poll::Ready((outcome, received)) = uploading.as_mut().poll(cx) {
                    read_to = Some(received);
                    match outcome {
                        // If the upstream takes no more, its response may say why.
                        Ok(()) | Err(BodyError::Sink(_)) => {}
                        Err(error) => return Poll::Ready(Err(broken_request(error, progress))),
                    }
                }
            }
            if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            match &mut read_to {
                Some(received) => {
                    let left = parties.poll_left(cx, &mut leaving, received);
                    // With TLS, bytes after the head may have been read to find the client's
                    // end.
                    client_waits.set(client_waits.get() && received.is_empty());
                    left.map(Err)
                }
                None => parties.poll_stuck(cx).map(Err),
            }
        })
        .await
    }
}

fn broken_request(error: BodyError, progress: &Progress) -> Failure {
    match error {
        BodyError::Malformed(reason) if !progress.delivered.get() => Failure::Request(Rejection {
            status: 400,
            reason,
        }),
        BodyError::Malformed(reason) => Failure::Broken(reason.to_owned()),
        BodyError::Truncated => Failure::Broken(
            "the client closed the connection in the middle of its request".to_owned(),
        ),
        BodyError::Source(error) | BodyError::Sink(error) => {
            Failure::Broken(format!("client: {}", describe(&error)))
        }
    }
}
