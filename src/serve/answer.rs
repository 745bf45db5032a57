//! Responses that the proxy generates: where a request is not forwarded, where the upstream gave
//! no response, and on the ports of the metrics and the status page.

use std::io::Write;

use crate::date::push_http_date;
use crate::error::Error;
use crate::http::rejection::Rejection;
use crate::http::request::Request;
use crate::http::response::write_connection;
use crate::serve::status::{DATA_FIELDS, PAGE_FIELDS};

/// The response to a request that is not forwarded.
pub fn rejected(rejection: &Rejection) -> Vec<u8> {
    let Rejection { status, reason } = rejection;
    let answer = Answer {
        status: *status,
        error: Some("http_request_error"),
        words: reason,
        close: true,
    };
    answer.write(None)
}

/// The response to a valid request that is refused. `close` says that the connection ends after
/// it.
pub fn refused(rejection: &Rejection, request: &Request, close: bool) -> Vec<u8> {
    let Rejection { status, reason } = rejection;
    let answer = Answer {
        status: *status,
        error: Some("http_request_denied"),
        words: reason,
        close,
    };
    answer.write(Some(request))
}

/// The response in place of the upstream's (RFC 9110 §15.6.3, §15.6.5). `close` says that the
/// connection ends after it.
pub fn gateway_error(error: &Error, request: &Request, close: bool) -> Vec<u8> {
    let answer = Answer {
        status: error.status(),
        error: Some(error.token),
        words: &error.to_string(),
        close,
    };
    answer.write(Some(request))
}

/// The length of the body of a generated response.
pub fn body_length(response: &[u8]) -> u64 {
    let end = memchr::memmem::find(response, b"\r\n\r\n");
    end.map_or(0, |end| response.len() - end - 4) as u64
}

/// The response to a health check.
pub fn health(request: &Request, draining: bool, close: bool) -> Vec<u8> {
    let (status, words) = match draining {
        false => (200, "serving"),
        true => (503, "draining"),
    };
    let answer = Answer {
        status,
        error: None,
        words,
        close,
    };
    answer.write(Some(request))
}

/// The response to a request for an unknown page; `words` say where one is.
pub fn not_found(request: &Request, words: &str) -> Vec<u8> {
    let answer = Answer {
        status: 404,
        error: None,
        words,
        close: true,
    };
    answer.write(Some(request))
}

/// The metrics, in Prometheus' text format.
pub fn metrics(request: &Request, page: &str) -> Vec<u8> {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    response(
        200,
        content_type,
        "Cache-Control: no-store\r\n",
        page,
        true,
        Some(request),
    )
}

/// The status page.
pub fn status_page(request: &Request, page: &str) -> Vec<u8> {
    let content_type = "text/html; charset=utf-8";
    response(200, content_type, &PAGE_FIELDS, page, true, Some(request))
}

/// What the status page shows, as JSON.
pub fn status_json(request: &Request, json: &str) -> Vec<u8> {
    let content_type = "application/json";
    response(200, content_type, DATA_FIELDS, json, true, Some(request))
}

/// A response of one line of text.
struct Answer<'a> {
    status: u16,
    /// The error type of RFC 9209 §2.3, for errors.
    error: Option<&'a str>,
    words: &'a str,
    close: bool,
}

impl Answer<'_> {
    fn write(&self, request: Option<&Request>) -> Vec<u8> {
        let body = format!("{} {}: {}\n", self.status, reason(self.status), self.words);
        let field = match self.error {
            Some(error) => format!("Proxy-Status: simple-proxy; error={error}\r\n"),
            None => "Cache-Control: no-store\r\n".to_owned(),
        };
        let content_type = "text/plain; charset=utf-8";
        response(
            self.status,
            content_type,
            &field,
            &body,
            self.close,
            request,
        )
    }
}

/// Writes a generated response. Without `request`, which could not be parsed then, it is
/// HTTP/1.1.
fn response(
    status: u16,
    content_type: &str,
    field: &str,
    body: &str,
    close: bool,
    request: Option<&Request>,
) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         {field}Date: ",
        reason(status),
        body.len(),
    );
    push_http_date(&mut out);
    out.extend_from_slice(b"\r\n");
    match request {
        Some(request) => write_connection(&mut out, request, close),
        None => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    if !request.is_some_and(|request| request.is_head) {
        out.extend_from_slice(body.as_bytes());
    }
    out
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
