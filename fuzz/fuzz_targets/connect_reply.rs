//! Responses of an HTTP proxy to CONNECT.
#![no_main]

use libfuzzer_sys::fuzz_target;
use simple_proxy::error::Stage;
use simple_proxy::http::response::RULES;
use simple_proxy::route::http_connect::{check_answer, Answer};
use simple_proxy_fuzz::input::{find_head_in_any_split, Found, Input};

#[rustfmt::skip]
const PIECES: &[&[u8]] = &[
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b": ", b":", b" ", b"\t", b"\0", b"\x7f", b"\x1b[2J",
    b"\xc3\xa9", b"\xff", b"\xe2\x80\xae", b"\r\n ", b" :", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 Connection established\r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 299 x\r\n",
    b"HTTP/1.1 2000 OK\r\n", b"HTTP/1.1 20 OK\r\n", b"HTTP/1.1 300 x\r\n", b"HTTP/1.1 100 x\r\n",
    b"HTTP/1.1 407 Proxy Authentication Required\r\n", b"HTTP/1.1 401 x\r\n", b"HTTP/1.1 403 x\r\n",
    b"HTTP/1.1 504 x\r\n", b"HTTP/1.1 999 x\r\n", b"HTTP/1.1 000 x\r\n", b"HTTP/2 200\r\n",
    b"HTTP/1.1  200 OK\r\n", b"HTTP/1.1 +20 OK\r\n", b"HTTP/1.1 ", b"HTTP/1.0 ", b"200", b"199",
    b"300", b"20", b"0", b"2", b" OK", b"Content-Length: 5\r\n", b"Content-Length: x\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Proxy-Authenticate: Basic\r\n", b"A : b\r\n", b"A\r\n",
    b"Connection: close\r\n", b"X: y\r\n", b"SSH-2.0-x\r\n", b"\x05\x00",
];

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data) else {
        return;
    };
    let bytes = input.message(&[PIECES], b"HTTP/1.1 2", b"\r\n\r\n");
    let parses = |head: &[u8], _| {
        let answer = check_answer(head);
        !answer.is_err_and(|error| error.stage == Stage::ProxyConnect)
    };
    let found = find_head_in_any_split(&bytes, &RULES, input.splits, parses);
    let Some(Found { range, .. }) = found else {
        return;
    };
    let head = &bytes[range];
    let status = status_of(head);
    match check_answer(head) {
        Ok(Answer::Interim) => assert!(
            matches!(status, Some([b'1', _, _]) if status != Some(*b"101")),
            "{}",
            head.escape_ascii()
        ),
        Ok(Answer::Tunnel) => assert!(
            matches!(status, Some([b'2', _, _])),
            "{}",
            head.escape_ascii()
        ),
        Err(error) => {
            let shown = head.escape_ascii();
            match (error.stage, status) {
                // The fields may be malformed, whatever the status.
                (Stage::ProxyConnect, _) => assert_eq!(error.token, "connection_terminated"),
                (Stage::ProxyAuth, Some(s)) => assert!([*b"401", *b"407"].contains(&s), "{shown}"),
                (Stage::ProxyRefused, Some([first, _, _])) => assert!(first != b'2', "{shown}"),
                _ => panic!("{error:?}: {shown}"),
            }
            // The cause is logged and sent to clients.
            assert!(
                !error.cause.chars().any(char::is_control),
                "{:?}",
                error.cause
            );
            assert!(error.cause.len() <= 32 * 1024 + 64);
            assert!(error.address.is_empty() && !error.timed_out);
        }
    }
});

/// The status of a status line: exactly three digits after one blank or more.
fn status_of(head: &[u8]) -> Option<[u8; 3]> {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', rest @ ..] = head else {
        return None;
    };
    let blanks = rest.iter().take_while(|&&b| b == b' ').count();
    match &rest[blanks..] {
        [a, b, c, b' ' | b'\r' | b'\n', ..] => {
            let status = [*a, *b, *c];
            status.iter().all(u8::is_ascii_digit).then_some(status)
        }
        _ => None,
    }
}
