//! Derives choices and sizes from noise, and the checksum that answers an upload.

pub use crate::shared::Noise;

impl Noise {
    pub fn below(&mut self, limit: u64) -> u64 {
        // The low bits are the least random ones.
        (self.next() >> 11) % limit
    }

    /// Mostly small, up to 1 MiB; sometimes 8 MiB, which is spliced.
    pub fn size(&mut self) -> usize {
        if self.below(150) == 0 {
            return 8 << 20;
        }
        self.mostly_small(20)
    }

    /// Less than two to the power of `most`, each magnitude equally likely.
    pub fn mostly_small(&mut self, most: u64) -> usize {
        let magnitude = self.below(most + 1);
        self.below(1 << magnitude) as usize
    }

    /// A random place at which to split something of this length.
    pub fn split(&mut self, length: usize) -> usize {
        self.below(length as u64 + 1) as usize
    }
}

/// The checksum with which an upload is answered (FNV-1a).
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
