//! The SOCKS5 handshake (RFC 1928, RFC 1929) through `async_socks5`, and what its
//! failures mean in words.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use async_socks5::{AddrKind, Auth, UnsuccessfulReply};
use futures_lite::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use crate::authority::{Authority, Host};
use crate::error::{describe, Error, Stage};
use crate::net::stream::Stream;
use crate::proxy::Credentials;

/// Asks the proxy at the other end of `stream` for a connection to `upstream`. A name is
/// resolved by the proxy, an address is sent as one.
pub async fn connect(
    stream: &mut Stream,
    upstream: &Authority,
    credentials: Option<&Credentials>,
) -> Result<(), Error> {
    let destination = match &upstream.host {
        Host::Ip(address) => AddrKind::Ip(SocketAddr::new(*address, upstream.port)),
        Host::Name(name) => AddrKind::Domain(name.clone(), upstream.port),
    };
    let auth = credentials.map(|c| Auth::new(c.user.clone(), c.password.clone()));
    // No read buffer in between: bytes behind the reply belong to the upstream.
    let mut stream = TokioIo {
        stream,
        unsent: Vec::new(),
    };
    match async_socks5::connect(&mut stream, destination, auth).await {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(error, credentials.is_some())),
    }
}

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
            "the proxy closed during the SOCKS5 handshake",
        ),
        Io(error) => Error::new(
            Stage::ProxyConnect,
            "connection_terminated",
            format!("the SOCKS5 handshake failed: {}", describe(&error)),
        ),
        InvalidAuthStatus(_) => auth("the proxy refused the user name or password"),
        NoAcceptableMethods if with_credentials => {
            auth("the proxy offers no way to log in that is known here")
        }
        NoAcceptableMethods => auth("the proxy wants a user name and a password"),
        InvalidAuthMethod(_) => auth("the proxy chose a way to log in that was not offered"),
        Response(reply) => refusal(reply),
        WrongVersion => not_socks("it answered with version 4"),
        InvalidVersion(b'H') => not_socks("it answered like an HTTP server"),
        InvalidVersion(_) => not_socks("wrong version"),
        other => not_socks(&other.to_string().to_lowercase()),
    }
}

/// RFC 1928 §6, and the fitting types of RFC 9209 §2.3.
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
        Unassigned(code) => (code, "a reply without a meaning", "destination_unavailable"),
    };
    let cause = format!("SOCKS5 reply {code}: {words}");
    Error::new(Stage::ProxyRefused, token, cause)
}

/// A stream under tokio's I/O traits, which `async_socks5` is written on. It writes field
/// by field and some proxies take one segment for one message, so what is written is
/// collected until an answer is wanted.
struct TokioIo<'a> {
    stream: &'a mut Stream,
    unsent: Vec<u8>,
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
        Pin::new(&mut &*self.stream)
            .poll_read(cx, space)
            .map_ok(|n| buf.advance(n))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_has_its_own_words() {
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
