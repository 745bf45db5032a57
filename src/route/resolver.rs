//! One lookup by the system's resolver, which blocks the calling thread. Leaves to `names` which
//! thread that is, and what is done with the answer.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use dns_lookup::{getaddrinfo, AddrFamily, AddrInfoHints, LookupError, LookupErrorKind, SockType};

/// The address family to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// AAAA records.
    V6,
    /// A records.
    V4,
}

impl Family {
    /// In the order in which they alternate (RFC 8305 §4).
    pub(super) const ALL: [Family; 2] = [Family::V6, Family::V4];
}

/// Why a lookup gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such name, or it has no address of this family.
    None(String),
    /// The lookup failed.
    Broken(String),
}

/// The addresses of one family, with port 0.
pub(super) type Answer = Result<Vec<SocketAddr>, Failure>;

/// Looks a name up with the system's resolver, including its hosts file, its search domains and
/// whatever else is configured there. Blocks.
pub(super) fn look_up(name: &str, family: Family) -> Answer {
    let address = match family {
        Family::V6 => AddrFamily::Inet6,
        Family::V4 => AddrFamily::Inet,
    };
    let hints = AddrInfoHints {
        address: address.into(),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let found = getaddrinfo(Some(name), None, Some(hints)).map_err(failure)?;
    let found: Vec<SocketAddr> = found.flatten().map(|info| info.sockaddr).collect();
    match found.is_empty() {
        true => Err(Failure::None("the name has no address".to_owned())),
        false => Ok(found),
    }
}

/// Resolves a link-local address with its zone, the name or number of an interface of this
/// machine (RFC 4007 §11.2). Done for each dial, since interfaces come and go; it sends no
/// packet.
pub(super) fn on_link(address: Ipv6Addr, zone: &str, port: u16) -> Option<SocketAddr> {
    /// It has the same value on Linux, the BSDs and macOS.
    const AI_NUMERICHOST: i32 = 4;
    let hints = AddrInfoHints {
        flags: AI_NUMERICHOST,
        address: AddrFamily::Inet6.into(),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let found = getaddrinfo(Some(&format!("{address}%{zone}")), None, Some(hints));
    let mut found = found.ok()?.flatten();
    let mut address = found.next()?.sockaddr;
    address.set_port(port);
    Some(address)
}

fn failure(error: LookupError) -> Failure {
    /// EAI_ADDRFAMILY of glibc: the name has addresses of the other family only.
    const OTHER_FAMILY: i32 = -9;
    let is_none = matches!(
        error.kind(),
        LookupErrorKind::NoName | LookupErrorKind::NoData
    ) || error.error_num() == OTHER_FAMILY;
    let words = resolver_words(&error.into());
    match is_none {
        true => Failure::None(words),
        false => Failure::Broken(words),
    }
}

/// The resolver's own message, which follows a fixed prefix.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.rsplit(": ").next().unwrap_or(&text);
    words.to_lowercase()
}
