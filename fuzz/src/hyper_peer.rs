//! The second opinion of hyper, the most used HTTP/1 implementation in Rust: its complete server
//! and client, over a connection in memory. No runtime is needed, because nothing waits for
//! bytes that have yet to arrive.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, Version};

use crate::FieldList;

/// A message as hyper understands it.
#[derive(Debug, Default)]
pub struct Message {
    /// `METHOD target` of a request, the status of a response.
    pub start: String,
    /// Whether it is HTTP/1.1.
    pub is_1_1: bool,
    /// The fields, grouped by name.
    pub fields: FieldList,
    /// The length that the head announces, if any.
    pub length: Option<u64>,
    /// The body as far as it was received.
    pub content: Vec<u8>,
    /// The trailer fields.
    pub trailers: FieldList,
    /// Whether the body was received completely.
    pub is_whole: bool,
}

impl Message {
    fn new(start: String, version: Version, headers: &HeaderMap, body: &Incoming) -> Message {
        Message {
            start,
            is_1_1: version == Version::HTTP_11,
            fields: field_list(headers),
            length: body.size_hint().exact(),
            ..Message::default()
        }
    }
}

fn field_list(headers: &HeaderMap) -> FieldList {
    let fields = headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    crate::by_name(fields.collect())
}

type Shared<T> = Rc<RefCell<T>>;

/// One end of a connection in memory.
#[derive(Default)]
struct Pipe {
    input: Vec<u8>,
    at: usize,
    /// Whether the end of `input` is the end of the connection.
    ends: bool,
    /// Nothing can be read before this many bytes were written.
    gate: usize,
    written: usize,
    reader: Option<Waker>,
}

struct End(Shared<Pipe>);

impl Read for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.0.borrow_mut();
        let rest = &pipe.input[pipe.at..];
        if pipe.written < pipe.gate || (rest.is_empty() && !pipe.ends) {
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let n = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..n]);
        pipe.at += n;
        Poll::Ready(Ok(()))
    }
}

impl Write for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.borrow_mut();
        pipe.written += bytes.len();
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls until there is a result, or until a poll wakes nothing, so that none can follow.
fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    for _ in 0..100_000 {
        if let Poll::Ready(result) = poll(&mut context) {
            return Some(result);
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            return None;
        }
    }
    panic!("hyper keeps waking itself without progress");
}

async fn take_body(mut body: Incoming, message: &RefCell<Vec<Message>>, index: usize) {
    while let Some(frame) = body.frame().await {
        let mut messages = message.borrow_mut();
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => messages[index].content.extend_from_slice(&data),
            Ok(Err(frame)) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                messages[index].trailers = field_list(&trailers);
            }
            Err(_) => return,
        }
    }
    message.borrow_mut()[index].is_whole = true;
}

/// Runs hyper's server on a connection that delivers `input` and then ends. Returns the requests
/// that it received, and whether it ended without an error.
pub fn serve(input: Vec<u8>) -> (Vec<Message>, bool) {
    let pipe = Pipe {
        input,
        ends: true,
        ..Pipe::default()
    };
    let seen: Shared<Vec<Message>> = Shared::default();
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let start = format!("{} {}", head.method, head.uri);
            let message = Message::new(start, head.version, &head.headers, &body);
            seen.borrow_mut().push(message);
            let index = seen.borrow().len() - 1;
            take_body(body, &seen, index).await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .half_close(true)
        .header_read_timeout(None)
        .auto_date_header(false)
        .max_headers(256);
    let mut connection = pin!(server.serve_connection(End(Rc::new(RefCell::new(pipe))), service));
    let result = drive(|context| connection.as_mut().poll(context));
    let result = result.expect("a connection that ends leaves nothing to wait for");
    let seen = seen.take();
    (seen, result.is_ok())
}

/// How hyper's client read a response.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Only one exists at a time.
pub enum Answer {
    /// It refused the response.
    Refused,
    /// It waits for more bytes.
    Unfinished,
    /// It accepted the response. The second message is the response to a second request, if the
    /// connection could be used for one.
    Taken(Message, Option<Message>),
}

/// The request of a response.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// HTTP/1.1 instead of HTTP/1.0.
    pub is_1_1: bool,
    /// HEAD instead of GET.
    pub is_head: bool,
    /// Whether it asks for a WebSocket.
    pub upgrade: bool,
}

/// The response to a second request on the same connection.
const SECOND: &[u8] = b"HTTP/1.1 299 Second\r\nContent-Length: 6\r\n\r\nsecond";

/// Runs hyper's client with `input` as the response to its request. `ends` says that the
/// connection ends after it.
pub fn ask(asked: Asked, input: Vec<u8>, ends: bool) -> Answer {
    let pipe = Rc::new(RefCell::new(Pipe {
        input,
        ends,
        gate: 1,
        ..Pipe::default()
    }));
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_headers(256);
    let mut handshake = pin!(client.handshake(End(Rc::clone(&pipe))));
    let handshake = drive(|context| handshake.as_mut().poll(context));
    let Some(Ok((mut sender, connection))) = handshake else {
        panic!("the handshake failed");
    };
    let mut connection = pin!(connection);
    let mut connection_ended = false;
    let mut exchange = |request: Request<Empty<Bytes>>| {
        let messages: RefCell<Vec<Message>> = RefCell::default();
        let mut exchange = pin!(async {
            let response = sender.send_request(request).await.ok()?;
            let (head, body) = response.into_parts();
            let start = head.status.as_str().to_owned();
            let message = Message::new(start, head.version, &head.headers, &body);
            messages.borrow_mut().push(message);
            take_body(body, &messages, 0).await;
            Some(())
        });
        let exchanged = drive(|context| {
            if !connection_ended {
                connection_ended = connection.as_mut().poll(context).is_ready();
            }
            exchange.as_mut().poll(context)
        });
        // Lets the connection read the rest before the next request.
        drive(|context| {
            if !connection_ended {
                connection_ended = connection.as_mut().poll(context).is_ready();
            }
            Poll::<()>::Pending
        });
        (exchanged, messages.take().pop(), connection_ended)
    };
    let (exchanged, first, ended) = exchange(asked.request());
    let first = match (exchanged, first) {
        (None, None) => return Answer::Unfinished,
        (_, None) => return Answer::Refused,
        (_, Some(first)) => first,
    };
    if ended || !first.is_whole {
        return Answer::Taken(first, None);
    }
    {
        let mut pipe = pipe.borrow_mut();
        pipe.input.extend_from_slice(SECOND);
        pipe.gate = pipe.written + 1;
    }
    let (_, second, _) = exchange(Request::new(Empty::new()));
    Answer::Taken(first, second)
}

impl Asked {
    fn request(self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        if !self.is_1_1 {
            *request.version_mut() = Version::HTTP_10;
        }
        if self.is_head {
            *request.method_mut() = hyper::Method::HEAD;
        }
        if self.upgrade {
            let headers = request.headers_mut();
            headers.insert("connection", "upgrade".parse().expect("valid"));
            headers.insert("upgrade", "websocket".parse().expect("valid"));
        }
        request
    }
}

/// Whether a message is the response to a second request.
pub fn is_second(message: &Message) -> bool {
    message.start == "299" && message.is_whole && message.content == b"second"
}
