//! A request in steady state allocates nothing. A counting allocator checks this for the server
//! in this process; the client and the upstream, also in it, do not allocate either.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use simple_proxy::cli::resolve::{resolve, Command};
use simple_proxy::report::log;
use simple_proxy::route::dial::Dialer;
use simple_proxy::serve::listen;
use simple_proxy::serve::server::{self, Clients, Watched};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed on to the system allocator; only a counter is added.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout)
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        System.realloc(pointer, layout, size)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: u64 = 10_000;

/// The executor's queue allocates a block per 31 wakes, of which a round has two or three;
/// timers allocate less often. One allocation per request would make `ROUNDS` of them.
const FEW: u64 = ROUNDS / 8;

fn main() {
    let arguments = Arguments::from_args();
    let trial = Trial::test("a_request_in_steady_state_allocates_nothing", || {
        steady_state().map_err(|error| Failed::from(error.to_string()))
    });
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

fn steady_state() -> std::io::Result<()> {
    // The log is formatted as usual and discarded.
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stderr(nowhere)?;
    let proxy = serve(upstream()?)?;
    let get = "GET /a HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
    let post = "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\n\r\n";
    for request in [get, post, chunked] {
        let mut client = TcpStream::connect(proxy)?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut round = || exchange(&mut client, request.as_bytes(), b"\r\n\r\nfine");
        counted(request, &mut round)?;
    }
    let mut client = TcpStream::connect(proxy)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\n\r\n";
    exchange(&mut client, upgrade.as_bytes(), b"\r\n\r\n")?;
    counted("a message", &mut || {
        exchange(&mut client, b"message", b"message")
    })
}

/// Runs 1000 rounds to reach the steady state, and then counts the allocations of `ROUNDS`.
fn counted(what: &str, round: &mut dyn FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    for _ in 0..1000 {
        round()?;
    }
    let before = ALLOCATIONS.load(Relaxed);
    for _ in 0..ROUNDS {
        round()?;
    }
    let made = ALLOCATIONS.load(Relaxed) - before;
    let line = what.lines().next().unwrap_or_default();
    println!("{made:>5} allocations in {ROUNDS} rounds of: {line}");
    match made <= FEW {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("{made} allocations: {line}"))),
    }
}

/// Sends `request` and reads until `end` has arrived.
fn exchange(stream: &mut TcpStream, request: &[u8], end: &[u8]) -> std::io::Result<()> {
    stream.write_all(request)?;
    let mut room = [0; 4096];
    let mut length = 0;
    while !room[..length].ends_with(end) {
        match stream.read(&mut room[length..]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => length += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Starts an upstream that answers requests and echoes the bytes of a tunnel.
fn upstream() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
    const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                               Upgrade: websocket\r\n\r\n";
    let mut room = [0; 4096];
    let mut length = 0;
    loop {
        match stream.read(&mut room[length..])? {
            0 => return Ok(()),
            n => length += n,
        }
        let request = &room[..length];
        if request == b"message" {
            stream.write_all(request)?;
        } else if request.starts_with(b"GET /ws ") && request.ends_with(b"\r\n\r\n") {
            stream.write_all(SWITCHING)?;
        } else if (request.starts_with(b"GET ") && request.ends_with(b"\r\n\r\n"))
            || request.ends_with(b"\r\n\r\nhello")
            || request.ends_with(b"\r\n0\r\n\r\n")
        {
            stream.write_all(FINE)?;
        } else {
            continue;
        }
        length = 0;
    }
}

/// Runs the server on a thread of this process.
fn serve(upstream: SocketAddr) -> std::io::Result<SocketAddr> {
    let upstream = upstream.to_string();
    let args = [
        "-u",
        &upstream,
        "-b",
        "127.0.0.1",
        "-p",
        "0",
        "--threads",
        "1",
    ];
    let args = args.into_iter().map(OsString::from);
    let Ok(Command::Serve(config, _)) = resolve(args, []) else {
        return Err(std::io::Error::other("the settings are good"));
    };
    log::init(config.log);
    let config = Arc::new(*config);
    let other = std::io::Error::other;
    let dialer = Dialer::new(config.clone()).map_err(other)?;
    let listeners = listen::listeners(&config.listen, 1).map_err(other)?;
    let address = listeners.of_threads[0][0].local_addr()?;
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let ready = move || ready.send(()).unwrap_or_default();
        server::run(
            config,
            dialer,
            Clients {
                listeners: listeners.of_threads,
                certificates: None,
            },
            Watched::default(),
            ready,
            std::future::pending(),
        )
    });
    is_ready.recv().map_err(std::io::Error::other)?;
    Ok(address)
}
