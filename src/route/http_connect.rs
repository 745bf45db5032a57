//! A tunnel through an HTTP proxy: CONNECT (RFC 9110 §9.3.6).

use std::io::Write;

use base64::prelude::{Engine, BASE64_STANDARD};

use crate::authority::Authority;
use crate::error::{describe, Error, Stage};
use crate::http::fields::no_response_fields;
use crate::http::head::{HeadError, Rules};
use crate::http::read::read_head;
use crate::http::repair::canonical_head;
use crate::http::response::RULES;
use crate::net::stream::Connection;
use crate::proxy::Credentials;
use crate::text::Escaped;

/// The largest response head, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// How many interim responses may come before the final one.
const MAX_INTERIM: usize = 8;

/// Some proxies refuse a request without User-Agent (RFC 9110 §10.1.5).
const USER_AGENT: &str = concat!("simple-proxy/", env!("CARGO_PKG_VERSION"));

/// Asks the proxy at the other end of `connection` for a tunnel to `upstream`. Bytes that follow
/// the proxy's response stay in `connection`: they come from the upstream.
pub(crate) async fn connect(
    connection: &mut Connection,
    upstream: &Authority,
    credentials: Option<&Credentials>,
) -> Result<(), Error> {
    let request = request(upstream, credentials);
    let sent = connection.stream.write_all(&request).await;
    sent.map_err(|error| broken(describe(&error)))?;
    for _ in 0..=MAX_INTERIM {
        let length = read_answer(connection).await?;
        let verdict = check_answer(&connection.received.bytes()[..length]);
        connection.received.consume(length);
        match verdict? {
            Answer::Tunnel => return Ok(()),
            Answer::Interim => {}
        }
    }
    Err(broken(
        "the proxy sent too many interim responses".to_owned(),
    ))
}

async fn read_answer(connection: &mut Connection) -> Result<usize, Error> {
    let rules = Rules {
        max_bytes: MAX_ANSWER_BYTES,
        ..RULES
    };
    let head = read_head(&connection.stream, &mut connection.received, rules);
    let extent = head.await.map_err(|error| {
        let cause = match error {
            HeadError::Closed => "the proxy closed the connection without a response".to_owned(),
            HeadError::Truncated => {
                "the proxy closed the connection in the middle of its response".to_owned()
            }
            HeadError::Malformed(reason) => format!("the proxy's response is malformed: {reason}"),
            HeadError::Version => "the proxy does not speak HTTP/1".to_owned(),
            HeadError::StartLineTooLong | HeadError::TooLarge => {
                "the proxy's response is too large".to_owned()
            }
            HeadError::Io(error) => describe(&error),
        };
        broken(cause)
    })?;
    Ok(extent.length)
}

fn broken(cause: String) -> Error {
    Error::new(Stage::ProxyConnect, "connection_terminated", cause)
}

fn request(upstream: &Authority, credentials: Option<&Credentials>) -> Vec<u8> {
    let mut request = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write!(
        request,
        "CONNECT {upstream} HTTP/1.1\r\nHost: {upstream}\r\nUser-Agent: {USER_AGENT}\r\n"
    );
    if let Some(Credentials { user, password }) = credentials {
        // RFC 7617 §2
        let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let _ = write!(request, "Proxy-Authorization: Basic {basic}\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// The response of a proxy that did not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What follows comes from the upstream.
    Tunnel,
    /// Another response follows (RFC 9110 §15.2).
    Interim,
}

/// Classifies a response head. Any 2xx is a tunnel, whatever its framing fields say (RFC 9110
/// §9.3.6); any other response that is not interim is a refusal.
pub fn check_answer(head: &[u8]) -> Result<Answer, Error> {
    let malformed = |problem: &str| broken(format!("the proxy's response is malformed: {problem}"));
    let head = canonical_head(head).map_err(malformed)?.bytes;
    let mut fields = no_response_fields();
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let outcome = config.parse_response_with_uninit_headers(&mut parsed, &head, &mut fields);
    let (Ok(httparse::Status::Complete(_)), Some(status)) = (outcome, parsed.code) else {
        return Err(malformed("a field or the status line"));
    };
    let (stage, token) = match status {
        200..=299 => return Ok(Answer::Tunnel),
        100 | 102..=199 => return Ok(Answer::Interim),
        // RFC 9110 §11.7.1 requires 407; tinyproxy answers a wrong password with 401.
        401 | 407 => (Stage::ProxyAuth, "destination_unavailable"),
        403 => (Stage::ProxyRefused, "destination_ip_prohibited"),
        504 => (Stage::ProxyRefused, "connection_timeout"),
        _ => (Stage::ProxyRefused, "destination_unavailable"),
    };
    let mut error = Error::new(stage, token, format!("CONNECT answered {status}"));
    // The reason phrase may contain addresses.
    error.said = Escaped(parsed.reason.unwrap_or_default().as_bytes()).to_string();
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_with_host_and_basic() {
        let upstream = Authority::parse("[2001:db8::1]:443").expect("valid");
        let credentials = Credentials {
            user: "alice".to_owned(),
            password: "s3cr:t@/x".to_owned(),
        };
        let text = String::from_utf8(request(&upstream, Some(&credentials))).expect("ASCII");
        assert_eq!(
            text,
            format!(
                "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
                 User-Agent: {USER_AGENT}\r\n\
                 Proxy-Authorization: Basic YWxpY2U6czNjcjp0QC94\r\n\r\n"
            )
        );
    }

    #[test]
    fn only_2xx_is_a_tunnel() {
        for (head, expected) in [
            (
                "HTTP/1.0 200 Connection established\r\n\r\n",
                Ok(Answer::Tunnel),
            ),
            (
                "HTTP/1.1 299 x\r\nContent-Length: 5\r\n\r\n",
                Ok(Answer::Tunnel),
            ),
            ("HTTP/1.1 200\r\n\r\n", Ok(Answer::Tunnel)),
            ("HTTP/1.1 100 Continue\r\n\r\n", Ok(Answer::Interim)),
            ("HTTP/1.1 103 Hints\r\nA: b\r\n\r\n", Ok(Answer::Interim)),
            ("HTTP/1.1 407 Auth\r\n\r\n", Err(Stage::ProxyAuth)),
            ("HTTP/1.1 401 Auth\r\n\r\n", Err(Stage::ProxyAuth)),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Err(Stage::ProxyRefused)),
            ("HTTP/1.1 302 Found\r\n\r\n", Err(Stage::ProxyRefused)),
            ("HTTP/1.1 101 Switching\r\n\r\n", Err(Stage::ProxyRefused)),
            ("HTTP/1.1 2000 OK\r\n\r\n", Err(Stage::ProxyConnect)),
            ("HTTP/1.1 20 OK\r\n\r\n", Err(Stage::ProxyConnect)),
            // Deviations that RFC 9112 lets a recipient accept.
            ("HTTP/1.1 200 OK\n\n", Ok(Answer::Tunnel)),
            ("HTTP/1.0 200 OK\nA: b\r\n\n", Ok(Answer::Tunnel)),
            ("HTTP/1.1  200 OK\r\n\r\n", Ok(Answer::Tunnel)),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Ok(Answer::Tunnel)),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Ok(Answer::Tunnel)),
            ("HTTP/1.1 200 O\x01K\r\n\r\n", Ok(Answer::Tunnel)),
            ("HTTP/1.2 200 OK\r\n\r\n", Ok(Answer::Tunnel)),
            ("HTTP/1.1 403 No\n\n", Err(Stage::ProxyRefused)),
            // Ambiguous heads.
            ("HTTP/1.1 200 O\rK\r\n\r\n", Err(Stage::ProxyConnect)),
            ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", Err(Stage::ProxyConnect)),
            ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", Err(Stage::ProxyConnect)),
            ("HTTP/1.1 200 OK\r\nA\r\n\r\n", Err(Stage::ProxyConnect)),
        ] {
            let answer = check_answer(head.as_bytes()).map_err(|error| error.stage);
            assert_eq!(answer, expected, "{head:?}");
        }
    }
}
