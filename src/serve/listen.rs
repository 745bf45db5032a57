//! Listening sockets: inherited from a service manager, or bound here. Every thread gets
//! its own handle on every address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use socket2::{Domain, SockRef, Socket, Type};

use crate::config::Listen;
use crate::net::calls::{is_listener, open_stream};
use crate::net::socket::set_options;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST_INHERITED: RawFd = 3;

/// The listeners of each of `threads` threads: the inherited ones, else those bound to
/// `listen`. Call it once, before anything else opens a descriptor.
pub fn listeners(listen: &Listen, threads: usize) -> Result<Vec<Vec<TcpListener>>, String> {
    let inherited = inherit()?;
    let words = |error: io::Error| crate::error::describe(&error);
    if inherited.is_empty() {
        let bound = bind(listen, threads).map_err(|error| match listen.address {
            Some(address) => format!("listen on {address} port {}: {}", listen.port, words(error)),
            None => format!("listen on port {}: {}", listen.port, words(error)),
        });
        return Ok(bound?.into_iter().map(|listener| vec![listener]).collect());
    }
    let share = || inherited.iter().map(TcpListener::try_clone).collect();
    let shared: io::Result<Vec<_>> = (0..threads).map(|_| share()).collect();
    shared.map_err(words)
}

/// A listener for those who watch the program, as the given flag says.
pub fn watched(flag: &str, address: SocketAddr) -> Result<TcpListener, String> {
    let bound = bind_one(address, false).and_then(|listener| {
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let words = crate::error::describe(&error);
        format!("{flag}: {address}: {words}")
    })
}

/// The sockets of LISTEN_FDS, if they are meant for this process.
fn inherit() -> Result<Vec<TcpListener>, String> {
    let variable = |name| std::env::var(name).ok();
    let (Some(pid), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    if pid != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count: RawFd = match count.parse() {
        Ok(count @ 0..=1024) => count,
        _ => return Err("LISTEN_FDS: not a number of sockets".to_owned()),
    };
    (FIRST_INHERITED..FIRST_INHERITED + count)
        .map(|fd| {
            // SAFETY: the service manager opened this descriptor for this process alone
            // (LISTEN_PID), and this is the only place that takes it.
            #[allow(unsafe_code)]
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let is_listener = is_listener(&socket)
                && matches!(socket.r#type(), Ok(Type::STREAM))
                && matches!(socket.local_addr(), Ok(address) if address.as_socket().is_some());
            if !is_listener {
                // Dropping it would close a descriptor that is not ours after all.
                std::mem::forget(socket);
                return Err(format!(
                    "LISTEN_FDS: descriptor {fd} is no listening TCP socket"
                ));
            }
            socket
                .set_nonblocking(true)
                .and_then(|()| socket.set_cloexec(true))
                .and_then(|()| set_options(&socket))
                .map_err(|error| format!("LISTEN_FDS: {}", crate::error::describe(&error)))?;
            Ok(socket.into())
        })
        .collect()
}

/// Binds `count` listeners that share the connections to one address. Fails when any
/// other process listens there.
fn bind(listen: &Listen, count: usize) -> io::Result<Vec<TcpListener>> {
    let any = |address: IpAddr| SocketAddr::new(address, listen.port);
    let first = match listen.address {
        Some(address) => bind_one(any(address), false)?,
        // Both families where the kernel has IPv6, else IPv4 alone.
        None => match bind_one(any(Ipv6Addr::UNSPECIFIED.into()), false) {
            Err(error) if is_without_ipv6(&error) => {
                bind_one(any(Ipv4Addr::UNSPECIFIED.into()), false)?
            }
            bound => bound?,
        },
    };
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    if count > 1 {
        // Only after it is bound: an occupied port was an error until here.
        SockRef::from(&listeners[0]).set_reuse_port(true)?;
        for _ in 1..count {
            listeners.push(bind_one(address, true)?);
        }
    }
    for listener in &listeners {
        rustix::net::listen(listener, BACKLOG)?;
    }
    Ok(listeners)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = open_stream(Domain::for_address(address))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    set_options(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_an_error_with_any_number_of_threads() {
        let loopback = |port| Listen {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            port,
        };
        let first = bind(&loopback(0), 3).expect("a free port");
        assert_eq!(first.len(), 3);
        let port = first[0].local_addr().expect("bound").port();
        assert!(first
            .iter()
            .all(|l| l.local_addr().is_ok_and(|a| a.port() == port)));
        for count in [1, 2] {
            let kind = bind(&loopback(port), count).map(drop).map_err(|e| e.kind());
            assert_eq!(kind, Err(io::ErrorKind::AddrInUse), "{count}");
        }
    }
}
