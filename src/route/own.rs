//! The addresses at which this program itself listens, so that no route leads back to it.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::authority::{Authority, Host};
use crate::net::socket::Socket;

/// The addresses at which this program itself listens.
#[derive(Clone, Default)]
pub struct Own {
    tcp: Arc<[SocketAddr]>,
    /// Paths of unix sockets.
    unix: Arc<[String]>,
}

impl Own {
    /// The addresses of listeners, as `Listeners::addresses` gives them: `ADDRESS:PORT` or
    /// `unix:PATH`.
    pub fn of(addresses: &[String]) -> Own {
        let tcp = addresses.iter().filter_map(|address| address.parse().ok());
        let unix = addresses
            .iter()
            .filter_map(|address| address.strip_prefix("unix:"));
        Own {
            tcp: tcp.collect(),
            unix: unix.map(str::to_owned).collect(),
        }
    }

    /// The port of the first one that is not a unix socket.
    pub fn port(&self) -> Option<u16> {
        self.tcp.first().map(SocketAddr::port)
    }

    /// Whether a connection to `authority` would reach one of them. Does not resolve names.
    pub fn includes(&self, authority: &Authority) -> bool {
        match &authority.host {
            Host::Ip(ip) => {
                let address = SocketAddr::new(*ip, authority.port);
                // An address that can be bound belongs to this machine.
                let is_local = |ip| UdpSocket::bind((ip, 0)).is_ok();
                self.tcp.iter().any(|own| reaches(*own, address, is_local))
            }
            Host::Unix(path) => self.unix.iter().any(|own| is_same_file(own, path)),
            Host::Name(_) | Host::Zoned(..) => false,
        }
    }

    /// Whether a connection has reached one of them.
    pub(super) fn is_peer_of(&self, socket: &Socket) -> bool {
        let Ok(peer) = socket.peer() else {
            return false;
        };
        // A connection to an address of this machine has the same address at both ends.
        let is_local = |ip: IpAddr| {
            ip.is_loopback()
                || socket
                    .local()
                    .is_ok_and(|local| local.ip().to_canonical() == ip)
        };
        self.tcp.iter().any(|own| reaches(*own, peer, is_local))
    }
}

/// Whether two paths lead to the same file.
fn is_same_file(one: &str, other: &str) -> bool {
    let identity = |path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|file| identity(other) == Some(file))
}

/// Whether a connection to `address` reaches a listener at `own`.
fn reaches(own: SocketAddr, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
    let (own_ip, ip) = (own.ip().to_canonical(), address.ip().to_canonical());
    // A listener on [::] accepts IPv4 too; one on 0.0.0.0 does not accept IPv6.
    let takes_its_family = own_ip.is_ipv6() || ip.is_ipv4();
    own.port() == address.port()
        && (own_ip == ip
            || (own_ip.is_unspecified()
                && takes_its_family
                && (ip.is_unspecified() || is_local(ip))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (own, address, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "[::ffff:127.0.0.1]:80", true),
            ("[::]:80", "192.0.2.1:80", false),
            ("[::1]:80", "127.0.0.1:80", false),
        ] {
            let reached = reaches(at(own), at(address), |ip| ip.is_loopback());
            assert_eq!(reached, expected, "{own} {address}");
        }
    }
}
