//! Strictness at byte level: tables of input, each with what the client must get, what the
//! upstream must have seen, and whether the client's connection may go on. Requests are
//! sent at once, one byte at a time, and cut off behind every prefix; so are responses.
//! `every_class_ran` prints what the tables hold.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// Declares the tests of this file: a name, what the printed table calls the class, and
/// the function that goes through it.
macro_rules! classes {
    ($($name:ident, $title:literal, $check:expr;)+) => {
        static CLASSES: [Class; [$($title),+].len()] = [$(Class::new($title, $check)),+];
        $(pub fn $name() {
            let class = CLASSES.iter().find(|class| class.title == $title);
            class.unwrap().tally();
        })+
    };
}

classes! {
    content_length_with_transfer_encoding,
        "Content-Length with Transfer-Encoding", both_framings;
    content_lengths, "Content-Length values", length_values;
    transfer_encodings, "Transfer-Encoding values", coding_values;
    chunk_framing, "chunk sizes, extensions and ends", chunks;
    request_trailers, "request trailers", trailers;
    field_lines, "field lines", fields;
    control_bytes, "control bytes anywhere in a head", controls;
    hosts, "Host", host_values;
    targets, "request targets", target_forms;
    connection_options, "Connection options", options;
    connection_options_against_forwarded_fields,
        "Connection options against --forwarded", options_against_forwarded;
    request_lines, "request lines", start_lines;
    other_protocols, "other protocols", foreign;
    empty_lines, "empty lines before a request", blank_lines;
    sizes, "sizes of a head", large_heads;
    pipelined_requests, "pipelined requests", pipelines;
    upgrade_requests, "upgrade requests", upgrades;
    status_lines, "status lines", answer_lines;
    response_fields, "response field lines", answer_fields;
    response_framing, "response framing", answer_framing;
    responses_cut_short, "responses cut short or broken", answers_cut;
    responses_without_content, "responses without content", answers_without_content;
    interim_responses, "interim responses and unasked switches", interim;
    surplus_bytes, "surplus bytes with a response", surplus;
    surplus_bytes_while_idle, "surplus bytes while idle", idle_surplus;
    early_answers, "answers before the request's body", early;
    refused_upgrades, "answers that refuse an upgrade", refused_switch;
    accepted_upgrades, "requests behind an accepted upgrade", accepted_switch;
    clients_that_leave_before_the_101, "clients that leave before the 101", leaving;
    forged_log_lines, "log lines that a client forges", forged;
}

/// Prints the table of everything above, from the tables themselves. A class that has not
/// run yet runs here, so that the table is whole however the tests were chosen.
pub fn every_class_ran() {
    let mut table = format!(
        "\n{:<42} {:>5} {:>6}  outcome\n",
        "class of input", "cases", "runs"
    );
    let (mut cases, mut runs) = (0, 0);
    for class in &CLASSES {
        let tally = class.tally();
        let here: usize = tally.outcomes.values().sum();
        assert!(
            here > 0 && tally.runs >= here,
            "{} did not run",
            class.title
        );
        let outcomes = tally.outcomes.iter();
        let outcomes: Vec<_> = outcomes.map(|(o, n)| format!("{o}: {n}")).collect();
        let _ = writeln!(
            table,
            "{:<42} {here:>5} {:>6}  {}",
            class.title,
            tally.runs,
            outcomes.join("; ")
        );
        cases += here;
        runs += tally.runs;
    }
    let _ = writeln!(table, "{:<42} {cases:>5} {runs:>6}", "all");
    println!("{table}");
}

/// One class of input, gone through once in a process.
struct Class {
    title: &'static str,
    check: fn(&mut Tally),
    done: OnceLock<Tally>,
}

impl Class {
    const fn new(title: &'static str, check: fn(&mut Tally)) -> Class {
        Class {
            title,
            check,
            done: OnceLock::new(),
        }
    }

    fn tally(&self) -> &Tally {
        self.done.get_or_init(|| {
            let mut tally = Tally::default();
            (self.check)(&mut tally);
            tally
        })
    }
}

/// What a class came to.
#[derive(Default)]
struct Tally {
    /// How many cases have this outcome.
    outcomes: BTreeMap<String, usize>,
    /// Exchanges in all: every case in every way of sending it.
    runs: usize,
}

impl Tally {
    fn case(&mut self, outcome: impl Into<String>, runs: usize) {
        *self.outcomes.entry(outcome.into()).or_default() += 1;
        self.runs += runs;
    }
}

/// What must never be served, behind everything after which nothing may be.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: smuggled\r\n\r\n";

/// What must be served, and seen apart, behind everything after which a connection goes on.
const BEHIND: &[u8] = b"GET /behind HTTP/1.1\r\nHost: behind\r\n\r\n";

/// Where a request's own recorder is meant; its address is known only later.
const UPSTREAM: &[u8] = b"UPSTREAM";

/// Inputs up to this length are also sent one byte at a time.
const SHORT: usize = 1500;

/// Prefixes that are tried of a long input.
const PREFIXES: usize = 400;

/// From this length on, only a few are.
const LONG: usize = 100_000;

/// Connections open at once while prefixes are tried.
const AT_ONCE: usize = 32;

/// The prefixes that a class has tried: most inputs begin alike.
#[derive(Default)]
struct Prefixes(HashSet<Vec<u8>>);

impl Prefixes {
    /// The lengths of those that are new.
    fn of(&mut self, bytes: &[u8]) -> Vec<usize> {
        let most = match bytes.len() {
            0..LONG => PREFIXES,
            _ => PREFIXES / 20,
        };
        let step = bytes.len().div_ceil(most).max(1);
        (1..=bytes.len())
            .step_by(step)
            .filter(|&length| self.0.insert(bytes[..length].to_vec()))
            .collect()
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

fn replace(bytes: &[u8], needle: &[u8], with: &[u8]) -> Vec<u8> {
    match find(bytes, needle) {
        Some(at) => [&bytes[..at], with, &bytes[at + needle.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// Bytes for a message of a failed test.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(300)];
    let rest = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{rest}", cut.escape_ascii())
}

/// One message as the tests read it, which must be framed beyond doubt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
    trailers: Vec<u8>,
    /// The last chunk has begun.
    ending: bool,
    /// Only the connection's end tells that this is whole.
    until_end: bool,
    whole: bool,
}

impl Message {
    /// The message at the start of `bytes`, and its length there. `answers` is the method
    /// that a response answers; None for a request. A response that only the connection's
    /// end delimits takes everything.
    fn read(bytes: &[u8], answers: Option<&str>) -> (Message, usize) {
        let mut message = Message::default();
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            message.head = bytes.to_vec();
            return (message, bytes.len());
        };
        let end = end + 4;
        message.head = bytes[..end].to_vec();
        let head = String::from_utf8_lossy(&message.head).into_owned();
        let fields = head.to_ascii_lowercase();
        let lengths = fields.matches("\r\ncontent-length:").count();
        let codings = fields.matches("\r\ntransfer-encoding:").count();
        let has_content = answers.is_none_or(|method| {
            method != "HEAD" && !matches!(message.status(), 100..=199 | 204 | 304)
        });
        assert!(
            lengths + codings <= 1,
            "a head that two parsers may read differently: {head}"
        );
        let rest = &bytes[end..];
        if !has_content || (answers.is_none() && lengths + codings == 0) {
            message.whole = true;
            return (message, end);
        }
        if codings == 1 {
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
            let used = message.read_chunks(rest);
            return (message, end + used);
        }
        let length = match field(&head, "content-length") {
            Some(digits) => digits.parse().expect(&head),
            None => {
                message.until_end = true;
                rest.len()
            }
        };
        message.body = rest[..length.min(rest.len())].to_vec();
        message.whole = message.body.len() == length;
        let used = end + message.body.len();
        (message, used)
    }

    fn read_chunks(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(line) = find(&bytes[at..], b"\r\n") {
            let digits = std::str::from_utf8(&bytes[at..at + line]).unwrap();
            let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_hex, "a chunk size that is none: {digits:?}");
            let size = usize::from_str_radix(digits, 16).unwrap();
            at += line + 2;
            if size == 0 {
                self.ending = true;
                let rest = &bytes[at..];
                let trailers = if rest.starts_with(b"\r\n") {
                    Some(0)
                } else {
                    find(rest, b"\r\n\r\n").map(|end| end + 2)
                };
                if let Some(length) = trailers {
                    self.trailers = rest[..length].to_vec();
                    self.whole = true;
                    return at + length + 2;
                }
                break;
            }
            let data = &bytes[at..bytes.len().min(at.saturating_add(size))];
            self.body.extend_from_slice(data);
            at += data.len();
            if data.len() < size || bytes.len() < at + 2 {
                break;
            }
            assert_eq!(&bytes[at..at + 2], b"\r\n", "a chunk that does not end");
            at += 2;
        }
        bytes.len()
    }

    fn request(bytes: &[u8]) -> Message {
        Message::read(bytes, None).0
    }

    fn status(&self) -> u16 {
        let text = String::from_utf8_lossy(&self.head);
        assert!(text.starts_with("HTTP/1.1 "), "no response: {text}");
        text[9..12].parse().unwrap()
    }

    fn field(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        field(&head, name).map(str::to_owned)
    }

    /// Whether this could still have become `other`, and is not whole.
    fn is_part_of(&self, other: &Message) -> bool {
        !self.whole
            && !self.ending
            && match self.head.ends_with(b"\r\n\r\n") {
                true => self.head == other.head && other.body.starts_with(&self.body),
                false => other.head.starts_with(&self.head),
            }
    }
}

/// All responses in `bytes`, in order; `methods` are those of the requests, GET where
/// there are too few. Everything must be whole.
fn responses(bytes: &[u8], methods: &[String]) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let method = methods.get(all.len()).map_or("GET", String::as_str);
        let (message, used) = Message::read(rest, Some(method));
        assert!(message.whole, "half a response: {}", shown(rest));
        rest = &rest[used..];
        all.push(message);
    }
    all
}

/// An upstream that keeps every byte of every connection.
struct Recorder {
    address: SocketAddr,
    shared: Arc<(Mutex<Recorded>, Condvar)>,
}

#[derive(Default)]
struct Recorded {
    /// Connections that have not ended.
    open: usize,
    /// Whole connections, in the order of their ends.
    connections: Vec<Vec<u8>>,
    marks: usize,
}

/// Given what has not been answered yet: how much of that is answered now, and how.
type Answer = fn(&[u8]) -> Option<(usize, Vec<u8>)>;

/// What a recorder takes for its own mark, which no request can begin with.
const MARK: &[u8] = b"\0mark";

impl Recorder {
    /// Answers each whole request once, closing behind it: whatever the proxy sends for
    /// one request is on one connection.
    fn start() -> Recorder {
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

    fn answering(answer: Answer) -> Recorder {
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

    /// Everything that was seen since the last call, once every connection made until now
    /// has ended. Connections are accepted in the order in which they were made: when
    /// this one's mark is there, so are all others.
    fn settle(&self) -> Vec<Vec<u8>> {
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

/// One input from a client.
struct Case {
    input: Vec<u8>,
    /// The whole requests that the upstream sees, exactly.
    upstream: Vec<Vec<u8>>,
    then: Then,
    /// Nothing more is sent behind the input: it must be judged by itself.
    alone: bool,
}

/// What follows the requests that the upstream saw whole.
#[derive(Clone, PartialEq)]
enum Then {
    /// The connection goes on.
    GoesOn,
    /// The connection closes behind the answer.
    Closes,
    /// This status, and the connection closes; nothing of the cause went upstream.
    Refused(u16),
    /// The same, but a part of this request, never the whole, may have gone upstream.
    Broken(u16, Vec<u8>),
}

fn case(input: impl AsRef<[u8]>, upstream: &[&[u8]], then: Then) -> Case {
    Case {
        input: input.as_ref().to_vec(),
        upstream: upstream.iter().map(|bytes| bytes.to_vec()).collect(),
        then,
        alone: false,
    }
}

/// Nothing goes upstream, the client gets `status`, the connection closes.
fn refused(status: u16, input: impl AsRef<[u8]>) -> Case {
    case(input, &[], Then::Refused(status))
}

/// Forwarded as `upstream`, and the connection goes on.
fn forwarded(input: impl AsRef<[u8]>, upstream: impl AsRef<[u8]>) -> Case {
    case(input, &[upstream.as_ref()], Then::GoesOn)
}

/// Forwarded as it is.
fn unchanged(input: impl AsRef<[u8]>) -> Case {
    forwarded(&input, &input)
}

/// Forwarded as `upstream`, and the connection closes behind the answer.
fn forwarded_last(input: impl AsRef<[u8]>, upstream: impl AsRef<[u8]>) -> Case {
    case(input, &[upstream.as_ref()], Then::Closes)
}

impl Case {
    fn alone(mut self) -> Case {
        self.alone = true;
        self
    }

    fn follower(&self) -> &'static [u8] {
        match self.then {
            _ if self.alone => b"",
            Then::GoesOn => BEHIND,
            _ => SMUGGLED,
        }
    }

    fn outcome(&self) -> String {
        let first = match self.upstream.is_empty() {
            true => "",
            false => "forwarded exactly, ",
        };
        match self.then {
            Then::GoesOn => format!("{first}goes on"),
            Then::Closes => format!("{first}closed"),
            Then::Refused(status) => format!("{first}{status}, closed, nothing upstream"),
            Then::Broken(status, _) => format!("{first}{status}, closed, never whole upstream"),
        }
    }

    /// The statuses that the client gets.
    fn statuses(&self) -> Vec<u16> {
        let mut statuses = vec![200; self.upstream.len()];
        if let Then::Refused(status) | Then::Broken(status, _) = self.then {
            statuses.push(status);
        }
        statuses
    }

    fn methods(&self) -> Vec<String> {
        let methods = self.upstream.iter().map(|request| {
            let end = request.iter().position(|&b| b == b' ').unwrap();
            String::from_utf8_lossy(&request[..end]).into_owned()
        });
        // Our own answer to HEAD has no content either.
        let refused = self.input.starts_with(b"HEAD ") && self.upstream.is_empty();
        methods.chain(refused.then(|| "HEAD".to_owned())).collect()
    }

    /// One exchange, the input in pieces of `piece` bytes.
    fn exchange(&self, proxy: &Proxy, recorder: &Recorder, piece: usize) {
        let what = shown(&self.input);
        let mut client = proxy.connect();
        let bytes = [self.input.as_slice(), self.follower()].concat();
        for piece in bytes.chunks(piece) {
            // A refusal may come before the end.
            if !client.try_send(piece) {
                break;
            }
        }
        let mut statuses = self.statuses();
        let mut expected = self.upstream.clone();
        if self.then == Then::GoesOn && !self.alone {
            statuses.push(200);
            expected.push(BEHIND.to_vec());
        }
        if self.then == Then::GoesOn {
            client.end_sending();
        }
        // Where the connection closes it must do so by itself: the client has not ended
        // its side.
        let got = Received::read_to_end(&mut client);
        // A client that asks for the end and goes on sending may be met with a reset.
        let may_be_reset = self.then == Then::Closes && piece == 1;
        assert!(
            got.clean_end == Some(true) || may_be_reset,
            "{what} in pieces of {piece}: a reset"
        );
        let got = responses(&got.bytes, &self.methods());
        let got_statuses: Vec<u16> = got.iter().map(Message::status).collect();
        assert_eq!(got_statuses, statuses, "{what} in pieces of {piece}");
        for (at, response) in got.iter().enumerate() {
            let closes = response.field("connection").as_deref() == Some("close");
            let is_last = at + 1 == got.len();
            assert_eq!(
                closes,
                is_last && self.then != Then::GoesOn,
                "{what} in pieces of {piece}, response {at}"
            );
        }

        let mut seen = recorder.settle();
        for request in expected {
            let at = seen.iter().position(|seen| match piece {
                // How chunks are cut depends on how they arrive.
                1 => Message::request(seen) == Message::request(&request),
                _ => *seen == request,
            });
            let Some(at) = at else {
                let all: Vec<String> = seen.iter().map(|seen| shown(seen)).collect();
                panic!(
                    "{what} in pieces of {piece}: the upstream did not see\n{}\nbut\n{}",
                    shown(&request),
                    all.join("\n")
                );
            };
            seen.remove(at);
        }
        if let Then::Broken(_, request) = &self.then {
            let whole = Message::request(request);
            seen.retain(|seen| !Message::request(seen).is_part_of(&whole));
        }
        let seen: Vec<String> = seen.iter().map(|seen| shown(seen)).collect();
        assert!(
            seen.is_empty(),
            "{what} in pieces of {piece}: the upstream saw\n{}",
            seen.join("\n")
        );
    }

    /// The input cut off behind every prefix that is not `known` yet: nothing that
    /// differs from the whole may come of it. Gives how many there were.
    fn prefixes(&self, proxy: &Proxy, recorder: &Recorder, known: &mut Prefixes) -> usize {
        let what = shown(&self.input);
        let lengths = known.of(&self.input);
        let statuses = self.statuses();
        for lengths in lengths.chunks(AT_ONCE) {
            let clients: Vec<Client> = lengths
                .iter()
                .map(|&length| {
                    let mut client = proxy.connect();
                    client.send_bytes(&self.input[..length]);
                    client.end_sending();
                    client
                })
                .collect();
            for (mut client, length) in clients.into_iter().zip(lengths) {
                let got = responses(&client.rest(), &self.methods());
                let got: Vec<u16> = got.iter().map(Message::status).collect();
                assert!(
                    statuses.starts_with(&got),
                    "{what} cut at {length}: {got:?}"
                );
            }
        }
        let mut expected: Vec<Message> =
            self.upstream.iter().map(|r| Message::request(r)).collect();
        if let Then::Broken(_, request) = &self.then {
            // What is broken is never whole; this one only says how it begins.
            let mut part = Message::request(request);
            part.whole = false;
            expected.push(part);
        }
        for seen in recorder.settle() {
            let (request, length) = Message::read(&seen, None);
            let is_expected = length == seen.len()
                && expected
                    .iter()
                    .any(|e| (request.whole && request == *e) || request.is_part_of(e));
            assert!(
                is_expected,
                "{what} cut off: the upstream saw {}",
                shown(&seen)
            );
        }
        lengths.len()
    }
}

/// Goes through a table of requests.
fn requests(tally: &mut Tally, arguments: &[&str], cases: Vec<Case>) {
    let recorder = Recorder::start();
    let mut all = vec!["--threads", "1"];
    all.extend_from_slice(arguments);
    let proxy = Proxy::before(recorder.address, &all);
    let own = recorder.address.to_string();
    let mut known = Prefixes::default();
    for mut case in cases {
        for request in &mut case.upstream {
            *request = replace(request, UPSTREAM, own.as_bytes());
        }
        case.exchange(&proxy, &recorder, usize::MAX);
        let mut runs = 1;
        if case.input.len() <= SHORT {
            case.exchange(&proxy, &recorder, 1);
            runs += 1;
        }
        runs += case.prefixes(&proxy, &recorder, &mut known);
        tally.case(case.outcome(), runs);
    }
    assert_eq!(proxy.get("/still-there").status(), 200);
}

/// A GET with these field lines, each with its CRLF, behind Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// The same with POST and a body.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn both_framings(tally: &mut Tally) {
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let reversed = "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n";
    let smuggled = String::from_utf8_lossy(SMUGGLED);
    let last = "0\r\n\r\n";
    let behind_the_last = format!("{last}{smuggled}");
    let in_a_chunk = format!("{:x}\r\n{smuggled}\r\n{last}", smuggled.len());
    let mut cases = Vec::new();
    for (fields, body) in [
        // CL.TE: the chunks end before the length does.
        (both.to_owned(), last),
        (reversed.to_owned(), last),
        (both.replace(": 5", ": 48"), &behind_the_last),
        // TE.CL: the length ends inside the first chunk.
        (reversed.replace(": 5", ": 4"), &in_a_chunk),
        // CL.0 and 0.CL
        (both.replace(": 5", ": 0"), last),
        (both.replace(": 5", ": 0"), &in_a_chunk),
        (both.to_lowercase(), last),
        (both.to_uppercase(), last),
        (both.replace("chunked", "identity"), "hello"),
        (both.replace("chunked", "xchunked"), "hello"),
        (both.replace(" chunked", ""), "hello"),
        (both.replace(" 5", ""), last),
        (format!("Content-Length: 5\r\nX: y\r\n{both}"), last),
        // Neither can be talked away by naming it for this hop only.
        (format!("Connection: content-length\r\n{both}"), last),
        (
            format!("Connection: transfer-encoding\r\n{reversed}"),
            "hello",
        ),
        (
            format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{both}"),
            last,
        ),
    ] {
        for (method, version) in [("POST", "1.1"), ("GET", "1.1"), ("POST", "1.0")] {
            let head = format!("{method} / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            cases.push(refused(400, head + body));
        }
    }
    requests(tally, &[], cases);
}

fn length_values(tally: &mut Tally) {
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let values = [
        "", "+5", "-5", "-0", "+0", "0x5", "0X5", "5 5", "1 2", "5\t5", "5,", ",5", ",", "5, 5",
        "5,5", "5 , 5", "0,0", "5, 6", "0, 5", "5;", "5;a", "5.", "5.0", "5e0", "1e1", "5_0",
        "_5", "5h", "h5", "five", "\"5\"", "'5'", "(5)", "5%", "%35", "5\u{a0}", "\u{ff15}",
        "\u{665}", "18446744073709551616", "18446744073709551621", "36893488147419103237",
        "99999999999999999999999999999999",
    ];
    for value in values {
        cases.push(refused(
            400,
            post(&format!("Content-Length: {value}\r\n"), "hello"),
        ));
    }
    #[rustfmt::skip]
    let variants = [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 6\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n", "Content-Length:\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: +5\r\n",
        "Content-Length: 5\r\nX-Between: 1\r\ncontent-length: 50\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 4\r\n",
        "Content-Length : 5\r\n", "Content-Length\t: 5\r\n", " Content-Length: 5\r\n",
        "\tContent-Length: 5\r\n", "Content-Length:\r\n 5\r\n", "Content-Length: 5\r\n 5\r\n",
        "Content-Length: 5\r\n\t\r\n", "X: y\r\n Content-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n", "X: y\nContent-Length: 5\r\n", "Content-Length: 5\0\r\n",
        "Content-Length: \x0b5\r\n", "Content-Length: 5\x0c\r\n", "Content-Length\0: 5\r\n",
        "Content Length: 5\r\n", "Content-Length 5\r\n", "Content-Length=5\r\n",
        "Content-Length;: 5\r\n",
    ];
    for fields in variants {
        cases.push(refused(400, post(fields, "hello")));
    }
    let plain = post("Content-Length: 5\r\n", "hello");
    for value in [
        "5",
        " 5",
        "  5  ",
        "\t5\t",
        " 005",
        " 00000000000000000000005",
    ] {
        let input = post(&format!("Content-Length:{value}\r\n"), "hello");
        cases.push(forwarded(input, &plain));
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 5\r\nCONTENT-LENGTH: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 05\r\n",
    ] {
        cases.push(forwarded(post(fields, "hello"), &plain));
    }
    cases.push(unchanged(post("Content-Length: 0\r\n", "")));
    cases.push(unchanged(post("content-LENGTH: 5\r\n", "hello")));
    cases.push(unchanged(post("", "")));
    cases.push(unchanged(
        get("Content-Length: 5\r\n").replace("\r\n\r\n", "\r\n\r\nhello"),
    ));
    // Other names: no body is announced.
    cases.push(unchanged(post("Content_Length: 5\r\n", "")));
    cases.push(unchanged(post("X-Content-Length: 5\r\n", "")));
    cases.push(unchanged(post("Content-Lengths: 5\r\n", "")));
    requests(tally, &[], cases);
}

/// A request whose body follows in chunks.
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn coding_values(tally: &mut Tally) {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let values = [
        "", "identity", "chunked, identity", "identity, chunked", "identity,chunked",
        "xchunked", "chunkedx", "chunke", "x-chunked", "chunk ed", "chunked chunked",
        "chunked, chunked", "chunked,chunked", "chunked,", ",chunked", ", chunked", ",",
        "chunked;", "chunked;q=1", "chunked; q=0", "\"chunked\"", "'chunked'", "\"chunked",
        "chunked\"", "[chunked]", "{chunked}", "(chunked)", "chunked#", "chunked:", ": chunked",
        "=chunked", "chunked\\", "gzip", "gzip, chunked", "chunked, gzip", "deflate",
        "compress, chunked", "trailers", "cow", "0", "true", "chunked\u{a0}", "\u{a0}chunked",
        "chun\u{212a}ed", "\u{ff43}hunked", "c\u{ff48}unked", "\u{feff}chunked", "chunked\u{0}",
        "\u{0}chunked", "\x0bchunked", "chunked\x0b", "\x0cchunked", "chunked\x0c",
        "chun\x08ked", "\x7fchunked", "chunked\r", "\rchunked", "chunked\n",
    ];
    for value in values {
        let input = post(&format!("Transfer-Encoding: {value}\r\n"), body);
        cases.push(refused(400, input));
    }
    #[rustfmt::skip]
    let variants = [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n",
        "Transfer-Encoding: cow\r\nTransfer-encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n", "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding \t : chunked\r\n", "Transfer-Encoding\x0b: chunked\r\n",
        "Transfer-Encoding\x0c: chunked\r\n", "Transfer-Encoding\0: chunked\r\n",
        "\x0bTransfer-Encoding: chunked\r\n", " Transfer-Encoding: chunked\r\n",
        "\tTransfer-Encoding: chunked\r\n", "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding:\r\n\tchunked\r\n", "Transfer-Encoding: chunked\r\n , identity\r\n",
        "Transfer-Encoding: chunked\r\n \r\n", "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer-Encoding\r\n : chunked\r\n", "Transfer-\r\n Encoding: chunked\r\n",
        "Transfer\r-Encoding: chunked\r\n", "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n", "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\r\r\nTransfer-Encoding: chunked\r\n", "\rTransfer-Encoding: chunked\r\n",
        "\nTransfer-Encoding: chunked\r\n", "X:\0Transfer-Encoding: chunked\r\n",
        "Transfer Encoding: chunked\r\n", "Transfer-Encoding chunked\r\n",
        "Transfer-Encoding=chunked\r\n", "Transfer-Encoding;: chunked\r\n",
    ];
    for fields in variants {
        cases.push(refused(400, post(fields, body)));
    }
    for value in ["chunked", "identity", "gzip", ""] {
        let fields = format!("Transfer-Encoding: {value}\r\n");
        let old = post(&fields, body).replace("HTTP/1.1", "HTTP/1.0");
        cases.push(refused(400, old));
    }
    let old = format!(
        "Connection: keep-alive\r\n{}",
        "Transfer-Encoding: chunked\r\n"
    );
    cases.push(refused(
        400,
        post(&old, body).replace("HTTP/1.1", "HTTP/1.0"),
    ));
    let plain = format!("{CHUNKED}{body}");
    for value in [
        "chunked",
        "Chunked",
        "CHUNKED",
        "cHuNkEd",
        "\tchunked",
        "chunked\t",
        " \tchunked \t ",
    ] {
        let input = post(&format!("Transfer-Encoding:{value}\r\n"), body);
        cases.push(forwarded(input, &plain));
    }
    cases.push(unchanged(post("TRANSFER-encoding: chunked\r\n", body)));
    // Other names: no body is announced.
    cases.push(unchanged(post("Transfer_Encoding: chunked\r\n", "")));
    cases.push(unchanged(post("X-Transfer-Encoding: chunked\r\n", "")));
    cases.push(unchanged(post("Content-Encoding: chunked\r\n", "")));
    requests(tally, &[], cases);
}

/// A chunked body that breaks: at most `part` of the data goes upstream.
fn broken(body: impl AsRef<[u8]>, part: &str) -> Case {
    let input = [CHUNKED.as_bytes(), body.as_ref()].concat();
    let whole = format!("{CHUNKED}{:x}\r\n{part}\r\n0\r\n\r\n", part.len());
    let whole = match part {
        "" => format!("{CHUNKED}0\r\n\r\n"),
        _ => whole,
    };
    case(input, &[], Then::Broken(400, whole.into_bytes()))
}

fn chunks(tally: &mut Tally) {
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let sizes = [
        "", " ", "\t", " 5", "\t5", "  5", "\x0b5", "+5", "-5", "-0", "- 5", "0x5", "0X5", "x5",
        "5x", "5h", "5_", "_5", "5_0", "5.", "5.0", "5 ", "5\t", "5 5", "5\t5", "5,5", "5:",
        "\"5\"", "'5'", "g", "G", "\0", "5\0", "\u{ff15}", "5\u{a0}", "5\x7f",
        "10000000000000000", "10000000000000005", "fffffffffffffffff", "ffffffffffffffff0",
        "1ffffffffffffffff", "100000000000000000000000000000005", "[5]", "5]", "/5", "5\\",
    ];
    for size in sizes {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(broken(body, ""));
    }
    for (body, part) in [
        ("5\nhello\r\n0\r\n\r\n", ""),
        ("5\rhello\r\n0\r\n\r\n", ""),
        ("5\r\rhello\r\n0\r\n\r\n", ""),
        ("5\r\r\nhello\r\n0\r\n\r\n", ""),
        ("5\n\rhello\r\n0\r\n\r\n", ""),
        ("\r\n5\r\nhello\r\n0\r\n\r\n", ""),
        ("\n5\r\nhello\r\n0\r\n\r\n", ""),
        ("5\r\nhello\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r0\r\n\r\n", "hello"),
        ("5\r\nhello0\r\n\r\n", "hello"),
        ("5\r\nhelloXX0\r\n\r\n", "hello"),
        ("5\r\nhello\r\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n 0\r\n\r\n", "hello"),
        ("4\r\nhello\r\n0\r\n\r\n", "hell"),
        ("6\r\nhello\r\n0\r\n\r\n", "hello\r"),
        ("7\r\nhello\r\n0\r\n\r\n", "hello\r\n"),
        ("5\r\nhello\r\n0\n\r\n", "hello"),
        ("5\r\nhello\r\n0\r\n\n", "hello"),
        ("5\r\nhello\r\n0\n\n", "hello"),
        ("5\r\nhello\r\n0\r\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0\r\n\rX\r\n\r\n", "hello"),
        ("5\r\nhello\r\n-0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0x0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0 \r\n\r\n", "hello"),
        ("5\r\nhello\r\n0;\n\r\n", "hello"),
        // Extensions that one parser would end at a bare LF, another at CRLF.
        ("5;\nhello\r\n0\r\n\r\n", ""),
        ("5;a\nhello\r\n0\r\n\r\n", ""),
        ("5;a\n\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a=b\nxx\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a\r\r\nhello\r\n0\r\n\r\n", ""),
        ("5;\rhello\r\n0\r\n\r\n", ""),
        ("5;a=\"\n\"\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a=\"\\\n\"\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a=\"\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a=\"b\\\"\r\nhello\r\n0\r\n\r\n", ""),
        ("5;\0\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a\x0bb\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a\x1bb\r\nhello\r\n0\r\n\r\n", ""),
        ("5;a\x7fb\r\nhello\r\n0\r\n\r\n", ""),
        ("5 a\r\nhello\r\n0\r\n\r\n", ""),
        ("5 =a\r\nhello\r\n0\r\n\r\n", ""),
        ("5\r\nhello\r\n0;a\n\r\n", "hello"),
        ("5\r\nhello\r\n0;a=\"\r\n\r\n", "hello"),
    ] {
        cases.push(broken(body, part));
    }
    cases.push(broken(
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(5000)),
        "",
    ));
    let plain = format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n");
    #[rustfmt::skip]
    let bodies = [
        "5\r\nhello\r\n0\r\n\r\n", "05\r\nhello\r\n00\r\n\r\n",
        "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", "5;a\r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c\r\n\r\n", "5;a=b;c=d\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n", "5\t;\ta = b\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", "5;a=\"\\\"\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"0\\\\\";b\r\nhello\r\n0\r\n\r\n", "5;0=0\r\nhello\r\n0\r\n\r\n",
    ];
    for body in bodies {
        cases.push(forwarded(format!("{CHUNKED}{body}"), &plain));
    }
    let two = format!("{CHUNKED}5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n");
    cases.push(unchanged(&two));
    cases.push(forwarded(two.replace("\r\na\r\n", "\r\nA\r\n"), &two));
    cases.push(unchanged(format!("{CHUNKED}0\r\n\r\n")));
    // Data that looks like framing is data.
    let framing = "0\r\n\r\nGET /inside HTTP/1.1\r\nHost: inside\r\n\r\n";
    cases.push(unchanged(format!(
        "{CHUNKED}{:x}\r\n{framing}\r\n0\r\n\r\n",
        framing.len()
    )));
    let with_get = format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n").replace("POST", "GET");
    cases.push(unchanged(with_get));
    requests(tally, &[], cases);
}

fn trailers(tally: &mut Tally) {
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let sections = [
        "X : 1\r\n", "X\t: 1\r\n", " X: 1\r\n", "\tX: 1\r\n", "X: 1\r\n 2\r\n", "X:\r\n 1\r\n",
        "X: 1\r\n\t2\r\n", "X: 1\n", "X: 1\nY: 2\r\n", "X: 1\r\nY: 2\n", "X: 1\rY: 2\r\n",
        "X: 1\r\r\n", "X\r\n", ": 1\r\n", "X Y: 1\r\n", "X\0: 1\r\n", "X: \0\r\n",
        "X: \x1b\r\n", "X: \x7f\r\n", "X\x0b: 1\r\n", "X(: 1\r\n", "\u{e9}: 1\r\n",
        "Content-Length : 5\r\n", "Transfer-Encoding\r\n : chunked\r\n", "\n", "\r",
        "GET /inside HTTP/1.1\r\n",
    ];
    for section in sections {
        cases.push(broken(format!("5\r\nhello\r\n0\r\n{section}\r\n"), "hello"));
    }
    let large = format!("X: {}\r\n", "x".repeat(40_000));
    cases.push(broken(format!("5\r\nhello\r\n0\r\n{large}\r\n"), "hello"));
    let many = "X: y\r\n".repeat(10_000);
    cases.push(broken(format!("5\r\nhello\r\n0\r\n{many}\r\n"), "hello"));
    for (section, kept) in [
        ("X: 1\r\n", "X: 1\r\n"),
        ("X:1\r\nx-Y:  2\t\r\n", "X: 1\r\nx-Y: 2\r\n"),
        ("X:\r\n", "X: \r\n"),
        ("Content-Length: 5\r\n", ""),
        ("content-length: 0\r\nX: 1\r\n", "X: 1\r\n"),
        ("Transfer-Encoding: chunked\r\n", ""),
        ("Host: smuggled\r\n", ""),
        ("X: 1\r\nHOST: smuggled\r\nY: 2\r\n", "X: 1\r\nY: 2\r\n"),
        ("Connection: close\r\n", ""),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\n", ""),
        ("Keep-Alive: 1\r\nTE: trailers\r\nTrailer: X\r\n", ""),
        (
            "Proxy-Authorization: Basic eA==\r\nProxy-Connection: close\r\n",
            "",
        ),
        ("Authorization: Basic eA==\r\nCookie: a=b\r\n", ""),
        (
            "Content-Type: a/b\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-4/5\r\n",
            "",
        ),
        (
            "Expect: 100-continue\r\nMax-Forwards: 0\r\nRange: bytes=0-\r\n",
            "",
        ),
    ] {
        let body = |section| format!("{CHUNKED}5\r\nhello\r\n0\r\n{section}\r\n");
        cases.push(forwarded(body(section), body(kept)));
    }
    requests(tally, &[], cases);
}

fn fields(tally: &mut Tally) {
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let lines = [
        "A : b\r\n", "A\t: b\r\n", " A: b\r\n", "\tA: b\r\n", "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n", "A:\r\n b\r\n", "A: b\r\n \r\n", "A: b\r\n \r\n c\r\n", " \r\n",
        "\t\r\n", "A\r\n", "A\r\n: b\r\n", "A\r\n : b\r\n", ": b\r\n", " : b\r\n", ":\r\n",
        "A B: c\r\n", "A\"B: c\r\n", "A(B): c\r\n", "A,B: c\r\n", "A/B: c\r\n", "A;B: c\r\n",
        "A<B>: c\r\n", "A=B: c\r\n", "A?B: c\r\n", "A@B: c\r\n", "A[B]: c\r\n", "A\\B: c\r\n",
        "A{B}: c\r\n", "\u{e9}: c\r\n", "A: b\n", "A: b\nB: c\r\n", "A: b\rB: c\r\n",
        "A: b\r\r\n", "A: b\r \r\n", "A: \r\rb\r\n", "\rA: b\r\n", "\nA: b\r\n", "A\r: b\r\n",
        "A\n: b\r\n", "A:\rb\r\n", "A:\nb\r\n",
    ];
    for line in lines {
        cases.push(refused(400, get(line)));
        let in_front_of_host = format!("GET / HTTP/1.1\r\n{line}Host: a\r\n\r\n");
        cases.push(refused(400, in_front_of_host));
    }
    // LF alone everywhere, and in each single place.
    let whole = get("A: b\r\n");
    cases.push(refused(400, whole.replace("\r\n", "\n")));
    cases.push(refused(400, whole.replace("\r\n", "\r")));
    cases.push(refused(400, whole.replace("\r\n", "\n\r")));
    for (at, _) in whole.match_indices("\r\n") {
        cases.push(refused(
            400,
            format!("{}{}", &whole[..at], &whole[at + 1..]),
        ));
    }
    for (line, sent) in [
        ("A:b\r\n", "A: b\r\n"),
        ("A:\r\n", "A: \r\n"),
        ("A: \t \r\n", "A: \r\n"),
        ("A:  b  \r\n", "A: b\r\n"),
        ("A:\tb\t\r\n", "A: b\r\n"),
        ("A: b\tc  d\r\n", "A: b\tc  d\r\n"),
        ("A: :b: c\r\n", "A: :b: c\r\n"),
        ("!#$%&'*+-.^_`|~0aZ: v\r\n", "!#$%&'*+-.^_`|~0aZ: v\r\n"),
        ("A: \u{e9}\u{2028}\r\n", "A: \u{e9}\u{2028}\r\n"),
        ("A: \"b, c\"; d=(e)\r\n", "A: \"b, c\"; d=(e)\r\n"),
        ("A: 1\r\na: 2\r\nA: 1\r\n", "A: 1\r\na: 2\r\nA: 1\r\n"),
        ("A: %0d%0aB: c\r\n", "A: %0d%0aB: c\r\n"),
    ] {
        cases.push(forwarded(get(line), get(sent)));
    }
    let all_high: Vec<u8> = (0x80..=0xff).collect();
    let high = [
        b"GET / HTTP/1.1\r\nHost: a\r\nA: ".as_slice(),
        &all_high,
        b"\r\n\r\n",
    ];
    cases.push(unchanged(high.concat()));
    requests(tally, &[], cases);
}

fn controls(tally: &mut Tally) {
    let mut cases = Vec::new();
    for byte in (0..=0x1f).chain([0x7f]) {
        #[rustfmt::skip]
        let places = [
            "@GET / HTTP/1.1\r\nHost: a\r\n\r\n", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET@/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET /@ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a@b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET /@HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1@.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1@\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r@\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\n@Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHo@st: a\r\n\r\n", "GET / HTTP/1.1\r\nHost@: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX:@y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y@z\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y@\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r@\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r@\n",
        ];
        for place in places {
            let at = place.find('@').unwrap();
            let mut input = place.as_bytes().to_vec();
            input[at] = byte;
            match (byte, place) {
                // A tab may stand in a value, and blanks around one are none of it.
                (b'\t', place) if place.contains("X:@y") || place.contains("y@\r") => {
                    cases.push(forwarded(input, get("X: y\r\n")))
                }
                (b'\t', place) if place.contains("y@z") => cases.push(unchanged(input)),
                // That LF ends the head: the one behind it is what is refused.
                (b'\n', place) if place.ends_with("\r\n\r@\n") => {
                    let first = get("").into_bytes();
                    cases.push(case(input, &[&first], Then::Refused(400)));
                }
                _ => cases.push(refused(400, input)),
            }
        }
    }
    requests(tally, &[], cases);
}

fn host_values(tally: &mut Tally) {
    let mut cases = vec![
        refused(400, "GET / HTTP/1.1\r\n\r\n"),
        refused(400, "GET / HTTP/1.1\r\nX-Host: a\r\n\r\n"),
        refused(400, "GET / HTTP/1.1\r\nHosts: a\r\n\r\n"),
        refused(400, "GET http://a/ HTTP/1.1\r\n\r\n"),
    ];
    #[rustfmt::skip]
    let variants = [
        "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: a\r\nX: y\r\nhOST: b\r\n",
        "Host: a\r\nHost:\r\n", "Host:\r\nHost: a\r\n", "Host: a\r\n b\r\n",
        "Host: a\r\n\tb\r\n", "Host:\r\n a\r\n", "Host: a\r\n \r\n", "X: y\r\n Host: a\r\n",
        " Host: a\r\nHost: b\r\n", "Host: a\r\n Host: b\r\n", "Host : a\r\n", "Host\t: a\r\n",
        "Host: a\r\nHost : b\r\n", "Host\0: a\r\n", "Host: a\rHost: b\r\n",
        "Host: a\nHost: b\r\n", "Host a\r\n", "Host=a\r\n",
    ];
    for fields in variants {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            cases.push(refused(400, format!("GET / {version}\r\n{fields}\r\n")));
        }
    }
    #[rustfmt::skip]
    let hosts = [
        "a,b", "a, b", "a,", ",a", ",", "a b", "a\tb", "u@a", "u:p@a", "@a", "a@", "a:b",
        "a:+1", "a:-1", "a: 1", "a :1", "a:0x50", "a:1.0", "a:65536", "a:99999999999999999999",
        "a:80:80", "a::80", ":80", ":", "a:80,b", "a:80@b", "a:\u{ff18}0", "[::1", "::1",
        "::1]", "[]", "[a]", "[::1]a", "[::1]:b", "a[::1]", "[::1]:80:80", "a/b", "/a", "a/",
        "a\\b", "a?b", "a#b", "http://a", "//a", "%", "%4", "%zz", "a%", "\u{e9}", "a\u{2028}b",
        "\"a\"", "<a>", "a|b", "a^b", "a`b", "{a}", "a\0", "a\x7f", "a\x0b",
    ];
    for host in hosts {
        let input = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        cases.push(refused(400, input));
        let input = format!("GET http://b/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        cases.push(refused(400, input));
    }
    let not_utf8 = b"GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n";
    cases.push(refused(400, not_utf8));
    #[rustfmt::skip]
    let hosts = [
        "a", "A_b-C.example.", "a:80", "a:", "a:0", "a:65535", "192.0.2.1", "192.0.2.1:80",
        "[::1]", "[2001:DB8::1]:8080", "xn--a", "%41", "!$&'()*+;=~", "0", "",
    ];
    for host in hosts {
        cases.push(unchanged(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")));
    }
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for value in ["a", "  a  ", "\ta\t"] {
        let input = format!("GET / HTTP/1.1\r\nHost:{value}\r\n\r\n");
        cases.push(forwarded(input, plain));
    }
    cases.push(unchanged("GET / HTTP/1.1\r\nX: y\r\nhOsT: a\r\n\r\n"));
    // HTTP/1.0 may do without.
    let own = "GET / HTTP/1.1\r\nHost: UPSTREAM\r\n\r\n";
    cases.push(forwarded_last("GET / HTTP/1.0\r\n\r\n", own));
    cases.push(forwarded_last("GET / HTTP/1.0\r\nHost: a\r\n\r\n", plain));
    let alive = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    cases.push(forwarded(alive, own));
    requests(tally, &[], cases);
    let kept = "GET / HTTP/1.1\r\nX: y\r\nHost: b\r\n\r\n";
    let case = forwarded("GET / HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n", kept).alone();
    requests(tally, &["--host-header", "b"], vec![case]);
}

fn target_forms(tally: &mut Tally) {
    let with = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let lines = [
        "GET *", "POST *", "OPTIONS **", "OPTIONS */", "OPTIONS *x", "OPTIONS a",
        "GET a", "GET a:80", "GET a:443", "GET 192.0.2.1:80", "GET [::1]:80", "connect a:443",
        "Connect a:443", "GET a/b", "GET ?a", "GET .", "GET ../a", "GET \\a", "GET http",
        "GET http:", "GET http:/", "GET http:/b/", "GET http:b", "GET http:\\\\b\\",
        "GET http://", "GET http:///", "GET http:///p", "GET http://?q", "GET http://:80/",
        "GET http://u@b/", "GET http://u:p@b/", "GET http://@b/", "GET http://b@/",
        "GET http://b:x/", "GET http://b:65536/", "GET http://b:80:80/", "GET http://b,c/",
        "GET http://b\\c/", "GET http://[::1/", "GET http://::1/", "GET http://b%/",
        "GET http://\u{e9}/", "GET ftp://b/", "GET ws://b/", "GET file:///etc/passwd",
        "GET javascript:alert(1)", "GET data:,a", "GET ://b/", "GET  http://b/",
        "GET +http://b/", "GET htt\u{ff50}://b/",
    ];
    for line in lines {
        cases.push(refused(400, with(line)));
    }
    for line in [
        "CONNECT a:443",
        "CONNECT a",
        "CONNECT /",
        "CONNECT *",
        "CONNECT http://a/",
    ] {
        cases.push(refused(501, with(line)));
    }
    // What follows is neither a body nor a tunnel.
    let with_body = "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    cases.push(refused(501, with_body));
    #[rustfmt::skip]
    let lines = [
        "GET /", "GET //b/p", "GET //b@c/", "GET /http://b/", "GET /a:b@c", "GET /../../a/./b",
        "GET /%00%0d%0aX:%20y", "GET /%", "GET /a?b=http://c/", "GET /\u{e9}", "GET /*",
        "OPTIONS *", "OPTIONS /", "HEAD /", "PATCH /", "get /", "CONNECTED /",
        "!#$%&'*+-.^_`|~0aZ /",
    ];
    for line in lines {
        cases.push(unchanged(with(line)));
    }
    for (line, sent) in [
        ("GET http://b/p?q", "GET /p?q HTTP/1.1\r\nHost: b\r\n\r\n"),
        (
            "GET http://B.example:81/",
            "GET / HTTP/1.1\r\nHost: B.example:81\r\n\r\n",
        ),
        ("GET http://b:/", "GET / HTTP/1.1\r\nHost: b:\r\n\r\n"),
        (
            "GET http://[::1]:80/",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        ),
        ("GET HTTP://b/", "GET / HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("GET https://b/", "GET / HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("GET http://b", "GET / HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("GET http://b?q", "GET /?q HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("GET http://b//c", "GET //c HTTP/1.1\r\nHost: b\r\n\r\n"),
        (
            "GET http://b/http://c/",
            "GET /http://c/ HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
        ("GET http://b/@c", "GET /@c HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("GET http://b?@c", "GET /?@c HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("OPTIONS http://b", "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("OPTIONS http://b/", "OPTIONS / HTTP/1.1\r\nHost: b\r\n\r\n"),
    ] {
        cases.push(forwarded(with(line), sent));
    }
    // The same authority replaces Host in any place, and a missing one of HTTP/1.0.
    cases.push(forwarded(
        "GET http://b/ HTTP/1.1\r\nX: y\r\nhost: a:1\r\nY: z\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\nhost: b\r\nY: z\r\n\r\n",
    ));
    cases.push(forwarded(
        "GET http://b/ HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    ));
    cases.push(forwarded_last(
        "GET http://b/ HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    ));
    cases.push(refused(
        400,
        "GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ));
    cases.push(refused(400, b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"));
    cases.push(refused(400, b"GET /\xc0\x8a HTTP/1.1\r\nHost: a\r\n\r\n"));
    requests(tally, &[], cases);
}

fn options(tally: &mut Tally) {
    let mut cases = Vec::new();
    for option in [
        "host",
        "Host",
        "HOST, x-a",
        "content-length",
        "transfer-encoding",
    ] {
        cases.push(forwarded(
            get(&format!("Connection: {option}\r\n")),
            get(""),
        ));
    }
    let every = "Connection: content-length, transfer-encoding, host\r\n";
    cases.push(forwarded(
        post(&format!("{every}Content-Length: 5\r\n"), "hello"),
        post("Content-Length: 5\r\n", "hello"),
    ));
    cases.push(forwarded(
        post(&format!("Content-Length: 5\r\n{every}"), "hello"),
        post("Content-Length: 5\r\n", "hello"),
    ));
    cases.push(forwarded(
        post(
            &format!("{every}Transfer-Encoding: chunked\r\n"),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n"),
    ));
    for (fields, kept) in [
        (
            "Connection: X-A\r\nConnection: x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n",
            "X-C: 3\r\n",
        ),
        (
            "X-A: 1\r\nX-B: 2\r\nX-C: 3\r\nConnection: X-A\r\nConnection: x-b\r\n",
            "X-C: 3\r\n",
        ),
        (
            "Connection: , ,x-a,,\r\nX-A: 1\r\nX-A: 2\r\nX-AB: 3\r\n",
            "X-AB: 3\r\n",
        ),
        ("Connection:x-a\t,\tx-b\r\nX-A: 1\r\nX-B: 2\r\n", ""),
        ("Connection:\r\nX-A: 1\r\n", "X-A: 1\r\n"),
        (
            "connection: cookie, authorization\r\nCookie: a\r\nAuthorization: b\r\n",
            "",
        ),
        ("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n", ""),
        ("Keep-Alive: timeout=5\r\nProxy-Connection: close\r\n", ""),
        (
            "Proxy-Authorization: Basic eA==\r\nProxy-Authenticate: Basic\r\n",
            "",
        ),
        ("TE: gzip, chunked\r\nConnection: TE\r\n", ""),
        (
            "TE: gzip\r\nTE: Trailers\r\nConnection: te\r\n",
            "TE: trailers\r\nConnection: TE\r\n",
        ),
        (
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
            "",
        ),
        ("Connection: upgrade\r\n", ""),
        ("Connection: connection, x-a\r\nX-A: 1\r\n", ""),
        ("Connection: x-a\r\nX-A\u{7e}: 1\r\n", "X-A\u{7e}: 1\r\n"),
    ] {
        cases.push(forwarded(get(fields), get(kept)));
    }
    for fields in [
        "Connection: close\r\n",
        "Connection: CLOSE\r\n",
        "Connection: keep-alive, close\r\n",
        "Connection: keep-alive\r\nConnection: close\r\n",
        "Connection: x-a, close\r\nX-A: 1\r\n",
        "Connection: close, host, content-length\r\n",
    ] {
        cases.push(forwarded_last(get(fields), get("")));
    }
    requests(tally, &[], cases);
}

fn options_against_forwarded(tally: &mut Tally) {
    let sent = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a\r\n\
                X-Forwarded-Proto: http\r\nVia: 1.1 simple-proxy\r\n\r\n";
    let mut cases = Vec::new();
    for fields in [
        "",
        "Connection: x-forwarded-for, x-forwarded-host, x-forwarded-proto, via\r\n",
        "Connection: close, X-Forwarded-For\r\nX-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 192.0.2.1\r\nx-forwarded-FOR: 192.0.2.2\r\n",
        "X-Forwarded-Host: b\r\nX-Forwarded-Proto: https\r\n",
        "Via: 1.0 x\r\nConnection: via\r\n",
    ] {
        let mut case = match fields.contains("close") {
            true => forwarded_last(get(fields), sent),
            false => forwarded(get(fields), sent),
        };
        // What comes behind gets these fields as well.
        case.alone = case.then == Then::GoesOn;
        cases.push(case);
    }
    requests(tally, &["--forwarded"], cases);
}

fn start_lines(tally: &mut Tally) {
    let rest = "Host: a\r\n\r\n";
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let lines = [
        "GET /", "GET / ", "GET", "GET ", " GET / HTTP/1.1", "\tGET / HTTP/1.1",
        "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET / HTTP/1.1 ", "GET / HTTP/1.1\t",
        "GET\t/\tHTTP/1.1", "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", "GET / a HTTP/1.1",
        "GET /a b HTTP/1.1", "GET / HTTP/1.1 HTTP/1.1", "GET / http/1.1", "GET / Http/1.1",
        "GET / HTTP/1", "GET / HTTP/", "GET / HTTP", "GET / HTTP/1.", "GET / HTTP/.1",
        "GET / HTTP/11", "GET / HTTP/1.10", "GET / HTTP/1.01", "GET / HTTP/01.1",
        "GET / HTTP/11.1", "GET / HTTP/1.1.1", "GET / HTTP/1,1", "GET / HTTP/1.x",
        "GET / HTTP/x.1", "GET / HTTP/+1.1", "GET / HTTP/1.-1", "GET / HTTP/ 1.1",
        "GET / HTTP /1.1", "GET / HTTP/\u{ff11}.1", "GET / XHTTP/1.1", "GET / HTTPS/1.1",
        "GET / ICY/1.1", "GET / HTTP/1.1;a", "GET HTTP/1.1", "/ HTTP/1.1", "HTTP/1.1",
        "HTTP/1.1 200 OK", "G,T / HTTP/1.1", "G:T / HTTP/1.1", "G(T / HTTP/1.1",
        "\"GET\" / HTTP/1.1", "G\u{e9}T / HTTP/1.1", "GET:/ HTTP/1.1", "GET,/,HTTP/1.1",
        "GET\u{a0}/ HTTP/1.1", "GET / HTTP/1.1\u{a0}", "GET \"/\" HTTP/1.1",
        "GET / \"HTTP/1.1\"",
    ];
    for line in lines {
        cases.push(refused(400, format!("{line}\r\n{rest}")));
    }
    for line in [
        "GET / HTTP/0.9",
        "GET / HTTP/0.0",
        "GET / HTTP/2.0",
        "GET / HTTP/2.1",
        "GET / HTTP/3.0",
        "GET / HTTP/9.9",
        "PRI * HTTP/2.0",
        "POST /a HTTP/2.0",
    ] {
        cases.push(refused(505, format!("{line}\r\n{rest}")));
    }
    // A simple request of HTTP/0.9 has no version and no fields.
    for line in ["GET /\r\n", "GET /\n", "GET / \r\n", "GET a\r\n"] {
        cases.push(refused(400, line).alone());
    }
    cases.push(unchanged(get("")));
    requests(tally, &[], cases);
}

fn foreign(tally: &mut Tally) {
    // A ClientHello as OpenSSL begins it, with a server name; some bytes are LFs and CRs.
    let mut hello = vec![0x16, 3, 1, 0, 0xc8, 1, 0, 0, 0xc4, 3, 3];
    hello.extend((0..32).map(|n| n * 5));
    hello.extend([0x20]);
    hello.extend(Noise::new(7).bytes(32));
    hello.extend([
        0, 4, 0x13, 1, 0x13, 2, 1, 0, 0, 0x77, 0, 0, 0, 6, 0, 4, 0, 0, 1, b'a',
    ]);
    let without_lf: Vec<u8> = hello.iter().copied().filter(|&b| b != b'\n').collect();
    let mut cases = vec![
        refused(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        refused(505, "PRI * HTTP/2.0\r\n"),
    ];
    for bytes in [
        hello.as_slice(),
        &without_lf,
        // SSL 2
        b"\x80\x2e\x01\x00\x02\x00\x15",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"SSH-2.0-OpenSSH_9.6\n",
        // SOCKS5 and SOCKS4
        b"\x05\x01\x00",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        // The PROXY protocol, both versions
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        b"EHLO a.example\r\n",
        b"USER a\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"get a\r\n",
        b"GET a.b RTSP/1.0\r\n",
        b"OPTIONS sip:a@b SIP/2.0\r\n",
        b"/gopher\r\n",
        b"\r\n\n",
        b"\n",
        b"\0",
        b"\xff\xfb\x01",
        // A WebSocket frame, an AMQP and an RDP greeting
        b"\x81\x85\0\0\0\0hello",
        b"AMQP\0\0\x09\x01\r\n",
        b"\x03\0\0\x13\x0e\xe0",
        // A byte order mark
        b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
        b"{\"a\":\"b\"}\r\n",
        b"<a/>",
    ] {
        cases.push(refused(400, bytes));
    }
    // Each must be refused without waiting for the end of a head that never comes.
    let cases = cases.into_iter().map(Case::alone).collect();
    requests(tally, &[], cases);
}

fn blank_lines(tally: &mut Tally) {
    let plain = get("");
    let body = post("Content-Length: 5\r\n", "hello");
    let mut cases = Vec::new();
    for count in [1, 2, 3, 50, 5000] {
        cases.push(forwarded("\r\n".repeat(count) + &plain, &plain));
    }
    for count in [1, 2, 50] {
        let between = [&body, "\r\n".repeat(count).as_str(), &plain].concat();
        cases.push(case(
            between,
            &[body.as_bytes(), plain.as_bytes()],
            Then::GoesOn,
        ));
    }
    #[rustfmt::skip]
    let starts = [
        "\n", "\r", "\n\n", "\r\r", "\r\r\n", "\n\r", "\r\n\n", "\r\n\r", "\r\n\n\r\n", " \r\n",
        "\t\r\n", "\r\n ", "\r\n\t\r\n", "\0\r\n", "\r\n\0\r\n", "\x0b\r\n", "a\r\n", " ", "\t",
    ];
    for start in starts {
        cases.push(refused(400, format!("{start}{plain}")));
        let behind = format!("{body}{start}{plain}");
        cases.push(case(behind, &[body.as_bytes()], Then::Refused(400)));
    }
    // Empty lines alone are no request, and no reason to answer.
    cases.push(case("\r\n\r\n\r\n", &[], Then::GoesOn));
    requests(tally, &[], cases);
}

fn large_heads(tally: &mut Tally) {
    const MIB: usize = 1 << 20;
    const HEAD: usize = 32 * 1024;
    let field = |length: usize| get(&format!("X: {}\r\n", "x".repeat(length)));
    let most = HEAD - field(0).len();
    let target = |length: usize| get("").replace(" / ", &format!(" /{} ", "x".repeat(length)));
    let longest = HEAD - target(0).len();
    let chunk = "0\r\n\r\n";
    let cases = vec![
        unchanged(field(most)),
        refused(431, field(most + 1)),
        refused(431, field(MIB)),
        refused(431, get(&format!("{}: y\r\n", "X".repeat(MIB)))),
        refused(431, get(&"x".repeat(MIB))),
        refused(431, get(&format!("X:{}y\r\n", " ".repeat(MIB)))),
        refused(431, get(&"X: y\r\n".repeat(10_000))),
        refused(431, post(&"X: y\r\n".repeat(10_000), chunk)),
        refused(431, get(&"A:\r\n".repeat(10_000))),
        refused(431, get(&"X: y\r\n".repeat(128))),
        unchanged(get(&"X: y\r\n".repeat(127))),
        unchanged(target(longest)),
        refused(431, target(longest + 1)),
        refused(414, target(HEAD)),
        refused(414, target(MIB)),
        refused(
            414,
            get("").replace(" / ", &format!(" http://{}/ ", "b".repeat(MIB))),
        ),
        refused(414, format!("GET /{}", "x".repeat(MIB))),
    ];
    requests(tally, &[], cases);
}

fn pipelines(tally: &mut Tally) {
    let plain = get("X-Number: 1\r\n");
    let last = get("Connection: close\r\n");
    let body = post("Content-Length: 5\r\n", "hello");
    let empty = post("Content-Length: 0\r\n", "");
    let chunked = format!("{CHUNKED}5\r\nhello\r\n0\r\nX: 1\r\n\r\n");
    let head = plain.replace("GET", "HEAD");
    let inside = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{plain}",
        plain.len()
    );
    let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    let join = |parts: &[&String]| parts.iter().map(|part| part.as_str()).collect::<String>();
    let mut cases = vec![
        case(
            join(&[&plain, &body, &chunked, &head, &empty, &inside, &plain]),
            &[&plain, &body, &chunked, &head, &empty, &inside, &plain].map(|r| r.as_bytes()),
            Then::GoesOn,
        ),
        case(
            join(&[&body, &last]),
            &[body.as_bytes(), get("").as_bytes()],
            Then::Closes,
        ),
        case(
            format!("{chunked}{old}"),
            &[chunked.as_bytes(), get("").as_bytes()],
            Then::Closes,
        ),
        unchanged(&inside),
        // Bytes behind a body belong to the next request, whatever they are.
        case(
            post("Content-Length: 4\r\n", "hell,"),
            &[post("Content-Length: 4\r\n", "hell").as_bytes()],
            Then::Refused(400),
        ),
        case(
            post("Content-Length: 0\r\n", "hello\r\n"),
            &[empty.as_bytes()],
            Then::Refused(400),
        ),
        case(
            get("") + "0\r\n\r\n",
            &[get("").as_bytes()],
            Then::Refused(400),
        ),
        case(
            format!("{CHUNKED}0\r\n\r\n0\r\n\r\n"),
            &[format!("{CHUNKED}0\r\n\r\n").as_bytes()],
            Then::Refused(400),
        ),
    ];
    let broken_chunk = format!("{CHUNKED}5\r\nhelloX");
    let broken_whole = format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n").into_bytes();
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(33_000));
    for (bad, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (get("X : y\r\n"), 400),
        (
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            400,
        ),
        (get("X: \0\r\n"), 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 501),
        (get(&"X: y\r\n".repeat(200)), 431),
        (long, 414),
    ] {
        for good in [&plain, &body, &chunked] {
            let input = format!("{good}{bad}{plain}");
            cases.push(case(input, &[good.as_bytes()], Then::Refused(status)));
        }
    }
    for good in [&plain, &body, &chunked] {
        let input = format!("{good}{broken_chunk}{plain}");
        let then = Then::Broken(400, broken_whole.clone());
        cases.push(case(input, &[good.as_bytes()], then));
    }
    requests(tally, &[], cases);
}

fn upgrades(tally: &mut Tally) {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let sent = |token: &str| get(&format!("{KEY}Upgrade: {token}\r\nConnection: Upgrade\r\n"));
    let with = |fields: &str| get(&format!("{KEY}{fields}"));
    let plain = with("");
    let mut cases = Vec::new();
    // Asked for, and refused by the upstream: what follows is neither tunnel nor request.
    for (fields, token) in [
        (ask, "websocket"),
        ("connection: upgrade\r\nupgrade: WebSocket\r\n", "WebSocket"),
        ("CONNECTION: uPgRaDe\r\nUPGRADE: WEBSOCKET\r\n", "WEBSOCKET"),
        (
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
            "websocket",
        ),
        (
            "Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            "websocket",
        ),
        (
            "Upgrade:\twebsocket\t\r\nConnection:,Upgrade,\r\n",
            "websocket",
        ),
        (
            "Connection: x-a, upgrade\r\nX-A: 1\r\nUpgrade: websocket\r\n",
            "websocket",
        ),
        (
            "TE: trailers\r\nConnection: TE, upgrade\r\nUpgrade: websocket\r\n",
            "websocket",
        ),
    ] {
        cases.push(forwarded_last(with(fields), sent(token)));
    }
    // A length of nothing is no body.
    cases.push(forwarded_last(
        get(&format!("Content-Length: 0\r\n{ask}")),
        get("Content-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"),
    ));
    // Not asked for: ordinary requests without the field.
    #[rustfmt::skip]
    let variants = [
        "Upgrade: websocket\r\n", "Connection: keep-alive\r\nUpgrade: websocket\r\n",
        "Connection: upgrades\r\nUpgrade: websocket\r\n",
        "Connection: xupgrade, web\r\nUpgrade: websocket\r\n",
        "Connection: \"upgrade\"\r\nUpgrade: websocket\r\n", "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade:\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
        "Connection: Upgrade\r\nUpgrade: H2C\r\n", "Connection: Upgrade\r\nUpgrade: h2\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
        "Connection: Upgrade\r\nUpgrade: websockets\r\n",
        "Connection: Upgrade\r\nUpgrade: web socket\r\n",
        "Connection: Upgrade\r\nUpgrade: \"websocket\"\r\n",
        "Connection: Upgrade\r\nUpgrade: websoc\u{212a}et\r\n",
    ];
    for fields in variants {
        cases.push(forwarded(with(fields), &plain));
    }
    // Another method or a body: ordinary requests, and the body stays one.
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "get"] {
        let request = with(ask).replace("GET", method);
        cases.push(forwarded(request, plain.replace("GET", method)));
    }
    let smuggled = String::from_utf8_lossy(SMUGGLED);
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    cases.push(forwarded(
        with(&format!("{ask}{length}")) + &smuggled,
        with(&length) + &smuggled,
    ));
    let coding = "Transfer-Encoding: chunked\r\n";
    let body = "5\r\nhello\r\n0\r\n\r\n";
    cases.push(forwarded(
        with(&format!("{ask}{coding}")) + body,
        with(coding) + body,
    ));
    cases.push(forwarded(
        with(&format!("{coding}{ask}")) + "0\r\n\r\n",
        with(coding) + "0\r\n\r\n",
    ));
    // HTTP/1.0 knows no upgrade (RFC 9110 §7.8).
    let old = with(ask).replace("HTTP/1.1", "HTTP/1.0");
    cases.push(forwarded_last(&old, &plain));
    cases.push(forwarded(
        old.replace("Connection: ", "Connection: keep-alive, "),
        &plain,
    ));
    // What is wrong with a request stays wrong.
    cases.push(refused(400, with(&format!("{ask}Content-Length: x\r\n"))));
    cases.push(refused(400, with(&format!("{ask}Host: b\r\n"))));
    cases.push(refused(
        400,
        with("Connection: Upgrade\r\nUpgrade : websocket\r\n"),
    ));
    cases.push(refused(
        400,
        with("Connection: Upgrade\r\nUpgrade: web\r\n socket\r\n"),
    ));
    cases.push(refused(505, with(ask).replace("HTTP/1.1", "HTTP/2.0")));
    requests(tally, &[], cases);
}

/// One response of a scripted upstream.
struct Reply {
    /// What the client asks, PATH standing for the path.
    request: &'static str,
    send: Vec<u8>,
    /// How many bytes of that are more than a response.
    surplus: usize,
    end: End,
    client: Gets,
    /// The upstream's connection is used for the next request.
    reused: bool,
}

/// What the upstream does behind a response.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Stays,
    Closes,
    Resets,
}

/// What the client gets of a response.
enum Gets {
    /// Exactly these bytes, however cut into chunks.
    Exactly(Vec<u8>),
    /// 502, at most interim responses before it.
    BadGateway,
    /// 502, or a part of this response that cannot be taken for the whole.
    AtMost(Vec<u8>),
}

const ASK: &str = "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n";
const ASK_HEAD: &str = "HEAD PATH HTTP/1.1\r\nHost: a\r\n\r\n";
const ASK_OLD: &str = "GET PATH HTTP/1.0\r\nHost: a\r\n\r\n";
const ASK_UPGRADE: &str =
    "GET PATH HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A response that nobody asked for.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";

impl Reply {
    fn new(send: impl AsRef<[u8]>, client: Gets) -> Reply {
        Reply {
            request: ASK,
            send: send.as_ref().to_vec(),
            surplus: 0,
            end: End::Stays,
            client,
            reused: false,
        }
    }

    /// Delivered as `client`, and the upstream's connection is used again.
    fn delivered(send: impl AsRef<[u8]>, client: impl AsRef<[u8]>) -> Reply {
        let mut reply = Reply::new(send, Gets::Exactly(client.as_ref().to_vec()));
        reply.reused = true;
        reply
    }

    fn bad(send: impl AsRef<[u8]>) -> Reply {
        Reply::new(send, Gets::BadGateway)
    }

    fn broken(send: impl AsRef<[u8]>, whole: impl AsRef<[u8]>) -> Reply {
        Reply::new(send, Gets::AtMost(whole.as_ref().to_vec()))
    }

    fn to(mut self, request: &'static str) -> Reply {
        self.request = request;
        self
    }

    fn then(mut self, end: End) -> Reply {
        self.end = end;
        self.reused = false;
        self
    }

    /// With more than a response, which spoils the upstream's connection.
    fn followed_by(mut self, surplus: impl AsRef<[u8]>) -> Reply {
        self.send.extend_from_slice(surplus.as_ref());
        self.surplus = surplus.as_ref().len();
        self.reused &= self.surplus == 0;
        self
    }

    /// The upstream's connection ends behind this.
    fn last(mut self) -> Reply {
        self.reused = false;
        self
    }

    fn method(&self) -> &'static str {
        self.request.split(' ').next().unwrap()
    }

    fn outcome(&self) -> String {
        let upstream = match self.reused {
            true => "upstream's connection kept",
            false => "upstream's connection closed",
        };
        match self.client {
            Gets::Exactly(_) => format!("delivered exactly, {upstream}"),
            Gets::BadGateway => "502".to_owned(),
            Gets::AtMost(_) => "502 or seen as cut short".to_owned(),
        }
    }

    /// Whether only the connection's end tells where the response ends.
    fn ends_with_connection(&self) -> bool {
        let send = String::from_utf8_lossy(&self.send).to_ascii_lowercase();
        !matches!(self.client, Gets::BadGateway)
            && !send.contains("content-length")
            && !send.contains("transfer-encoding")
    }

    /// Checks what a client received. `cut` says that not all of it was sent.
    fn check(&self, got: &Received, cut: bool, what: &str) {
        let mut rest = got.bytes.as_slice();
        let mut heads = Vec::new();
        let last = loop {
            let (message, used) = Message::read(rest, Some(self.method()));
            rest = &rest[used..];
            if message.whole && (100..200).contains(&message.status()) && message.status() != 101 {
                heads.push(message);
            } else {
                break message;
            }
        };
        let mut last = last;
        // Behind a reset nobody takes it for whole.
        last.whole &= !last.until_end || got.clean_end == Some(true);
        let received = shown(&got.bytes);
        assert!(rest.is_empty(), "{what}: surplus in {received}");
        assert!(!received.contains("EVIL"), "{what}: {received}");
        let is_bad_gateway = last.whole && last.status() == 502;
        if is_bad_gateway {
            let status = last.field("proxy-status").unwrap_or_default();
            assert!(
                status.starts_with("simple-proxy; error="),
                "{what}: {received}"
            );
        }
        match &self.client {
            Gets::Exactly(whole) => {
                let mut expected = Vec::new();
                let mut rest = whole.as_slice();
                while !rest.is_empty() {
                    let (message, used) = Message::read(rest, Some(self.method()));
                    rest = &rest[used..];
                    expected.push(message);
                }
                heads.push(last.clone());
                if !cut {
                    assert_eq!(heads, expected, "{what}: {received}");
                    return;
                }
                let final_one = expected.last().unwrap();
                let is_cut = last.is_part_of(final_one) && got.tells_the_cut(&last);
                assert!(
                    is_bad_gateway || heads == expected || is_cut,
                    "{what}: {received}"
                );
            }
            Gets::BadGateway => assert!(is_bad_gateway, "{what}: {received}"),
            Gets::AtMost(whole) => {
                let whole = Message::read(whole, Some(self.method())).0;
                let is_cut = last.is_part_of(&whole) && got.tells_the_cut(&last);
                assert!(is_bad_gateway || is_cut, "{what}: {received}");
            }
        }
    }
}

/// What a client received on one connection, and how that ended.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// None while the connection goes on; whether its end was clean.
    clean_end: Option<bool>,
}

impl Received {
    fn read_to_end(client: &mut Client) -> Received {
        let mut received = Received::default();
        while received.clean_end.is_none() {
            received.read_more(client);
        }
        received
    }

    fn read_more(&mut self, client: &mut Client) {
        let mut chunk = [0; 64 * 1024];
        match read_some(&mut client.stream, &mut chunk) {
            Ok(0) => self.clean_end = Some(true),
            Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
            Err(error) => {
                let kind = error.kind();
                assert_ne!(kind, std::io::ErrorKind::WouldBlock, "nothing comes");
                self.clean_end = Some(false);
            }
        }
    }

    /// Reads until a final response is whole or the connection ends.
    fn read(client: &mut Client, method: &str) -> Received {
        let mut received = Received::default();
        while received.clean_end.is_none() {
            let mut rest = received.bytes.as_slice();
            let is_whole = loop {
                let (message, used) = Message::read(rest, Some(method));
                if !message.whole || message.until_end {
                    break false;
                }
                rest = &rest[used..];
                if !matches!(message.status(), 100 | 102..=199) {
                    break !closes(&message);
                }
            };
            if is_whole {
                return received;
            }
            received.read_more(client);
        }
        received
    }

    /// Whether the client can tell that `message`, the last, is not whole: by its own
    /// framing, or else by a reset.
    fn tells_the_cut(&self, message: &Message) -> bool {
        match self.clean_end {
            None => false,
            Some(clean) => !clean || !message.until_end,
        }
    }
}

fn closes(message: &Message) -> bool {
    let connection = message.field("connection").unwrap_or_default();
    message.head.starts_with(b"HTTP/1.0") || connection.eq_ignore_ascii_case("close")
}

/// Waits until everything sent on `socket` has arrived in the kernel of the other side, or
/// that side is gone.
fn wait_until_delivered(socket: &TcpStream) {
    let (Ok(own), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) else {
        return;
    };
    let hex = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => {
            let ip = u32::from_ne_bytes(ip.octets());
            format!("{ip:08X}:{:04X}", address.port())
        }
        std::net::IpAddr::V6(_) => unreachable!("the tests use IPv4"),
    };
    let ends = format!(" {} {} ", hex(own), hex(peer));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let table = BufReader::new(File::open("/proc/net/tcp").unwrap());
        let mut lines = table.lines().map(Result::unwrap);
        let Some(line) = lines.find(|line| line.contains(&ends)) else {
            return;
        };
        // sl, both addresses, state, then the bytes that are not acknowledged
        let queues = line.split_whitespace().nth(4).unwrap();
        if queues.starts_with("00000000:") {
            return;
        }
        assert!(Instant::now() < deadline, "the bytes do not arrive");
        thread::sleep(Duration::from_millis(1));
    }
}

/// An upstream that plays the reply named in the path, in the way named there, and
/// answers everything else with its path and the number of the connection. Tells the path
/// and the number of the connection when a reply was played to its end.
fn stage(replies: Arc<Vec<Reply>>) -> (SocketAddr, Receiver<(String, usize)>) {
    let connections = AtomicUsize::new(0);
    let (report, played) = channel();
    let report = Mutex::new(report);
    let address = origin(move |mut client| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        while let Some(head) = client.try_head() {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let Some(name) = path.strip_prefix("/case/") else {
                client.try_send(ok(&format!("own {path} on {number}")).as_bytes());
                continue;
            };
            let (case, way) = name.split_once('/').unwrap();
            let reply = &replies[case.parse::<usize>().unwrap()];
            if let Some(length) = way.strip_prefix("prefix/") {
                client.try_send(&reply.send[..length.parse().unwrap()]);
                return;
            }
            // What the pool cannot know of yet it cannot judge: surplus comes in the segment
            // in which the response ends.
            let apart = match way {
                "bytes" => (reply.send.len() - reply.surplus).saturating_sub(1),
                _ => 0,
            };
            let (apart, together) = reply.send.split_at(apart);
            for piece in apart.chunks(1).chain([together]) {
                if !client.try_send(piece) {
                    break;
                }
            }
            let report = || report.lock().unwrap().send((path.clone(), number)).unwrap();
            match reply.end {
                End::Stays => report(),
                End::Closes => {
                    drop(client);
                    return report();
                }
                End::Resets => {
                    client.reset();
                    return report();
                }
            }
        }
    });
    (address, played)
}

/// Goes through a table of responses.
fn replies(tally: &mut Tally, replies: Vec<Reply>) {
    let replies = Arc::new(replies);
    let (upstream, played) = stage(replies.clone());
    // One thread, and so one pool: what one request leaves behind the next one would get.
    let proxy = Proxy::before(upstream, &["--threads", "1"]);
    let own = |client: &mut Client, path: &str, what: &str| -> usize {
        client.send(&ASK.replace("PATH", path));
        let answer = client.response().text();
        let number = answer.strip_prefix(&format!("own {path} on "));
        let number = number.unwrap_or_else(|| panic!("{what}: then {answer}"));
        number.parse().unwrap()
    };
    let mut known: BTreeMap<&str, Prefixes> = BTreeMap::new();
    for (at, reply) in replies.iter().enumerate() {
        let mut runs = 0;
        for way in ["once", "bytes"] {
            if way == "bytes" && reply.send.len() > SHORT {
                continue;
            }
            let what = format!("{} {way}", shown(&reply.send));
            let mut client = proxy.connect();
            let path = format!("/case/{at}/{way}");
            client.send(&reply.request.replace("PATH", &path));
            let got = Received::read(&mut client, reply.method());
            reply.check(&got, false, &what);
            // A reply may have been played twice, where the program may try again.
            let number = loop {
                let (played, number) = played.recv_timeout(PATIENCE).expect(&what);
                if played == path {
                    break number;
                }
            };
            // The next request gets its own answer: on this connection, and on another.
            let mut next = match got.clean_end {
                None => client,
                Some(_) => proxy.connect(),
            };
            let used = own(&mut next, &format!("/own/{at}/{way}"), &what);
            assert_eq!(
                used == number,
                reply.reused,
                "{what}: the pool's connection"
            );
            own(&mut proxy.connect(), &format!("/another/{at}/{way}"), &what);
            runs += 1;
        }
        // Where only the connection's end tells, every prefix is a whole response.
        if reply.ends_with_connection() {
            tally.case(reply.outcome(), runs);
            continue;
        }
        let lengths = known.entry(reply.request).or_default().of(&reply.send);
        for lengths in lengths.chunks(AT_ONCE) {
            let clients: Vec<Client> = lengths
                .iter()
                .map(|length| {
                    let mut client = proxy.connect();
                    let path = format!("/case/{at}/prefix/{length}");
                    client.send(&reply.request.replace("PATH", &path));
                    client
                })
                .collect();
            for (mut client, length) in clients.into_iter().zip(lengths) {
                let what = format!("{} cut at {length}", shown(&reply.send));
                let got = Received::read(&mut client, reply.method());
                reply.check(&got, true, &what);
            }
        }
        tally.case(reply.outcome(), runs + lengths.len());
    }
}

/// A response with these field lines and a body of five bytes.
fn hello(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{fields}\r\nhello")
}

fn answer_lines(tally: &mut Tally) {
    let rest = "Content-Length: 5\r\n\r\nhello";
    let mut all = Vec::new();
    #[rustfmt::skip]
    let lines = [
        "HTTP/1.1 20 OK", "HTTP/1.1 2 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 20000 OK",
        "HTTP/1.1 200000000000000000000 OK", "HTTP/1.1 099 No", "HTTP/1.1 000 No",
        "HTTP/1.1 2x0 OK", "HTTP/1.1 x00 OK", "HTTP/1.1 20x OK", "HTTP/1.1 +20 OK",
        "HTTP/1.1 -20 OK", "HTTP/1.1 2.0 OK", "HTTP/1.1 0x2 OK", "HTTP/1.1 \u{ff12}00 OK",
        "HTTP/1.1  200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 \t200 OK", "HTTP/1.1 200\tOK",
        "HTTP/1.1200 OK", "HTTP/1.1 200OK", "HTTP/1.1 OK", "HTTP/1.1 OK 200", "HTTP/1.1",
        "HTTP/1.1 ", "HTTP/1", "HTTP/", "HTTP", "200 OK", "200", "OK", "HTTP/2.0 200 OK",
        "HTTP/2 200 OK", "HTTP/0.9 200 OK", "HTTP/11.1 200 OK", "HTTP/1.10 200 OK",
        "HTTP/01.1 200 OK", "HTTP/1,1 200 OK", "HTTP/x.1 200 OK", "http/1.1 200 OK",
        "Http/1.1 200 OK", "ICY 200 OK", "RTSP/1.0 200 OK", "XHTTP/1.1 200 OK",
        " HTTP/1.1 200 OK", "\tHTTP/1.1 200 OK", "\0HTTP/1.1 200 OK", "\r\nHTTP/1.1 200 OK",
        "\nHTTP/1.1 200 OK", "\rHTTP/1.1 200 OK", "\r\n\r\nHTTP/1.1 200 OK",
        "\u{feff}HTTP/1.1 200 OK", "garbage", "<html>", "GET / HTTP/1.1", "SSH-2.0-OpenSSH_9.6",
        "220 a.example ESMTP", "-ERR unknown command",
        // What would split a response for a client that ends lines elsewhere
        "HTTP/1.1 200 OK\rSet-Cookie: evil", "HTTP/1.1 200 OK\nSet-Cookie: evil",
        "HTTP/1.1 200 OK\n\nEVIL", "HTTP/1.1 200 OK\n\r\nEVIL",
        "HTTP/1.1 200 OK\r\r\nSet-Cookie: evil", "HTTP/1.1 200 O\rK", "HTTP/1.1 200 \r",
        "HTTP/1.1 200 OK\r", "HTTP/1.1 200\rOK", "HTTP/1.1 200\nOK", "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\x08K", "HTTP/1.1 200 O\x0bK", "HTTP/1.1 200 O\x1b[2JK",
        "HTTP/1.1 200 O\x7fK", "HTTP/1.1 200 OK\r\n evil", "HTTP/1.1 200 OK\r\n\tevil",
        "HTTP/1.1 200 OK\r\nevil",
    ];
    for line in lines {
        all.push(Reply::bad(format!("{line}\r\n{rest}")));
    }
    // A TLS alert and the SETTINGS of HTTP/2: no line will ever end.
    all.push(Reply::bad(b"\x15\x03\x01\x00\x02\x02\x46"));
    all.push(Reply::bad(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64"));
    all.push(Reply::bad(b"\0").then(End::Closes));
    all.push(Reply::bad(b"").then(End::Closes));
    all.push(Reply::bad(b"").then(End::Resets));
    all.push(Reply::bad("garbage").then(End::Closes));
    for (line, sent) in [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 ", "HTTP/1.1 200 "),
        ("HTTP/1.1 200", "HTTP/1.1 200 "),
        (
            "HTTP/1.1 404 Not\there at all",
            "HTTP/1.1 404 Not\there at all",
        ),
        ("HTTP/1.1 299 ~!@", "HTTP/1.1 299 ~!@"),
        ("HTTP/1.1 599 200 OK", "HTTP/1.1 599 200 OK"),
        (
            "HTTP/1.1 400 HTTP/1.1 200 OK",
            "HTTP/1.1 400 HTTP/1.1 200 OK",
        ),
    ] {
        all.push(Reply::delivered(
            format!("{line}\r\n{rest}"),
            format!("{sent}\r\n{rest}"),
        ));
    }
    let old = format!("HTTP/1.0 200 OK\r\n{rest}");
    all.push(Reply::delivered(old, hello("")).last());
    let old = format!("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n{rest}");
    all.push(Reply::delivered(old, hello("")).last());
    replies(tally, all);
}

fn answer_fields(tally: &mut Tally) {
    let mut all = Vec::new();
    #[rustfmt::skip]
    let lines = [
        "A : b\r\n", "A\t: b\r\n", " A: b\r\n", "\tA: b\r\n", "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n", "A:\r\n b\r\n", "A: b\r\n \r\n", "A\r\n", ": b\r\n", ":\r\n",
        "A B: c\r\n", "A(: b\r\n", "A\"B: c\r\n", "A@B: c\r\n", "\u{e9}: b\r\n", "A: b\n",
        "A: b\rB: c\r\n", "A: b\r\r\n", "A:\rb\r\n", "\rA: b\r\n", "\nA: b\r\n", "A\r: b\r\n",
        "A\0: b\r\n", "A: \0\r\n", "A: b\0c\r\n", "A: b\x01c\r\n", "A: b\x08c\r\n",
        "A: b\x0bc\r\n", "A: b\x0cc\r\n", "A: b\x1bc\r\n", "A: b\x7f\r\n", "A\x7f: b\r\n",
        "Set-Cookie : a=b\r\n", "Content-Length : 5\r\n", "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n", "A: b\nContent-Length: 0\r\n", "A: b\n\nEVIL\r\n",
        "A: b\r\n\nEVIL\r\n",
    ];
    for line in lines {
        all.push(Reply::bad(hello(line)));
        let in_front = format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 5\r\n\r\nhello");
        all.push(Reply::bad(in_front));
    }
    all.push(Reply::bad(hello("A: b\r\n").replace("\r\n", "\n")));
    all.push(Reply::bad(hello("A: b\r\n").replace("\r\n\r\n", "\n\n")));
    all.push(Reply::bad(hello("A: b\r\n").replace("\r\n\r\n", "\r\n\n")));
    all.push(Reply::bad(hello(&"X: y\r\n".repeat(128))));
    all.push(Reply::bad(hello(&"X: y\r\n".repeat(10_000))));
    all.push(Reply::bad(hello(&format!(
        "X: {}\r\n",
        "x".repeat(1 << 20)
    ))));
    all.push(Reply::bad(hello("").replace("OK", &"x".repeat(1 << 20))));
    for (line, sent) in [
        ("", ""),
        ("A:b\r\n", "A: b\r\n"),
        ("A: \t \r\n", "A: \r\n"),
        ("A:  b\tc  \r\n", "A: b\tc\r\n"),
        ("!#$%&'*+-.^_`|~0aZ: v\r\n", "!#$%&'*+-.^_`|~0aZ: v\r\n"),
        (
            "A: \u{e9}\r\na: 1\r\nA: 2\r\n",
            "A: \u{e9}\r\na: 1\r\nA: 2\r\n",
        ),
        (
            "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
            "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
        ),
        (
            "Location: http://b/?%0d%0aX: y\r\n",
            "Location: http://b/?%0d%0aX: y\r\n",
        ),
        (
            "Connection: x-a\r\nConnection: X-B\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n",
            "X-C: 3\r\n",
        ),
        (
            "Connection: content-length, set-cookie\r\nSet-Cookie: a\r\n",
            "",
        ),
        ("Keep-Alive: timeout=5\r\nProxy-Connection: close\r\n", ""),
        (
            "Proxy-Authenticate: Basic\r\nTE: trailers\r\nUpgrade: h2c\r\n",
            "",
        ),
    ] {
        all.push(Reply::delivered(hello(line), hello(sent)));
    }
    all.push(Reply::delivered(hello("Connection: close\r\n"), hello("")).last());
    all.push(Reply::delivered(hello("Connection: x, CLOSE\r\n"), hello("")).last());
    replies(tally, all);
}

const IN_CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn answer_framing(tally: &mut Tally) {
    let mut all = Vec::new();
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let with = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    #[rustfmt::skip]
    let variants = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 15\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n", "Content-Length: 5, 5\r\n",
        "Content-Length: 5, 6\r\n", "Content-Length: 5,\r\n", "Content-Length:\r\n",
        "Content-Length: +5\r\n", "Content-Length: -5\r\n", "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n", "Content-Length: 5.0\r\n", "Content-Length: 5;\r\n",
        "Content-Length: \"5\"\r\n", "Content-Length: five\r\n",
        "Content-Length: 18446744073709551616\r\n", "Content-Length: 18446744073709551621\r\n",
        "Transfer-Encoding:\r\n", "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n", "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n", "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    ];
    for fields in variants {
        all.push(Reply::bad(with(fields, body)));
        // Where there is no body, these fields still say that something is wrong.
        all.push(Reply::bad(with(fields, "")).to(ASK_HEAD));
        let no_content = with(fields, "").replace("200 OK", "204 No Content");
        all.push(Reply::bad(no_content));
        let not_modified = with(fields, "").replace("200 OK", "304 Not Modified");
        all.push(Reply::bad(not_modified));
    }
    let chunked = with("Transfer-Encoding: chunked\r\n", body);
    all.push(Reply::bad(chunked.replace("HTTP/1.1", "HTTP/1.0")));
    for fields in [
        "Content-Length: 5\r\n",
        "Content-Length:5\r\n",
        "Content-Length:\t5 \r\n",
        "Content-Length: 005\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 05\r\n",
    ] {
        all.push(Reply::delivered(with(fields, "hello"), hello("")));
    }
    for fields in [
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:Chunked\r\n",
        "Transfer-Encoding: \tCHUNKED\t \r\n",
    ] {
        let sent = with("Transfer-Encoding: chunked\r\n", body);
        all.push(Reply::delivered(with(fields, body), &sent));
    }
    for (body, sent) in [
        ("5;a=b\r\nhello\r\n0;c\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("05\r\nhello\r\n000\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        (
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        ("0\r\n\r\n", "0\r\n\r\n"),
        (
            "5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
        ),
        (
            "0\r\nContent-Length: 5\r\nHost: b\r\nX: 1\r\n\r\n",
            "0\r\nX: 1\r\n\r\n",
        ),
        (
            "0\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n",
            "0\r\n\r\n",
        ),
    ] {
        let (send, sent) = (format!("{IN_CHUNKS}{body}"), format!("{IN_CHUNKS}{sent}"));
        all.push(Reply::delivered(send, sent));
    }
    // HTTP/1.0 knows no chunks; and only the upstream's end delimits the others.
    let chunks = format!("{IN_CHUNKS}{body}");
    let to_old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";
    all.push(Reply::delivered(chunks, to_old).to(ASK_OLD));
    let until_close = "HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello";
    let sent =
        "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    all.push(Reply::delivered(until_close, sent).then(End::Closes));
    let old = "HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello";
    all.push(Reply::delivered(old, sent).then(End::Closes));
    let to_old = "HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\nhello";
    all.push(
        Reply::delivered(until_close, to_old)
            .to(ASK_OLD)
            .then(End::Closes),
    );
    replies(tally, all);
}

fn answers_cut(tally: &mut Tally) {
    let mut all = Vec::new();
    let length = hello("");
    let chunks = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
    // Every way to end early is also among the prefixes of what is delivered whole.
    for end in [End::Closes, End::Resets] {
        for (send, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", &length),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
                &chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n",
                &chunks,
            ),
        ] {
            all.push(Reply::broken(send, whole).then(end));
            // For HTTP/1.0 chunks become a body that the connection's end delimits: only a
            // reset tells that it is not whole.
            // One byte more than any of these sends makes each a part.
            let mut old = whole.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            if send.contains("chunked") {
                old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!".to_owned();
            }
            all.push(Reply::broken(send, old).to(ASK_OLD).then(end));
        }
        all.push(Reply::bad("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n").then(end));
        all.push(Reply::bad("HTTP/1.1 200 OK").then(end));
        all.push(Reply::bad("HTTP/1.1 103 Early Hints\r\n\r\n").then(end));
    }
    let until_close = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
    all.push(Reply::broken("HTTP/1.1 200 OK\r\n\r\nhello", until_close).then(End::Resets));
    // A chunked body that breaks.
    #[rustfmt::skip]
    let bodies = [
        "X\r\nhello\r\n0\r\n\r\n", "\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n", "5;a\nhello\r\n0\r\n\r\n", "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n", "4\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n-0\r\n\r\n", "5\r\nhello\r\n0\n\r\n", "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\nX : 1\r\n\r\n", "5\r\nhello\r\n0\r\n X: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n", "5\r\nhello\r\n0\r\nX: 1\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n", "5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n", "5\r\nhello\r\nHTTP/1.1 200 OK\r\n\r\n",
    ];
    for body in bodies {
        all.push(Reply::broken(format!("{IN_CHUNKS}{body}"), &chunks));
        let old = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!";
        all.push(Reply::broken(format!("{IN_CHUNKS}{body}"), old).to(ASK_OLD));
    }
    replies(tally, all);
}

fn answers_without_content(tally: &mut Tally) {
    let mut all = Vec::new();
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    // A body that must not be there spoils the upstream's connection.
    for surplus in ["", "hello", EVIL, "\r\n", "0\r\n\r\n"] {
        for (head, request, sent) in [
            (length, ASK_HEAD, length),
            (IN_CHUNKS, ASK_HEAD, IN_CHUNKS),
            (
                "HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n",
                ASK_HEAD,
                "HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\n\r\n",
                ASK,
                "HTTP/1.1 204 None\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\n\r\n",
                ASK_HEAD,
                "HTTP/1.1 204 None\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Same\r\nETag: \"a\"\r\n\r\n",
                ASK,
                "HTTP/1.1 304 Same\r\nETag: \"a\"\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
                ASK,
                "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
            ),
            (
                "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
                ASK,
                "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
            ),
        ] {
            let reply = Reply::delivered(head, sent).to(request);
            all.push(reply.followed_by(surplus));
        }
        // To GET only a close would end this one: the upstream may well close now.
        let unframed = "HTTP/1.1 200 OK\r\n\r\n";
        let reply = Reply::delivered(unframed, unframed).to(ASK_HEAD);
        all.push(reply.followed_by(surplus).last());
        for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            if surplus.is_empty() {
                continue;
            }
            let send = format!("HTTP/1.1 204 None\r\n{fields}\r\n");
            let reply = Reply::delivered(send, "HTTP/1.1 204 None\r\n\r\n");
            all.push(reply.followed_by(surplus));
        }
    }
    // 205 is framed like any other (RFC 9112 §6.3): what it should not have is delivered.
    let reset = "HTTP/1.1 205 Reset\r\nContent-Length: 5\r\n\r\nhello";
    all.push(Reply::delivered(reset, reset));
    replies(tally, all);
}

fn interim(tally: &mut Tally) {
    let mut all = Vec::new();
    let last = hello("");
    for heads in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nX: y\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n",
        "HTTP/1.1 199 What\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Again\r\n\r\n",
        &"HTTP/1.1 102 Processing\r\n\r\n".repeat(20),
    ] {
        let whole = format!("{heads}{last}");
        all.push(Reply::delivered(&whole, &whole));
        let old = last.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        all.push(Reply::delivered(&whole, old).to(ASK_OLD));
        // Interim responses alone are no answer.
        all.push(Reply::bad(heads).then(End::Closes));
    }
    // They have no content, whatever they say; what follows is the next head.
    for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let send = format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n{last}");
        all.push(Reply::delivered(
            send,
            format!("HTTP/1.1 103 Early Hints\r\n\r\n{last}"),
        ));
        let send = format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\nEVIL\r\n{last}");
        all.push(Reply::bad(send));
    }
    for request in [ASK, ASK_OLD] {
        // Without end; the upstream would go on for as long as it is read.
        let without_end = "HTTP/1.1 102 Processing\r\n\r\n".repeat(5000);
        all.push(Reply::bad(without_end).to(request));
        let without_end = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
        all.push(Reply::bad(without_end).to(request));
    }
    for head in [
        "HTTP/1.1 103 Early Hints\r\nA : b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nA: \0\r\n\r\n",
        "HTTP/1.1 103 Early\rHints\r\n\r\n",
        "HTTP/1.1 103 Early Hints\n\n",
        "HTTP/1.1 1 Hint\r\n\r\n",
        "HTTP/1.1 1030 Hints\r\n\r\n",
    ] {
        all.push(Reply::bad(format!("{head}{last}")));
    }
    // A switch that was not asked for, or to something else.
    let switch = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
    let right = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for request in [ASK, ASK_HEAD, ASK_OLD] {
        all.push(Reply::bad(switch(right)).to(request));
        all.push(Reply::bad(switch("") + &last).to(request));
        all.push(Reply::bad(switch(right) + EVIL).to(request));
    }
    #[rustfmt::skip]
    let variants = [
        "", "Connection: Upgrade\r\n", "Upgrade: websocket\r\n",
        "Connection: close\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade:\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
        "Connection: Upgrade\r\nUpgrade: websockets\r\n",
        "Connection: Upgrade\r\nUpgrade: websoc\u{212a}et\r\n",
        "Connection: Upgrade\r\nUpgrade : websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: web\r\n socket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\0\r\n",
    ];
    for fields in variants {
        all.push(Reply::bad(switch(fields)).to(ASK_UPGRADE));
        all.push(Reply::bad(switch(fields) + EVIL).to(ASK_UPGRADE));
    }
    let wrong_line = switch(right).replace("101 ", "1010 ");
    all.push(Reply::bad(wrong_line).to(ASK_UPGRADE));
    replies(tally, all);
}

fn surplus(tally: &mut Tally) {
    let mut all = Vec::new();
    let chunks = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\n\r\n");
    let trailers = format!("{IN_CHUNKS}5\r\nhello\r\n0\r\nX: 1\r\n\r\n");
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
    let length = hello("");
    let interim = format!("HTTP/1.1 103 Early Hints\r\n\r\n{length}");
    for whole in [&length, &empty, &chunks, &trailers, &interim] {
        let split = format!("{EVIL}{EVIL}");
        for more in [
            EVIL,
            &split,
            "EVIL",
            "H",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nEVIL",
            "\r\n",
            "\n",
            "\r",
            " ",
            "\0",
            "0\r\n\r\n",
        ] {
            all.push(Reply::delivered(whole, whole).followed_by(more));
        }
    }
    // More than any buffer holds.
    let flood = "EVIL".repeat(50_000);
    all.push(Reply::delivered(&length, &length).followed_by(flood));
    // What an upstream's own mistake in a header splits off is surplus as well.
    let split = hello("X: y\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n");
    all.push(Reply::bad(split));
    let whole = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n";
    all.push(Reply::delivered(whole, whole).followed_by(EVIL));
    replies(tally, all);
}

fn idle_surplus(tally: &mut Tally) {
    let late = [
        EVIL,
        "EVIL",
        "H",
        "\r\n",
        "\0",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nEVIL",
        "",
    ];
    for more in late {
        for end in [End::Stays, End::Closes, End::Resets] {
            if more.is_empty() && end == End::Stays {
                continue;
            }
            let (go_on, wait) = channel::<()>();
            let wait = Mutex::new(wait);
            let (report, done) = channel();
            let report = Mutex::new(report);
            let connections = AtomicUsize::new(0);
            let upstream = origin(move |mut client| {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                while client.try_head().is_some() {
                    client.send(&ok(&format!("on {number}")));
                    if number > 0 {
                        continue;
                    }
                    wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                    client.send(more);
                    wait_until_delivered(&client.socket);
                    match end {
                        End::Stays => report.lock().unwrap().send(()).unwrap(),
                        End::Closes => {
                            drop(client);
                            return report.lock().unwrap().send(()).unwrap();
                        }
                        End::Resets => {
                            client.reset();
                            return report.lock().unwrap().send(()).unwrap();
                        }
                    }
                }
            });
            let proxy = Proxy::before(upstream, &["--threads", "1"]);
            let what = shown(more.as_bytes());
            let mut first = proxy.connect();
            first.send(&get(""));
            assert_eq!(first.response().text(), "on 0");
            go_on.send(()).unwrap();
            done.recv_timeout(PATIENCE).unwrap();
            // Not to another client, and not to the same one.
            assert_eq!(proxy.get("/").text(), "on 1", "{what}");
            first.send(&post("Content-Length: 5\r\n", "hello"));
            let head = first.head();
            assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
            assert_eq!(first.exactly(4), b"on 1", "{what}");
            tally.case("nobody gets it, upstream's connection closed", 1);
        }
    }
}

/// The head of a request is enough for an answer, which keeps the connection.
fn answer_heads(seen: &[u8]) -> Option<(usize, Vec<u8>)> {
    find(seen, b"\r\n\r\n").map(|end| (end + 4, ok("early").into_bytes()))
}

fn early(tally: &mut Tally) {
    let smuggled = String::from_utf8_lossy(SMUGGLED).into_owned();
    let inside = smuggled.repeat(3);
    let length = post(&format!("Content-Length: {}\r\n", inside.len()), "");
    let one_more = post(&format!("Content-Length: {}\r\n", inside.len() + 1), "");
    let chunk = format!("{:x}\r\n{inside}\r\n0\r\n\r\n", inside.len());
    let wait = "Expect: 100-continue\r\n";
    let waiting = length.replace("\r\n\r\n", &format!("\r\n{wait}\r\n"));
    let waiting_chunked = CHUNKED.replace("\r\n\r\n", &format!("\r\n{wait}\r\n"));
    for (head, body) in [
        (&length, &inside),
        (&one_more, &inside),
        (&CHUNKED.to_owned(), &chunk),
        // Not one byte of the body comes; the next request stands in its place.
        (&length, &smuggled),
        (&CHUNKED.to_owned(), &smuggled),
        (&waiting, &inside),
        (&waiting, &smuggled),
        (&waiting_chunked, &smuggled),
        (&waiting_chunked, &chunk),
    ] {
        let recorder = Recorder::answering(answer_heads);
        let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
        let mut client = proxy.connect();
        client.send(head);
        let response = client.response();
        assert_eq!(response.text(), "early");
        assert_eq!(response.field("connection"), Some("close"), "{head}");
        client.try_send(body.as_bytes());
        assert_eq!(client.rest(), b"", "{head}{body}");
        drop(client);
        // Another client's request takes a connection of its own.
        assert_eq!(proxy.get("/own").text(), "early");
        drop(proxy);
        let mut seen = recorder.settle();
        seen.sort();
        let own = b"GET /own HTTP/1.1\r\nHost: a.example\r\n\r\n";
        assert_eq!(seen.len(), 2, "{head}");
        assert_eq!(seen[0], own, "{head}");
        // Nothing of the body was there when the answer came.
        assert!(seen[1] == head.as_bytes(), "{}", shown(&seen[1]));
        tally.case("delivered, closed, body never a request", 1);
    }
}

fn refused_switch(tally: &mut Tally) {
    const ANSWERS: [&str; 13] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 302 Found\r\nContent-Length: 4\r\nLocation: /\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n",
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n",
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 4\r\nSec-WebSocket-Version: 13\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n",
        // The proxy's own refusal: the wrong protocol.
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    ];
    let recorder = Recorder::answering(|seen| {
        let end = find(seen, b"\r\n\r\n")? + 4;
        let path = String::from_utf8_lossy(&seen[..end]);
        let Some(number) = path.strip_prefix("GET /answer/") else {
            return Some((end, ok("own").into_bytes()));
        };
        let head = ANSWERS[number.split(' ').next().unwrap().parse::<usize>().unwrap()];
        let body = match head {
            _ if head.contains("Content-Length") => "seen",
            _ if head.contains("chunked") => "4\r\nseen\r\n0\r\n\r\n",
            _ => "",
        };
        Some((end, format!("{head}\r\n{body}").into_bytes()))
    });
    let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
    for (at, answer) in ANSWERS.iter().enumerate() {
        let status: u16 = answer[9..12].parse().unwrap();
        for behind in [
            SMUGGLED,
            &frame(SMUGGLED, MASK),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[b"\r\n", SMUGGLED].concat(),
        ] {
            let request = ASK_UPGRADE.replace("PATH", &format!("/answer/{at}"));
            let mut client = proxy.connect();
            client.send_bytes(&[request.as_bytes(), behind].concat());
            let got = responses(&client.rest(), &[]);
            let statuses: Vec<u16> = got.iter().map(Message::status).collect();
            let expected = if status == 101 { 502 } else { status };
            assert_eq!(statuses, [expected], "{answer}");
            assert!(closes(&got[0]), "{answer}");
            assert_eq!(got[0].field("upgrade"), None, "{answer}");
            let sent = request.replace(
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            );
            assert_eq!(recorder.settle(), [sent.into_bytes()], "{answer}");
            tally.case("delivered, closed, no tunnel and no request", 1);
        }
    }
    let log = proxy.log.text();
    assert!(!log.contains("smuggled") && !log.contains("建立"), "{log}");
}

fn accepted_switch(tally: &mut Tally) {
    // Only the first head is answered: what follows is the tunnel's, whatever it looks like.
    let recorder = Recorder::answering(|seen| {
        let end = find(seen, b"\r\n\r\n")? + 4;
        let is_first = seen.starts_with(b"GET /ws ");
        is_first.then(|| (end, SWITCHING.as_bytes().to_vec()))
    });
    let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
    let request = ASK_UPGRADE.replace("PATH", "/ws");
    let sent = request.replace(
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    let many = SMUGGLED.repeat(1000);
    for behind in [
        SMUGGLED,
        b"",
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\r\n\n",
        b"0\r\n\r\n",
        &frame(SMUGGLED, MASK),
        &many,
    ] {
        for piece in [usize::MAX, 1] {
            let mut client = proxy.connect();
            let bytes = [request.as_bytes(), behind].concat();
            if piece == 1 && bytes.len() > SHORT {
                continue;
            }
            for piece in bytes.chunks(piece) {
                client.send_bytes(piece);
            }
            client.end_sending();
            assert_eq!(client.head(), SWITCHING_SENT);
            assert_eq!(client.rest(), b"");
            let expected = [sent.as_bytes(), behind].concat();
            let seen = recorder.settle();
            assert!(seen == [expected], "{}", shown(&seen.concat()));
            tally.case("tunnelled exactly", 1);
        }
    }
    let log = proxy.log.text();
    assert!(!log.contains("smuggled"), "{log}");
}

/// `SWITCHING` as the client gets it.
const SWITCHING_SENT: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\n\r\n";

fn leaving(tally: &mut Tally) {
    for answer in [
        SWITCHING,
        "",
        EVIL,
        "HTTP/1.1 100 Continue\r\n\r\n",
        "garbage\r\n",
    ] {
        for with_reset in [false, true] {
            let (go_on, wait) = channel::<()>();
            let wait = Mutex::new(wait);
            let (report, seen) = channel();
            let report = Mutex::new(report);
            let upstream = origin(move |mut client| {
                let head = client.head();
                if !head.starts_with("GET /ws ") {
                    return client.send(&ok("own"));
                }
                report.lock().unwrap().send(Vec::new()).unwrap();
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                client.try_send(answer.as_bytes());
                if !answer.starts_with("HTTP/1.1 101 ") {
                    // The proxy may have closed already.
                    let _ = client.socket.shutdown(Shutdown::Write);
                }
                // The proxy's connection ends without one byte more.
                let rest = Received::read_to_end(&mut client).bytes;
                let ahead = client.rest_or_reset();
                report.lock().unwrap().send([ahead, rest].concat()).unwrap();
            });
            let proxy = Proxy::before(upstream, &["--threads", "1"]);
            let mut client = proxy.connect();
            client.send(&ASK_UPGRADE.replace("PATH", "/ws"));
            seen.recv_timeout(PATIENCE).unwrap();
            match with_reset {
                true => client.reset(),
                false => drop(client),
            }
            go_on.send(()).unwrap();
            let rest = seen.recv_timeout(PATIENCE).expect("the connection ends");
            assert_eq!(rest, b"", "{answer}");
            assert_eq!(proxy.get("/").text(), "own");
            tally.case("upstream's connection ends, nothing sent", 1);
        }
    }
}

fn forged(tally: &mut Tally) {
    let recorder = Recorder::start();
    // What stands in the log for each input; PEER is the client's address.
    let begun = |line: &str| format!("===收到请求开始=== {line}");
    let done = |line: &str, status: u16| format!("请求完成: {line} -> {status} (4 bytes)");
    let mut cases: Vec<(Vec<u8>, Vec<String>)> = Vec::new();
    // Control bytes and invalid UTF-8 make no request at all; the cause is ours to word.
    for bytes in [
        &b"GET /\n===x=== HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /\r===x=== HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r\n===x===\r\nHost: a\r\n\r\n",
        b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x1b]0;a\x07 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x08\x08 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc0\x8a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xed\xa0\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\x1bT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\nT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\rT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\xc2\x85T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n===x===\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r===x===\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n ===x===\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \x1b[2J\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xe2\x80\xa8\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a) \r\nX : y\r\n\r\n",
        b"GET http://\x1b[2J/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://\xe2\x80\xae/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        cases.push((bytes.to_vec(), vec!["请求被拒绝: PEER -> 400 ".to_owned()]));
    }
    // What is left can be written, but not as anything that ends or rearranges a line.
    for (target, logged) in [
        ("/a?token=secret", "/a"),
        ("/%0a%0d%1b[2J", "/%0a%0d%1b[2J"),
        ("/\u{85}===x===", "/\\xc2\\x85===x==="),
        ("/\u{9b}2J", "/\\xc2\\x9b2J"),
        ("/\u{9f}", "/\\xc2\\x9f"),
        ("/\u{2028}===x===", "/\\xe2\\x80\\xa8===x==="),
        ("/\u{2029}===x===", "/\\xe2\\x80\\xa9===x==="),
        ("/\u{202e}gpj.exe", "/\\xe2\\x80\\xaegpj.exe"),
        ("/\u{200f}\u{2066}a", "/\\xe2\\x80\\x8f\\xe2\\x81\\xa6a"),
        ("/\u{e9}\u{6587}", "/\u{e9}\u{6587}"),
        ("/->200", "/->200"),
        ("/\\n\\x0a", "/\\n\\x0a"),
    ] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let lines = vec![
            begun(&format!("GET {logged} (Host: a)")),
            done(&format!("GET {logged}"), 200),
        ];
        cases.push((input.into_bytes(), lines));
        let upgrade = ASK_UPGRADE.replace("PATH", target);
        let lines = vec![
            begun(&format!("GET {logged} (Host: a)")),
            format!("WebSocket 请求: {logged} (Host: a)"),
            done(&format!("GET {logged}"), 200),
        ];
        cases.push((upgrade.into_bytes(), lines));
    }
    for (method, host) in [
        ("!#$%&'*+-.^_`|~", "a"),
        ("GET", "a)(;'$&!"),
        ("GET", "%0a"),
        ("get", ""),
    ] {
        let input = format!("{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let lines = vec![
            begun(&format!("{method} / (Host: {host})")),
            done(&format!("{method} /"), 200),
        ];
        cases.push((input.into_bytes(), lines));
    }
    // A body that breaks behind a good head
    let input = format!("{CHUNKED}\n===x===").into_bytes();
    let lines = vec![
        begun("POST / (Host: a)"),
        "请求被拒绝: PEER -> 400 ".to_owned(),
    ];
    cases.push((input, lines));
    // Very long text is cut.
    let long = "x".repeat(30_000);
    let input = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = format!("GET /{}...", "x".repeat(1999));
    let lines = vec![begun(&format!("{cut} (Host: a)")), done(&cut, 200)];
    cases.push((input.into_bytes(), lines));

    let proxy = Proxy::before(recorder.address, &["--threads", "1"]);
    let mut expected = Vec::new();
    for (input, lines) in &cases {
        let mut client = proxy.connect();
        client.send_bytes(input);
        client.end_sending();
        client.rest();
        let peer = client.socket.local_addr().unwrap().to_string();
        expected.extend(lines.iter().map(|line| line.replace("PEER", &peer)));
    }
    proxy.get("/end");
    proxy.log.wait_for("请求完成: GET /end ");
    let log = proxy.log.text();
    let lines: Vec<&str> = log.split('\n').collect();
    let start = lines
        .iter()
        .position(|line| line.contains("路由: "))
        .unwrap()
        + 1;
    let lines = &lines[start..lines.len() - 2];
    for (at, expected) in expected.iter().enumerate() {
        let line = lines.get(at).unwrap_or(&"");
        let text = line.split_once("Z ").map_or("", |(_, text)| text);
        let rest = text.strip_prefix(expected.as_str());
        // The cause behind a refusal is in our own words.
        let is_whole = match expected.ends_with("400 ") {
            true => rest.is_some_and(|rest| rest.is_ascii() && !rest.contains('=')),
            false => rest == Some(""),
        };
        assert!(is_whole, "line {at}: {line:?} instead of {expected:?}");
    }
    assert_eq!(lines.len(), expected.len(), "{log}");
    assert!(!log.contains("secret"));
    let mut controls = log.chars().filter(|c| c.is_control());
    assert!(controls.all(|c| c == '\n'), "{log:?}");
    for (_, lines) in &cases {
        let status = if lines[0].contains(" 400 ") {
            "refused"
        } else {
            "served"
        };
        tally.case(format!("{status}, one escaped line an event"), 1);
    }
}
