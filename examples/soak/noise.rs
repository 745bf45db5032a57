//! How noise becomes choices and sizes, and what an upload is answered with.

pub use crate::shared::Noise;

impl Noise {
    pub fn below(&mut self, limit: u64) -> u64 {
        // The low bits are the weak ones.
        (self.next() >> 11) % limit
    }

    /// Mostly small, up to 1 MiB; now and then 8 MiB, which comes in bulk.
    pub fn size(&mut self) -> usize {
        if self.below(150) == 0 {
            return 8 << 20;
        }
        self.mostly_small(20)
    }

    /// Below two to the power of `most`, each power as likely as the next.
    pub fn mostly_small(&mut self, most: u64) -> usize {
        let magnitude = self.below(most + 1);
        self.below(1 << magnitude) as usize
    }

    /// Where to cut something in two.
    pub fn split(&mut self, length: usize) -> usize {
        self.below(length as u64 + 1) as usize
    }
}

/// What an upload is answered with (FNV-1a).
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
