//! One client connection: read a head, forward it or relay behind it, and go on for as
//! long as both sides like.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Instant;

use futures_lite::future;

use crate::buffer::Outgoing;
use crate::deadline::{Deadline, TimedOut};
use crate::error::Error;
use crate::forward::{Exchange, Failure, Outcome};
use crate::head::{no_fields, read_head, HeadError};
use crate::log::{self, Subject};
use crate::relay::{linger, relay};
use crate::request::{check_start_line, Rejection, Request, RequestHead};
use crate::response::write_connection;
use crate::socket::Socket;
use crate::stream::Connection;
use crate::worker::Worker;

/// Serves one client until its connection ends. `number` names it in the log.
pub async fn serve(worker: &Worker, connection: Connection, peer: SocketAddr, number: u64) {
    let start = Instant::now();
    log::connection_opened(number, &peer);
    let session = Session {
        worker,
        peer,
        number,
        deadline: Deadline::new(&worker.timers),
        subject: Subject::default(),
        server_name: String::new(),
    };
    session.run(connection).await;
    log::connection_closed(number, start.elapsed());
}

struct Session<'a> {
    worker: &'a Worker,
    peer: SocketAddr,
    number: u64,
    deadline: Deadline,
    /// What the log calls the current request.
    subject: Subject,
    /// The name that TLS is made for.
    server_name: String,
}

/// How a client connection goes on behind one request.
enum Then {
    /// With the next request.
    NextRequest,
    /// The client expects nothing more, and everything it sent was read.
    Close,
    /// The client may still be sending, or hopes to go on.
    Linger,
    /// The client must see that what it got is not whole.
    Reset,
}

impl Session<'_> {
    async fn run(mut self, mut connection: Connection) {
        let mut first = true;
        loop {
            let request = match self.next_request(&mut connection, first).await {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(rejection) => {
                    log::request_rejected(self.peer, rejection.status, rejection.reason);
                    let response = rejected(&rejection);
                    if connection.stream.write_all(&response).await.is_ok() {
                        linger(self.worker, connection, &self.deadline).await;
                    }
                    return;
                }
            };
            first = false;
            let (request, mut head) = request;
            let exchange = Exchange {
                worker: self.worker,
                request: &request,
                head: &mut head,
                server_name: &self.server_name,
                deadline: &self.deadline,
                dialled: &|after| log::dialled(self.number, after),
            };
            let then = match Box::pin(exchange.run(&mut connection)).await {
                Ok(Outcome::Switched(upstream)) => {
                    drop(head);
                    return self.relay(connection, upstream, &request).await;
                }
                Ok(Outcome::Delivered {
                    status,
                    bytes,
                    persistent,
                }) => {
                    log::request_done(&self.subject, status, bytes);
                    match (persistent, request.persistent) {
                        (true, _) => Then::NextRequest,
                        (false, true) => Then::Linger,
                        (false, false) => Then::Close,
                    }
                }
                Err(failure) => self.fail(&connection, &request, failure).await,
            };
            match then {
                Then::NextRequest => {}
                Then::Close if connection.received.is_empty() => return,
                Then::Reset => {
                    return connection.stream.with_socket(Socket::abort_on_close);
                }
                Then::Close | Then::Linger => {
                    return linger(self.worker, connection, &self.deadline).await;
                }
            }
        }
    }

    /// Waits for a request, checks it, and gives it with its head as it goes upstream.
    /// None when the client is gone, was idle for too long, or the thread drains.
    async fn next_request(
        &mut self,
        connection: &mut Connection,
        first: bool,
    ) -> Result<Option<(Request, Outgoing)>, Rejection> {
        let limits = &self.worker.config.limits;
        let mut head_timeout = limits.head_timeout;
        if connection.received.is_empty() {
            let start = Instant::now();
            let patience = if first {
                head_timeout
            } else {
                limits.keepalive_timeout
            };
            let arrival = self.deadline.limit_or_drain(patience, connection.fill());
            match arrival.await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) | Err(TimedOut) => return Ok(None),
            }
            if first {
                head_timeout = head_timeout.saturating_sub(start.elapsed());
                head_timeout = head_timeout.max(std::time::Duration::from_millis(1));
            }
        }
        let Connection { stream, received } = &mut *connection;
        let head = read_head(stream, received, check_start_line);
        let length = match self.deadline.limit(head_timeout, head).await {
            Ok(Ok(length)) => length,
            Ok(Err(HeadError::Closed)) => return Ok(None),
            Ok(Err(error)) => {
                return match error.into() {
                    Some(rejection) => Err(rejection),
                    None => Ok(None),
                }
            }
            Err(TimedOut) => {
                return Err(Rejection {
                    status: 408,
                    reason: "the request head did not arrive in time",
                })
            }
        };
        let taken = self.take_head(&received.bytes()[..length]);
        received.consume(length);
        received.release();
        taken.map(Some)
    }

    /// Checks one head, tells the log, and writes the head that goes upstream.
    fn take_head(&mut self, bytes: &[u8]) -> Result<(Request, Outgoing), Rejection> {
        let config = &self.worker.config;
        let mut fields = no_fields();
        let head = RequestHead::parse(bytes, &mut fields, &config.rewrite.upgrades)?;
        let host = head.host.unwrap_or_default();
        log::request(head.method, &head.target, host);
        if let Some(protocol) = &head.request.upgrade {
            log::upgrade_request(protocol_name(protocol), &head.target, host);
        }
        self.subject.set(head.method, &head.target);
        self.server_name.clear();
        self.worker.dialer.server_name(host, &mut self.server_name);
        let mut out = Outgoing::new();
        head.write(
            &mut out,
            &config.rewrite,
            self.peer.ip().to_canonical(),
            &self.worker.default_host,
        );
        Ok((head.request, out))
    }

    async fn relay(self, mut downstream: Connection, mut upstream: Connection, request: &Request) {
        let protocol = request.upgrade.as_deref().unwrap_or_default();
        let protocol = protocol_name(protocol);
        log::upgraded(protocol);
        let relayed = relay(self.worker, &mut downstream, &mut upstream, &self.deadline);
        let carried = Box::pin(relayed).await;
        log::upgrade_closed(protocol);
        log::relayed(self.number, carried.to_upstream, carried.to_downstream);
        // Where one side was reset, the other may still be reading what it was sent.
        let own = Deadline::new(&self.worker.timers);
        let lingering = future::zip(
            linger(self.worker, downstream, &self.deadline),
            linger(self.worker, upstream, &own),
        );
        Box::pin(lingering).await;
    }

    /// Tells the client, where it can still be told, and the log.
    async fn fail(&self, connection: &Connection, request: &Request, failure: Failure) -> Then {
        let (response, then) = match failure {
            Failure::Broken(cause) => {
                log::request_aborted(&self.subject, &cause);
                return Then::Linger;
            }
            Failure::Cut(cause) => {
                log::request_aborted(&self.subject, &cause);
                return Then::Reset;
            }
            Failure::Request(rejection) => {
                log::request_rejected(self.peer, rejection.status, rejection.reason);
                (rejected(&rejection), Then::Linger)
            }
            Failure::Upstream(error) => {
                log::request_failed(&self.subject, error.status(), &error);
                let goes_on = request.persistent
                    && request.upgrade.is_none()
                    && request.framing == crate::body::Framing::None
                    && !self.worker.timers.draining();
                let then = if goes_on {
                    Then::NextRequest
                } else {
                    Then::Linger
                };
                (gateway_error(&error, request, !goes_on), then)
            }
        };
        match connection.stream.write_all(&response).await {
            Ok(()) => then,
            Err(_) => Then::Close,
        }
    }
}

/// What the log calls a protocol.
fn protocol_name(token: &str) -> &str {
    match token {
        "websocket" => "WebSocket",
        other => other,
    }
}

/// A response of our own to a request that is not forwarded.
fn rejected(rejection: &Rejection) -> Vec<u8> {
    let Rejection { status, reason } = rejection;
    let connection = b"Connection: close\r\n";
    own_response(*status, "http_request_error", reason, connection, false)
}

/// A response of our own in place of the upstream's (RFC 9110 §15.6.3, §15.6.5).
fn gateway_error(error: &Error, request: &Request, close: bool) -> Vec<u8> {
    let mut connection = Vec::new();
    write_connection(&mut connection, request, close);
    let words = error.to_string();
    own_response(
        error.status(),
        error.token,
        &words,
        &connection,
        request.is_head,
    )
}

fn own_response(
    status: u16,
    token: &str,
    words: &str,
    connection: &[u8],
    without_body: bool,
) -> Vec<u8> {
    let reason = match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    };
    let body = format!("{status} {reason}: {words}\n");
    let mut out = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {reason}\r\nDate: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nProxy-Status: simple-proxy; error={token}\r\n",
        log::http_date(),
        body.len(),
    );
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
    if !without_body {
        out.extend_from_slice(body.as_bytes());
    }
    out
}
