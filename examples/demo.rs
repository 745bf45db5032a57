//! The demo that `make demo` runs: an upstream with a page and a WebSocket echo, a SOCKS5 proxy,
//! and the program itself in front of them, all on 127.0.0.1. Every response is checked. On a
//! terminal it then keeps running for a browser until Ctrl-C.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{stderr, stdout, IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_io::Timer;
use async_native_tls::TlsAcceptor;
use async_signal::{Signal, Signals};
use base64::{engine::general_purpose::STANDARD as BASE64, Engine as _};
use futures_lite::io::{copy, BufReader, Lines};
use futures_lite::{future, prelude::*};
use openssl::{asn1::Asn1Time, hash::MessageDigest, pkcs12::Pkcs12, pkey::PKey, rsa::Rsa};
use openssl::{sha::sha1, x509::X509};
use rustix::process::{kill_process, Pid};
use simple_proxy::both;
use simple_proxy::cli::manner::Manner;
use simple_proxy::language::{Language, Words};
use smol::net::{TcpListener, TcpStream};
use smol::process::{Child, ChildStderr, Command};

/// Longer than all checks take on a slow machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the upstream serves; `{host}` becomes the Host that reached it.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">
<title>simple-proxy demo</title>
<p>The upstream was asked for {host}.</p>
<form><input autofocus> <button>Send through the WebSocket</button></form>
<pre style="white-space: pre-wrap"></pre>
<script>
  const show = line => document.querySelector('pre').append(line + '\n');
  const input = document.querySelector('input');
  const socket = new WebSocket(location.origin.replace('http', 'ws') + '/ws/echo');
  socket.onopen = () => { show('open'); socket.send('Hello from the page'); };
  socket.onmessage = event => show('echo: ' + event.data);
  socket.onclose = event => show('closed, code ' + event.code);
  document.forms[0].onsubmit = () => { socket.send(input.value); input.select(); return false; };
</script>
</html>
"#;

/// The first byte of a text message in one frame, and of a close frame (RFC 6455 §5.2).
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// The number of connections that the SOCKS5 proxy has made.
static JOINED: AtomicUsize = AtomicUsize::new(0);

/// The result of a step, or why the demo fails.
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The words in the user's language, which is chosen as for help and `--check`.
fn say(words: Words) -> String {
    let language = Manner::of(&[], |name| std::env::var_os(name)).language;
    words.say(language).to_owned()
}

/// The language that the program logs in, which is that of its variable.
fn log_language() -> Language {
    match std::env::var("SIMPLE_PROXY_LOG_LANG").as_deref() {
        Ok("en") => Language::English,
        _ => Language::Chinese,
    }
}

/// Writes a line on standard output. A closed output is ignored.
macro_rules! say {
    ($($text:tt)*) => { writeln!(stdout(), $($text)*).unwrap_or_default() };
}

fn main() -> ExitCode {
    let program = std::env::args_os().nth(1).unwrap_or_default();
    match smol::block_on(demo(&program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let failed = say(both!("demo failed: {problem}", "演示失败：{problem}"));
            let _ = writeln!(stderr(), "{failed}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the checks, then waits for Ctrl-C if a person is watching.
async fn demo(program: &OsStr) -> Outcome {
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let interrupted = async {
        signals.next().await;
        Err("interrupted".into())
    };
    let too_long = async {
        Timer::after(PATIENCE).await;
        Err(format!("not done after {PATIENCE:?}").into())
    };
    let mut chain = future::or(checks(program), future::or(interrupted, too_long)).await?;
    if stdout().is_terminal() {
        let address = chain.address;
        let open = both!(
            "Open http://{address}/ in a browser; Ctrl-C ends the demo.",
            "请用浏览器打开 http://{address}/；按 Ctrl-C 结束演示。"
        );
        say!("{}", say(open));
        let interrupted = async {
            signals.next().await;
        };
        future::or(interrupted, chain.pass_on()).await;
    }
    chain.end().await
}

/// Shows and checks both routes; returns the program on the first route, still running.
async fn checks(program: &OsStr) -> Outcome<Proxy> {
    let acceptor = TlsAcceptor::new(&identity()?[..], "").await?;
    let secure = listen(move |stream| {
        let acceptor = acceptor.clone();
        async move { upstream(acceptor.accept(stream).await?).await }
    });
    let (secure, plain) = (secure.await?, listen(upstream).await?);
    let socks = listen(socks5_proxy).await?;

    say!(
        "== {}",
        say(Words::new(
            "To an upstream with TLS, through a SOCKS5 proxy",
            "经 SOCKS5 代理到使用 TLS 的上游"
        ))
    );
    let options = format!("--tls on -u {secure} -s socks5://{socks} --drain-timeout 1");
    let mut chain = Proxy::start(program, &options).await?;
    chain.http().await?;
    chain.websocket().await?;

    say!(
        "\n== {}",
        say(Words::new(
            "To an upstream without TLS, directly",
            "直连不使用 TLS 的上游"
        ))
    );
    let mut direct = Proxy::start(program, &format!("--direct -u {plain}")).await?;
    direct.http().await?;
    direct.websocket().await?;
    direct.end().await?;
    let joined = JOINED.load(Ordering::Relaxed);
    // The WebSocket may use the connection that the page has left.
    expect(
        "the first route goes through the SOCKS5 proxy",
        joined > 0,
        true,
    )?;

    say!(
        "\n{}",
        say(Words::new("All responses are correct.", "所有响应均正确。"))
    );
    Ok(chain)
}

/// A running simple-proxy, killed when it is dropped.
struct Proxy {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Proxy {
    /// Starts it on a free port, which its first log line names.
    async fn start(program: &OsStr, options: &str) -> Outcome<Proxy> {
        let options = format!("-b 127.0.0.1 -p 0 {options}");
        say!("$ simple-proxy {options}");
        let mut command = std::process::Command::new(program);
        // In a separate process group Ctrl-C does not reach it, and the demo shuts it down
        // gracefully.
        command.args(options.split(' ')).process_group(0);
        // Settings that are meant for the service would be tried here as well.
        for (name, _) in std::env::vars_os() {
            let is_setting = name.as_encoded_bytes().starts_with(b"SIMPLE_PROXY_");
            if is_setting && name != "SIMPLE_PROXY_LOG_LANG" {
                command.env_remove(name);
            }
        }
        let mut command = Command::from(command);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn();
        let mut child = child.map_err(|error| format!("cannot start {program:?}: {error}"))?;
        let mut log = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let line = log.next().await.ok_or("simple-proxy did not start")??;
        say!("    {line}");
        let address = line.rsplit(' ').next().unwrap_or_default().parse();
        let mut proxy = Proxy {
            child,
            log,
            address: address.map_err(|_| "its first line has no address")?,
        };
        // Its other startup lines come at once and belong above the next heading.
        let settled = async {
            Timer::after(Duration::from_millis(100)).await;
        };
        future::or(settled, proxy.pass_on()).await;
        Ok(proxy)
    }

    /// Prints one line of its log.
    async fn log_line(&mut self) -> Outcome<String> {
        let line = self.log.next().await.ok_or("simple-proxy has ended")??;
        say!("    {line}");
        Ok(line)
    }

    /// Prints its log until it ends.
    async fn pass_on(&mut self) {
        while self.log_line().await.is_ok() {}
    }

    /// Prints its log until lines with these beginnings, each after a timestamp, have come.
    async fn logged(&mut self, documented: &[Words]) -> Outcome {
        for wanted in documented {
            let wanted = wanted.say(log_language());
            let is_wanted = |line: String| {
                let words = line.split_once(' ').map(|line| line.1);
                words.is_some_and(|words| words.starts_with(wanted))
            };
            while !is_wanted(self.log_line().await?) {}
        }
        Ok(())
    }

    /// Sends a request on a new connection; returns that and the head of the response.
    async fn request(&self, path: &str, fields: &str) -> Outcome<(BufReader<TcpStream>, String)> {
        let mut client = BufReader::new(TcpStream::connect(self.address).await?);
        let request = format!("GET {path} HTTP/1.1\r\nHost: demo.example\r\n{fields}\r\n");
        client.write_all(request.as_bytes()).await?;
        let head = read_head(&mut client).await?;
        Ok((client, head))
    }

    /// Fetches the page and compares it.
    async fn http(&mut self) -> Outcome {
        say!(
            "-- {}",
            say(Words::new("An HTTP request", "一个 HTTP 请求"))
        );
        let (mut client, head) = self.request("/", "").await?;
        expect("the status", head.lines().next(), Some("HTTP/1.1 200 OK"))?;
        let wanted = PAGE.replace("{host}", "demo.example");
        let mut page = vec![0; wanted.len()];
        client.read_exact(&mut page).await?;
        expect("the page", &String::from_utf8(page)?, &wanted)?;
        let bytes = wanted.len();
        let received = Words::new(
            "request: GET / (Host: demo.example)",
            "===收到请求开始=== GET / (Host: demo.example)",
        );
        let done = both!(
            "request done: GET / -> 200 ({bytes} bytes, ",
            "请求完成: GET / -> 200 ({bytes} bytes, "
        );
        self.logged(&[received, done]).await?;
        let line = wanted.lines().find(|line| line.contains("demo.example"));
        say!("  200 OK: {}", line.unwrap_or_default());
        Ok(())
    }

    /// Opens a WebSocket, exchanges a message and closes it.
    async fn websocket(&mut self) -> Outcome {
        say!("-- {}", say(Words::new("A WebSocket", "一个 WebSocket")));
        // The key and the accepted key are those of RFC 6455 §1.3.
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let (mut client, head) = self.request("/ws/echo", fields).await?;
        let switching = "HTTP/1.1 101 Switching Protocols";
        expect("the status", head.lines().next(), Some(switching))?;
        let accepted = field(&head, "Sec-WebSocket-Accept");
        expect("the accepted key", accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")?;
        self.logged(&[
            Words::new(
                "request: GET /ws/echo (Host: demo.example)",
                "===收到请求开始=== GET /ws/echo (Host: demo.example)",
            ),
            Words::new(
                "WebSocket request: /ws/echo (Host: demo.example)",
                "WebSocket 请求: /ws/echo (Host: demo.example)",
            ),
            Words::new(
                "WebSocket connection established, relaying both ways",
                "WebSocket 连接建立，开始双向转发",
            ),
        ])
        .await?;
        let message = "Hello Server, 你好";
        let text = frame(TEXT, message.as_bytes(), &[0; 4]);
        client.write_all(&text).await?;
        let (_, echo) = read_frame(&mut client).await?;
        let echo = String::from_utf8(echo)?;
        expect("the echo", echo.as_str(), message)?;
        let echoed = both!("sent and echoed: {echo}", "已发送并收到回显：{echo}");
        say!("  101 Switching Protocols; {}", say(echoed));
        let close = frame(CLOSE, &1000_u16.to_be_bytes(), &[0; 4]);
        client.write_all(&close).await?;
        let (kind, _) = read_frame(&mut client).await?;
        expect("the answer to a close frame", kind, CLOSE)?;
        drop(client);
        let closed = Words::new("WebSocket connection closed", "WebSocket 连接关闭");
        self.logged(&[closed]).await
    }

    /// Terminates it gracefully and waits until it has ended.
    async fn end(mut self) -> Outcome {
        if self.child.try_status()?.is_none() {
            let pid = Pid::from_raw(self.child.id().try_into()?).ok_or("no process")?;
            kill_process(pid, rustix::process::Signal::TERM)?;
        }
        self.pass_on().await;
        let status = self.child.status().await?;
        expect("the exit status of simple-proxy", status.code(), Some(0))
    }
}

/// Compares what was found with what was expected.
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Outcome {
    if found != wanted {
        return Err(format!("{what}: {wanted:?} was wanted, {found:?} came").into());
    }
    Ok(())
}

/// Listens on a free port. Each connection is a separate task, whose failure affects no other.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Outcome<SocketAddr>
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let accepting = async move {
        while let Ok((stream, _)) = listener.accept().await {
            smol::spawn(serve(stream)).detach();
        }
    };
    smol::spawn(accepting).detach();
    Ok(address)
}

/// A key and its self-signed certificate, as PKCS #12 without a password.
fn identity() -> Outcome<Vec<u8>> {
    let key = PKey::from_rsa(Rsa::generate(2048)?)?;
    let (today, tomorrow) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(1)?);
    let mut certificate = X509::builder()?;
    certificate.set_pubkey(&key)?;
    certificate.set_not_before(&today)?;
    certificate.set_not_after(&tomorrow)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    let mut bundle = Pkcs12::builder();
    bundle.pkey(&key).cert(&certificate.build());
    Ok(bundle.build2("")?.to_der()?)
}

/// A SOCKS5 proxy: CONNECT to an IPv4 address or a name, without a login (RFC 1928).
async fn socks5_proxy(mut client: TcpStream) -> Outcome {
    let [_, methods] = read(&mut client).await?;
    client.read_exact(&mut vec![0; methods.into()]).await?;
    client.write_all(&[5, 0]).await?;
    let [_, _, _, kind] = read(&mut client).await?;
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(&mut client).await?).to_string(),
        3 => {
            let [length] = read(&mut client).await?;
            let mut name = vec![0; length.into()];
            client.read_exact(&mut name).await?;
            String::from_utf8(name)?
        }
        _ => return Err("neither IPv4 nor a name".into()),
    };
    let port = u16::from_be_bytes(read(&mut client).await?);
    let upstream = TcpStream::connect((host, port)).await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    JOINED.fetch_add(1, Ordering::Relaxed);
    let up = pump(client.clone(), upstream.clone());
    future::try_zip(up, pump(upstream, client)).await?;
    Ok(())
}

/// Copies one direction to its end.
async fn pump(from: TcpStream, mut to: TcpStream) -> Outcome {
    copy(from, &mut to).await?;
    Ok(to.close().await?)
}

/// The upstream: a WebSocket echo for upgrades, the page for all other requests.
async fn upstream(stream: impl AsyncRead + AsyncWrite + Unpin) -> Outcome {
    let mut stream = BufReader::new(stream);
    loop {
        let head = read_head(&mut stream).await?;
        if field(&head, "Upgrade").eq_ignore_ascii_case("websocket") {
            let accept = accept(field(&head, "Sec-WebSocket-Key"));
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
            return echo(stream).await;
        }
        // The Host comes from the client and must not become markup.
        let page = PAGE.replace("{host}", &field(&head, "Host").replace(['<', '&'], "?"));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}",
            page.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Sends every message back until the client closes (RFC 6455 §5.5).
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Outcome {
    loop {
        let (kind, payload) = read_frame(&mut stream).await?;
        stream.write_all(&frame(kind, &payload, &[])).await?;
        if kind == CLOSE {
            return Ok(stream.close().await?);
        }
    }
}

/// Reads a message head with its empty line.
async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> Outcome<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await? == 0 {
            return Err("the connection ended in a message head".into());
        }
    }
    Ok(String::from_utf8(head)?)
}

/// The value of a field in a head; empty if it is missing.
fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|field| field.0.eq_ignore_ascii_case(name));
    found.map_or("", |field| field.1)
}

/// Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(sha1(text.as_bytes()))
}

/// Reads `N` bytes.
async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Reads a frame below 64 KiB: its first byte, and its payload unmasked (RFC 6455 §5.2).
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Outcome<(u8, Vec<u8>)> {
    let [kind, length] = read(stream).await?;
    let size = match length & 0x7f {
        126 => u16::from_be_bytes(read(stream).await?),
        127 => return Err("a frame of 64 KiB or more".into()),
        short => short.into(),
    };
    let masked = length & 0x80 != 0;
    let key = if masked { read(stream).await? } else { [0; 4] };
    let mut payload = vec![0; size.into()];
    stream.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((kind, payload))
}

/// A frame below 64 KiB. A client's has a masking key; one of zeros leaves the payload
/// as it is (RFC 6455 §5.3).
fn frame(kind: u8, payload: &[u8], key: &[u8]) -> Vec<u8> {
    let masked = if key.is_empty() { 0 } else { 0x80 };
    let [.., high, low] = payload.len().to_be_bytes();
    let length = match payload.len() {
        ..126 => vec![masked | low],
        _ => vec![masked | 126, high, low],
    };
    [&[kind], &length[..], key, payload].concat()
}
