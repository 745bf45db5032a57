//! The ports for monitoring: metrics alone, or the status page too.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use smol::lock::Semaphore;
use smol::LocalExecutor;

use crate::config::MAX_HEAD_BYTES;
use crate::http::fields::no_fields;
use crate::http::guard;
use crate::http::head::Extent;
use crate::http::read::read_head;
use crate::http::rejection::Rejection;
use crate::http::request::{rules, Request, RequestHead};
use crate::net::deadline::{Deadline, Room, TimedOut, Way};
use crate::net::listener::{is_momentary, Listener};
use crate::net::socket::Socket;
use crate::net::stream::{Connection, Stream};
use crate::report::prometheus;
use crate::serve::answer;
use crate::serve::contain::contained;
use crate::serve::door::making_room;
use crate::serve::linger::linger;
use crate::serve::status;
use crate::serve::worker::Worker;

/// How many readers are served at once; more wait.
const AT_ONCE: usize = 16;

/// How long a reader may take to send its request, and then to read the response.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reader that has not sent its request gives way to a new one.
const WAY: Way = Way {
    room: Room::Scrape,
    rank: 0,
    after: Duration::ZERO,
};

/// How long accepting pauses when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// What a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// `/metrics` alone: the port may be open to a network.
    Metrics,
    /// The status page, the data that it loads, and `/metrics`.
    Status,
}

/// Answers one request of each client. Runs for as long as the thread.
pub(crate) async fn serve(
    executor: Weak<LocalExecutor<'static>>,
    worker: Rc<Worker>,
    listener: Listener,
    pages: Pages,
) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        listener.readable().await;
        let make_room = || worker.timers.make_room(Room::Scrape);
        let permit = making_room(make_room, permits.acquire_arc()).await;
        let accepted = listener.try_accept();
        match accepted.and_then(|(stream, _)| Socket::new(stream)) {
            Ok(socket) => {
                let answering = answer(
                    worker.clone(),
                    Connection::new(Stream::Plain(socket)),
                    pages,
                );
                let answering = async move {
                    let _ = contained(answering).await;
                    drop(permit);
                };
                if let Some(executor) = executor.upgrade() {
                    executor.spawn(answering).detach();
                }
            }
            Err(error) if is_momentary(&error) => {}
            Err(_) => {
                Timer::after(PAUSE).await;
            }
        }
    }
}

async fn answer(worker: Rc<Worker>, mut connection: Connection, pages: Pages) {
    let deadline = Deadline::new(&worker.timers);
    let Connection {
        stream, received, ..
    } = &mut connection;
    let head = read_head(stream, received, rules(MAX_HEAD_BYTES));
    let response = match deadline.limit(PATIENCE, head).giving_way(WAY).await {
        Ok(Ok(Extent { length, .. })) => {
            let response = response(&worker, &received.bytes()[..length], pages);
            received.consume(length);
            response.unwrap_or_else(|rejection| answer::rejected(&rejection))
        }
        Ok(Err(error)) => match Rejection::of(error) {
            Some(rejection) => answer::rejected(&rejection),
            None => return,
        },
        Err(TimedOut) => return,
    };
    let written = deadline.limit(PATIENCE, connection.stream.write_all(&response));
    if let Ok(Ok(())) = written.await {
        linger(&worker, connection, &deadline, Some(WAY)).await;
    }
}

fn response(worker: &Worker, head: &[u8], pages: Pages) -> Result<Vec<u8>, Rejection> {
    let (mut canonical, mut fields) = (Vec::new(), no_fields());
    let head = RequestHead::parse(head, &mut canonical, &mut fields, &[])?;
    let request = &head.request;
    let board = worker.board.as_ref().filter(|_| pages == Pages::Status);
    if board.is_some()
        && !head
            .host
            .is_some_and(|host| guard::is_safe(&host, &worker.config.access.hosts))
    {
        return Err(Rejection {
            status: 421,
            reason: "the status page is served under an IP address, localhost, or a name that \
                     --allow-host lists",
        });
    }
    let path = head.target.split(|&b| b == b'?').next();
    Ok(match (head.method, path, board) {
        ("GET" | "HEAD", Some(b"/metrics"), _) => {
            answer::metrics(request, &prometheus::render(&worker.registry))
        }
        ("GET" | "HEAD", Some(b"/"), Some(_)) => status_page(worker, request),
        ("GET" | "HEAD", Some(b"/status.json"), Some(board)) => {
            let draining = worker.timers.draining();
            answer::status_json(request, &board.json(&worker.registry, draining))
        }
        (_, _, Some(_)) => answer::not_found(request, "the status page is at /"),
        (_, _, None) => answer::not_found(request, "the metrics are at /metrics"),
    })
}

fn status_page(worker: &Worker, request: &Request) -> Vec<u8> {
    answer::status_page(request, &status::page(worker.config.log.language))
}
