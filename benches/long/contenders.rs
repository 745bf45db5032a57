//! The contenders: the program, the peers that are installed, and the client without a proxy.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};

use crate::name_server::{self, asking};
use crate::{far, find, Running, BODY, FAR, PATIENCE, PROGRAM};

/// The program with some options, a peer, or the client without any proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Ours,
    Nginx,
    Haproxy,
    Client,
}

/// How the upstream is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Route {
    Plain,
    Tls,
    /// Over plain TCP, through a SOCKS5 proxy with a password.
    Socks,
    /// Over TLS; the program also goes through the SOCKS5 proxy.
    Both,
    /// Over plain TCP, by a name that the name server resolves; no connection is kept. The peers
    /// resolve the name when they start.
    Name,
    /// The same, but nginx resolves the name for each request.
    NameAsked,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    running: Running,
}

thread_local! {
    /// The network namespace is private, so any port is free.
    static NEXT_PORT: Cell<u16> = const { Cell::new(8000) };
}

/// The command line of the program, without the route.
fn program(port: u16, more: &[&str]) -> Vec<String> {
    let port = port.to_string();
    let all = ["-b", "127.0.0.1", "-p", &port, "-q", "--log-lang", "en"];
    let all = all.iter().chain(more).map(|word| word.to_string());
    all.collect()
}

impl Proxy {
    /// Starts a proxy; none if the peer is not installed or does not support the route.
    pub fn start(
        who: Who,
        route: Route,
        more: &[&str],
        folder: &Path,
    ) -> io::Result<Option<Proxy>> {
        if route == Route::Socks && who != Who::Ours {
            return Ok(None);
        }
        let socks = |port: u16| format!("socks5://user:word@{FAR}:{port}");
        let (to_plain, to_tls) = (socks(far::SOCKS_PLAIN), socks(far::SOCKS));
        let closing = format!("bench.example:{}", far::CLOSING);
        let (plain, tls) = (format!("{FAR}:80"), format!("{FAR}:443"));
        let words = match route {
            Route::Plain => vec!["-d", "-u", &plain],
            Route::Tls => vec!["-d", "-u", &tls],
            Route::Socks => vec!["-u", "bench.example:80", "-s", &to_plain],
            Route::Both => vec!["-u", "bench.example:443", "-s", &to_tls],
            Route::Name | Route::NameAsked => vec!["-d", "-u", &closing],
        };
        Proxy::start_with(who, route, &[&words[..], more].concat(), folder)
    }

    /// Starts the program with all options except the listening address; peers only get a route.
    pub fn start_with(
        who: Who,
        route: Route,
        words: &[&str],
        folder: &Path,
    ) -> io::Result<Option<Proxy>> {
        let port = NEXT_PORT.get();
        NEXT_PORT.set(port + 1);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let named = matches!(route, Route::Name | Route::NameAsked);
        let new = |program: &Path| match named {
            true => {
                let mut command = asking(folder);
                command.arg(program);
                command
            }
            false => Command::new(program),
        };
        let mut command = match who {
            Who::Client => return Ok(None),
            Who::Ours => {
                let mut command = new(Path::new(PROGRAM));
                command.args(program(port, words));
                command
            }
            Who::Nginx => {
                let Some(nginx) = find("nginx") else {
                    return Ok(None);
                };
                let file = folder.join("nginx.conf");
                fs::write(&file, nginx_file(port, route, folder))?;
                let mut command = new(&nginx);
                command.arg("-c").arg(file).arg("-e").arg("stderr");
                command
            }
            Who::Haproxy => {
                let Some(haproxy) = find("haproxy") else {
                    return Ok(None);
                };
                let file = folder.join("haproxy.cfg");
                fs::write(&file, haproxy_file(port, route))?;
                let mut command = new(&haproxy);
                command.arg("-db").arg("-f").arg(file);
                command
            }
        };
        let said = fs::File::create(folder.join("said"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let mut running = Running(command.spawn()?);
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if running.0.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                let said = fs::read_to_string(folder.join("said")).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{command:?} does not listen: {said}"
                )));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(Some(Proxy { address, running }))
    }

    /// Does one exchange, whose response must have this status. Returns the time from connecting
    /// to the end of the response's head, and the connection.
    pub fn exchange(&self, request: &[u8], status: &str) -> io::Result<(Duration, TcpStream)> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let told = head(&mut stream);
        let took = start.elapsed();
        match told {
            Ok(head) if head.split(' ').nth(1) == Some(status) => Ok((took, stream)),
            told => {
                let told = told.unwrap_or_else(|error| error.kind().to_string());
                let line = told.lines().next().unwrap_or_default();
                let seconds = took.as_secs_f64();
                Err(io::Error::other(format!("{line} after {seconds:.1} s")))
            }
        }
    }

    /// The number of its threads (proc(5)).
    pub fn threads(&self) -> io::Result<f64> {
        let folder = format!("/proc/{}/task", self.running.0.id());
        Ok(fs::read_dir(folder)?.count() as f64)
    }

    pub fn get(&self) -> io::Result<Duration> {
        let request = b"GET / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n";
        self.exchange(request, "200").map(|(took, _)| took)
    }

    pub fn post(&self) -> io::Result<Duration> {
        let head = "POST / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n";
        let head = format!("{head}Content-Length: {}\r\n\r\n", BODY.len());
        let request = [head.as_bytes(), BODY].concat();
        self.exchange(&request, "200").map(|(took, _)| took)
    }

    pub fn websocket(&self) -> io::Result<(Duration, TcpStream)> {
        self.exchange(&upgrade("/ws"), "101")
    }
}

/// A request for an upgrade.
fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// Reads to the end of a head, and nothing after it.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A connection to the upstream, by any route.
pub enum Wire {
    Plain(TcpStream),
    Tls(SslStream<TcpStream>),
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(room),
            Wire::Tls(stream) => stream.read(room),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Connects through a proxy, or directly by a route.
    pub fn open(proxy: Option<&Proxy>, route: Route) -> io::Result<Wire> {
        let to = match (proxy, route) {
            (Some(proxy), _) => proxy.address.to_string(),
            (None, Route::Socks) => format!("{FAR}:{}", far::SOCKS_PLAIN),
            (None, Route::Plain) => format!("{FAR}:{}", far::PLAIN),
            (None, _) => format!("{FAR}:{}", far::TLS),
        };
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        if proxy.is_some() || route == Route::Plain {
            return Ok(Wire::Plain(stream));
        }
        if route == Route::Socks {
            login(&mut stream)?;
            return Ok(Wire::Plain(stream));
        }
        let mut connector = SslConnector::builder(SslMethod::tls())?;
        connector.set_verify(SslVerifyMode::NONE);
        let stream = connector.build().connect("bench.example", stream);
        Ok(Wire::Tls(stream.map_err(io::Error::other)?))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref(),
        }
    }

    /// Sends a request and reads the head of the response, whose status must begin with `status`.
    pub fn ask(&mut self, request: &[u8], status: &str) -> io::Result<()> {
        self.write_all(request)?;
        let head = head(self)?;
        match head.split(' ').nth(1) == Some(status) {
            true => Ok(()),
            false => Err(io::Error::other(head)),
        }
    }

    /// Opens a tunnel.
    pub fn upgrade(&mut self, path: &str) -> io::Result<()> {
        self.ask(&upgrade(path), "101")
    }
}

/// The client's side of the SOCKS5 handshake in `far::login`.
fn login(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[5, 1, 2])?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(b"\x01\x04user\x04word")?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(b"\x05\x01\x00\x03\x0dbench.example\x00\x50")?;
    stream.read_exact(&mut [0; 10])
}

fn nginx_file(port: u16, route: Route, folder: &Path) -> String {
    let folder = folder.display();
    let closing = far::CLOSING;
    let resolver = name_server::ADDRESS;
    let (upstream, pass) = match route {
        Route::Plain => (format!("server {FAR}:80; keepalive 16;"), "proxy_pass http://up;".to_owned()),
        Route::Name => (format!("server bench.example:{closing};"), "proxy_pass http://up;".to_owned()),
        Route::NameAsked => (
            format!("server {FAR}:80;"),
            format!("resolver {resolver}; set $there bench.example; proxy_pass http://$there:{closing};"),
        ),
        _ => (format!("server {FAR}:443; keepalive 16;"), "proxy_pass https://up;".to_owned()),
    };
    format!(
        "user root; worker_processes 1; daemon off; pid {folder}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream up {{ {upstream} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      {pass} proxy_http_version 1.1; proxy_ssl_verify off;
      proxy_buffering off; proxy_request_buffering off;
      proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"
    )
}

fn haproxy_file(port: u16, route: Route) -> String {
    let closing = far::CLOSING;
    let server = match route {
        Route::Plain => format!("{FAR}:80"),
        Route::Name | Route::NameAsked => format!("bench.example:{closing}"),
        _ => format!("{FAR}:443 ssl verify none"),
    };
    format!(
        "defaults
  mode http
  http-reuse always
  option splice-auto
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server up {server}
"
    )
}
