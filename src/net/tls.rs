//! TLS over a stream, on either side: one connector for the process and one acceptor for a
//! certificate, driven without blocking.
//!
//! `async_native_tls` would build a whole TLS context, CA bundle included, for every
//! connection; a `native_tls::TlsConnector` kept for the process does not.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::task::{Context, Poll};

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
use crate::net::buffer::Buffer;
use crate::net::reactor::{looks, next_look, wake_next_turn};
use crate::net::socket::{Direction, Socket};
use crate::net::stream::{Connection, Stream};

/// Makes TLS clients of connections.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

/// The one protocol that is offered, as it stands in a handshake (RFC 7301 §3.1).
pub const ALPN: &[u8] = b"\x08http/1.1";

/// What a certificate must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Chain, dates and name.
    Full,
    /// Nothing.
    Nothing,
}

/// The certificate that a TLS client presents, and what it requires of the peer.
#[derive(Clone, Copy)]
pub struct TlsClient<'a> {
    /// What the peer's certificate must satisfy.
    pub verify: Verify,
    /// Roots to trust beside the system's.
    pub roots: &'a [Certificate],
    /// The certificate that is presented to a peer that asks for one.
    pub identity: Option<&'a Identity>,
    /// The oldest version that is offered.
    pub oldest: TlsVersion,
}

impl Tls {
    /// Loads the system's roots and the given ones. Costs some milliseconds: once per process.
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
            // Without roots, OpenSSL does not look for them at each handshake either.
            builder
                .danger_accept_invalid_certs(true)
                .danger_accept_invalid_hostnames(true)
                .disable_built_in_roots(true);
        }
        builder.build().map(|connector| Tls { connector })
    }

    /// Performs the handshake with `server_name` as SNI (RFC 6066 §3), or none when it is
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

/// The server's side of TLS: the certificate that clients get, and the versions and cipher
/// suites that they must support. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    // native_tls' acceptor refuses TLS 1.3.
    acceptor: SslAcceptor,
}

impl Acceptor {
    /// For TLS 1.2 and 1.3. Fails where OpenSSL refuses the certificate, such as one whose
    /// key is too short.
    pub fn new(identity: &Identity) -> Result<Acceptor, ErrorStack> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        // Every cipher suite with elliptic curves; finite fields cost the server ten times as
        // much.
        builder.set_cipher_list("ECDHE+AESGCM:ECDHE+CHACHA20")?;
        builder.set_options(SslOptions::NO_RENEGOTIATION);
        // Sessions are resumed by tickets, for which nothing is kept here.
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_alpn_select_callback(|_, offered| {
            // RFC 7301 §3.2: none in common is an error.
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

    /// Performs the handshake, each of its steps in turn with those of other handshakes.
    /// Bytes already received are the client's first. Fails with the reason in words.
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

/// The handshakes of one thread take turns. A step of one may sign, which takes up to some
/// milliseconds: in each turn of the thread there is one such step, and between two of them
/// everything else is served.
#[derive(Default)]
pub struct HandshakeTurns {
    /// Held by the one whose step is next, while it waits for a turn of the thread.
    next: Mutex<()>,
    /// The turn of the last step.
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

/// A TLS session and the stream below it.
pub struct TlsStream {
    session: Session,
}

/// A session of either side.
enum Session {
    /// Of ours with an upstream or a proxy.
    Ours(native_tls::TlsStream<Transport>),
    /// Of a client with us.
    OfClient(SslStream<Transport>),
}

impl Session {
    fn transport(&self) -> &Transport {
        match self {
            Session::Ours(session) => session.get_ref(),
            Session::OfClient(session) => session.get_ref(),
        }
    }

    fn transport_mut(&mut self) -> &mut Transport {
        match self {
            Session::Ours(session) => session.get_mut(),
            Session::OfClient(session) => session.get_mut(),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Session::Ours(session) => session.read(buf),
            Session::OfClient(session) => session.read(buf),
        }
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Session::Ours(session) => session.write(buf),
            Session::OfClient(session) => session.write(buf),
        }
    }

    /// How many bytes OpenSSL holds that were decrypted and not read.
    fn pending(&self) -> usize {
        match self {
            Session::Ours(session) => session.buffered_read_size().unwrap_or(1),
            Session::OfClient(session) => session.ssl().pending(),
        }
    }

    /// Sends close_notify, once.
    fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Session::Ours(session) => session.shutdown(),
            Session::OfClient(session) => match session.shutdown() {
                Ok(_) => Ok(()),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(()),
                Err(error) => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
            },
        }
    }
}

impl TlsStream {
    fn new(session: Session) -> TlsStream {
        TlsStream { session }
    }

    /// Waits for what the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.transport().poll_unblocked(cx)
    }

    /// The stream that carries the records.
    pub fn get_ref(&self) -> &Stream {
        &self.session.transport().stream
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self) -> &mut Stream {
        &mut self.session.transport_mut().stream
    }

    /// Sends close_notify.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.session.shutdown()
    }

    /// Uses the socket at the bottom.
    pub fn with_socket<T>(&self, work: impl FnOnce(&Socket) -> T) -> T {
        self.get_ref().with_socket(work)
    }
}

/// The largest content of a record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

/// How often OpenSSL may ask for bytes during one read or one step of a handshake. It reads on
/// until a record has something to give, and a peer may send those that have nothing, such as
/// key updates, without end. A record takes two such steps, or four where what has arrived
/// ends in it.
const MOST_STEPS: u32 = 32;

impl TlsStream {
    /// Reads on while records come at full size, so that a write takes several.
    fn read_records(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.session.transport_mut().failed.take() {
            return Err(error);
        }
        let mut n = self.read_record(buf)?;
        let mut last = n;
        while last == RECORD && buf.len() - n >= RECORD {
            last = match self.read_record(&mut buf[n..]) {
                Ok(more) => more,
                Err(error) => {
                    let waits = error.kind() == io::ErrorKind::WouldBlock;
                    self.session.transport_mut().failed = Some(error).filter(|_| !waits);
                    break;
                }
            };
            n += last;
        }
        Ok(n)
    }
}

impl TlsStream {
    fn read_record(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let before = self.session.transport().taken;
        self.session.transport().begin_read();
        let outcome = self.session.read(buf);
        let has_taken = self.session.transport().taken != before;
        let transport = self.session.transport_mut();
        // OpenSSL reports an end in the middle of a record as 0 or as an error.
        let has_read = matches!(outcome, Ok(1..));
        transport.torn = !has_read && (transport.torn || has_taken);
        outcome
    }

    /// Whether the next read has to wait, unless the socket at the bottom is ready: OpenSSL
    /// need not be asked then.
    pub fn none_waiting(&self) -> bool {
        let transport = self.session.transport();
        transport.drained && self.none_waiting_here() && transport.stream.none_waiting()
    }

    /// Whether every byte that was taken from below has been read.
    fn none_waiting_here(&self) -> bool {
        self.session.transport().received.is_empty() && self.session.pending() == 0
    }

    /// Whether the peer has begun a record and not ended it.
    pub fn is_torn(&self) -> bool {
        self.session.transport().torn
    }

    /// Whether the peer has sent nothing that was not yet read, not even part of a record.
    /// `below` says so of the stream that carries the records.
    pub fn is_quiet(&self, below: fn(&Stream) -> bool) -> bool {
        let transport = self.session.transport();
        !transport.torn
            && self.session.transport().failed.is_none()
            && self.none_waiting_here()
            && below(&transport.stream)
    }
}

impl Read for TlsStream {
    /// 0 only after close_notify: an end without one is `UnexpectedEof` (RFC 8446 §6.1).
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let outcome = self.read_records(buf);
        let drained = match &outcome {
            Ok(n) => *n > 0 && self.session.transport().failed.is_none(),
            // Not if it is a write of OpenSSL's own that has to wait.
            Err(error) => {
                error.kind() == io::ErrorKind::WouldBlock
                    && self.session.transport().pause.get() != Pause::Wanted
                    && self.with_socket(|socket| socket.is_blocked_on(Direction::Read))
            }
        };
        self.session.transport_mut().drained = drained;
        match outcome {
            Ok(0) if !buf.is_empty() && self.session.transport().ended.get() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Err(error)
                if error.kind() == io::ErrorKind::Other && self.session.transport().ended.get() =>
            {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            outcome => outcome,
        }
    }
}

impl Write for TlsStream {
    /// Writes one record.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.session.transport_mut().more_follows = buf.len() > RECORD;
        let written = self.session.write(buf);
        self.session.transport_mut().more_follows = false;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The stream below a TLS session, as OpenSSL wants to use it.
pub struct Transport {
    stream: Stream,
    /// What was read ahead of OpenSSL, which asks for each record's header by itself; at
    /// first, what the peer had sent before TLS began here.
    received: Buffer,
    /// How many bytes OpenSSL has taken.
    taken: u64,
    /// The last read has taken bytes and given none: part of a record, perhaps.
    torn: bool,
    /// The last read got all there was, as far as the layers below know.
    drained: bool,
    /// The stream ended.
    ended: Cell<bool>,
    /// Behind the record that is being written another follows at once.
    more_follows: bool,
    /// How often OpenSSL may still ask for bytes.
    steps_left: Cell<u32>,
    /// It was told to wait because it had asked too often, although there may be bytes.
    pause: Cell<Pause>,
    /// A failure that met a read which had already taken something. OpenSSL tells it once
    /// and then of an end.
    failed: Option<io::Error>,
}

impl Transport {
    /// Over a connection on which the peer may have begun already.
    pub fn over(connection: Connection) -> Transport {
        Transport {
            stream: connection.stream,
            received: connection.received,
            taken: 0,
            torn: false,
            drained: false,
            ended: Cell::new(false),
            more_follows: false,
            failed: None,
            steps_left: Cell::new(MOST_STEPS),
            pause: Cell::new(Pause::None),
        }
    }

    /// Begins a read of OpenSSL's.
    fn begin_read(&self) {
        self.steps_left.set(MOST_STEPS);
        self.pause.set(Pause::None);
    }

    /// Waits for what the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.steps_left.set(MOST_STEPS);
        match self.pause.take() {
            Pause::None => self.stream.poll_unblocked(cx),
            Pause::Wanted => {
                self.pause.set(Pause::Begun);
                wake_next_turn(cx.waker());
                Poll::Pending
            }
            Pause::Begun => Poll::Ready(Ok(())),
        }
    }
}

/// A wait for the next turn of the thread.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Pause {
    #[default]
    None,
    /// It has to come before the next read.
    Wanted,
    /// It is over when this is polled again.
    Begun,
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(steps_left) = self.steps_left.get().checked_sub(1) else {
            self.pause.set(Pause::Wanted);
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.steps_left.set(steps_left);
        if self.received.is_empty() {
            let arrived = self.stream.try_read(self.received.space());
            match arrived {
                Ok(0) => self.ended.set(true),
                Ok(n) => self.received.received(n),
                Err(_) => self.received.release(),
            }
            arrived?;
        }
        let waiting = self.received.bytes();
        let n = waiting.len().min(buf.len());
        buf[..n].copy_from_slice(&waiting[..n]);
        self.received.consume(n);
        self.received.release();
        self.taken += n as u64;
        Ok(n)
    }
}

impl Write for Transport {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.more_follows {
            true => self.stream.try_write_part(buf),
            false => self.stream.try_write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::ssl::{SslConnector, SslRef, SslVerifyMode};
    use openssl::x509::X509;

    use super::*;
    use crate::net::reactor::{block_on, tests::pair};

    fn identity() -> Result<Identity, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
        let mut certificate = X509::builder()?;
        let (from, to) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(1)?);
        certificate.set_not_before(&from)?;
        certificate.set_not_after(&to)?;
        certificate.set_pubkey(&key)?;
        certificate.sign(&key, MessageDigest::sha256())?;
        Ok(Identity::new(vec![certificate.build()], key).expect("they belong together"))
    }

    extern "C" {
        /// Tells the peer that our key changes (RFC 8446 §4.6.3).
        fn SSL_key_update(ssl: *mut std::ffi::c_void, kind: std::ffi::c_int) -> std::ffi::c_int;
    }

    /// OpenSSL reads on until there is something to give: whoever sent key updates as quickly
    /// as they were read had the thread for itself.
    #[test]
    fn records_without_content_are_read_in_turns() {
        const UPDATES: usize = 1000;
        let acceptor = Acceptor::new(&identity().expect("OpenSSL works")).expect("a good pair");
        let (here, there) = pair();
        there.set_nodelay(true).expect("a socket");
        let peer = thread::spawn(move || {
            let mut builder = SslConnector::builder(SslMethod::tls()).expect("OpenSSL works");
            builder.set_verify(SslVerifyMode::NONE);
            let stream = builder.build().connect("a.test", there);
            let mut stream = stream.expect("a handshake");
            for _ in 0..UPDATES {
                let ssl = std::ptr::from_ref::<SslRef>(stream.ssl()).cast_mut();
                // SAFETY: OpenSSL's own object, which `stream` keeps and nobody else uses; the
                // openssl crate has no such call.
                #[allow(unsafe_code)]
                let noted = unsafe { SSL_key_update(ssl.cast(), 0) };
                assert_eq!(noted, 1);
                stream.do_handshake().expect("it fits into the socket");
            }
            stream.write_all(b"x").expect("it fits into the socket");
            stream
        });
        let reading = async {
            let socket = Socket::new(here).expect("the reactor runs");
            let connection = Connection::new(Stream::Plain(socket));
            let turns = HandshakeTurns::default();
            let connection = acceptor.accept(connection, &turns).await;
            let Connection { stream, .. } = connection.expect("a handshake");
            let peer = smol::unblock(|| peer.join().expect("it has sent all")).await;
            stream.with_socket(Socket::look_again);
            let (mut room, mut pauses) = ([0; 8], 0);
            let n = poll_fn(|cx| loop {
                match stream.try_read(&mut room) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => return Poll::Ready(outcome),
                }
                pauses += 1;
                if stream.poll_unblocked(cx).is_pending() {
                    return Poll::Pending;
                }
            });
            let n = n.await.expect("connected");
            drop(peer);
            (room[..n].to_vec(), pauses)
        };
        let (read, pauses) = block_on(reading, || None).expect("the reactor runs");
        assert_eq!(read, b"x");
        assert!(pauses >= 2 * UPDATES / MOST_STEPS as usize, "{pauses}");
    }

    #[test]
    fn openssl_speaks_plainly() {
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
