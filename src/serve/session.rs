//! One client connection: reads a head, forwards the request or relays the upgraded connection,
//! and goes on for as long as both sides keep the connection open.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::{self, poll_once};

use crate::error::Error;
use crate::http::fields::no_fields;
use crate::http::head::{Extent, HeadError};
use crate::http::naming::Names;
use crate::http::read::{read_head, skip_empty_lines};
use crate::http::rejection::Rejection;
use crate::http::request::{rules, Request, RequestHead};
use crate::net::buffer::Outgoing;
use crate::net::deadline::{Deadline, TimedOut};
use crate::net::peer::Peer;
use crate::net::reactor::{next_turn, now};
use crate::net::socket::Socket;
use crate::net::stream::Connection;
use crate::net::tick::Tick;
use crate::report::log;
use crate::report::metrics::Method;
use crate::report::status::Failed;
use crate::report::subject::{Client, Subject};
use crate::serve::answer;
use crate::serve::bound::Bound;
use crate::serve::certificates::Certificates;
use crate::serve::door::{Doing, Place};
use crate::serve::forward::{Exchange, Failure, Outcome};
use crate::serve::leaving::while_present;
use crate::serve::linger::linger;
use crate::serve::tunnel::{tunnel, Upgraded};
use crate::serve::worker::Worker;

/// Serves one client until its connection ends, and then drops the ticket. `number` identifies
/// the connection in the log.
// Each stage is boxed, and dropped with its buffers before the next begins: a connection takes
// the memory of its current stage only, and an idle tunnel that of the relay.
pub fn serve<T>(
    worker: Rc<Worker>,
    connection: Connection,
    peer: Peer,
    number: u64,
    place: Place,
    ticket: T,
) -> impl Future<Output = ()> {
    let client = Client {
        connection: number,
        address: peer,
    };
    log::connection_opened(&client);
    worker.counters().connections.add(1);
    let session = Session {
        deadline: Deadline::new(&worker.timers),
        worker: worker.clone(),
        subject: Subject::new(client),
        method: Method::OTHER,
        server_name: String::new(),
        bound: None,
        names: Names::default(),
        host: Vec::new(),
        place,
    };
    let session = Box::pin(session.run(connection));
    let closing = Closing {
        client,
        start: now(),
        worker,
        _ticket: ticket,
    };
    async move {
        // Borrowed here so that the block captures it, and drops it after its own variables.
        let _until_the_end = &closing;
        let mut session = session;
        // An `if let` would keep the moved-out box alive to its end.
        let tunnel = match session.as_mut().await {
            Some(upgraded) => Box::pin(tunnel(&closing.worker, &closing.client, *upgraded)),
            None => return,
        };
        drop(session);
        tunnel.await;
    }
}

/// Logs and counts the end of a connection when it is dropped.
struct Closing<T> {
    client: Client,
    start: Tick,
    worker: Rc<Worker>,
    _ticket: T,
}

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        self.worker.counters().connections_closed.add(1);
        log::connection_closed(&self.client, now().since(self.start));
    }
}

struct Session {
    worker: Rc<Worker>,
    deadline: Deadline,
    /// The current request as it is named in the log.
    subject: Subject,
    /// Its method as it is named in the metrics.
    method: Method,
    /// The name that TLS is made for.
    server_name: String,
    /// The upstream connection that the client has authenticated.
    bound: Option<Box<Bound>>,
    /// The two origins of the current request, where they may differ.
    names: Names,
    /// The host for the status page; empty where none is served.
    host: Vec<u8>,
    /// The client's slot, or its place beyond the limit.
    place: Place,
}

/// A request that was read and checked.
enum Arrived {
    /// To be forwarded, with the head that is sent upstream.
    Forward(Request, Outgoing),
    /// To be answered here: a valid request that is refused, or a health check.
    Here(Request, Option<Rejection>),
}

/// How a client connection continues after one request.
enum Then {
    /// The next request is read.
    NextRequest,
    /// Close: the client expects nothing more, and everything that it sent was read.
    Close,
    /// Close after reading on: the client may still be sending, or expects the connection to
    /// stay open.
    Linger,
    /// Reset: the client must see that its response is incomplete.
    Reset,
}

impl Session {
    /// Serves request after request; returns the upgrade that the last one became, if any.
    async fn run(mut self, mut connection: Connection) -> Option<Box<Upgraded>> {
        if let Some(certificates) = self.worker.certificates.clone() {
            connection = Box::pin(self.secure(connection, &certificates)).await?;
        }
        let mut first = true;
        loop {
            let arrived = self.next_request(&mut connection, first).await;
            let is_reused = !std::mem::replace(&mut first, false);
            let request_read = Cell::new(false);
            let (request, mut head) = match arrived {
                Ok(Some(Arrived::Forward(request, head))) => (request, head),
                Ok(Some(Arrived::Here(request, rejection))) => {
                    let (response, close) = self.response_from_here(&request, rejection);
                    if !self.send(&connection, &response).await {
                        return None;
                    }
                    // Nothing here has waited: without yielding, a client that sends requests
                    // without end would occupy the thread.
                    next_turn().await;
                    if close {
                        self.leave(connection).await;
                        return None;
                    }
                    continue;
                }
                Ok(None) => {
                    connection.stream.try_announce_end();
                    return None;
                }
                Err(rejection) => {
                    self.refuse(Method::OTHER, connection, &rejection).await;
                    return None;
                }
            };
            let was_bound = self.bound.is_some();
            if self.place.is_beyond() {
                let waited = Box::pin(self.wait_for_slot(&mut connection, &request));
                if let Err(failure) = waited.await {
                    self.fail(&connection, &request, failure, false).await;
                    self.leave(connection).await;
                    return None;
                }
            }
            let exchange = Exchange {
                worker: &self.worker,
                request: &request,
                head: head.bytes_mut(),
                server_name: &self.server_name,
                is_reused,
                request_read: &request_read,
                bound: &mut self.bound,
                names: self.worker.naming.as_ref().map(|_| &self.names),
                deadline: &self.deadline,
                subject: &self.subject,
            };
            let outcome = exchange.run(&mut connection).await;
            let then = match outcome {
                Ok(Outcome::Switched(upstream)) => {
                    self.worker.counters().request(self.method, 101);
                    let asked = "a 101 is accepted only for an upgrade";
                    let protocol = request.upgrade.expect(asked);
                    return Some(Box::new(Upgraded {
                        downstream: connection,
                        upstream,
                        protocol,
                        slot: self.place.into_permit(),
                        access: self.subject.into_access(),
                    }));
                }
                Ok(Outcome::Delivered {
                    status,
                    bytes,
                    persistent,
                    request_read,
                }) => {
                    log::request_done(&self.subject, status, bytes);
                    self.subject.answered(status, bytes);
                    self.worker.counters().request(self.method, status);
                    match (persistent, request.persistent) {
                        (true, _) => Then::NextRequest,
                        (false, false) if request_read => Then::Close,
                        (false, _) => Then::Linger,
                    }
                }
                Err(failure) => {
                    // A bound pair of connections ends together.
                    let unbound = was_bound && self.bound.is_none();
                    let may_go_on = request_read.get() && !unbound;
                    self.fail(&connection, &request, failure, may_go_on).await
                }
            };
            match then {
                Then::NextRequest => {}
                Then::Close if connection.asked_quiet() => {
                    connection.stream.try_announce_end();
                    return None;
                }
                Then::Reset => {
                    connection.stream.with_socket(Socket::abort_on_close);
                    return None;
                }
                Then::Close | Then::Linger => {
                    self.leave(connection).await;
                    return None;
                }
            }
        }
    }

    /// Performs the TLS handshake with the client. `None` when the client is gone, too slow,
    /// fails the handshake, or uses no TLS and was told so.
    async fn secure(
        &mut self,
        mut connection: Connection,
        certificates: &Certificates,
    ) -> Option<Connection> {
        let start = now();
        let head_timeout = self.worker.config.limits.head_timeout;
        let begun = connection.fill();
        let way = self.place.way(Doing::Silent);
        let arrival = self.deadline.limit_idle(head_timeout, way, begun);
        match arrival.await {
            Ok(Ok(1..)) => {}
            Ok(_) => return None,
            Err(TimedOut) => {
                if !(self.deadline.gave_way() && read_missed(&mut connection).await) {
                    return None;
                }
            }
        }
        if is_without_tls(connection.received.bytes()) {
            let rejection = Rejection {
                status: 400,
                reason: "a request without TLS on a port with TLS; use https or wss",
            };
            self.refuse(Method::OTHER, connection, &rejection).await;
            return None;
        }
        let left = head_timeout.saturating_sub(now().since(start));
        let left = left.max(Duration::from_millis(1));
        let acceptor = certificates.acceptor();
        let handshake = acceptor.accept(connection, &self.worker.handshakes);
        let handshake = self
            .deadline
            .limit(left, handshake)
            .giving_way(self.place.way(Doing::Silent));
        let cause = match handshake.await {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(cause)) => cause,
            Err(TimedOut) => "not completed in time".to_owned(),
        };
        self.worker.counters().handshakes_failed.add(1);
        log::handshake_failed(self.subject.client(), &cause);
        None
    }

    /// Waits for a request, checks it, and returns it with the head that is sent upstream.
    /// `None` when the client is gone, was idle for too long, or the thread drains.
    async fn next_request(
        &mut self,
        connection: &mut Connection,
        first: bool,
    ) -> Result<Option<Arrived>, Rejection> {
        let limits = &self.worker.config.limits;
        let mut head_timeout = limits.head_timeout;
        // Empty lines after one request are not the beginning of the next (RFC 9112 §2.2).
        if let Err(error) = skip_empty_lines(&mut connection.received, &mut 0) {
            return no_request(error);
        }
        if connection.received.is_empty() {
            let start = first.then(now);
            let patience = if first {
                head_timeout
            } else {
                limits.keepalive_timeout
            };
            let doing = match (first, &self.bound) {
                (true, _) => Doing::Silent,
                (false, None) => Doing::Idle,
                (false, Some(_)) => Doing::Bound,
            };
            let begun = begin(connection, self.bound.as_deref());
            let way = self.place.way(doing);
            let arrival = self.deadline.limit_idle(patience, way, begun);
            match arrival.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return no_request(error),
                Err(TimedOut) => {
                    if !(self.deadline.gave_way() && read_missed(connection).await) {
                        return Ok(None);
                    }
                }
            }
            if let Some(start) = start {
                head_timeout = head_timeout.saturating_sub(now().since(start));
                head_timeout = head_timeout.max(Duration::from_millis(1));
            }
        }
        let Connection {
            stream, received, ..
        } = &mut *connection;
        let whole = {
            let mut head = pin!(read_head(stream, received, rules(limits.max_head_bytes)));
            // A head that has already arrived, as nearly all have, needs no deadline.
            match poll_once(head.as_mut()).await {
                Some(read) => Ok(read),
                None => {
                    self.deadline
                        .limit(head_timeout, head)
                        .giving_way(self.place.way(Doing::Head))
                        .await
                }
            }
        };
        let length = match whole {
            Ok(Ok(Extent { length, .. })) => length,
            Ok(Err(error)) => return no_request(error),
            Err(TimedOut) if self.deadline.gave_way() => return Ok(None),
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

    /// Waits for a slot for a client beyond the limit whose head is read, for as long as the
    /// client is there.
    async fn wait_for_slot(
        &mut self,
        connection: &mut Connection,
        request: &Request,
    ) -> Result<(), Failure> {
        let worker = &self.worker;
        let counters = worker.counters();
        counters.waits.add(1);
        let slot = worker.door.slot(&worker.timers);
        let slot = while_present(worker, connection, request, slot);
        let patience = worker.config.limits.response_timeout;
        let outcome = self.deadline.limit(patience, slot).await;
        counters.waits_over.add(1);
        self.place = outcome.unwrap_or(Err(Failure::Request(Rejection {
            status: 503,
            reason: "too many clients are being served",
        })))?;
        Ok(())
    }

    /// Checks one head, logs the request, and writes the head that is sent upstream.
    fn take_head(&mut self, bytes: &[u8]) -> Result<Arrived, Rejection> {
        let config = &self.worker.config;
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        let upgrades = &config.rewrite.upgrades;
        let head = RequestHead::parse(bytes, &mut canonical, &mut fields, upgrades)?;
        let health_path = config.health_path.as_deref().map(str::as_bytes);
        if health_path == Some(&*head.target) && matches!(head.method, "GET" | "HEAD") {
            // Not logged: health checks are frequent.
            return Ok(Arrived::Here(head.request, None));
        }
        let host = head.host.as_deref().unwrap_or_default();
        log::request(self.subject.client(), head.method, &head.target, host);
        if let Some(protocol) = &head.request.upgrade {
            log::upgrade_request(self.subject.client(), protocol.name(), &head.target, host);
        }
        if let Some(protocols) = head.upgrades_withheld() {
            log::upgrade_withheld(self.subject.client(), &protocols);
        }
        self.subject.set(head.method, &head.target);
        if let Some(access) = self.subject.access() {
            access.set(&head);
        }
        self.method = Method::of(head.method);
        if let Some(refused) = self.worker.guard.as_ref().and_then(|g| g.refuses(&head)) {
            return Ok(Arrived::Here(head.request, Some(refused)));
        }
        if self.worker.board.is_some() {
            self.host.clear();
            self.host.extend_from_slice(host);
        }
        self.server_name.clear();
        self.worker.dialer.server_name(host, &mut self.server_name);
        let authority = &self.worker.default_host;
        let names = match &self.worker.naming {
            None => None,
            Some(naming) => {
                self.names.set(naming, &config.rewrite, &head, authority);
                if self.names.withholds(&head) {
                    log::origin_not_translated(self.subject.client(), host);
                }
                Some(&self.names)
            }
        };
        let mut out = Outgoing::new();
        let (client, https) = (self.subject.client().address.ip(), config.listen.is_tls());
        head.write(
            out.bytes_mut(),
            &config.rewrite,
            client,
            https,
            authority,
            names,
        );
        Ok(Arrived::Forward(head.request, out))
    }

    /// The response to a request that is answered here, and whether the connection ends after
    /// it.
    fn response_from_here(
        &mut self,
        request: &Request,
        rejection: Option<Rejection>,
    ) -> (Vec<u8>, bool) {
        // The body of a request that is answered here is not read.
        let close = self.worker.ends_connections()
            || self.place.is_beyond()
            || !request.persistent
            || request.has_body();
        let Some(rejection) = rejection else {
            let draining = self.worker.timers.draining();
            return (answer::health(request, draining, close), close);
        };
        self.tell_rejection(self.method, &rejection);
        let response = answer::refused(&rejection, request, close);
        self.tell_answer(rejection.status, &response);
        (response, close)
    }

    /// Logs a request that is not forwarded, or not to its end, and returns the response to it.
    fn reject(&mut self, method: Method, rejection: &Rejection) -> Vec<u8> {
        self.tell_rejection(method, rejection);
        let response = answer::rejected(rejection);
        self.tell_answer(rejection.status, &response);
        response
    }

    /// Records a generated response in the access log.
    fn tell_answer(&mut self, status: u16, response: &[u8]) {
        self.subject.answered(status, answer::body_length(response));
    }

    /// Answers a request that is not forwarded, and closes the connection.
    async fn refuse(&mut self, method: Method, connection: Connection, rejection: &Rejection) {
        let response = self.reject(method, rejection);
        if self.send(&connection, &response).await {
            self.leave(connection).await;
        }
    }

    /// Ends the connection after the last response.
    async fn leave(&mut self, connection: Connection) {
        // The bound upstream connection ends now, although the client's may linger.
        self.bound = None;
        let way = self.place.way(Doing::Leaving);
        linger(&self.worker, connection, &self.deadline, Some(way)).await;
    }

    /// Logs and counts a request that is not forwarded.
    fn tell_rejection(&self, method: Method, rejection: &Rejection) {
        let Rejection { status, reason } = *rejection;
        log::request_rejected(self.subject.client(), status, reason);
        self.worker.counters().request(method, status);
    }

    /// Logs a failure, and tells the client if that is still possible. `may_go_on` says that the
    /// next request can be read and may be served on this connection.
    async fn fail(
        &mut self,
        connection: &Connection,
        request: &Request,
        failure: Failure,
        may_go_on: bool,
    ) -> Then {
        let counters = self.worker.counters();
        let (response, then) = match failure {
            Failure::Raced(cause) => {
                counters.aborted.add(1);
                log::request_aborted(&self.subject, cause);
                return Then::Close;
            }
            Failure::Broken(cause) => {
                counters.aborted.add(1);
                log::request_aborted(&self.subject, &cause);
                return Then::Linger;
            }
            Failure::Cut(cause) => {
                counters.aborted.add(1);
                log::request_aborted(&self.subject, &cause);
                return Then::Reset;
            }
            Failure::Request(rejection) => (self.reject(self.method, &rejection), Then::Linger),
            Failure::Upstream(error) => {
                counters.upstream_failed(error.stage);
                counters.request(self.method, error.status());
                log::request_failed(&self.subject, error.status(), &error);
                self.tell_board(&error);
                let goes_on = request.persistent
                    && request.upgrade.is_none()
                    && may_go_on
                    && !self.worker.ends_connections();
                let then = if goes_on {
                    Then::NextRequest
                } else {
                    Then::Linger
                };
                let response = answer::gateway_error(&error, request, !goes_on);
                self.tell_answer(error.status(), &response);
                (response, then)
            }
        };
        // A failure may come without any wait, so this yields.
        next_turn().await;
        match self.send(connection, &response).await {
            true => then,
            false => Then::Reset,
        }
    }

    /// Records a failure for the status page, where one is served.
    fn tell_board(&self, error: &Error) {
        if let Some(board) = &self.worker.board {
            let request = Failed {
                client: self.subject.client().address.host(),
                method: self.subject.method(),
                path: self.subject.path(),
                host: &self.host,
            };
            board.failed(&request, error);
        }
    }

    /// Sends a generated response; false when the client does not take it in time.
    async fn send(&self, connection: &Connection, response: &[u8]) -> bool {
        let sending = connection.stream.write_all(response);
        let timeout = self.worker.config.limits.head_timeout;
        matches!(self.deadline.limit(timeout, sending).await, Ok(Ok(())))
    }
}

/// Waits for the first byte of a request. Empty lines before it are ignored (RFC 9112 §2.2).
/// When `bound` ends, the client's connection ends, too.
async fn begin(connection: &mut Connection, bound: Option<&Bound>) -> Result<(), HeadError> {
    let mut skipped = 0;
    loop {
        let arrived = match bound {
            None => connection.fill().await,
            Some(bound) => {
                let ended = async {
                    bound.ended().await;
                    Ok(0)
                };
                future::or(connection.fill(), ended).await
            }
        };
        match arrived {
            Ok(1..) => {}
            Ok(0) => return Err(HeadError::Closed),
            Err(error) => return Err(HeadError::Io(error)),
        }
        skip_empty_lines(&mut connection.received, &mut skipped)?;
        if !connection.received.is_empty() {
            return Ok(());
        }
    }
}

/// Whether a client begins a request without TLS: a TLS record begins with its type, a byte with
/// which no request begins (RFC 8446 §5.1).
fn is_without_tls(bytes: &[u8]) -> bool {
    matches!(
        bytes.first(),
        Some(b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n')
    )
}

/// Reads bytes of a client that the reactor has not reported yet. False when there are none.
async fn read_missed(connection: &mut Connection) -> bool {
    connection.stream.with_socket(Socket::look_again);
    matches!(poll_once(connection.fill()).await, Some(Ok(1..)))
}

/// The rejection for an unreadable head, unless the client is gone.
fn no_request(error: HeadError) -> Result<Option<Arrived>, Rejection> {
    Rejection::of(error).map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of a connection's task, without its current stage.
    #[test]
    fn a_connection_is_small() {
        fn size<F>(_: impl FnOnce(Rc<Worker>, Connection, Peer, u64, Place, usize) -> F) -> usize {
            size_of::<F>()
        }
        let task = size(serve);
        assert!(task <= 120, "{task} bytes for a task");
    }
}
