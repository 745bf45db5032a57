//! Listening sockets: one per thread, all on the same address and port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Binds `count` listeners that share the connections to one address. Fails when any
/// other process listens there.
pub fn bind(listen: &Listen, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = match listen.address {
        Some(address) => bind_one(SocketAddr::new(address, listen.port), false)?,
        // Both families where the kernel has IPv6, else IPv4 alone.
        None => match bind_one(
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), listen.port),
            false,
        ) {
            Err(error) if is_without_ipv6(&error) => bind_one(
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listen.port),
                false,
            )?,
            bound => bound?,
        },
    };
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    if count > 1 {
        // Only after it is bound: an occupied port was an error until here.
        socket2::SockRef::from(&listeners[0]).set_reuse_port(true)?;
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
    matches!(
        error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
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
