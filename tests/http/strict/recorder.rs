//! An upstream that records what it receives.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use super::message::Message;
use crate::support::*;

/// An upstream that records every byte of every connection.
pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    shared: Arc<(Mutex<Recorded>, Condvar)>,
}

#[derive(Default)]
struct Recorded {
    /// The number of connections that have not ended.
    open: usize,
    /// The bytes of each ended connection, in the order of their ends.
    connections: Vec<Vec<u8>>,
    marks: usize,
}

/// Gets the bytes that were not answered yet, and returns how many of them to answer now, and the
/// response.
type Answer = fn(&[u8]) -> Option<(usize, Vec<u8>)>;

/// The bytes of the recorder's own connection, with which no request can begin.
const MARK: &[u8] = b"\0mark";

impl Recorder {
    /// Answers each complete request with `Connection: close`, so that each connection has what
    /// the proxy sends for one request.
    pub(super) fn start() -> Recorder {
        Recorder::answering(|seen| {
            let (request, length) = Message::read(seen, None);
            let body = if request.head.starts_with(b"HEAD ") {
                ""
            } else {
                "seen"
            };
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n";
            request
                .whole
                .then(|| (length, format!("{answer}{body}").into_bytes()))
        })
    }

    pub(super) fn answering(answer: Answer) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Recorder {
            address,
            shared: Arc::default(),
        };
        let shared = recorder.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                shared.0.lock().unwrap().open += 1;
                let shared = shared.clone();
                thread::spawn(move || {
                    let seen = record(&mut stream, answer);
                    let mut recorded = shared.0.lock().unwrap();
                    recorded.open -= 1;
                    if seen == MARK {
                        recorded.marks += 1;
                    } else {
                        recorded.connections.push(seen);
                    }
                    shared.1.notify_all();
                });
            }
        });
        recorder
    }

    /// Waits until every connection made so far has ended, and returns their bytes since the
    /// last call. Connections are accepted in the order in which they were made, so all earlier
    /// ones have been accepted when the mark arrives.
    pub(super) fn settle(&self) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let (recorded, changed) = &*self.shared;
        let marks = recorded.lock().unwrap().marks;
        let mut last = TcpStream::connect(self.address).unwrap();
        last.write_all(MARK).unwrap();
        drop(last);
        let mut recorded = recorded.lock().unwrap();
        while recorded.marks == marks || recorded.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "an upstream connection does not end");
            recorded = changed.wait_timeout(recorded, left).unwrap().0;
        }
        std::mem::take(&mut recorded.connections)
    }
}

fn record(stream: &mut TcpStream, answer: Answer) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut seen = Vec::new();
    let mut answered = 0;
    let mut chunk = [0; 64 * 1024];
    while let Ok(n @ 1..) = read_some(stream, &mut chunk) {
        seen.extend_from_slice(&chunk[..n]);
        while let Some((length, bytes)) = answer(&seen[answered..]) {
            answered += length;
            if stream.write_all(&bytes).is_err() {
                return seen;
            }
            if answered == seen.len() {
                break;
            }
        }
    }
    seen
}
