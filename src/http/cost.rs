//! Tests that the CPU time for a head is bounded by its length, whatever it contains: each of
//! the worst heads is compared with a harmless one of the same size.

use std::net::IpAddr;
use std::time::Duration;

use rustix::time::{clock_gettime, ClockId};

use crate::config::Rewrite;
use crate::http::chunks::Decoder;
use crate::http::fields::no_fields;
use crate::http::framing::Framing;
use crate::http::head::{Reading, Rules, Scan};
use crate::http::request::{rules, Request, RequestHead};
use crate::http::response::{read, Changes, RULES};

/// The default limit for a request head.
const SIZE: usize = 32 * 1024;

/// How many times as much as a harmless head another may cost. An algorithm with quadratic cost
/// exceeds it a hundredfold.
const MOST: u32 = 5;

/// The CPU time of this thread.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let [seconds, nanos] = [time.tv_sec, time.tv_nsec].map(|n| u64::try_from(n).unwrap_or(0));
    Duration::new(seconds, u32::try_from(nanos).unwrap_or(0))
}

/// The CPU time of `work`, the minimum of several runs.
fn cost(mut work: impl FnMut()) -> Duration {
    let once = |work: &mut dyn FnMut()| {
        let start = now();
        (0..4).for_each(|_| work());
        now() - start
    };
    let runs = (0..25).map(|_| once(&mut work));
    runs.min().unwrap_or_default()
}

/// Does everything that is done with a request head, from the received bytes to the sent ones.
fn take_request(bytes: &[u8]) {
    let rules = rules(SIZE);
    if !matches!(Scan::default().advance(bytes, &rules), Ok(Some(_))) {
        return;
    }
    let (mut canonical, mut fields) = (Vec::new(), no_fields());
    let upgrades = ["tcp".to_owned(), "spdy/3.1".to_owned()];
    let head = RequestHead::parse(bytes, &mut canonical, &mut fields, &upgrades);
    if let Ok(head) = head {
        let mut out = Vec::with_capacity(2 * SIZE);
        let client = IpAddr::from([192, 0, 2, 7]);
        let rewrite = Rewrite::default();
        head.write(&mut out, &rewrite, Some(client), false, "a", None);
        std::hint::black_box((out, head.upgrades_withheld()));
    }
}

fn take_response(bytes: &[u8]) {
    let request = request();
    let Ok(Some(extent)) = Scan::default().advance(bytes, &RULES) else {
        return;
    };
    let written = read(bytes, extent.has_bare_lf, &request, |head| {
        if head.status == 101 && !head.switches_to("websocket") {
            return;
        }
        let mut out = Vec::with_capacity(2 * SIZE);
        head.write(&mut out, &request, false, Changes::default());
        std::hint::black_box(out);
    });
    std::hint::black_box(written.is_ok());
}

fn request() -> Request {
    Request {
        minor: 1,
        framing: Framing::None,
        persistent: true,
        is_head: false,
        expects_continue: false,
        is_idempotent: true,
        binds_connection: false,
        upgrade: None,
    }
}

/// A head of at most `SIZE` bytes: a start line, the fields that `fill` makes to fit, and the
/// empty line.
fn head(start: &str, fill: impl Fn(usize) -> String) -> Vec<u8> {
    let left = SIZE - start.len() - 2;
    let mut filled = fill(left);
    assert!(filled.len() <= left);
    // One more field takes the rest.
    let rest = left - filled.len();
    if rest > 8 {
        filled.push_str(&format!("X: {}\r\n", "x".repeat(rest - 5)));
    }
    format!("{start}{filled}\r\n").into_bytes()
}

/// `count` lines of the same size, which `line` makes from its number and its size.
fn lines(count: usize, left: usize, line: impl Fn(usize, usize) -> String) -> String {
    (0..count).map(|n| line(n, left / count)).collect()
}

/// One field of `left` bytes, with `unit` repeated as its value.
fn field(name: &str, unit: &str, left: usize) -> String {
    let room = left - name.len() - 4;
    format!("{name}: {}\r\n", unit.repeat(room / unit.len()))
}

fn harmless(left: usize) -> String {
    harmless_fields(120, left)
}

fn harmless_fields(count: usize, left: usize) -> String {
    lines(count, left, |n, room| {
        let name = format!("X-Field-{n:03}: ");
        format!("{name}{}\r\n", "a".repeat(room - name.len() - 2))
    })
}

/// A large field followed by many small ones, each of which may cause a look-up.
fn and_many(first: String) -> String {
    first + &"A: b\r\n".repeat(100)
}

const MANY: usize = 6 * 100;

fn check(what: &str, cost_of: Duration, harmless: Duration) {
    println!("{what}: {cost_of:?}, harmless {harmless:?}");
    assert!(
        cost_of <= MOST * harmless,
        "{what} costs {cost_of:?}, a harmless head of the same size {harmless:?}"
    );
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n";

#[test]
fn the_worst_requests_cost_little_more_than_harmless_ones() {
    let base = head(GET, harmless);
    let base = cost(|| take_request(&base));
    let upgrade = format!("{GET}Connection: upgrade\r\n");
    let names = |n: usize, room: usize| format!("{}{n:03}: \r\n", "X".repeat(room - 7));
    let long_options = |left: usize| {
        // 32 options that differ from each other and from every field only at the end.
        let option = |n: usize| format!("{}{n:03}", "x".repeat(245));
        let options: Vec<String> = (500..532).map(option).collect();
        let connection = format!("Connection: {}\r\n", options.join(","));
        let left = left - connection.len();
        connection + &lines(120, left, names)
    };
    #[rustfmt::skip]
    let heads = [
        ("commas in Connection", head(GET, |left| and_many(field("Connection", ",", left - MANY)))),
        ("blanks in Connection", head(GET, |left| and_many(field("Connection", ", ", left - MANY)))),
        ("close, again and again", head(GET, |left| and_many(field("Connection", "close,", left - MANY)))),
        ("a hundred Connections", head(GET, |left| lines(120, left, |_, room| field("Connection", ",", room)))),
        ("elements of TE", head(GET, |left| and_many(field("TE", "a,", left - MANY)))),
        ("commas in TE", head(GET, |left| and_many(field("TE", ",", left - MANY)))),
        ("elements of Upgrade", head(&upgrade, |left| and_many(field("Upgrade", "a,", left - MANY)))),
        ("commas in Upgrade", head(&upgrade, |left| and_many(field("Upgrade", ",", left - MANY)))),
        ("long Upgrades", head(&upgrade, |left| and_many(field("Upgrade", "spdy/3.2,", left - MANY)))),
        ("codings", head(GET, |left| and_many(field("Transfer-Encoding", "gzip,", left - MANY)))),
        ("commas of codings", head(GET, |left| and_many(field("Transfer-Encoding", ",", left - MANY)))),
        ("a hundred codings", head(GET, |left| lines(120, left, |_, room| field("Transfer-Encoding", "a", room)))),
        ("a length of zeros", head(GET, |left| and_many(field("Content-Length", "0", left - MANY)))),
        ("a hundred lengths", head(GET, |left| lines(120, left, |_, room| field("Content-Length", "0", room)))),
        ("a long Host", head("GET / HTTP/1.1\r\n", |left| and_many(field("Host", "a", left - MANY)))),
        ("an escaped Host", head("GET / HTTP/1.1\r\n", |left| and_many(field("Host", "%41", left - MANY)))),
        ("Expect", head(GET, |left| lines(120, left, |_, room| field("Expect", "1", room)))),
        ("short fields", head(GET, |_| "A:\r\n".repeat(120))),
        ("fields without end", head(GET, |left| "A:\r\n".repeat(left / 4))),
        ("a long target", head(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "a".repeat(30_000)), and_many_only)),
        ("a target beyond ASCII", head(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "\u{e9}".repeat(15_000)), and_many_only)),
        ("an absolute target", head(&format!("GET http://{}/ HTTP/1.1\r\nHost: a\r\n", "a".repeat(30_000)), and_many_only)),
    ];
    for (what, head) in heads {
        assert!(head.len() <= SIZE, "{what}");
        check(what, cost(|| take_request(&head)), base);
    }
    // Long names take longer to parse, whatever Connection says.
    let long_names = head(GET, |left| lines(120, left, names));
    let long_names = cost(|| take_request(&long_names));
    let with_options = head(GET, long_options);
    check(
        "long options",
        cost(|| take_request(&with_options)),
        long_names,
    );
}

fn and_many_only(_: usize) -> String {
    and_many(String::new())
}

#[test]
fn the_worst_responses_cost_little_more_than_harmless_ones() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";
    // Nearly as many fields as a response may have.
    let base = head(OK, |left| harmless_fields(500, left));
    let base = cost(|| take_response(&base));
    let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\n";
    #[rustfmt::skip]
    let heads = [
        ("commas in Connection", head(OK, |left| and_many(field("Connection", ",", left - MANY)))),
        ("Upgrade", head(switch, |left| and_many(field("Upgrade", "a,", left - MANY)))),
        ("Keep-Alive", head(OK, |left| and_many(field("Keep-Alive", "a=1,", left - MANY)))),
        ("codings", head(OK, |left| and_many(field("Transfer-Encoding", "gzip,", left - MANY)))),
        ("lengths", head(OK, |left| lines(120, left, |_, room| field("Content-Length", "0", room)))),
        ("folds", head(OK, |left| format!("A: b\r\n{}", " c\r\n".repeat((left - 6) / 4)))),
        ("empty folds", head(OK, |left| format!("A: b\n{}", " \n".repeat((left - 6) / 2)))),
        ("controls", head(OK, |left| field("A", "\x01", left))),
        ("control folds", head(OK, |left| format!("A: b\r\n{}", " \x01\r\n".repeat((left - 6) / 4)))),
        ("blanks before a colon", head(OK, |left| format!("A{}: b\r\n", " ".repeat(left - 6)))),
        ("LF alone", head(OK, |left| harmless(left).replace("\r\n", "\n"))),
        ("short fields", head(OK, |_| "A:\n".repeat(500))),
        ("a long reason", head(&format!("HTTP/1.1  200 {}\r\n", "\u{e9}".repeat(15_000)), |_| String::new())),
    ];
    for (what, head) in heads {
        assert!(head.len() <= SIZE, "{what}");
        check(what, cost(|| take_response(&head)), base);
    }
}

#[test]
fn a_head_that_arrives_byte_by_byte_costs_in_proportion_to_its_length() {
    let dribble = |bytes: &[u8], rules: &Rules| {
        let mut scan = Scan::default();
        for end in 1..=bytes.len() {
            if scan.advance(&bytes[..end], rules).is_err() {
                return;
            }
        }
    };
    let base = head(GET, harmless);
    let base = cost(|| dribble(&base, &rules(SIZE)));
    let short = head(GET, |left| "A:\r\n".repeat(left / 4 - 8));
    let one = head(GET, |left| field("A", "b", left));
    for (what, head) in [
        ("short fields, a byte at a time", short),
        ("one long field", one),
    ] {
        check(what, cost(|| dribble(&head, &rules(SIZE))), base);
    }
    let folds = head("HTTP/1.1 200 OK\r\n", |left| {
        format!("A: b\n{}", " \n".repeat((left - 6) / 2))
    });
    check(
        "folds, a byte at a time",
        cost(|| dribble(&folds, &RULES)),
        base,
    );
}

#[test]
fn the_worst_chunks_cost_little_more_than_harmless_ones() {
    let decode = |bytes: &[u8], size: usize| {
        let mut decoder = Decoder::new(Framing::Chunked, Reading::Lenient);
        let (mut at, mut end) = (0, 0);
        while end < bytes.len() {
            end = (end + size).min(bytes.len());
            while at < end && !decoder.is_done() {
                match decoder.advance(&bytes[at..end]) {
                    Ok(step) => at += step.used,
                    Err(_) => return,
                }
            }
        }
    };
    let chunk =
        |extension: &str, data: usize| format!("{data:x}{extension}\r\n{}\r\n", "x".repeat(data));
    let body = |chunk: &str, end: &str| format!("{}{end}", chunk.repeat(SIZE / chunk.len()));
    // Small chunks are harmless: their cost is that of their framing's bytes.
    let base = body(&chunk("", 1), "0\r\n\r\n");
    for size in [SIZE, 1] {
        let base = cost(|| decode(base.as_bytes(), size));
        let extension = format!(";{}", "a".repeat(1000));
        let quoted = format!(";a=\"{}\"", "\\a".repeat(500));
        let padded = " ".repeat(1000);
        for (what, body) in [
            ("extensions", body(&chunk(&extension, 1), "0\r\n\r\n")),
            ("quotes", body(&chunk(&quoted, 1), "0\r\n\r\n")),
            ("padding", body(&chunk(&padded, 1), "0\r\n\r\n")),
        ] {
            check(what, cost(|| decode(body.as_bytes(), size)), base);
        }
        let trailer = format!("A: {}\r\n", "b".repeat(500));
        let trailers = format!("0\r\n{}\r\n", trailer.repeat(60));
        let base = base.max(cost(|| decode(trailers.as_bytes(), size)));
        for (what, body) in [
            ("trailers", format!("0\r\n{}\r\n", "A: b\r\n".repeat(5000))),
            (
                "a long trailer",
                format!("0\r\nA: {}\r\n\r\n", "b".repeat(30_000)),
            ),
            (
                "folded trailers",
                format!("0\r\nA: b\r\n{}\r\n", " c\r\n".repeat(7000)),
            ),
        ] {
            check(what, cost(|| decode(body.as_bytes(), size)), base);
        }
    }
}
