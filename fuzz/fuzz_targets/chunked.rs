//! Bodies: where they end, what they contain, and that the program's own coding of them contains
//! the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use simple_proxy::config::MAX_TRAILER_BYTES;
use simple_proxy::http::chunks::Decoder;
use simple_proxy::http::framing::Framing;
use simple_proxy::http::head::Reading;
use simple_proxy_fuzz::input::{Input, Splits, MODEST};
use simple_proxy_fuzz::wire::{fields_of, is_token, PlainHead};
use simple_proxy_fuzz::{by_name, hyper_peer, strict_peer};

#[rustfmt::skip]
const PIECES: &[&[u8]] = &[
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"0\r\n\r\n", b"0\r\n", b"00\r\n\r\n", b"1\r\nx\r\n",
    b"5\r\nhello\r\n", b"A\r\n0123456789\r\n", b"a\r\n0123456789\r\n", b"0", b"1", b"2", b"5", b"8",
    b"a", b"F", b"g", b"x", b"0x5", b"+", b"-", b"_", b" ", b"\t", b" \t", b";", b"=", b"\"",
    b"\\", b"\\\"", b",", b";a", b";a=b", b";a=\"b;c\"", b" ; a = b", b";a=\"\r\n\"", b";\x7f",
    b";\0", b";\x80", b";\n", b";\r", b"\0", b"\x0b", b"hello", b"10000000000000000",
    b"fffffffffffffff", b"ffffffffffffffff", b"000000000000000", b"0000000000000001", b"7fffffff",
    b"100000005", b"A: b\r\n", b"a:\r\n", b" c\r\n", b"\tc\r\n", b"A : b\r\n", b": b\r\n", b"A\r\n",
    b"A: b\n", b"A: b\r\r\n", b"X-Sum: 1\r\n", b"Content-Length: 9\r\n", b"host: b\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Trailer: x\r\n", b"Set-Cookie: a=b\r\n", b"Vary: *\r\n",
    b"Connection: X-Sum\r\n", b"X: \xff\r\n", b"X: \x7f\r\n", b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n",
];

/// The result of decoding.
#[derive(Debug, PartialEq)]
struct Decoded {
    content: Vec<u8>,
    trailers: Vec<u8>,
    used: usize,
    is_done: bool,
    was_faulty: bool,
}

/// Decodes bytes that arrive in pieces of `size` bytes, as `body::copy` does: unused bytes stay
/// before those that arrive next. `sink` gets each run of body bytes.
fn decode(
    bytes: &[u8],
    framing: Framing,
    reading: Reading,
    mut size: impl FnMut() -> usize,
    mut sink: impl FnMut(&[u8]),
) -> Result<Decoded, &'static str> {
    let mut decoder = Decoder::new(framing, reading);
    let mut content = Vec::new();
    let (mut at, mut end) = (0, 0);
    loop {
        while at < end && !decoder.is_done() {
            let step = decoder.advance(&bytes[at..end])?;
            assert!(0 < step.used && step.used <= end - at, "{step:?}");
            assert!(step.data <= step.used, "{step:?}");
            at += step.used;
            let data = &bytes[at - step.data..at];
            content.extend_from_slice(data);
            if !data.is_empty() {
                sink(data);
            }
        }
        if decoder.is_done() || end == bytes.len() {
            return Ok(Decoded {
                content,
                trailers: decoder.trailers().to_vec(),
                used: at,
                is_done: decoder.is_done(),
                was_faulty: decoder.was_faulty(),
            });
        }
        end = end.saturating_add(size()).min(bytes.len());
    }
}

/// Encodes the runs of a body in chunks, as `body::copy` does.
#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn push(&mut self, data: &[u8]) {
        self.0.extend(format!("{:x}\r\n", data.len()).bytes());
        self.0.extend_from_slice(data);
        self.0.extend_from_slice(b"\r\n");
    }

    fn end(mut self, trailers: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(b"0\r\n");
        self.0.extend_from_slice(trailers);
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data) else {
        return;
    };
    let bytes = input.message(&[PIECES], b"5\r\nhello\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\n");
    if input.option(7) {
        return check_plain(&bytes, input.options & 0x7f);
    }
    let reading = match input.option(6) {
        true => Reading::Lenient,
        false => Reading::Strict,
    };
    let mut encoder = Encoder::default();
    let whole = decode(
        &bytes,
        Framing::Chunked,
        reading,
        || usize::MAX,
        |data| encoder.push(data),
    );
    let mut splits = Splits::new(input.splits);
    let random = decode(&bytes, Framing::Chunked, reading, || splits.size(), |_| ());
    let step = if bytes.len() <= MODEST { 1 } else { 1021 };
    let single = decode(&bytes, Framing::Chunked, reading, || step, |_| ());
    for other in [&random, &single] {
        match (&whole, other) {
            // Trailers are collected as they arrive, and filtered only once they are complete.
            (Ok(whole), Ok(other)) if !whole.is_done => {
                assert_eq!((&whole.content, whole.used), (&other.content, other.used));
                assert!(!other.is_done);
            }
            (Ok(_), Ok(_)) => assert_eq!(&whole, other),
            // Trailers near their limit may be accepted only if they arrive in one piece.
            (Ok(_), Err("the trailer section is too large")) => {}
            // Which fault is reported may depend on how the bytes arrive.
            (Err(_), Err(_)) => {}
            _ => panic!("{whole:?} and {other:?}: {}", bytes.escape_ascii()),
        }
    }
    let decoded = whole.ok().filter(|decoded| decoded.is_done);
    if bytes.len() < MAX_TRAILER_BYTES {
        let found = decoded.as_ref().map(|d| (d.content.clone(), d.used));
        assert_eq!(
            found,
            reference(&bytes, reading),
            "{}",
            bytes.escape_ascii()
        );
    }
    let Some(decoded) = decoded else {
        return;
    };
    check_trailers(&decoded);
    if decoded.was_faulty {
        // Other implementations may read faulty bodies differently.
        assert_eq!(reading, Reading::Lenient);
    } else {
        check_with_others(&bytes[..decoded.used], &decoded, false);
    }

    // In canonical form, trailers close to the limit may exceed it.
    if decoded.trailers.len() + 2 >= MAX_TRAILER_BYTES {
        return;
    }
    let encoded = encoder.end(&decoded.trailers);
    // The encoded body must be valid when read strictly.
    let again = decode(
        &encoded,
        Framing::Chunked,
        Reading::Strict,
        || usize::MAX,
        |_| (),
    );
    let expected = Decoded {
        used: encoded.len(),
        was_faulty: false,
        ..decoded
    };
    assert_eq!(again, Ok(expected), "{}", encoded.escape_ascii());
    check_with_others(&encoded, &again.expect("it equals an Ok"), true);
});

/// Decodes a complete chunked body directly by RFC 9112 §7.1. Returns the content and where the
/// body ends; None for anything else.
fn reference(bytes: &[u8], reading: Reading) -> Option<(Vec<u8>, usize)> {
    let is_lenient = reading == Reading::Lenient;
    let mut content = Vec::new();
    let mut rest = bytes;
    loop {
        let line = line(&mut rest, is_lenient)?;
        let is_text = |&b: &u8| b == b'\t' || !b.is_ascii_control();
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        let is_plain = line.iter().all(is_text) && is_extension(extension);
        if !(1..=16).contains(&digits.len()) || !is_plain {
            return None;
        }
        let digits = std::str::from_utf8(digits).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = &rest[size..];
        let end = rest.strip_prefix(b"\r\n");
        rest = end.or_else(|| rest.strip_prefix(b"\n").filter(|_| is_lenient))?;
    }
    let mut fields = 0;
    loop {
        let line = line(&mut rest, is_lenient)?;
        if line.is_empty() {
            return Some((content, bytes.len() - rest.len()));
        }
        if is_lenient && fields > 0 && (line.starts_with(b" ") || line.starts_with(b"\t")) {
            continue;
        }
        let colon = line.iter().position(|&b| b == b':')?;
        let name = match is_lenient {
            true => {
                let blanks = line[..colon].iter().rev();
                let blanks = blanks.take_while(|&&b| b == b' ' || b == b'\t').count();
                &line[..colon - blanks]
            }
            false => &line[..colon],
        };
        is_token(name).then_some(())?;
        fields += 1;
        if fields > 64 {
            return None;
        }
    }
}

/// Splits off the next line. A strict line ends in CRLF and has no control character but tabs; a
/// lenient one has neither NUL nor CR.
fn line<'a>(rest: &mut &'a [u8], is_lenient: bool) -> Option<&'a [u8]> {
    let length = rest.iter().position(|&b| b == b'\n')?;
    let line = match rest[..length].strip_suffix(b"\r") {
        Some(line) => line,
        None => Some(&rest[..length]).filter(|_| is_lenient)?,
    };
    *rest = &rest[length + 1..];
    let is_fine = |&b: &u8| match is_lenient {
        true => b != 0 && b != b'\r',
        false => b == b'\t' || !b.is_ascii_control(),
    };
    line.iter().all(is_fine).then_some(line)
}

/// Whether the bytes may follow a chunk's size: nothing, or an extension that begins with a
/// semicolon and closes every quote.
fn is_extension(bytes: &[u8]) -> bool {
    let blanks = bytes.iter().take_while(|&&b| b == b' ' || b == b'\t');
    let extension = match bytes.split_at(blanks.count()) {
        (_, []) => return true,
        (_, [b';', extension @ ..]) if extension.len() <= 1024 => extension,
        _ => return false,
    };
    let mut bytes = extension.iter();
    let mut is_quoted = false;
    while let Some(b) = bytes.next() {
        match b {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted => _ = bytes.next(),
            _ => {}
        }
    }
    !is_quoted
}

/// Checks bodies that end after a length or with the connection.
fn check_plain(bytes: &[u8], length: u8) {
    let n = bytes.len().min(length.into());
    let decode = |framing| decode(bytes, framing, Reading::Strict, || 3, |_| ());
    let decoded = decode(Framing::Length(length.into())).expect("infallible");
    assert_eq!(decoded.content, bytes[..n]);
    assert_eq!(
        (decoded.used, decoded.is_done),
        (n, n == usize::from(length))
    );
    let decoded = decode(Framing::UntilClose).expect("infallible");
    assert_eq!(decoded.content, bytes);
    assert!(!decoded.is_done);
    let decoded = decode(Framing::None).expect("infallible");
    assert!(decoded.is_done && decoded.used == 0);
}

/// Checks that the forwarded trailer fields are in canonical form and cannot change how a message
/// is framed, routed or interpreted.
fn check_trailers(decoded: &Decoded) {
    if decoded.trailers.is_empty() {
        return;
    }
    let head = [b"x\r\n", &decoded.trailers[..], b"\r\n"].concat();
    for (name, _) in PlainHead::of(&head).fields {
        const MISLEADING: [&str; 13] = [
            "connection",
            "content-length",
            "content-type",
            "host",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "set-cookie",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "x-forwarded-for",
        ];
        assert!(!MISLEADING.contains(&name.as_str()), "{name}");
    }
}

/// Checks that the other implementations find the same body and the next request directly after
/// it. `is_ours` says that the program wrote the body, so that they must accept it and find the
/// same trailers.
fn check_with_others(coded: &[u8], decoded: &Decoded, is_ours: bool) {
    let show = || coded.escape_ascii().to_string();
    // The other implementations refuse longer bodies.
    if coded.len() > 8 * MODEST {
        return;
    }
    match strict_peer::chunked(coded) {
        Ok((content, length)) => {
            assert_eq!(content, decoded.content, "{}", show());
            assert_eq!(length, coded.len(), "{}", show());
        }
        // Extensions are dropped, so their grammar is not checked.
        Err(http_net::HttpError::InvalidChunkExtension) if !is_ours => {}
        Err(error) => panic!("{error:?}: {}", show()),
    }
    let sent = [
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        coded,
        b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n",
    ];
    let (seen, well) = hyper_peer::serve(sent.concat());
    let [first, sentinel] = &seen[..] else {
        panic!("{seen:?}: {}", show());
    };
    assert!(well && first.is_whole && sentinel.is_whole, "{}", show());
    assert_eq!(first.content, decoded.content, "{}", show());
    assert_eq!(sentinel.start, "GET /sentinel", "{}", show());
    let head = [b"x\r\n", &decoded.trailers[..], b"\r\n"].concat();
    let trailers = by_name(fields_of(&head));
    match is_ours {
        true => assert_eq!(first.trailers, trailers, "{}", show()),
        false => assert!(trailers
            .iter()
            .all(|trailer| first.trailers.contains(trailer))),
    }
}
