//! Delivers the response of an exchange: interim responses, the final head, its body.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::config::{Forwarded, MAX_RESPONSE_HEAD_BYTES};
use crate::error::{describe, is_close, Error, Stage};
use crate::http::body::{self, BodyError, Copied, Sink, Source};
use crate::http::framing::Framing;
use crate::http::head::{HeadError, Reading};
use crate::http::naming::Names;
use crate::http::read::read_head;
use crate::http::request::Request;
use crate::http::response::{self, Changes, ResponseHead, RULES};
use crate::net::budget::Budget;
use crate::net::buffer::{Buffer, Outgoing};
use crate::net::deadline::Deadline;
use crate::net::reactor::now;
use crate::net::socket::Socket;
use crate::net::stream::Stream;
use crate::report::log;
use crate::report::subject::Subject;
use crate::serve::forward::{Failure, Progress};
use crate::serve::worker::Worker;

/// The error type where the upstream has closed without a response (RFC 9209 §2.3.11).
pub const CONNECTION_TERMINATED: &str = "connection_terminated";

/// How the upstream has answered.
pub enum Answer {
    /// A response, delivered whole.
    Delivered {
        /// Its status.
        status: u16,
        /// Its body's length.
        bytes: u64,
        /// Whether the upstream would keep the connection open.
        upstream_persistent: bool,
        /// How long it has promised to keep the connection.
        promised: Option<Duration>,
        /// Whether the client's connection stays open.
        downstream_persistent: bool,
    },
    /// The upstream switches protocols, and the client was sent the 101.
    Switched,
}

impl Answer {
    /// Whether the server has answered successfully, so that its name counts as in use.
    pub fn is_good(&self) -> bool {
        matches!(
            self,
            Answer::Switched | Answer::Delivered { status: ..400, .. }
        )
    }
}

/// The half of an exchange that delivers the response.
pub struct Answering<'a> {
    /// The state that the connections of this thread share.
    pub worker: &'a Worker,
    /// What is known of the request.
    pub request: &'a Request,
    /// The request as it is named in the log.
    pub subject: &'a Subject,
    /// Its two origins, if they may differ.
    pub names: Option<&'a Names>,
    /// The session's deadline.
    pub deadline: &'a Deadline,
    /// How far the attempt has come.
    pub progress: &'a Progress,
    /// Whether nothing was read that the client has sent after the head.
    pub client_waits: &'a Cell<bool>,
    /// The upstream's stream.
    pub upstream: &'a Stream,
    /// The client's stream.
    pub downstream: &'a Stream,
}

/// What to do after a response head, when the head itself is ready to send.
enum Next {
    AnotherHead,
    Switch,
    Body {
        status: u16,
        framing: Framing,
        downstream_framing: Framing,
        upstream_persistent: bool,
        promised: Option<Duration>,
        downstream_persistent: bool,
    },
}

impl Answering<'_> {
    /// Reads heads until a final one, then delivers its body.
    pub async fn run(self, received: &mut Buffer) -> Result<Answer, Failure> {
        let mut storage = Outgoing::new();
        let out = storage.bytes_mut();
        let mut was_faulty = false;
        let mut budget = Budget::default();
        loop {
            let extent = read_head(self.upstream, received, RULES).await;
            self.progress.answered.set(!received.is_empty());
            if self.progress.guarded.take() {
                match extent {
                    Ok(_) => self
                        .upstream
                        .with_socket(|socket| socket.set_user_timeout(None)),
                    // A device on the path has forgotten the connection: a FIN would not be
                    // acknowledged, and the kernel would keep the socket for a long time.
                    Err(_) => self.upstream.with_socket(Socket::abort_on_close),
                }
            }
            let extent = extent.map_err(|error| self.no_answer(error))?;
            self.progress.answered.set(true);
            self.progress.heard.set(true);
            self.deadline
                .arm(self.worker.config.limits.response_timeout);
            let head = &received.bytes()[..extent.length];
            let next = response::read(head, extent.has_bare_lf, self.request, |mut head| {
                head.end_is_doubtful = self.is_unverified();
                was_faulty |= head.was_faulty;
                self.take_head(&head, out)
            });
            received.consume(extent.length);
            match next.map_err(|problem| self.not_understood(&problem))?? {
                Next::AnotherHead => {
                    // Each interim response is delivered at once, but an upstream that sends
                    // nothing else is not answering.
                    let interim = &self.progress.interim_bytes;
                    interim.set(interim.get() + extent.length);
                    if interim.get() > MAX_RESPONSE_HEAD_BYTES {
                        return Err(self.not_understood("too many interim responses"));
                    }
                    if !out.is_empty() {
                        self.deliver(out).await?;
                        // A final response of the proxy itself may still follow.
                        self.progress.delivered.set(false);
                    }
                    budget.draw(extent.length);
                    budget.turn().await;
                }
                Next::Switch => {
                    self.deliver(out).await?;
                    return Ok(Answer::Switched);
                }
                Next::Body {
                    status,
                    framing,
                    downstream_framing,
                    upstream_persistent,
                    promised,
                    downstream_persistent,
                } => {
                    let copied = self.body(received, framing, downstream_framing, out);
                    let copied = copied.await?;
                    if copied.ended_unannounced {
                        log::ended_unannounced(self.subject);
                    }
                    return Ok(Answer::Delivered {
                        status,
                        bytes: copied.bytes,
                        upstream_persistent: upstream_persistent
                            && !was_faulty
                            && !copied.was_faulty,
                        promised,
                        downstream_persistent,
                    });
                }
            }
        }
    }

    /// Whether the upstream uses TLS without verification, so that nothing authenticates the end
    /// of its connection.
    fn is_unverified(&self) -> bool {
        let tls = self.worker.config.tls.as_ref();
        tls.is_some_and(|tls| !tls.verify)
    }

    /// Appends the head that the client is sent to `out`.
    fn take_head(&self, head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) -> Result<Next, Failure> {
        let rewrite = &self.worker.config.rewrite;
        let edits = &rewrite.response_fields;
        let changes = Changes {
            via: rewrite.forwarded != Forwarded::Off,
            names: self.names,
            edits: (!edits.is_empty()).then_some(edits),
        };
        if head.is_interim() {
            // HTTP/1.0 has no interim responses (RFC 9110 §15.2).
            if self.request.minor == 1 {
                head.write(out, self.request, false, changes);
                self.progress.continued.set(true);
            }
            return Ok(Next::AnotherHead);
        }
        let habits = self.worker.pool.habits();
        habits.answered_after(now().since(self.progress.began));
        let took = self.subject.elapsed();
        self.worker.counters().response_head.observe(took);
        if let Some(board) = &self.worker.board {
            board.answered();
        }
        if head.status == 101 {
            let asked = self.request.upgrade.as_ref();
            if !asked.is_some_and(|protocol| head.switches_to(protocol.token())) {
                return Err(self.not_understood("101 for a protocol that was not requested"));
            }
            if !self.progress.uploaded.get() {
                return Err(self.not_understood("101 before the request was complete"));
            }
            head.write(out, self.request, false, changes);
            return Ok(Next::Switch);
        }
        let downstream_framing = head.downstream_framing(self.request);
        let downstream_persistent = self.request.persistent
            && (self.request.upgrade.is_none() || self.goes_on_to_authenticate(head))
            && (!self.progress.bound || head.persistent)
            && !self.progress.ended.get()
            && self.progress.uploaded.get()
            && downstream_framing != Framing::UntilClose
            && !self.worker.ends_connections();
        head.write(out, self.request, !downstream_persistent, changes);
        Ok(Next::Body {
            status: head.status,
            framing: head.framing,
            downstream_framing,
            upstream_persistent: head.persistent
                && (self.request.upgrade.is_none() || self.progress.bound),
            promised: head.promised_rest(),
            downstream_persistent,
        })
    }

    /// Whether the client may repeat a refused upgrade on the same connection, as it must for
    /// authentication of the connection. Bytes that the client has sent after its head would be
    /// taken for that repetition, so there must be none.
    fn goes_on_to_authenticate(&self, head: &ResponseHead<'_, '_>) -> bool {
        let authenticates = head.status == 401
            && (head.offers_connection_scheme() || self.request.binds_connection);
        authenticates && self.client_waits.get() && self.downstream.asked_quiet()
    }

    async fn deliver(&self, out: &mut Vec<u8>) -> Result<(), Failure> {
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
        out: &mut Vec<u8>,
    ) -> Result<Copied, Failure> {
        let timeout = self.worker.config.limits.response_timeout;
        let source = Source {
            stream: self.upstream,
            received,
            framing,
            reading: Reading::Lenient,
            takes_end_unannounced: self.is_unverified(),
        };
        let sink = Sink {
            stream: self.downstream,
            pending: out,
            framing: downstream_framing,
            started: &self.progress.delivered,
            drops: &|name| {
                let edits = &self.worker.config.rewrite.response_fields;
                edits.replaces_in_response(name)
            },
        };
        let moved = |bytes| {
            self.deadline.arm(timeout);
            self.progress.heard.set(true);
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
                CONNECTION_TERMINATED,
                "the upstream closed without a response".to_owned(),
            ),
            HeadError::Truncated => (
                "http_response_incomplete",
                "the upstream closed in the middle of its response head".to_owned(),
            ),
            HeadError::Malformed(reason) => return self.not_understood(reason),
            HeadError::Version => return self.not_understood("the upstream does not speak HTTP/1"),
            HeadError::StartLineTooLong | HeadError::TooLarge => (
                "http_response_header_section_size",
                "the response head is too large".to_owned(),
            ),
            HeadError::Io(error) if is_close(&error) => {
                let closed = format!("no response: {}", describe(&error));
                (CONNECTION_TERMINATED, closed)
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

/// The failure of an exchange whose client no longer takes bytes.
pub fn client_gone(error: &io::Error) -> Failure {
    Failure::Broken(format!("client: {}", describe(error)))
}
