//! What the end-to-end tests share: the program as a child process, scripted peers, a raw
//! HTTP client and WebSocket frames. Every wait has a deadline; the kernel picks every port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Resource, Rlimit, Signal};

pub use crate::shared::{cleaned, field, frame, read_some, Noise, Patient};

/// The deadline of every wait, long enough for a slow machine: only a hang must fail a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The key with which clients mask their frames.
pub const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_simple-proxy");

/// The program with none of its settings in its environment.
pub fn program() -> Command {
    cleaned(Command::new(PROGRAM))
}

/// A shell that runs `setup` and then executes the program, on a port that the kernel picks.
pub fn behind_shell(setup: &str, args: &[&str]) -> Command {
    let mut command = cleaned(Command::new("sh"));
    command.args(["-c", &format!("{setup} exec \"$0\" \"$@\""), PROGRAM]);
    command.args(["-b", "127.0.0.1", "-p", "0"]).args(args);
    command
}

/// The lines that arrive from a child's stream.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    pub fn collect(stream: impl Read + Send + 'static) -> Lines {
        let lines = Lines::default();
        let shared = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                shared.0 .0.lock().unwrap().push(line);
                shared.0 .1.notify_all();
            }
        });
        lines
    }

    /// Waits for a line that contains `needle` and returns the first.
    pub fn wait_for(&self, needle: &str) -> String {
        self.wait_for_count(needle, 1).remove(0)
    }

    /// Waits until `count` lines contain `needle` and returns all that do.
    pub fn wait_for_count(&self, needle: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.0 .0.lock().unwrap();
        loop {
            let found: Vec<String> = lines
                .iter()
                .filter(|l| l.contains(needle))
                .cloned()
                .collect();
            if found.len() >= count {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all = lines.join("\n");
                // A panic with the lock held would make `text` panic too, in a destructor.
                drop(lines);
                panic!("no {count} lines with {needle:?} in:\n{all}");
            }
            lines = self.0 .1.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn text(&self) -> String {
        self.0 .0.lock().unwrap().join("\n")
    }
}

/// Sends a signal by its name, without kill(1), which some systems lack.
pub fn send_signal(pid: Pid, name: &str) {
    let signal = match name {
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "QUIT" => Signal::QUIT,
        "STOP" => Signal::STOP,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        other => panic!("SIG{other} is not in this list"),
    };
    kill_process(pid, signal).unwrap_or_else(|error| panic!("SIG{name}: {error}"));
}

/// A child process, which is killed when its guard is dropped.
pub struct Guard(pub Child);

impl Guard {
    pub fn spawn(command: &mut Command) -> Guard {
        let child = command.spawn();
        Guard(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn signal(&self, name: &str) {
        send_signal(Pid::from_child(&self.0), name);
    }

    /// Waits for its exit.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the child does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell that runs `setup` and then executes the program, which inherits `listener` as from a
/// service manager: for tests that cannot read the port from the log.
pub fn inheriting(listener: &TcpListener, setup: &str, args: &[&str]) -> Command {
    let mut command = cleaned(Command::new("sh"));
    let inherit = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    command.args(["-c", &format!("{setup} {inherit}"), PROGRAM, "-d"]);
    command.args(args);
    command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
    command
}

/// A running simple-proxy.
pub struct Proxy {
    pub guard: Guard,
    pub address: SocketAddr,
    pub log: Lines,
}

/// The arguments that `Proxy::metrics` needs to find the metrics.
pub const METRICS: [&str; 4] = ["--metrics-listen", "127.0.0.1:0", "--log-lang", "en"];

impl Proxy {
    /// The address of the metrics.
    pub fn metrics(&self) -> SocketAddr {
        let line = self.log.wait_for("metrics: http://");
        let address = line.rsplit("http://").next().unwrap();
        address.trim_end_matches("/metrics").parse().unwrap()
    }

    /// The page of the metrics.
    pub fn metrics_page(&self) -> String {
        let mut reader = Client::connect(self.metrics());
        reader.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        reader.response().text()
    }

    /// Starts it with these arguments, on a port that the kernel picks.
    pub fn start(args: &[&str]) -> Proxy {
        Proxy::start_with(args, &[])
    }

    /// Starts it in front of `upstream`.
    pub fn before(upstream: SocketAddr, args: &[&str]) -> Proxy {
        let upstream = upstream.to_string();
        let mut all = vec!["-u", upstream.as_str()];
        all.extend_from_slice(args);
        Proxy::start(&all)
    }

    pub fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Proxy {
        let mut command = program();
        command.args(["-b", "127.0.0.1", "-p", "0"]).args(args);
        command.envs(environment.iter().copied());
        Proxy::spawn(&mut command)
    }

    /// Starts a prepared command and waits until it listens.
    pub fn spawn(command: &mut Command) -> Proxy {
        command.stdin(Stdio::null());
        Proxy::spawn_inheriting(command)
    }

    /// The same for a command that inherits its listener, and so needs its standard input.
    pub fn spawn_inheriting(command: &mut Command) -> Proxy {
        command.stderr(Stdio::piped());
        let mut guard = Guard::spawn(command);
        let log = Lines::collect(guard.0.stderr.take().unwrap());
        let line = log.wait_for("127.0.0.1:");
        let address = line.rsplit(' ').next().unwrap().parse().unwrap();
        Proxy {
            guard,
            address,
            log,
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends one request on a new connection and returns the response.
    pub fn fetch(&self, request: &str) -> Response {
        let mut client = self.connect();
        client.send(request);
        client.response()
    }

    pub fn get(&self, path: &str) -> Response {
        self.fetch(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"))
    }

    /// Limits it to `most` descriptors from here on.
    pub fn limit_descriptors(&self, most: u64) {
        let pid = Pid::from_raw(self.guard.0.id() as i32);
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        rustix::process::prlimit(pid, Resource::Nofile, limit).expect("it is our child");
    }

    /// Its standard output, which must be a pipe.
    pub fn take_output(&mut self) -> std::process::ChildStdout {
        self.guard.0.stdout.take().unwrap()
    }

    /// Sends SIGTERM and waits for its exit.
    pub fn terminate(mut self) -> ExitStatus {
        self.guard.signal("TERM");
        self.guard.wait()
    }

    /// Its peak resident memory in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.status_field("VmHWM:")
    }

    /// How many threads it has.
    pub fn threads(&self) -> u64 {
        self.status_field("Threads:")
    }

    fn status_field(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.guard.0.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// A listener that runs `script` in a thread for each connection.
pub fn origin(script: impl Fn(Client) + Send + Sync + 'static) -> SocketAddr {
    origin_at("127.0.0.1:0", script)
}

pub fn origin_at(bind: &str, script: impl Fn(Client) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(bind).unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { break };
            let script = script.clone();
            thread::spawn(move || script(Client::new(stream)));
        }
    });
    address
}

/// An origin that answers each request on a connection with what `answer` makes of its head.
/// Request bodies with a Content-Length are read first.
pub fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    origin(move |mut client| {
        while let Some(head) = client.try_head() {
            if let Some(length) = field(&head, "content-length") {
                client.exactly(length.parse().unwrap());
            }
            client.send(&answer(&head));
        }
    })
}

/// An ordinary response.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An address at which nothing ever listens: its port stays bound as long as the tests run, so
/// that no other test gets it.
pub fn dead_address() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// Parses a line that must be a JSON object.
pub fn json_of(line: impl AsRef<str>) -> serde_json::Value {
    let line = line.as_ref();
    let parsed = serde_json::from_str(line);
    let value: serde_json::Value = parsed.unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(value.is_object(), "{line}");
    value
}

/// A byte stream: TCP, or TLS over it.
pub trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

/// One end of a connection, read and written blocking, with the bytes read ahead.
pub struct Client {
    pub stream: Box<dyn Bytes>,
    pub socket: TcpStream,
    ahead: Vec<u8>,
}

/// A response as it was received.
#[derive(Debug)]
pub struct Response {
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::new(TcpStream::connect(address).unwrap())
    }

    pub fn new(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // A unix socket has neither an address nor TCP_NODELAY.
        if stream.peer_addr().is_ok() {
            stream.set_nodelay(true).unwrap();
        }
        Client {
            socket: stream.try_clone().unwrap(),
            stream: Box::new(stream),
            ahead: Vec::new(),
        }
    }

    /// Performs a TLS handshake on the connection as the server.
    pub fn accept_tls(self, acceptor: &openssl::ssl::SslAcceptor) -> Option<Client> {
        let socket = self.socket.try_clone().unwrap();
        let stream = acceptor.accept(Patient(self.socket)).ok()?;
        Some(Client {
            stream: Box::new(stream),
            socket,
            ahead: Vec::new(),
        })
    }

    /// Performs a TLS handshake on the connection as a client that trusts only the roots of `ssl`.
    pub fn connect_tls(self, ssl: openssl::ssl::Ssl) -> Result<Client, String> {
        let socket = self.socket.try_clone().unwrap();
        let mut stream = openssl::ssl::SslStream::new(ssl, Patient(self.socket)).unwrap();
        stream.connect().map_err(|error| error.to_string())?;
        Ok(Client {
            stream: Box::new(stream),
            socket,
            ahead: Vec::new(),
        })
    }

    pub fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    /// Sends the bytes; fails the test if it cannot.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends the bytes and returns whether that succeeded.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    fn read_more(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let n = read_some(&mut self.stream, &mut chunk)?;
        self.ahead.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    /// A head with its empty line; None at the end of the stream or on an error.
    pub fn try_head(&mut self) -> Option<String> {
        self.read_head().ok()
    }

    pub fn head(&mut self) -> String {
        self.read_head().unwrap_or_else(|error| {
            let ahead = String::from_utf8_lossy(&self.ahead);
            panic!("no head: {error}, after {ahead:?}")
        })
    }

    fn read_head(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            if self.read_more()? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Exactly `count` bytes; None if the stream ends before.
    pub fn try_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < count {
            if self.read_more().ok()? == 0 {
                return None;
            }
        }
        Some(self.ahead.drain(..count).collect())
    }

    /// Exactly `count` bytes; fails the test if the stream ends before.
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            let n = self.read_more().unwrap();
            assert!(
                n > 0,
                "the stream ended {} bytes early",
                count - self.ahead.len()
            );
        }
        self.ahead.drain(..count).collect()
    }

    /// All bytes until the stream ends; fails the test on a reset.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read_more().unwrap() > 0 {}
        std::mem::take(&mut self.ahead)
    }

    /// All bytes until the stream ends in any way, the read timeout included.
    pub fn rest_or_reset(&mut self) -> Vec<u8> {
        while self.read_more().unwrap_or(0) > 0 {}
        std::mem::take(&mut self.ahead)
    }

    /// All bytes until `end` has arrived or the stream ends in any way.
    pub fn rest_or_reset_after(&mut self, end: &[u8]) -> Vec<u8> {
        while !self.ahead.ends_with(end) && self.read_more().unwrap_or(0) > 0 {}
        std::mem::take(&mut self.ahead)
    }

    /// Reads exactly `count` bytes and discards them.
    pub fn skip(&mut self, count: usize) {
        let mut left = count.saturating_sub(self.ahead.len());
        self.ahead.drain(..count.min(self.ahead.len()));
        let mut chunk = vec![0; 1 << 20];
        while left > 0 {
            let most = chunk.len().min(left);
            let n = read_some(&mut self.stream, &mut chunk[..most]).unwrap();
            assert!(n > 0, "the stream ended {left} bytes early");
            left -= n;
        }
    }

    /// Waits for the end of the stream and returns whether nothing more came before it.
    pub fn is_closed(&mut self) -> bool {
        self.ahead.is_empty() && matches!(self.read_more(), Ok(0) | Err(_))
    }

    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// A response to a request with `method`, with its body decoded.
    pub fn response_to(&mut self, method: &str) -> Response {
        let head = self.head();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            Vec::new()
        } else if let Some(length) = field(&head, "content-length") {
            self.exactly(length.parse().unwrap())
        } else if field(&head, "transfer-encoding").is_some() {
            self.chunked().0
        } else {
            self.rest()
        };
        Response { head, body }
    }

    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            assert!(self.read_more().unwrap() > 0, "the stream ended in a line");
        }
    }

    /// The data of a chunk; empty for the last one.
    pub fn chunk(&mut self) -> Vec<u8> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap();
        let data = self.exactly(size);
        if size > 0 {
            assert_eq!(self.exactly(2), b"\r\n");
        }
        data
    }

    /// A chunked body and its trailer lines.
    pub fn chunked(&mut self) -> (Vec<u8>, Vec<String>) {
        let mut body = Vec::new();
        loop {
            let data = self.chunk();
            if data.is_empty() {
                break;
            }
            body.extend(data);
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return (body, trailers);
            }
            trailers.push(line);
        }
    }

    pub fn end_sending(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends FIN and waits until the peer's kernel has acknowledged it: the peer can read what
    /// was sent even if this end is then closed.
    pub fn end_sending_and_wait(&self) {
        self.end_sending();
        let own = self.socket.local_addr().unwrap().port();
        let peer = self.socket.peer_addr().unwrap().port();
        // The state of a socket whose FIN was acknowledged.
        const FIN_WAIT2: &str = "05";
        wait_until("the peer's kernel has acknowledged the FIN", || {
            in_kernel(own, peer).expect("it is open").state == FIN_WAIT2
        });
    }

    /// Reads up to 4 KiB every 20 ms, `most` bytes in total, until `told` receives a message.
    pub fn slowly_until(&mut self, told: &Receiver<()>, most: usize) -> Vec<u8> {
        let mut got = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while told.recv_timeout(Duration::from_millis(20)).is_err() {
            assert!(Instant::now() < deadline, "no message");
            got.extend(self.exactly(4096.min(most - got.len())));
        }
        got
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Performs the client's side of a WebSocket handshake, with `more` in the same segment.
    pub fn upgrade_with(&mut self, path: &str, more: &[u8]) -> String {
        let mut request = upgrade_request(path).into_bytes();
        request.extend_from_slice(more);
        self.send_bytes(&request);
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        head
    }

    pub fn upgrade(&mut self, path: &str) -> String {
        self.upgrade_with(path, &[])
    }

    /// The payload of one WebSocket frame; None for a close frame or at the end of the stream.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        while self.ahead.len() < 2 {
            if self.read_more().ok()? == 0 {
                return None;
            }
        }
        let start = self.exactly(2);
        let masked = start[1] & 0x80 != 0;
        let length = match start[1] & 0x7f {
            126 => u16::from_be_bytes(self.exactly(2).try_into().unwrap()).into(),
            127 => u64::from_be_bytes(self.exactly(8).try_into().unwrap()),
            short => short.into(),
        };
        let mask: Vec<u8> = if masked { self.exactly(4) } else { vec![0; 4] };
        let mut payload = self.exactly(length as usize);
        for (i, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[i % 4];
        }
        (start[0] & 0x0f != 8).then_some(payload)
    }
}

pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: chat.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

pub const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The 101 for a handshake (RFC 6455 §4.2.2).
pub fn switching(request: &str) -> String {
    let key = field(request, "sec-websocket-key").unwrap_or_default();
    let accept =
        openssl::sha::sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    SWITCHING.replace(
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        &openssl::base64::encode_block(&accept),
    )
}

/// Answers a WebSocket handshake with 101 and then echoes every frame; answers any other
/// request with a page that shows its path and Host.
pub fn echo(mut client: Client) {
    while let Some(head) = client.try_head() {
        if field(&head, "upgrade").is_some() {
            client.send(&switching(&head));
            while let Some(payload) = client.frame() {
                if !client.try_send(&frame(&payload, None)) {
                    return;
                }
            }
            let _ = client.try_send(&[0x88, 0]);
            return;
        }
        if field(&head, "transfer-encoding").is_some() {
            client.chunked();
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let host = field(&head, "host").unwrap_or_default();
        if !client.try_send(ok(&format!("path={path} host={host}\n")).as_bytes()) {
            return;
        }
    }
}

/// A certificate for a name and 127.0.0.1, self-signed or signed by another, and its key.
pub struct Certificate {
    pub certificate: openssl::x509::X509,
    pub key: openssl::pkey::PKey<openssl::pkey::Private>,
}

impl Certificate {
    pub fn new(name: &str) -> Certificate {
        use openssl::{ec::*, nid::Nid, pkey::*};
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        Certificate::of(name, key, None, true)
    }

    /// A certificate signed by this one; `is_authority` lets it sign others.
    pub fn signs(&self, name: &str, is_authority: bool) -> Certificate {
        let key = Certificate::new(name).key;
        Certificate::of(name, key, Some(self), is_authority)
    }

    /// A self-signed certificate with an RSA key of `bits` bits.
    pub fn new_rsa(name: &str, bits: u32) -> Certificate {
        let key = openssl::rsa::Rsa::generate(bits).unwrap();
        Certificate::of(
            name,
            openssl::pkey::PKey::from_rsa(key).unwrap(),
            None,
            true,
        )
    }

    fn of(
        name: &str,
        key: openssl::pkey::PKey<openssl::pkey::Private>,
        issuer: Option<&Certificate>,
        is_authority: bool,
    ) -> Certificate {
        use openssl::{asn1::*, bn::BigNum, hash::*, x509::*};
        let mut subject = X509Name::builder().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&subject).unwrap();
        let issuer_name = issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name());
        builder.set_issuer_name(issuer_name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder
            .set_not_before(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::days_from_now(2).unwrap())
            .unwrap();
        let names = extension::SubjectAlternativeName::new()
            .dns(name)
            .ip("127.0.0.1")
            .build(&builder.x509v3_context(None, None))
            .unwrap();
        builder.append_extension(names).unwrap();
        if is_authority {
            let ca = extension::BasicConstraints::new().ca().build().unwrap();
            builder.append_extension(ca).unwrap();
        }
        let signer = issuer.map_or(&key, |issuer| &issuer.key);
        builder.sign(signer, MessageDigest::sha256()).unwrap();
        Certificate {
            certificate: builder.build(),
            key,
        }
    }

    pub fn acceptor(&self) -> openssl::ssl::SslAcceptor {
        use openssl::ssl::{SslAcceptor, SslMethod};
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        builder.set_certificate(&self.certificate).unwrap();
        builder.set_private_key(&self.key).unwrap();
        builder.build()
    }

    /// A TLS client that expects the certificate's name and trusts no other certificate.
    pub fn client(
        &self,
        prepare: impl FnOnce(&mut openssl::ssl::SslConnectorBuilder),
    ) -> openssl::ssl::Ssl {
        use openssl::ssl::{SslConnector, SslMethod};
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        let store = builder.cert_store_mut();
        store.add_cert(self.certificate.clone()).unwrap();
        prepare(&mut builder);
        let name = self.certificate.subject_name().entries().next().unwrap();
        let name = String::from_utf8(name.data().as_slice().to_vec()).unwrap();
        let client = builder.build().configure().unwrap();
        client.into_ssl(&name).unwrap()
    }

    pub fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    pub fn key_pem(&self) -> String {
        String::from_utf8(self.key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }
}

/// An origin that speaks TLS; `script` gets the connection after the handshake.
pub fn tls_origin(name: &str, script: impl Fn(Client) + Send + Sync + 'static) -> SocketAddr {
    let acceptor = Certificate::new(name).acceptor();
    origin(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            script(client);
        }
    })
}

/// A temporary folder, which is removed on drop.
pub struct Folder(pub std::path::PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("simple-proxy-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Relays between two connections until both have ended, as a scripted proxy does.
pub fn splice(a: Client, b: Client) {
    fn pump(mut from: TcpStream, mut to: TcpStream, ahead: &[u8]) {
        let _ = to.write_all(ahead);
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    }
    let (from, to) = (a.socket.try_clone().unwrap(), b.socket.try_clone().unwrap());
    let ahead = a.ahead.clone();
    let there = thread::spawn(move || pump(from, to, &ahead));
    pump(b.socket, a.socket, &b.ahead);
    let _ = there.join();
}

/// The state of one end of a connection in the kernel (proc_pid_net(5)).
pub struct InKernel {
    /// The number of the TCP state, in hexadecimal.
    pub state: String,
    /// How many bytes were sent but not acknowledged yet.
    pub unacknowledged: usize,
}

/// The end of an IPv4 connection with these ports; None if there is none.
pub fn in_kernel(own: u16, peer: u16) -> Option<InKernel> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let ports = (port(columns[1])?, port(columns[2])?);
        let (sent, _received) = columns[4].split_once(':')?;
        (ports == (own, peer)).then(|| InKernel {
            state: columns[3].to_owned(),
            unacknowledged: usize::from_str_radix(sent, 16).unwrap(),
        })
    })
}

/// Polls until `is_so` returns true; fails the test at the deadline.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A line of the log with the milliseconds at its end replaced by N.
pub fn without_time(line: &str) -> String {
    match line.rsplit_once(" ms, ") {
        Some((start, client)) => {
            let start = start.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{start}N ms, {client}")
        }
        None => line.to_owned(),
    }
}

/// The targets of the program's descriptors in /proc.
pub fn descriptors(proxy: &Proxy) -> Vec<String> {
    let folder = format!("/proc/{}/fd", proxy.guard.0.id());
    let entries = std::fs::read_dir(folder).unwrap();
    // A descriptor may be closed after it was listed.
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let targets = targets.map(|target| target.to_string_lossy().into_owned());
    targets.collect()
}

/// How many sockets the program has open. Other descriptors, such as splice pipes, may be kept
/// for reuse.
pub fn sockets(proxy: &Proxy) -> usize {
    let descriptors = descriptors(proxy);
    descriptors
        .iter()
        .filter(|d| d.starts_with("socket:"))
        .count()
}

/// Waits until the program has at most `before` sockets: no connection is open or kept.
pub fn sockets_return_to(proxy: &Proxy, before: usize) {
    wait_until(&format!("{before} sockets are open again"), || {
        sockets(proxy) <= before
    });
}

/// Raises this process's limit on descriptors.
pub fn allow_descriptors(needed: u64) {
    use rustix::process::{getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Some(most) = limit.maximum {
        assert!(
            most >= needed,
            "`ulimit -Hn` is {most}: {needed} are needed"
        );
    }
    if limit.current.is_some_and(|now| now < needed) {
        let raised = Rlimit {
            current: Some(needed),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).unwrap();
    }
}
