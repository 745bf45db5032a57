//! From the bytes of the fuzzer to a message, and to how it arrives.

use std::ops::Range;

use simple_proxy::config::MAX_HEAD_BYTES;
use simple_proxy::http::head::{Extent, HeadError, Rules, Scan};

/// The first three bytes of an input choose; the rest makes the message.
pub struct Input<'a> {
    /// What the target makes of them.
    pub options: u8,
    /// How the message is split.
    pub splits: u8,
    mode: u8,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// None when there is nothing to choose from.
    pub fn new(data: &'a [u8]) -> Option<Input<'a>> {
        match data {
            [mode, options, splits, rest @ ..] => Some(Input {
                options: *options,
                splits: *splits,
                mode: *mode,
                rest,
            }),
            _ => None,
        }
    }

    /// Whether option number `bit` is chosen.
    pub fn option(&self, bit: u8) -> bool {
        self.options >> bit & 1 == 1
    }

    /// The message. The bytes are either what they are, for which byte-wise mutation and
    /// the dictionary are good, or each names one of `pieces`, counted through all groups,
    /// which gets deep at once; and either all there is, or put between `before` and `after`,
    /// so that most of what is tried gets past the first check.
    pub fn message(&self, pieces: &[&[&[u8]]], before: &[u8], after: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        if self.mode & 2 != 0 {
            message.extend_from_slice(before);
        }
        if self.mode & 1 != 0 {
            let pieces = pieces.concat();
            let mut rest = self.rest.iter();
            // Runs that come near to and exceed the limit on heads; they are slow, so
            // only some inputs may have them.
            let mut runs = if self.splits >= 0xe0 { 8 } else { 0 };
            while let Some(&b) = rest.next() {
                match b {
                    0xff => message.extend(rest.next()),
                    0xfd | 0xfe if runs > 0 && message.len() < 2 * MAX_HEAD_BYTES => {
                        runs -= 1;
                        let length = if b == 0xfe { 1021 } else { 16_381 };
                        message.resize(message.len() + length, b'a');
                    }
                    b => message.extend_from_slice(pieces[usize::from(b) % pieces.len()]),
                }
            }
        } else {
            message.extend_from_slice(self.rest);
        }
        if self.mode & 2 != 0 {
            message.extend_from_slice(after);
        }
        message
    }
}

/// Sizes of the pieces in which a message arrives.
pub struct Splits(u32);

impl Splits {
    /// The same seed gives the same sizes.
    pub fn new(seed: u8) -> Splits {
        Splits(u32::from(seed).wrapping_mul(0x9e37_79b9) | 1)
    }

    /// The next size, most often a few bytes.
    pub fn size(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        let size = (self.0 >> 8) as usize;
        match self.0 % 8 {
            0 => 1 + size % 256,
            1..=3 => 1 + size % 24,
            _ => 1 + size % 3,
        }
    }
}

/// A head as the program finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Where it is.
    pub range: Range<usize>,
    /// Some line ends in LF alone.
    pub has_bare_lf: bool,
}

/// Where a head is, as the program finds it in bytes that arrive `size` by `size`:
/// None while it has not ended. This is `head::read_head` without the stream.
fn find_head(
    bytes: &[u8],
    rules: &Rules,
    mut size: impl FnMut() -> usize,
) -> Result<Option<Found>, HeadError> {
    let mut scan = Scan::default();
    let (mut start, mut end) = (0, 0);
    loop {
        if start < end {
            let received = &bytes[start..end];
            if let Some(Extent {
                length,
                has_bare_lf,
            }) = scan.advance(received, rules)?
            {
                assert!(length <= received.len());
                if received.starts_with(b"\r\n") {
                    start += length;
                    scan = Scan::default();
                    continue;
                }
                return match length <= rules.max_bytes {
                    true => Ok(Some(Found {
                        range: start..start + length,
                        has_bare_lf,
                    })),
                    false => Err(HeadError::TooLarge),
                };
            }
        }
        if end == bytes.len() {
            return Ok(None);
        }
        end = end.saturating_add(size()).min(bytes.len());
    }
}

/// Up to this many bytes, they also arrive one by one.
pub const MODEST: usize = 1024;

/// `find_head` over several splits, which must all say the same. A fault in a field line may
/// be met while the head arrives or when it is parsed, which `parses` does.
pub fn find_head_in_any_split(
    bytes: &[u8],
    rules: &Rules,
    seed: u8,
    parses: impl Fn(&[u8], bool) -> bool,
) -> Option<Found> {
    let verdict = |found: Result<Option<Found>, HeadError>| match found {
        Ok(Some(found)) if !parses(&bytes[found.range.clone()], found.has_bare_lf) => Err(()),
        found => found.map_err(|_| ()),
    };
    let whole = verdict(find_head(bytes, rules, || usize::MAX));
    let mut splits = Splits::new(seed);
    let random = verdict(find_head(bytes, rules, || splits.size()));
    let step = if bytes.len() <= MODEST { 1 } else { 1021 };
    let single = verdict(find_head(bytes, rules, || step));
    assert_eq!(whole, random, "split at random");
    assert_eq!(whole, single, "byte by byte");
    whole.ok().flatten()
}
