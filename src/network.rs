//! A range of addresses, as written in a setting.

use std::fmt;
use std::net::IpAddr;

use crate::language::Words;

/// An address and a prefix length (RFC 4632 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Parses `ADDRESS` or `ADDRESS/BITS`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Network, Words> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        let address: IpAddr = inner
            .unwrap_or(address)
            .parse()
            .map_err(|_| Words::new("write ADDRESS or ADDRESS/BITS", "请写成 地址 或 地址/位数"))?;
        let width = width(address);
        let bits = match bits {
            None => width,
            Some(digits) => {
                let plain = digits.bytes().all(|b| b.is_ascii_digit());
                let bits = digits.parse().ok().filter(|bits| plain && *bits <= width);
                bits.ok_or(crate::both!(
                    "BITS must be a number up to {width}",
                    "位数应为不大于 {width} 的整数"
                ))?
            }
        };
        // An IPv4-mapped address becomes an IPv4 address, as those of clients do.
        match address.to_canonical() {
            IpAddr::V4(v4) if address.is_ipv6() => {
                // Fewer bits than 96 would include addresses that are not mapped ones.
                let bits = bits.checked_sub(96).ok_or(Words::new(
                    "BITS of an IPv4-mapped address must be 96 to 128",
                    "IPv4 映射地址的位数应为 96 到 128",
                ))?;
                let address = v4.into();
                Ok(Network { address, bits })
            }
            address => Ok(Network { address, bits }),
        }
    }

    /// Whether an address, which must not be IPv4-mapped, is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differing = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differing.leading_zeros() >= u32::from(self.bits)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits == width(self.address) {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, address, expected) in [
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.9/24", "192.0.3.0", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("[::1]", "::1", true),
            ("::1", "::2", false),
            ("::ffff:192.0.2.0/120", "192.0.2.1", true),
        ] {
            let network = Network::parse(range).expect(range);
            let address = address.parse().expect(address);
            assert_eq!(network.contains(address), expected, "{range} {address}");
        }
    }

    #[test]
    fn bad_ranges_are_refused() {
        for text in [
            "",
            "localhost",
            "192.0.2.0/33",
            "::/129",
            "::ffff:192.0.2.0/95",
            "192.0.2.0/",
            "192.0.2.0/x",
            "1.2.3/8",
            "10.0.0.0/+8",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }
}
