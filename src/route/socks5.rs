//! The SOCKS5 handshake (RFC 1928, RFC 1929) through `async_socks5`, and a description of each
//! of its failures.
//!
//! `async_socks5` rejects replies that curl and proxychains accept and that real proxies send: a
//! login reply whose version is not 1, a reserved byte that is not 0, a bound name that is not
//! UTF-8. None of these bytes affects the outcome, so `TokioIo`, which adapts the stream to
//! tokio's traits anyway, replaces them with what the RFCs require. The handshake itself is left
//! to the crate.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use async_socks5::{AddrKind, Auth, AuthMethod, UnsuccessfulReply};
use futures_lite::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use crate::authority::{Authority, Host};
use crate::error::{describe, is_close, Error, Stage};
use crate::net::stream::Stream;
use crate::proxy::Credentials;

/// Asks the proxy at the other end of `stream` for a connection to `upstream`. A name is left to
/// the proxy to resolve.
pub async fn connect(
    stream: &mut Stream,
    upstream: &Authority,
    credentials: Option<&Credentials>,
) -> Result<(), Error> {
    let destination = match &upstream.host {
        Host::Ip(address) => AddrKind::Ip(SocketAddr::new(*address, upstream.port)),
        Host::Name(name) => AddrKind::Domain(name.clone(), upstream.port),
        // The settings refuse a proxy for a zoned address or a unix socket, which only this
        // machine can reach.
        Host::Zoned(address, _) => AddrKind::Ip(SocketAddr::new((*address).into(), upstream.port)),
        Host::Unix(path) => AddrKind::Domain(path.clone(), upstream.port),
    };
    let auth = credentials.map(|c| Auth::new(c.user.clone(), c.password.clone()));
    // No read buffer: bytes after the reply belong to the upstream connection.
    let mut stream = TokioIo {
        stream,
        unsent: Vec::new(),
        answers: Answers::default(),
    };
    match async_socks5::connect(&mut stream, destination, auth).await {
        Ok(_) => Ok(()),
        Err(async_socks5::Error::Io(error))
            if is_close(&error) && stream.answers.awaits_reply() =>
        {
            Err(Error::new(
                Stage::ProxyRefused,
                UNANSWERED,
                "the proxy closed the connection without replying to the SOCKS5 request",
            ))
        }
        Err(error) => Err(explain(error, credentials.is_some())),
    }
}

/// The error token where the proxy closes without a reply to the request: `ssh -D` does so when
/// it cannot reach the upstream, and so does a proxy that crashes.
pub(super) const UNANSWERED: &str = "connection_terminated";

fn explain(error: async_socks5::Error, with_credentials: bool) -> Error {
    use async_socks5::Error::*;
    let not_socks = |what: &str| {
        Error::new(
            Stage::ProxyConnect,
            "connection_terminated",
            format!("the proxy does not speak SOCKS5 ({what})"),
        )
    };
    let auth = |words: &str| Error::new(Stage::ProxyAuth, "destination_unavailable", words);
    match error {
        Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Error::new(
            Stage::ProxyConnect,
            "connection_terminated",
            "the proxy closed the connection during the SOCKS5 handshake",
        ),
        Io(error) => Error::new(
            Stage::ProxyConnect,
            "connection_terminated",
            format!("the SOCKS5 handshake failed: {}", describe(&error)),
        ),
        InvalidAuthStatus(_) => auth("the proxy refused the user name or password"),
        NoAcceptableMethods if with_credentials => {
            auth("the proxy offers no supported authentication method")
        }
        // Some proxies select it although it was not offered.
        NoAcceptableMethods | InvalidAuthMethod(AuthMethod::UsernamePassword) => {
            auth("the proxy requires a user name and a password")
        }
        InvalidAuthMethod(_) => {
            auth("the proxy chose an authentication method that was not offered")
        }
        Response(reply) => refusal(reply),
        WrongVersion => not_socks("it answered with version 4"),
        InvalidVersion(b'H') => not_socks("it answered like an HTTP server"),
        InvalidVersion(_) => not_socks("wrong version"),
        other => not_socks(&other.to_string().to_lowercase()),
    }
}

/// Describes a SOCKS5 reply (RFC 1928 §6), with the matching error type of RFC 9209 §2.3.
fn refusal(reply: UnsuccessfulReply) -> Error {
    use UnsuccessfulReply::*;
    let (code, words, token) = match reply {
        GeneralFailure => (1, "general failure", "destination_unavailable"),
        ConnectionNotAllowedByRules => (2, "not allowed by its rules", "destination_ip_prohibited"),
        NetworkUnreachable => (3, "network unreachable", "destination_ip_unroutable"),
        HostUnreachable => (4, "host unreachable", "destination_ip_unroutable"),
        ConnectionRefused => (5, "connection refused", "connection_refused"),
        TtlExpired => (6, "TTL expired", "destination_ip_unroutable"),
        CommandNotSupported => (7, "command not supported", "destination_unavailable"),
        AddressTypeNotSupported => (8, "address type not supported", "destination_unavailable"),
        Unassigned(code) => (code, "unassigned reply code", "destination_unavailable"),
    };
    let cause = format!("SOCKS5 reply {code}: {words}");
    Error::new(Stage::ProxyRefused, token, cause)
}

/// Adapts a stream to tokio's I/O traits, which `async_socks5` uses. The crate writes field by
/// field and some proxies take one segment for one message, so writes are collected until the
/// next read or flush.
struct TokioIo<'a> {
    stream: &'a mut Stream,
    unsent: Vec<u8>,
    answers: Answers,
}

impl TokioIo<'_> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let n = ready!(Pin::new(&mut &*self.stream).poll_write(cx, &self.unsent))?;
            self.unsent.drain(..n);
        }
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for TokioIo<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        let space = buf.initialize_unfilled();
        let n = ready!(Pin::new(&mut &*self.stream).poll_read(cx, space))?;
        for byte in &mut space[..n] {
            self.answers.correct(byte);
        }
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for TokioIo<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// Follows the proxy's replies byte by byte, and replaces those bytes that do not affect the
/// outcome with what the RFCs require.
#[derive(Default)]
struct Answers {
    answer: Answer,
    /// The offset of the next byte within that reply.
    at: usize,
    /// The offsets of the bytes of the bound name.
    name: Range<usize>,
}

/// The replies of a proxy, in order.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Answer {
    /// The version and the selected method (RFC 1928 §3).
    #[default]
    Selection,
    /// The version and the status of the login (RFC 1929 §2).
    Login,
    /// Version, reply, reserved byte, bound address and port (RFC 1928 §6).
    Reply,
}

impl Answers {
    /// Whether the request was sent and no byte of its reply has arrived.
    fn awaits_reply(&self) -> bool {
        self.answer == Answer::Reply && self.at == 0
    }

    fn correct(&mut self, byte: &mut u8) {
        let at = self.at;
        self.at += 1;
        match (self.answer, at) {
            (Answer::Selection, 1) => {
                self.at = 0;
                self.answer = match byte {
                    2 => Answer::Login,
                    _ => Answer::Reply,
                };
            }
            // Some proxies send the version of SOCKS, 5.
            (Answer::Login, 0) => *byte = 1,
            (Answer::Login, 1) => {
                self.at = 0;
                self.answer = Answer::Reply;
            }
            (Answer::Reply, 2) => *byte = 0,
            (Answer::Reply, 3) if *byte == 3 => self.name = 5..5,
            (Answer::Reply, 4) if self.name.start == 5 => self.name.end += usize::from(*byte),
            (Answer::Reply, at) if self.name.contains(&at) && !byte.is_ascii() => *byte = b'?',
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_without_effect_are_replaced() {
        for (from, to) in [
            (&b"\x05\x00"[..], &b"\x05\x00"[..]),
            (b"\x05\xff", b"\x05\xff"),
            (b"\x04\x00", b"\x04\x00"),
            (b"\x05\x02\x05\x00", b"\x05\x02\x01\x00"),
            (b"\x05\x02\x05\x05", b"\x05\x02\x01\x05"),
            (
                b"\x05\x00\x05\x00\x01\x01\xff\xff\xff\xff\xff\xff",
                b"\x05\x00\x05\x00\x00\x01\xff\xff\xff\xff\xff\xff",
            ),
            (
                b"\x05\x02\x05\x00\x05\x00\x01\x03\x03a\xffb\xff\xff\xff",
                b"\x05\x02\x01\x00\x05\x00\x00\x03\x03a?b\xff\xff\xff",
            ),
            (
                b"\x05\x00\x05\x00\x00\x03\x00\xff\xff",
                b"\x05\x00\x05\x00\x00\x03\x00\xff\xff",
            ),
        ] {
            let mut answers = Answers::default();
            let mut corrected = from.to_vec();
            corrected.iter_mut().for_each(|byte| answers.correct(byte));
            assert_eq!(corrected, to, "{from:?}");
        }
    }

    #[test]
    fn every_reply_has_its_own_description() {
        use UnsuccessfulReply::*;
        let replies = [
            GeneralFailure,
            ConnectionNotAllowedByRules,
            NetworkUnreachable,
            HostUnreachable,
            ConnectionRefused,
            TtlExpired,
            CommandNotSupported,
            AddressTypeNotSupported,
            Unassigned(99),
        ];
        let mut causes: Vec<String> = replies.map(|reply| refusal(reply).cause).into();
        causes.sort();
        causes.dedup();
        assert_eq!(causes.len(), replies.len());
    }
}
