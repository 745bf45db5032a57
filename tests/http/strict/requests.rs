//! Requests: what is sent upstream, and what the client gets.

use super::message::{responses, Message, Received};
use super::recorder::Recorder;
use super::{replace, shown, Prefixes, Tally, AT_ONCE, FOLLOWING, SHORT, SMUGGLED, UPSTREAM};
use crate::support::*;

/// One input from a client.
struct Case {
    input: Vec<u8>,
    /// The complete requests that the upstream receives, byte for byte.
    upstream: Vec<Vec<u8>>,
    then: Then,
    /// Nothing is sent after the input.
    alone: bool,
}

/// What happens after the requests that the upstream received completely.
#[derive(Clone, PartialEq)]
enum Then {
    /// The connection persists.
    GoesOn,
    /// The connection closes after the response.
    Closes,
    /// The client gets this status and the connection closes; nothing of the refused request was
    /// sent upstream.
    Refused(u16),
    /// The same, but a part of this request may have been sent upstream, never all of it.
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

/// Nothing is sent upstream, the client gets `status`, and the connection closes.
fn refused(status: u16, input: impl AsRef<[u8]>) -> Case {
    case(input, &[], Then::Refused(status))
}

/// Forwarded as `upstream`, and the connection persists.
fn forwarded(input: impl AsRef<[u8]>, upstream: impl AsRef<[u8]>) -> Case {
    case(input, &[upstream.as_ref()], Then::GoesOn)
}

/// Forwarded unchanged, and the connection persists.
fn unchanged(input: impl AsRef<[u8]>) -> Case {
    forwarded(&input, &input)
}

/// Forwarded as `upstream`, and the connection closes after the response.
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
            Then::GoesOn => FOLLOWING,
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
        // The proxy's own response to HEAD has no content either.
        let refused = self.input.starts_with(b"HEAD ") && self.upstream.is_empty();
        methods.chain(refused.then(|| "HEAD".to_owned())).collect()
    }

    /// Checks one exchange, with the input sent in pieces of `piece` bytes.
    fn exchange(&self, proxy: &Proxy, recorder: &Recorder, piece: usize) {
        let what = shown(&self.input);
        let mut client = proxy.connect();
        let bytes = [self.input.as_slice(), self.follower()].concat();
        for piece in bytes.chunks(piece) {
            // The proxy may refuse the request and close before all of it is sent.
            if !client.try_send(piece) {
                break;
            }
        }
        let mut statuses = self.statuses();
        let mut expected = self.upstream.clone();
        if self.then == Then::GoesOn && !self.alone {
            statuses.push(200);
            expected.push(FOLLOWING.to_vec());
        }
        if self.then == Then::GoesOn {
            client.end_sending();
        }
        // In the other cases the proxy must close: the client has not ended its side.
        let got = Received::read_to_end(&mut client);
        // A client that asks for the close and goes on sending may get a reset.
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
                // The sizes of forwarded chunks depend on how the input arrives.
                1 => Message::request(seen) == Message::request(&request),
                _ => *seen == request,
            });
            let Some(at) = at else {
                let all: Vec<String> = seen.iter().map(|seen| shown(seen)).collect();
                panic!(
                    "{what} in pieces of {piece}: the upstream did not receive\n{}\nbut\n{}",
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
            "{what} in pieces of {piece}: the upstream also received\n{}",
            seen.join("\n")
        );
    }

    /// Sends every prefix of the input that is not `known` yet: the outcome must be the beginning
    /// of that of the whole input. Returns the number of prefixes.
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
            // A broken request is never complete; `request` only says how it begins.
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
                "{what} cut off: the upstream received {}",
                shown(&seen)
            );
        }
        lengths.len()
    }
}

/// Checks a table of requests.
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

/// A GET with Host and these field lines, each with its CRLF.
pub(super) fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// A POST with Host, these field lines and this body.
pub(super) fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

pub(super) fn both_framings(tally: &mut Tally) {
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let reversed = "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n";
    let smuggled = String::from_utf8_lossy(SMUGGLED);
    let last = "0\r\n\r\n";
    let after_the_last = format!("{last}{smuggled}");
    let in_a_chunk = format!("{:x}\r\n{smuggled}\r\n{last}", smuggled.len());
    let mut cases = Vec::new();
    for (fields, body) in [
        // CL.TE: the chunks end before the length does.
        (both.to_owned(), last),
        (reversed.to_owned(), last),
        (both.replace(": 5", ": 48"), &after_the_last),
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
        // Naming either in Connection does not remove it.
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

pub(super) fn length_values(tally: &mut Tally) {
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
pub(super) const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(super) fn coding_values(tally: &mut Tally) {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let mut cases = Vec::new();
    // An unknown coding gets another status than a malformed list (RFC 9112 §6.1).
    #[rustfmt::skip]
    let unknown = [
        "identity", "identity, chunked", "identity,chunked", "xchunked", "chunkedx", "chunke",
        "x-chunked", "'chunked'", "chunked#", "gzip", "gzip, chunked", "gzip;q=1, chunked",
        "deflate", "compress, chunked", "trailers", "cow", "0", "true", "gzip, deflate",
    ];
    for value in unknown {
        let input = post(&format!("Transfer-Encoding: {value}\r\n"), body);
        cases.push(refused(501, input));
    }
    for fields in [
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: cow\r\nTransfer-encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ] {
        cases.push(refused(501, post(fields, body)));
    }
    #[rustfmt::skip]
    let values = [
        "", "chunked, identity", "chunk ed", "chunked chunked",
        "chunked, chunked", "chunked,chunked", "chunked,", ",chunked", ", chunked", ",",
        "chunked;", "chunked;q=1", "chunked; q=0", "\"chunked\"", "\"chunked",
        "chunked\"", "[chunked]", "{chunked}", "(chunked)", "chunked:", ": chunked",
        "=chunked", "chunked\\", "chunked, gzip", "gzip, chunked, gzip", "gzip,, chunked",
        "gzip, chunked, chunked", "chunked\u{a0}", "\u{a0}chunked",
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
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
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

/// A malformed chunked body, of which at most the data `part` is sent upstream.
fn broken(body: impl AsRef<[u8]>, part: &str) -> Case {
    let input = [CHUNKED.as_bytes(), body.as_ref()].concat();
    let whole = format!("{CHUNKED}{:x}\r\n{part}\r\n0\r\n\r\n", part.len());
    let whole = match part {
        "" => format!("{CHUNKED}0\r\n\r\n"),
        _ => whole,
    };
    case(input, &[], Then::Broken(400, whole.into_bytes()))
}

pub(super) fn chunks(tally: &mut Tally) {
    let mut cases = Vec::new();
    #[rustfmt::skip]
    let sizes = [
        "", " ", "\t", " 5", "\t5", "  5", "\x0b5", "+5", "-5", "-0", "- 5", "0x5", "0X5", "x5",
        "5x", "5h", "5_", "_5", "5_0", "5.", "5.0", "5 5", "5\t5", "5 \t 5", "5 \0", "5,5", "5:",
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
        ("5\r\nhello\r\n0 \n\r\n", "hello"),
        ("5 \nhello\r\n0\r\n\r\n", ""),
        ("5 \r \nhello\r\n0\r\n\r\n", ""),
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
        // Some senders pad their sizes with blanks.
        "5 \r\nhello\r\n0\r\n\r\n", "5   \r\nhello\r\n0 \t\r\n\r\n",
    ];
    for body in bodies {
        cases.push(forwarded(format!("{CHUNKED}{body}"), &plain));
    }
    let two = format!("{CHUNKED}5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n");
    cases.push(unchanged(&two));
    cases.push(forwarded(two.replace("\r\na\r\n", "\r\nA\r\n"), &two));
    cases.push(unchanged(format!("{CHUNKED}0\r\n\r\n")));
    // Data that looks like framing is forwarded as data.
    let framing = "0\r\n\r\nGET /inside HTTP/1.1\r\nHost: inside\r\n\r\n";
    cases.push(unchanged(format!(
        "{CHUNKED}{:x}\r\n{framing}\r\n0\r\n\r\n",
        framing.len()
    )));
    let with_get = format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n").replace("POST", "GET");
    cases.push(unchanged(with_get));
    requests(tally, &[], cases);
}

pub(super) fn trailers(tally: &mut Tally) {
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

pub(super) fn fields(tally: &mut Tally) {
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
        // The line is refused without waiting for the rest of the head.
        let without_end = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}");
        cases.push(refused(400, without_end).alone());
    }
    // A bare LF or CR for every line ending, and for each single one.
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

pub(super) fn controls(tally: &mut Tally) {
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
                // A tab is allowed in a value, and removed at its ends.
                (b'\t', place) if place.contains("X:@y") || place.contains("y@\r") => {
                    cases.push(forwarded(input, get("X: y\r\n")))
                }
                (b'\t', place) if place.contains("y@z") => cases.push(unchanged(input)),
                // The inserted LF ends the head, and the LF after it is refused.
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

pub(super) fn host_values(tally: &mut Tally) {
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
        "\"a\"", "<a>", "a|b", "a^b", "a`b", "{a}", "a\0", "a\x7f", "a\x0b", "[::1%]",
        "[%eth0]", "[fe80::1%e/h]", "[fe80::1%a%b]", "[fe80::1%eth0", "fe80::1%eth0", "[a%b]",
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
    // A zone has a meaning only on the client's machine (RFC 6874 §4).
    for (host, sent) in [
        ("[fe80::1%eth0]", "[fe80::1]"),
        ("[fe80::1%25eth0]:8080", "[fe80::1]:8080"),
        ("[fe80::1%1]:", "[fe80::1]:"),
    ] {
        let sent = format!("GET / HTTP/1.1\r\nHost: {sent}\r\n\r\n");
        let input = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        cases.push(forwarded(input, &sent));
        let input = format!("GET http://{host}/ HTTP/1.1\r\nHost: b\r\n\r\n");
        cases.push(forwarded(input, &sent));
    }
    cases.push(unchanged("GET / HTTP/1.1\r\nX: y\r\nhOsT: a\r\n\r\n"));
    // Host is optional in HTTP/1.0.
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

pub(super) fn target_forms(tally: &mut Tally) {
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
        "GET http://\u{e9}/", "GET ftp://b/", "GET wsx://b/", "GET ws:/b/", "GET ws://",
        "GET file:///etc/passwd", "GET /a#b", "GET /#", "GET #", "GET http://b/#c", "GET http://b#c",
        "OPTIONS *#", "OPTIONS http://b#",
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
    // The bytes after the head are neither a body nor sent through a tunnel.
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
        ("GET ws://b/p", "GET /p HTTP/1.1\r\nHost: b\r\n\r\n"),
        ("GET WSS://b:1?q", "GET /?q HTTP/1.1\r\nHost: b:1\r\n\r\n"),
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
    // The authority of the target replaces Host wherever it stands, and a missing one in HTTP/1.0.
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
    // Bytes above ASCII are forwarded unchanged, whatever their encoding.
    let high: Vec<u8> = (0x80..=0xff).collect();
    for high in [&b"\xff"[..], b"\xc0\x8a", b"\xd6\xd0\xce\xc4", &high] {
        let line = [b"GET /a?q=".as_slice(), high, b" HTTP/1.1\r\n"].concat();
        let origin = [&line, b"Host: b\r\n\r\n".as_slice()].concat();
        cases.push(unchanged(&origin));
        let absolute = [b"GET http://b".as_slice(), &origin[4..]].concat();
        cases.push(forwarded(absolute, &origin));
        let in_the_authority = replace(&line, b" /a", b" http://b");
        let request = [&in_the_authority, b"Host: b\r\n\r\n".as_slice()].concat();
        let query_only = replace(&origin, b" /a?", b" /?");
        cases.push(forwarded(request, query_only));
        let in_the_host = [
            b"GET http://b".as_slice(),
            high,
            b"/ HTTP/1.1\r\nHost: b\r\n\r\n",
        ];
        cases.push(refused(400, in_the_host.concat()));
        let not_a_path = [b"GET ".as_slice(), high, b" HTTP/1.1\r\nHost: b\r\n\r\n"];
        cases.push(refused(400, not_a_path.concat()));
        // Other faults of such a request are still refused.
        cases.push(refused(400, replace(&origin, b"/a", b"/\x7f")));
        cases.push(refused(400, replace(&origin, b"Host", b" Host")));
    }
    requests(tally, &[], cases);
}

pub(super) fn options(tally: &mut Tally) {
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

pub(super) fn options_against_forwarded(tally: &mut Tally) {
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
        // A request sent after it would get these fields as well.
        case.alone = case.then == Then::GoesOn;
        cases.push(case);
    }
    requests(tally, &["--forwarded"], cases);
}

pub(super) fn start_lines(tally: &mut Tally) {
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
        // A malformed line gets 400, whatever its version.
        "GET  HTTP/1.1", "GET  HTTP/2.0", " / HTTP/2.0", "G,T / HTTP/2.0", "GET / HTTP/2",
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
    // A higher minor version is read as 1.1 (RFC 9112 §2.5).
    for version in ["HTTP/1.2", "HTTP/1.3", "HTTP/1.9"] {
        cases.push(forwarded(get("").replace("HTTP/1.1", version), get("")));
        let body = post("Content-Length: 5\r\n", "hello");
        cases.push(forwarded(body.replace("HTTP/1.1", version), body));
        let missing = format!("GET / {version}\r\n\r\n");
        cases.push(refused(400, missing));
    }
    // A simple request of HTTP/0.9 has no version and no fields.
    for line in ["GET /\r\n", "GET /\n", "GET / \r\n", "GET a\r\n"] {
        cases.push(refused(400, line).alone());
    }
    cases.push(unchanged(get("")));
    requests(tally, &[], cases);
}

pub(super) fn foreign(tally: &mut Tally) {
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
    // Each must be refused without waiting for the end of the head, which never comes.
    let cases = cases.into_iter().map(Case::alone).collect();
    requests(tally, &[], cases);
}

pub(super) fn blank_lines(tally: &mut Tally) {
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
        let following = format!("{body}{start}{plain}");
        cases.push(case(following, &[body.as_bytes()], Then::Refused(400)));
    }
    // Empty lines alone get no response.
    cases.push(case("\r\n\r\n\r\n", &[], Then::GoesOn));
    requests(tally, &[], cases);
}

pub(super) fn large_heads(tally: &mut Tally) {
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

pub(super) fn pipelines(tally: &mut Tally) {
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
        // Any bytes after a body belong to the next request.
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

pub(super) fn upgrades(tally: &mut Tally) {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let sent = |token: &str| get(&format!("{KEY}Upgrade: {token}\r\nConnection: Upgrade\r\n"));
    let with = |fields: &str| get(&format!("{KEY}{fields}"));
    let plain = with("");
    let mut cases = Vec::new();
    // The upstream refuses the upgrade: what follows is neither a tunnel nor a request.
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
    // One of several, or of repeated ones, is forwarded alone.
    for value in [
        "websocket, h2c",
        "h2c, websocket",
        "websocket, websocket",
        "websocket\r\nUpgrade: h2c",
        "h2c\r\nUpgrade: websocket",
        "websocket\r\nUpgrade: websocket",
        ", foo/2,,websocket ,",
    ] {
        let fields = format!("Connection: Upgrade\r\nUpgrade: {value}\r\n");
        cases.push(forwarded_last(with(&fields), sent("websocket")));
    }
    // A Content-Length of 0 means no body.
    cases.push(forwarded_last(
        get(&format!("Content-Length: 0\r\n{ask}")),
        get("Content-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"),
    ));
    // Not a valid upgrade: forwarded as ordinary requests, without Upgrade.
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
        "Connection: Upgrade\r\nUpgrade: websocket;, \"websocket\"\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
        "Connection: Upgrade\r\nUpgrade: websockets\r\n",
        "Connection: Upgrade\r\nUpgrade: web socket\r\n",
        "Connection: Upgrade\r\nUpgrade: \"websocket\"\r\n",
        "Connection: Upgrade\r\nUpgrade: websoc\u{212a}et\r\n",
    ];
    for fields in variants {
        cases.push(forwarded(with(fields), &plain));
    }
    // Another method or a body: forwarded as ordinary requests, with their body.
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
    // HTTP/1.0 has no upgrade (RFC 9110 §7.8).
    let old = with(ask).replace("HTTP/1.1", "HTTP/1.0");
    cases.push(forwarded_last(&old, &plain));
    cases.push(forwarded(
        old.replace("Connection: ", "Connection: keep-alive, "),
        &plain,
    ));
    // Other faults of an upgrade request are still refused.
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
