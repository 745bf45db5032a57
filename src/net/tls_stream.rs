//! A TLS session over a stream, after its handshake: how records are read and written without
//! blocking, and when a read is interrupted so that the thread's other tasks can run.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::task::{Context, Poll};

use openssl::ssl::{ErrorCode, SslStream};

use crate::net::buffer::Buffer;
use crate::net::reactor::wake_next_turn;
use crate::net::socket::{Direction, Socket};
use crate::net::stream::{Connection, Stream};

/// A TLS session and the stream below it.
pub struct TlsStream {
    session: Session,
}

/// The OpenSSL session, by the side that the program takes in it.
pub(super) enum Session {
    /// The program is the client, of an upstream or a proxy.
    Ours(native_tls::TlsStream<Transport>),
    /// The program is the server, of a downstream client.
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

    /// How many decrypted bytes OpenSSL holds that were not read.
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
    /// A session whose handshake is done.
    pub(super) fn new(session: Session) -> TlsStream {
        TlsStream { session }
    }

    /// Waits for the readiness that the last operation that would have blocked needs.
    pub fn poll_unblocked(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.transport().poll_unblocked(cx)
    }

    /// The stream that carries the records.
    pub fn get_ref(&self) -> &Stream {
        &self.session.transport().stream
    }

    /// The stream that carries the records, mutably.
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
/// until a record carries data, and a peer may send records without data, such as key updates,
/// without end. A record takes two such steps, or four if only part of it has arrived at first.
const MOST_STEPS: u32 = 32;

impl TlsStream {
    /// Reads further records while they are full, so that one write can carry several.
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

    /// Whether the next read blocks unless the socket at the bottom is ready, so that OpenSSL
    /// need not be called.
    pub fn none_waiting(&self) -> bool {
        let transport = self.session.transport();
        transport.drained && self.none_waiting_here() && transport.stream.none_waiting()
    }

    /// Whether every byte received from the stream below has been read.
    fn none_waiting_here(&self) -> bool {
        self.session.transport().received.is_empty() && self.session.pending() == 0
    }

    /// Whether the peer has sent only part of a record so far.
    pub fn is_torn(&self) -> bool {
        self.session.transport().torn
    }

    /// Whether everything that the peer has sent was read, and no part of a record has arrived.
    /// `below` answers the same for the stream that carries the records.
    pub fn is_quiet(&self, below: fn(&Stream) -> bool) -> bool {
        let transport = self.session.transport();
        !transport.torn
            && self.session.transport().failed.is_none()
            && self.none_waiting_here()
            && below(&transport.stream)
    }
}

impl Read for TlsStream {
    /// Returns 0 only after close_notify: an end without one is `UnexpectedEof` (RFC 8446 §6.1).
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let outcome = self.read_records(buf);
        let drained = match &outcome {
            Ok(n) => *n > 0 && self.session.transport().failed.is_none(),
            // Not if a write that OpenSSL does during the read is what blocked.
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

/// The stream below a TLS session, with the `Read` and `Write` that OpenSSL calls.
pub struct Transport {
    stream: Stream,
    /// Bytes read ahead of OpenSSL, which asks for each record's header separately. At first,
    /// the bytes that the peer had sent before the handshake began.
    received: Buffer,
    /// How many bytes OpenSSL has taken.
    taken: u64,
    /// The last read took bytes from below and returned none, so part of a record may be
    /// waiting.
    torn: bool,
    /// The last read took everything that had arrived, as far as the layers below know.
    drained: bool,
    /// The stream below has ended.
    pub(super) ended: Cell<bool>,
    /// Another record follows immediately after the one that is being written.
    more_follows: bool,
    /// How often OpenSSL may still ask for bytes.
    steps_left: Cell<u32>,
    /// Set when OpenSSL got `WouldBlock` because it had asked too often, although bytes may
    /// have arrived.
    pause: Cell<Pause>,
    /// An error that occurred after the same read had already returned data, kept for the next
    /// read: OpenSSL reports it once, and an end of the stream from then on.
    failed: Option<io::Error>,
}

impl Transport {
    /// A transport over a connection on which the peer may already have sent bytes.
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

    /// Resets the count of steps before OpenSSL reads.
    fn begin_read(&self) {
        self.steps_left.set(MOST_STEPS);
        self.pause.set(Pause::None);
    }

    /// Waits for the readiness that the last operation that would have blocked needs, or for the
    /// next turn of the thread.
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
    /// No wait.
    #[default]
    None,
    /// The wait has to precede the next read.
    Wanted,
    /// The wait has begun, and is over at the next poll.
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
    use std::future::poll_fn;
    use std::thread;

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::error::ErrorStack;
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::ssl::{SslConnector, SslMethod, SslRef, SslVerifyMode};
    use openssl::x509::X509;

    use super::*;
    use crate::identity::Identity;
    use crate::net::reactor::{block_on, tests::pair};
    use crate::net::tls::{Acceptor, HandshakeTurns};

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
        /// Schedules a KeyUpdate message (RFC 8446 §4.6.3).
        fn SSL_key_update(ssl: *mut std::ffi::c_void, kind: std::ffi::c_int) -> std::ffi::c_int;
    }

    /// OpenSSL reads on until a record carries data: a peer that sent key updates as quickly as
    /// they were read starved every other connection of the thread.
    #[test]
    fn a_stream_of_key_updates_does_not_starve_the_thread() {
        const UPDATES: usize = 1000;
        let acceptor = Acceptor::new(&identity().expect("OpenSSL works")).expect("a matching pair");
        let (here, there) = pair();
        there.set_nodelay(true).expect("a socket");
        let peer = thread::spawn(move || {
            let mut builder = SslConnector::builder(SslMethod::tls()).expect("OpenSSL works");
            builder.set_verify(SslVerifyMode::NONE);
            let stream = builder.build().connect("a.test", there);
            let mut stream = stream.expect("a handshake");
            for _ in 0..UPDATES {
                let ssl = std::ptr::from_ref::<SslRef>(stream.ssl()).cast_mut();
                // SAFETY: the pointer is OpenSSL's object, which `stream` keeps alive and nothing
                // else uses. The openssl crate does not bind this function.
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
}
