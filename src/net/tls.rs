//! TLS handshakes on either side, driven without blocking: one connector per process and one
//! acceptor per certificate. `tls_stream` owns what follows a handshake.
//!
//! `async_native_tls` would build a whole TLS context, CA bundle included, for every
//! connection; a `native_tls::TlsConnector` kept for the process does not.

use std::cell::Cell;
use std::future::poll_fn;

use native_tls::{Certificate, HandshakeError, Protocol, TlsConnector};
use openssl::error::ErrorStack;
use openssl::ssl::{
    select_next_proto, AlpnError, ErrorCode, Ssl, SslAcceptor, SslMethod, SslOptions,
    SslSessionCacheMode, SslStream,
};
use smol::lock::Mutex;

use crate::config::TlsVersion;
use crate::error::describe;
use crate::identity::Identity;
use crate::net::reactor::{looks, next_look};
use crate::net::stream::{Connection, Stream};
use crate::net::tls_stream::{Session, TlsStream, Transport};

/// Performs TLS handshakes as the client.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

/// The one protocol that is supported, in the wire format of ALPN (RFC 7301 §3.1).
pub const ALPN: &[u8] = b"\x08http/1.1";

/// What is verified of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Its chain, its dates and its name.
    Full,
    /// Nothing: any certificate is accepted.
    Nothing,
}

/// The certificate that a TLS client presents, and what it requires of the peer.
#[derive(Clone, Copy)]
pub struct TlsClient<'a> {
    /// What is verified of the peer's certificate.
    pub verify: Verify,
    /// Roots to trust in addition to the system's.
    pub roots: &'a [Certificate],
    /// The certificate to present to a peer that asks for one.
    pub identity: Option<&'a Identity>,
    /// The oldest version that is offered.
    pub oldest: TlsVersion,
}

impl Tls {
    /// Loads the system's roots and the given ones. This takes some milliseconds, so it is done
    /// once per process.
    pub fn new(client: &TlsClient) -> Result<Tls, native_tls::Error> {
        let TlsClient {
            verify,
            roots,
            identity,
            oldest,
        } = *client;
        let mut builder = TlsConnector::builder();
        builder.request_alpns(&["http/1.1"]);
        builder.min_protocol_version(Some(match oldest {
            TlsVersion::V1_0 => Protocol::Tlsv10,
            TlsVersion::V1_1 => Protocol::Tlsv11,
            TlsVersion::V1_2 => Protocol::Tlsv12,
            TlsVersion::V1_3 => Protocol::Tlsv13,
        }));
        if let Some(identity) = identity {
            builder.identity(identity.to_native()?);
        }
        for root in roots {
            builder.add_root_certificate(root.clone());
        }
        if verify == Verify::Nothing {
            // Without the built-in roots, OpenSSL does not look for them at each handshake.
            builder
                .danger_accept_invalid_certs(true)
                .danger_accept_invalid_hostnames(true)
                .disable_built_in_roots(true);
        }
        builder.build().map(|connector| Tls { connector })
    }

    /// Performs the handshake with `server_name` as SNI (RFC 6066 §3), or without SNI if it is
    /// an IP address. Bytes already received are the peer's first TLS bytes.
    pub async fn connect(
        &self,
        server_name: &str,
        connection: Connection,
    ) -> Result<Connection, native_tls::Error> {
        let transport = Transport::over(connection);
        let mut handshake = self.connector.connect(server_name, transport);
        loop {
            match handshake {
                Ok(session) => {
                    let stream = TlsStream::new(Session::Ours(session));
                    return Ok(Connection::new(Stream::Tls(stream.into())));
                }
                Err(HandshakeError::Failure(error)) => return Err(error),
                Err(HandshakeError::WouldBlock(half)) => {
                    // A broken socket fails the next step of the handshake, with its reason.
                    let _ = poll_fn(|cx| half.get_ref().poll_unblocked(cx)).await;
                    handshake = half.handshake();
                }
            }
        }
    }
}

/// The reason in an OpenSSL error, without its number, function and source line:
/// `error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:DATA (VERDICT)`.
pub fn openssl_words(text: &str) -> String {
    let mut parts = text.splitn(8, ':');
    if parts.next() != Some("error") {
        return text.to_owned();
    }
    let reason = parts.nth(3).unwrap_or(text);
    match parts.nth(2).and_then(|data| data.rsplit_once('(')) {
        Some((_, verdict)) => format!("{reason} ({verdict}"),
        None => reason.to_owned(),
    }
}

/// Performs TLS handshakes as the server: its certificate, and the versions and cipher suites
/// that it accepts. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    // The acceptor of native_tls does not support TLS 1.3.
    acceptor: SslAcceptor,
}

impl Acceptor {
    /// An acceptor for TLS 1.2 and 1.3. Fails if OpenSSL refuses the certificate, for example
    /// because its key is too short.
    pub fn new(identity: &Identity) -> Result<Acceptor, ErrorStack> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        // Only cipher suites with elliptic curves: key exchange over finite fields costs the
        // server ten times as much.
        builder.set_cipher_list("ECDHE+AESGCM:ECDHE+CHACHA20")?;
        builder.set_options(SslOptions::NO_RENEGOTIATION);
        // Sessions are resumed by tickets, which need no cache.
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_alpn_select_callback(|_, offered| {
            // RFC 7301 §3.2: no protocol in common is a fatal alert.
            select_next_proto(ALPN, offered).ok_or(AlpnError::ALERT_FATAL)
        });
        let Identity { chain, key } = identity;
        let mut chain = chain.iter();
        if let Some(first) = chain.next() {
            builder.set_certificate(first)?;
        }
        builder.set_private_key(key)?;
        for other in chain {
            builder.add_extra_chain_cert(other.clone())?;
        }
        builder.check_private_key()?;
        Ok(Acceptor {
            acceptor: builder.build(),
        })
    }

    /// Performs the handshake, and waits with each step until `turns` allows it. Bytes already
    /// received are the client's first TLS bytes. The error is the reason as text.
    pub async fn accept(
        &self,
        connection: Connection,
        turns: &HandshakeTurns,
    ) -> Result<Connection, String> {
        let words = |error: &dyn std::error::Error| openssl_words(&error.to_string());
        let ssl = Ssl::new(self.acceptor.context()).map_err(|error| words(&error))?;
        let mut session =
            SslStream::new(ssl, Transport::over(connection)).map_err(|error| words(&error))?;
        loop {
            turns.turn().await;
            match session.accept() {
                Ok(()) => {
                    let stream = TlsStream::new(Session::OfClient(session));
                    return Ok(Connection::new(Stream::Tls(stream.into())));
                }
                Err(error)
                    if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) =>
                {
                    // A broken socket fails the next step of the handshake, with its reason.
                    let _ = poll_fn(|cx| session.get_ref().poll_unblocked(cx)).await;
                }
                Err(_) if session.get_ref().ended.get() => {
                    return Err("the client closed the connection".to_owned())
                }
                Err(error) => {
                    return Err(match error.io_error() {
                        Some(error) => describe(error),
                        None => words(&error),
                    })
                }
            }
        }
    }
}

/// Makes the handshakes of one thread take turns. A step may sign, which takes up to some
/// milliseconds, so each turn of the thread has at most one step and everything else is served
/// between two of them.
#[derive(Default)]
pub struct HandshakeTurns {
    /// Held by the handshake whose step is next, while it waits for a turn of the thread.
    next: Mutex<()>,
    /// The turn in which the last step was made, as counted by `looks`.
    last: Cell<Option<u64>>,
}

impl HandshakeTurns {
    /// Waits until a step may be made.
    async fn turn(&self) {
        let _next = self.next.lock().await;
        if self.last.get() == Some(looks()) {
            next_look().await;
        }
        self.last.set(Some(looks()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_errors_are_reduced_to_the_reason() {
        for (text, words) in [
            (
                "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate \
                 verify failed:../ssl/statem/statem_clnt.c:1889: (self-signed certificate)",
                "certificate verify failed (self-signed certificate)",
            ),
            (
                "error:0A00010B:SSL routines:ssl3_get_record:wrong version number:\
                 ../ssl/record/ssl3_record.c:354:",
                "wrong version number",
            ),
            ("unexpected EOF", "unexpected EOF"),
        ] {
            assert_eq!(openssl_words(text), words);
        }
    }
}
