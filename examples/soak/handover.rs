//! The soak of connections that threads hand to each other: `soak PROGRAM hand-over REQUESTS`.
//! Eight threads, clients with a connection for each request or two, and an upstream that
//! closes at random, over TCP and over TLS. Every request has a number; each must arrive
//! once and be answered once, with its own number.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;

use openssl::ssl::SslAcceptor;

use crate::connection::{path, Done, Trouble, Wire};
use crate::noise::Noise;
use crate::program::Program;
use crate::shared::Patient;
use crate::upstream::acceptor;

/// Client threads for each of the two programs.
const CLIENTS: u64 = 16;

/// The upstream closes behind one response in so many, half of the times unannounced.
const CLOSES: u64 = 8;

/// Runs it and gives the number of requests that went wrong.
pub fn hand_over(program: &str, requests: u64, seed: u64) -> io::Result<u64> {
    println!("seed {seed}, {requests} requests; every count behind the first must be 0");
    let mut wrong = 0;
    for (name, tls) in [("plain", None), ("TLS", Some(acceptor()?))] {
        // A client's numbers are its own.
        let each = (requests / 2).div_ceil(CLIENTS);
        let arrived: Arc<[AtomicU8]> = (0..each * CLIENTS).map(|_| AtomicU8::new(0)).collect();
        let mode = if tls.is_some() { "on" } else { "off" };
        let upstream = upstream(tls, arrived.clone(), seed)?.to_string();
        let args = ["-d", "-u", &upstream, "--tls", mode, "--threads", "8"];
        let program = Program::start(program, &args)?;
        let crossed = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, crossed) = (program.address, crossed.clone());
                let numbers = client * each..(client + 1) * each;
                thread::spawn(move || ask(address, numbers, Noise::new(seed ^ client), &crossed))
            })
            .collect();
        let mut lost = 0;
        for client in clients {
            lost += client.join().unwrap_or(each);
        }
        let doubled = arrived.iter().filter(|n| n.load(Relaxed) > 1).count() as u64;
        let missing = arrived.iter().filter(|n| n.load(Relaxed) == 0).count() as u64;
        let crossed = crossed.load(Relaxed);
        let internal = program.internal_errors.load(Relaxed);
        let all = arrived.len();
        println!(
            "{name}: {all} requests, {lost} without an answer, {crossed} with another request's, \
             {doubled} arrived twice, {missing} never; {internal} internal errors"
        );
        wrong += lost + crossed + doubled + missing + internal;
    }
    Ok(wrong)
}

/// Sends requests with these numbers, and gives how many were not answered well.
fn ask(
    program: SocketAddr,
    numbers: std::ops::Range<u64>,
    mut noise: Noise,
    crossed: &AtomicU64,
) -> u64 {
    let mut lost = 0;
    let mut wire = None;
    for number in numbers {
        if noise.below(3) > 0 {
            wire = None;
        }
        let answered = (|| -> Done<bool> {
            let wire = match &mut wire {
                Some(wire) => wire,
                none => none.insert(Wire::connect(program)?),
            };
            wire.send(format!("GET /{number} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes())?;
            let head = wire.head()?;
            let body = wire.body(&head)?;
            let own = body == format!("/{number}").as_bytes();
            crossed.fetch_add(
                u64::from(head.starts_with("HTTP/1.1 200 ") && !own),
                Relaxed,
            );
            Ok(own)
        })();
        if !matches!(answered, Ok(true)) {
            if let Err(Trouble::Wrong(words) | Trouble::Cut(words)) = answered {
                println!("{number}: {words}");
            }
            lost += 1;
            wire = None;
        }
    }
    lost
}

/// Answers with the path, counts the numbers, and closes at random.
fn upstream(
    tls: Option<SslAcceptor>,
    arrived: Arc<[AtomicU8]>,
    seed: u64,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for (n, socket) in listener.incoming().flatten().enumerate() {
            let (tls, arrived) = (tls.clone(), arrived.clone());
            let noise = Noise::new(seed ^ (n as u64) << 16);
            thread::spawn(move || {
                let Ok(mut wire) = Wire::new(socket) else {
                    return;
                };
                if let Some(tls) = tls {
                    let stream = wire.socket.try_clone().map(Patient);
                    let Some(stream) = stream.ok().and_then(|stream| tls.accept(stream).ok())
                    else {
                        return;
                    };
                    wire.stream = Box::new(stream);
                }
                // Whatever ends it, the clients see.
                let _ = serve(wire, noise, &arrived);
            });
        }
    });
    Ok(address)
}

fn serve(mut wire: Wire, mut noise: Noise, arrived: &[AtomicU8]) -> Done {
    loop {
        let head = wire.head()?;
        let path = path(&head);
        if let Some(seen) = path[1..].parse::<usize>().ok().and_then(|n| arrived.get(n)) {
            seen.fetch_add(1, Relaxed);
        }
        let closes = noise.below(CLOSES) == 0;
        let says_so = closes && noise.below(2) == 0;
        let close = if says_so { "Connection: close\r\n" } else { "" };
        let length = path.len();
        let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {length}\r\n\r\n{path}");
        wire.send(answer.as_bytes())?;
        if closes {
            return Ok(());
        }
    }
}
