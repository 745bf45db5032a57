//! One exchange: the request goes upstream while the response is already awaited, then
//! the connections are kept, closed, or handed on as a tunnel.

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::pin;
use std::task::Poll;

use crate::body::{self, BodyError, Framing, Sink, Source};
use crate::buffer::{Buffer, Outgoing};
use crate::config::Limits;
use crate::deadline::{Deadline, TimedOut};
use crate::error::{describe, is_close, Error, Stage};
use crate::head::{no_fields, read_head, HeadError};
use crate::log::{self, Subject};
use crate::request::{Rejection, Request};
use crate::response::{check_start_line, ResponseHead};
use crate::socket::Socket;
use crate::steps::Steps;
use crate::stream::{Connection, Stream};
use crate::worker::Worker;

/// Interim responses before a final one; an upstream that sends more is not answering.
const MAX_INTERIM: usize = 32;

/// What became of a request that was answered.
pub enum Outcome {
    /// The response was delivered whole.
    Delivered {
        /// Its status.
        status: u16,
        /// Its body's length.
        bytes: u64,
        /// Whether the client's connection can go on.
        persistent: bool,
        /// Whether the whole request was read, so that nothing more of it is coming.
        request_read: bool,
    },
    /// The upstream switched protocols, the client has been told, and this connection
    /// carries the new one.
    Switched(Connection),
}

/// What became of a request that was not.
#[derive(Debug)]
pub enum Failure {
    /// The upstream gave no response; nothing was delivered.
    Upstream(Error),
    /// The client broke its own request; nothing was delivered.
    Request(Rejection),
    /// The exchange broke off where no status can be sent any more; why, in words.
    Broken(String),
    /// The same, behind a part of a response whose end only the connection's end would
    /// tell: that end must be a reset.
    Cut(String),
}

/// One request on its way.
pub struct Exchange<'a> {
    /// What the connections of this thread share.
    pub worker: &'a Worker,
    /// What is known of the request.
    pub request: &'a Request,
    /// Its head as it goes upstream.
    pub head: &'a mut Outgoing,
    /// The name that TLS is made for.
    pub server_name: &'a str,
    /// The session's deadline.
    pub deadline: &'a Deadline,
    /// What the log calls it.
    pub subject: &'a Subject,
}

/// How far the current attempt has come.
#[derive(Default)]
struct Progress {
    /// The request was sent whole.
    uploaded: Cell<bool>,
    /// The client was told to go on, or went on without.
    continued: Cell<bool>,
    /// Bytes of a response have arrived.
    answered: Cell<bool>,
    /// A part of a response may have been delivered.
    delivered: Cell<bool>,
}

impl Exchange<'_> {
    /// Sends the request and delivers the response. Tries again on a fresh connection,
    /// once, when a reused one turns out to be closed and nothing can have happened twice.
    pub async fn run(mut self, downstream: &mut Connection) -> Result<Outcome, Failure> {
        if self.request.upgrade.is_none() {
            let may_be_sent_twice = self.request.is_idempotent && !self.has_body();
            let pooled = self.worker.pool.take(self.server_name, may_be_sent_twice);
            let counters = self.worker.counters();
            match pooled {
                Some(_) => counters.pool_hits.add(1),
                None => counters.pool_misses.add(1),
            }
            if let Some(upstream) = pooled {
                let progress = Progress::default();
                let outcome = self.attempt(upstream, downstream, &progress).await;
                let answered = progress.answered.get();
                match outcome {
                    Err(Failure::Upstream(error))
                        if may_be_sent_twice && !answered && !error.timed_out => {}
                    outcome => return outcome,
                }
            }
        }
        let steps = Steps::begin();
        let dialer = &self.worker.dialer;
        let upstream = dialer.dial(self.server_name, self.deadline, &steps).await;
        let upstream = upstream.map_err(Failure::Upstream)?;
        self.worker.counters().dial.observe(steps.total());
        log::dialled(self.subject, &steps);
        self.attempt(upstream, downstream, &Progress::default())
            .await
    }

    fn has_body(&self) -> bool {
        !matches!(self.request.framing, Framing::None | Framing::Length(0))
    }

    fn limits(&self) -> &Limits {
        &self.worker.config.limits
    }

    /// One try over one upstream connection. The response timeout begins anew whenever
    /// something moves.
    async fn attempt(
        &mut self,
        mut upstream: Connection,
        downstream: &mut Connection,
        progress: &Progress,
    ) -> Result<Outcome, Failure> {
        let timeout = self.limits().response_timeout;
        let deadline = self.deadline;
        let exchanged = deadline.limit(timeout, self.exchange(&mut upstream, downstream, progress));
        let answer = match exchanged.await {
            Ok(answer) => answer?,
            Err(TimedOut) => {
                let is_taking = upstream.stream.with_socket(Socket::is_writable);
                // A client that was promised a 100 rightly waits for it.
                let may_send = !self.request.expects_continue || progress.continued.get();
                let client_owes = !progress.uploaded.get() && is_taking && may_send;
                return Err(match (progress.delivered.get(), client_owes) {
                    (true, _) => Failure::Cut(format!("nothing moved for {timeout:?}")),
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
        Ok(match answer {
            Answer::Switched => Outcome::Switched(upstream),
            Answer::Delivered {
                status,
                bytes,
                upstream_persistent,
                downstream_persistent,
            } => {
                // Surplus bytes answer nobody: such a connection is never used again.
                if upstream_persistent && progress.uploaded.get() && upstream.received.is_empty() {
                    upstream.received.release();
                    self.worker.pool.put(upstream, self.server_name);
                }
                Outcome::Delivered {
                    status,
                    bytes,
                    persistent: downstream_persistent && progress.uploaded.get(),
                    request_read: progress.uploaded.get(),
                }
            }
        })
    }

    /// Uploads and answers at once: an upstream may answer before it has read everything.
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
        } = upstream;
        let Connection {
            stream: downstream,
            received: from_downstream,
        } = downstream;
        let client: &Stream = downstream;
        let answering = Answering {
            worker: self.worker,
            request: self.request,
            subject: self.subject,
            deadline: self.deadline,
            progress,
            upstream,
            downstream,
        };
        let deadline = self.deadline;
        let uploading = async {
            if !self.has_body() {
                // The head stays whole for a second try.
                upstream
                    .write_all(self.head)
                    .await
                    .map_err(BodyError::Sink)?;
            } else {
                // A request with a body is never sent twice, however far it came.
                let started = Cell::default();
                let source = Source {
                    stream: downstream,
                    received: from_downstream,
                    framing: self.request.framing,
                };
                let sink = Sink {
                    stream: upstream,
                    pending: self.head,
                    framing: self.request.framing,
                    started: &started,
                };
                let moved = |bytes| {
                    deadline.arm(timeout);
                    progress
                        .continued
                        .set(progress.continued.get() || bytes > 0);
                    counters.bytes_up.add(bytes);
                };
                body::copy(source, sink, moved).await?;
            }
            progress.uploaded.set(true);
            Ok(())
        };
        let mut uploading = pin!(uploading);
        let mut answering = pin!(answering.run(from_upstream));
        let mut upload_ended = false;
        poll_fn(|cx| {
            if !upload_ended {
                match uploading.as_mut().poll(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => upload_ended = true,
                    // The upstream takes no more; it may have said why.
                    Poll::Ready(Err(BodyError::Sink(_))) => upload_ended = true,
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(broken_request(error, progress)))
                    }
                }
            }
            if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            // A client that is gone frees the upstream at once. While it still uploads, the
            // upload sees it.
            let is_gone = upload_ended
                && client
                    .with_socket(|socket| socket.poll_broken(cx))
                    .is_ready();
            match is_gone {
                true => {
                    let reset = io::ErrorKind::ConnectionReset.into();
                    Poll::Ready(Err(client_gone(&reset)))
                }
                false => Poll::Pending,
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
        BodyError::Truncated => {
            Failure::Broken("the client closed in the middle of its request".to_owned())
        }
        BodyError::Source(error) | BodyError::Sink(error) => {
            Failure::Broken(format!("client: {}", describe(&error)))
        }
    }
}

/// What the upstream gave.
enum Answer {
    Delivered {
        status: u16,
        bytes: u64,
        upstream_persistent: bool,
        downstream_persistent: bool,
    },
    Switched,
}

/// The answering half of an exchange.
struct Answering<'a> {
    worker: &'a Worker,
    request: &'a Request,
    subject: &'a Subject,
    deadline: &'a Deadline,
    progress: &'a Progress,
    upstream: &'a Stream,
    downstream: &'a Stream,
}

/// What to do behind a response head, the head itself being ready to be sent.
enum Next {
    AnotherHead,
    Switch,
    Body {
        status: u16,
        framing: Framing,
        downstream_framing: Framing,
        upstream_persistent: bool,
        downstream_persistent: bool,
    },
}

impl Answering<'_> {
    async fn run(self, received: &mut Buffer) -> Result<Answer, Failure> {
        let mut out = Outgoing::new();
        for _ in 0..=MAX_INTERIM {
            let length = read_head(self.upstream, received, check_start_line).await;
            self.progress.answered.set(!received.is_empty());
            let length = length.map_err(|error| self.no_answer(error))?;
            self.progress.answered.set(true);
            self.deadline
                .arm(self.worker.config.limits.response_timeout);
            let next = self.take_head(&received.bytes()[..length], &mut out);
            received.consume(length);
            match next? {
                Next::AnotherHead if out.is_empty() => {}
                Next::AnotherHead => {
                    self.deliver(&mut out).await?;
                    // A final response of our own may still follow.
                    self.progress.delivered.set(false);
                }
                Next::Switch => {
                    self.deliver(&mut out).await?;
                    return Ok(Answer::Switched);
                }
                Next::Body {
                    status,
                    framing,
                    downstream_framing,
                    upstream_persistent,
                    downstream_persistent,
                } => {
                    let bytes = self.body(received, framing, downstream_framing, &mut out);
                    return Ok(Answer::Delivered {
                        status,
                        bytes: bytes.await?,
                        upstream_persistent,
                        downstream_persistent,
                    });
                }
            }
        }
        Err(self.not_understood("too many interim responses"))
    }

    /// Checks one head and writes what the client gets of it to `out`.
    fn take_head(&self, head: &[u8], out: &mut Outgoing) -> Result<Next, Failure> {
        let mut fields = no_fields();
        let head = ResponseHead::parse(head, &mut fields, self.request);
        let head = head.map_err(|problem| self.not_understood(&problem))?;
        let via = self.worker.config.rewrite.forwarded;
        if head.is_interim() {
            // HTTP/1.0 knows none (RFC 9110 §15.2).
            if self.request.minor == 1 {
                head.write(out, self.request, false, via);
                self.progress.continued.set(true);
            }
            return Ok(Next::AnotherHead);
        }
        let took = self.subject.elapsed();
        self.worker.counters().response_head.observe(took);
        if head.status == 101 {
            let asked = self.request.upgrade.as_deref();
            if !asked.is_some_and(|protocol| head.switches_to(protocol)) {
                return Err(self.not_understood("101 without being asked for this protocol"));
            }
            if !self.progress.uploaded.get() {
                return Err(self.not_understood("101 before the whole request"));
            }
            head.write(out, self.request, false, via);
            return Ok(Next::Switch);
        }
        let downstream_framing = head.downstream_framing(self.request);
        let downstream_persistent = self.request.persistent
            && self.request.upgrade.is_none()
            && self.progress.uploaded.get()
            && downstream_framing != Framing::UntilClose
            && !self.worker.timers.draining();
        head.write(out, self.request, !downstream_persistent, via);
        Ok(Next::Body {
            status: head.status,
            framing: head.framing,
            downstream_framing,
            upstream_persistent: head.persistent && self.request.upgrade.is_none(),
            downstream_persistent,
        })
    }

    async fn deliver(&self, out: &mut Outgoing) -> Result<(), Failure> {
        self.progress.delivered.set(true);
        let written = self.downstream.write_all(out).await;
        out.clear();
        written.map_err(|error| client_gone(&error))
    }

    async fn body(
        &self,
        received: &mut Buffer,
        framing: Framing,
        downstream_framing: Framing,
        out: &mut Outgoing,
    ) -> Result<u64, Failure> {
        let timeout = self.worker.config.limits.response_timeout;
        let source = Source {
            stream: self.upstream,
            received,
            framing,
        };
        let sink = Sink {
            stream: self.downstream,
            pending: out,
            framing: downstream_framing,
            started: &self.progress.delivered,
        };
        let moved = |bytes| {
            self.deadline.arm(timeout);
            self.worker.counters().bytes_down.add(bytes);
        };
        let copied = body::copy(source, sink, moved).await;
        copied.map_err(|error| {
            let cause = match error {
                BodyError::Malformed(reason) if !self.progress.delivered.get() => {
                    return self.not_understood(reason)
                }
                BodyError::Malformed(reason) => format!("upstream: {reason}"),
                BodyError::Truncated => {
                    "the upstream closed in the middle of its response".to_owned()
                }
                BodyError::Source(error) => format!("upstream: {}", describe(&error)),
                BodyError::Sink(error) => return client_gone(&error),
            };
            match downstream_framing {
                Framing::UntilClose => Failure::Cut(cause),
                _ => Failure::Broken(cause),
            }
        })
    }

    fn no_answer(&self, error: HeadError) -> Failure {
        let (token, cause) = match error {
            HeadError::Closed => (
                "connection_terminated",
                "the upstream closed without a response".to_owned(),
            ),
            HeadError::Truncated => (
                "http_response_incomplete",
                "the upstream closed in the middle of its response head".to_owned(),
            ),
            HeadError::Malformed(reason) => return self.not_understood(reason),
            HeadError::Version => return self.not_understood("the upstream speaks no HTTP/1"),
            HeadError::StartLineTooLong | HeadError::TooLarge => (
                "http_response_header_section_size",
                "the response head is too large".to_owned(),
            ),
            HeadError::Io(error) if is_close(&error) => {
                let closed = format!("no response: {}", describe(&error));
                ("connection_terminated", closed)
            }
            HeadError::Io(error) => ("http_response_incomplete", describe(&error)),
        };
        self.fail(token, cause)
    }

    fn not_understood(&self, problem: &str) -> Failure {
        self.fail(
            "http_protocol_error",
            format!("the response is not valid: {problem}"),
        )
    }

    fn fail(&self, token: &'static str, cause: String) -> Failure {
        let upstream = &self.worker.config.upstream;
        Failure::Upstream(Error::new(Stage::Response, token, cause).at(upstream))
    }
}

fn client_gone(error: &io::Error) -> Failure {
    Failure::Broken(format!("client: {}", describe(error)))
}
