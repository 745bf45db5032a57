//! Turns the bytes of the fuzzer into a message and into the sizes in which it arrives.

use std::ops::Range;

use simple_proxy::config::MAX_HEAD_BYTES;
use simple_proxy::http::head::{Extent, HeadError, Rules, Scan};

/// An input: its first three bytes select options, the rest makes the message.
pub struct Input<'a> {
    /// Options that each target defines.
    pub options: u8,
    /// How the message is split.
    pub splits: u8,
    mode: u8,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// None if the input is shorter than three bytes.
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

    /// Whether option number `bit` is set.
    pub fn option(&self, bit: u8) -> bool {
        self.options >> bit & 1 == 1
    }

    /// The message. The bytes are either used as they are, which suits byte-wise mutation and
    /// the dictionary, or each selects one of `pieces`, numbered across all groups, which reaches
    /// deep states at once. The result is either the whole message, or put between `before` and
    /// `after`, so that most inputs pass the first check.
    pub fn message(&self, pieces: &[&[&[u8]]], before: &[u8], after: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        if self.mode & 2 != 0 {
            message.extend_from_slice(before);
        }
        if self.mode & 1 != 0 {
            let pieces = pieces.concat();
            let mut rest = self.rest.iter();
            // Long runs of one byte approach and exceed the limit for heads. They are slow, so
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

    /// The next size, usually a few bytes.
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
    /// Whether some line ends in a bare LF.
    pub has_bare_lf: bool,
}

/// Finds a head as the program does, in bytes that arrive in pieces of `size` bytes; None if it
/// is incomplete. This is `read::read_head` without the stream.
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

/// Messages of up to this many bytes also arrive byte by byte.
pub const MODEST: usize = 1024;

/// Calls `find_head` with several splits, which must have the same result. A fault in a field
/// line may be found while the head arrives or when it is parsed, which `parses` does.
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
