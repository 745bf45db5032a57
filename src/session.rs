//! One client connection: read a head, forward it or relay behind it, and go on for as
//! long as both sides like.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
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
// Each stage is boxed, and gone with its buffers before the next begins: a connection
// costs its current stage, and an idle tunnel the relay's state alone.
pub fn serve(
    worker: Rc<Worker>,
    connection: Connection,
    peer: SocketAddr,
    number: u64,
) -> impl Future<Output = ()> {
    let start = Instant::now();
    log::connection_opened(number, &peer);
    let session = Session {
        deadline: Deadline::new(&worker.timers),
        worker,
        peer,
        number,
        subject: Subject::default(),
        server_name: String::new(),
    };
    let session = Box::pin(session.run(connection));
    async move {
        if let Some(tunnel) = session.await {
            tunnel.await;
        }
        log::connection_closed(number, start.elapsed());
    }
}

/// What follows an upgrade.
type Tunnel = Pin<Box<dyn Future<Output = ()>>>;

/// Relays two connections that `protocol` now runs over, and closes them.
#[allow(clippy::manual_async_fn)]
fn tunnel(
    worker: Rc<Worker>,
    number: u64,
    mut downstream: Connection,
    mut upstream: Connection,
    protocol: Box<str>,
) -> impl Future<Output = ()> {
    async move {
        let name = protocol_name(&protocol);
        log::upgraded(name);
        let carried = relay(&worker, &mut downstream, &mut upstream).await;
        log::upgrade_closed(name);
        log::relayed(number, carried.to_upstream, carried.to_downstream);
        // Where one side was reset, the other may still be reading what it was sent.
        let one = linger_alone(&worker, downstream);
        let other = linger_alone(&worker, upstream);
        Box::pin(future::zip(one, other)).await;
    }
}

async fn linger_alone(worker: &Worker, connection: Connection) {
    let deadline = Deadline::new(&worker.timers);
    linger(worker, connection, &deadline).await;
}

struct Session {
    worker: Rc<Worker>,
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

impl Session {
    /// Serves request after request; gives the tunnel that the last one became, if any.
    async fn run(mut self, mut connection: Connection) -> Option<Tunnel> {
        let mut first = true;
        loop {
            let request = match self.next_request(&mut connection, first).await {
                Ok(Some(request)) => request,
                Ok(None) => return None,
                Err(rejection) => {
                    log::request_rejected(self.peer, rejection.status, rejection.reason);
                    let response = rejected(&rejection);
                    if connection.stream.write_all(&response).await.is_ok() {
                        linger(&self.worker, connection, &self.deadline).await;
                    }
                    return None;
                }
            };
            first = false;
            let (request, mut head) = request;
            let exchange = Exchange {
                worker: &self.worker,
                request: &request,
                head: &mut head,
                server_name: &self.server_name,
                deadline: &self.deadline,
                dialled: &|after| log::dialled(self.number, after),
            };
            let outcome = exchange.run(&mut connection).await;
            let then = match outcome {
                Ok(Outcome::Switched(upstream)) => {
                    let protocol = request.upgrade.unwrap_or_default();
                    let worker = self.worker;
                    let tunnel = tunnel(worker, self.number, connection, upstream, protocol);
                    return Some(Box::pin(tunnel));
                }
                Ok(Outcome::Delivered {
                    status,
                    bytes,
                    persistent,
                    request_read,
                }) => {
                    log::request_done(&self.subject, status, bytes);
                    match (persistent, request.persistent) {
                        (true, _) => Then::NextRequest,
                        (false, false) if request_read => Then::Close,
                        (false, _) => Then::Linger,
                    }
                }
                Err(failure) => self.fail(&connection, &request, failure).await,
            };
            match then {
                Then::NextRequest => {}
                Then::Close if connection.received.is_empty() => return None,
                Then::Reset => {
                    connection.stream.with_socket(Socket::abort_on_close);
                    return None;
                }
                Then::Close | Then::Linger => {
                    linger(&self.worker, connection, &self.deadline).await;
                    return None;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What one connection costs beside its buffers and sockets.
    #[test]
    fn a_connection_is_small() {
        fn size<F>(_: impl FnOnce(Rc<Worker>, Connection, SocketAddr, u64) -> F) -> usize {
            size_of::<F>()
        }
        fn tunnel_size<F>(
            _: impl FnOnce(Rc<Worker>, u64, Connection, Connection, Box<str>) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let (task, tunnel) = (size(serve), tunnel_size(tunnel));
        assert!(task <= 128, "{task} bytes for a task");
        assert!(tunnel <= 896, "{tunnel} bytes for a tunnel");
    }
}
