//! The upstream, and its faults.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslMethod};

use crate::connection::Trouble::{Cut, Wrong};
use crate::connection::{chunks, path, Done, Wire};
use crate::noise::{checksum, Noise};
use crate::shared::{field, frame, Patient};
use crate::tally::Tally;

pub fn acceptor() -> io::Result<SslAcceptor> {
    use openssl::{asn1::Asn1Time, ec::*, hash::MessageDigest, nid::Nid, pkey::PKey, x509::X509};
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut certificate = X509::builder()?;
    certificate.set_pubkey(&key)?;
    certificate.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    certificate.set_not_after(Asn1Time::days_from_now(2)?.as_ref())?;
    certificate.sign(&key, MessageDigest::sha256())?;
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    acceptor.set_certificate(&certificate.build())?;
    acceptor.set_private_key(&key)?;
    Ok(acceptor.build())
}

/// Starts an upstream; returns its address.
pub fn upstream(tls: Option<SslAcceptor>, tally: &'static Tally) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let tls = tls.clone();
            thread::spawn(move || {
                let Ok(mut wire) = Wire::new(socket) else {
                    return;
                };
                if let Some(tls) = tls {
                    let Ok(socket) = wire.socket.try_clone() else {
                        return;
                    };
                    // A hop may break the connection during the handshake.
                    let Ok(stream) = tls.accept(Patient(socket)) else {
                        return;
                    };
                    wire.stream = Box::new(stream);
                }
                match serve(wire, tally) {
                    // The peer is gone: the program has reported that to its client, or the
                    // client has left.
                    Ok(()) | Err(Cut(_)) => {}
                    Err(Wrong(words)) => tally.unexpected(format!("upstream: {words}")),
                }
            });
        }
    });
    Ok(address)
}

/// How long the end of a client may take to arrive: half a second, or longer on a busy machine.
const END_ARRIVES_WITHIN: Duration = Duration::from_secs(15);

/// Serves one connection for as long as it lasts.
fn serve(mut wire: Wire, tally: &Tally) -> Done {
    // The user that has logged in on this connection.
    let mut user: Option<String> = None;
    loop {
        let head = match wire.head() {
            // It was idle for longer than the pool keeps a connection: a leak.
            Err(Wrong(words)) => return Err(Wrong(format!("waiting for a request: {words}"))),
            head => head?,
        };
        let parts: Vec<&str> = path(&head).split('/').skip(1).collect();
        let number = |at: usize| -> u64 { parts.get(at).and_then(|n| n.parse().ok()).unwrap_or(0) };
        match parts[..] {
            ["warm-up"] => {
                wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
                return Ok(());
            }
            ["body", framing, ..] => {
                answer(&mut wire, &head, framing, number(2), number(3) as usize)?;
                if framing == "close" && !head.starts_with("HEAD ") {
                    wire.stream.close();
                    return Ok(());
                }
            }
            ["sum"] => {
                if field(&head, "expect").is_some() {
                    wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let body = wire.body(&head)?;
                let sum = format!("{} bytes, {:016x}", body.len(), checksum(&body));
                let length = sum.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{sum}");
                wire.send(answer.as_bytes())?;
            }
            ["who"] => {
                let says = field(&head, "authorization").and_then(|f| f.strip_prefix("NTLM "));
                let is_challenged = says == Some("begin");
                if let Some(name) = says.filter(|_| !is_challenged) {
                    user = Some(name.to_owned());
                }
                let known = user.as_deref().filter(|_| !is_challenged);
                let answer = match known {
                    Some(name) => {
                        let length = name.len();
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}")
                    }
                    None => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\n\
                             Content-Length: 0\r\n\r\n"
                        .to_owned(),
                };
                wire.send(answer.as_bytes())?;
            }
            ["ws"] => return echo(&mut wire, &head),
            ["ws", "reset"] => {
                tally.upstream_faults.fetch_add(1, Relaxed);
                let message = frame(&[7; 5_000], None);
                wire.send(SWITCHING)?;
                wire.send(&message[..3_000])?;
                wire.reset();
                return Ok(());
            }
            // An upload that a client has abandoned must never look complete.
            ["abandoned"] => {
                wire.body(&head)?;
                return Err(Wrong("half an upload came as a whole one".to_owned()));
            }
            // This does not answer; the end of the client must be passed on.
            ["silent"] => {
                wire.socket.set_read_timeout(Some(END_ARRIVES_WITHIN))?;
                return match wire.rest() {
                    Err(Wrong(_)) => Err(Wrong("a client has left, and this was not told".into())),
                    _ => Ok(()),
                };
            }
            ["fault", fault] => {
                tally.upstream_faults.fetch_add(1, Relaxed);
                return fail(wire, &head, fault);
            }
            _ => return Err(Wrong(format!("this was never asked: {head:?}"))),
        }
    }
}

fn answer(wire: &mut Wire, head: &str, framing: &str, seed: u64, size: usize) -> Done {
    let body = Noise::new(seed).bytes(size);
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    match framing {
        "length" => out.extend(format!("Content-Length: {size}\r\n\r\n").bytes()),
        "chunked" => out.extend(b"Transfer-Encoding: chunked\r\n\r\n"),
        _ => out.extend(b"\r\n"),
    }
    if head.starts_with("HEAD ") {
        return wire.send(&out);
    }
    match framing {
        "chunked" => out.extend(chunks(&body, &mut Noise::new(seed ^ 7))),
        _ => out.extend(body),
    }
    // In two pieces, split anywhere, also within the head.
    let cut = Noise::new(seed ^ 9).split(out.len());
    wire.send(&out[..cut])?;
    wire.send(&out[cut..])
}

const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

fn echo(wire: &mut Wire, head: &str) -> Done {
    if field(head, "upgrade") != Some("websocket") {
        return Err(Wrong(format!("no upgrade: {head:?}")));
    }
    wire.send(SWITCHING)?;
    while let Some(payload) = wire.frame()? {
        wire.send(&frame(&payload, None))?;
    }
    wire.send(&[0x88, 0])?;
    wire.stream.close();
    let _ = wire.socket.shutdown(Shutdown::Write);
    match wire.rest() {
        Ok(rest) if !rest.is_empty() => Err(Wrong("bytes behind a close frame".to_owned())),
        _ => Ok(()),
    }
}

/// The faults of an upstream, and whether the client sees a status rather than the end of its
/// connection.
pub const FAULTS: [(&str, bool); 9] = [
    ("reset", true),
    ("close", true),
    ("half-head", true),
    ("garbage", true),
    ("two-lengths", true),
    ("short", false),
    ("half-chunk", false),
    ("bad-chunk", false),
    ("endless", false),
];

fn fail(mut wire: Wire, head: &str, fault: &str) -> Done {
    let half = vec![b'h'; 20_000];
    let (start, with_body) = match fault {
        "half-head" => ("HTTP/1.1 200 OK\r\nContent-Le", false),
        "garbage" => ("SSH-2.0-OpenSSH_9.6\r\n", false),
        "two-lengths" => (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            true,
        ),
        "short" => ("HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", true),
        "half-chunk" => (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
            true,
        ),
        "bad-chunk" => (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n",
            true,
        ),
        "endless" => ("HTTP/1.1 200 OK\r\n\r\n", true),
        _ => ("", false),
    };
    wire.send(start.as_bytes())?;
    if with_body {
        wire.send(&half)?;
    }
    if fault == "bad-chunk" {
        wire.send(b"xx\r\n5\r\nhello\r\n0\r\n\r\n")?;
        wire.rest()?;
        return Ok(());
    }
    // A plain close would end this one cleanly.
    if fault == "reset" || fault == "endless" || head.len() % 2 == 0 {
        wire.reset();
    }
    Ok(())
}
