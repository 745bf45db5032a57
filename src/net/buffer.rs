//! Read buffers, borrowed from a small pool of the thread only while they hold bytes.
//!
//! A connection that waits holds no buffer, so an idle one costs next to nothing.

use std::cell::RefCell;

use crate::net::spares::Shelf;

/// The size of the first buffer of a read: enough for nearly every message head.
pub const SMALL: usize = 8 * 1024;

/// The size of the buffer after a read has filled the small one. Just under 64 KiB measured
/// best: at 65,536 the kernel's own limits split each transfer.
pub const LARGE: usize = 60 * 1024;

/// How many buffers of each kind a thread keeps for reuse.
const KEPT: usize = 64;

struct Pool {
    small: Shelf<Box<[u8]>>,
    large: Shelf<Box<[u8]>>,
    outgoing: Shelf<Vec<u8>>,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool {
            small: Shelf::new(KEPT),
            large: Shelf::new(KEPT),
            outgoing: Shelf::new(KEPT),
        })
    };
}

/// Frees the kept buffers that were not used since the last sweep. Returns whether any are left.
pub fn sweep() -> bool {
    POOL.with_borrow_mut(|pool| {
        let kept = [
            pool.small.sweep(),
            pool.large.sweep(),
            pool.outgoing.sweep(),
        ];
        kept.contains(&true)
    })
}

fn take(size: usize) -> Box<[u8]> {
    let kept = POOL.with_borrow_mut(|pool| match size {
        SMALL => pool.small.take(),
        _ => pool.large.take(),
    });
    kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())
}

fn give_back(bytes: Box<[u8]>) {
    POOL.with_borrow_mut(|pool| {
        let shelf = match bytes.len() {
            SMALL => &mut pool.small,
            LARGE => &mut pool.large,
            _ => return,
        };
        shelf.keep(bytes);
    });
}

/// Bytes received and not yet used, in order.
#[derive(Default)]
pub struct Buffer {
    storage: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read returned at least `SMALL` bytes or filled the buffer: the next gets a large
    /// one.
    filled_up: bool,
}

impl Buffer {
    /// The bytes not yet used.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// How many bytes are not yet used.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether every byte received has been used.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room for the next read, empty only if `LARGE` bytes or more are unused. Borrows storage
    /// from the pool if there is none, and grows after a read that filled it.
    pub fn space(&mut self) -> &mut [u8] {
        if self.storage.is_empty() {
            self.storage = take(if self.filled_up { LARGE } else { SMALL });
        } else if self.filled_up && self.storage.len() < LARGE {
            let mut larger = take(LARGE);
            larger[..self.end - self.start].copy_from_slice(&self.storage[self.start..self.end]);
            give_back(std::mem::replace(&mut self.storage, larger));
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.start > 0 && (self.is_empty() || self.end == self.storage.len()) {
            self.storage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.storage[self.end..]
    }

    /// Doubles the storage if it is full of at least `LARGE` unused bytes, for a message head
    /// that is larger still. Doubling moves each byte about once on average. Storage of such a
    /// size goes back to the allocator instead of the pool.
    pub fn grow_when_full(&mut self) {
        if self.storage.len() >= LARGE && self.len() == self.storage.len() {
            let mut larger = vec![0; 2 * self.storage.len()].into_boxed_slice();
            larger[..self.end].copy_from_slice(&self.storage);
            give_back(std::mem::replace(&mut self.storage, larger));
        }
    }

    /// Counts `n` bytes just read into `space` as received.
    pub fn received(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= self.storage.len());
        self.filled_up = n >= SMALL || self.end == self.storage.len();
    }

    /// Counts the first `n` unused bytes as used.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the storage back to the pool if it holds no unused byte. Called before a wait.
    pub fn release(&mut self) {
        if self.is_empty() && !self.storage.is_empty() {
            give_back(std::mem::take(&mut self.storage));
            (self.start, self.end) = (0, 0);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.storage));
    }
}

/// Bytes to be sent, in storage borrowed from the thread's pool.
#[derive(Default)]
pub struct Outgoing(Vec<u8>);

impl Outgoing {
    /// Empty storage.
    pub fn new() -> Outgoing {
        Outgoing(
            POOL.with_borrow_mut(|pool| pool.outgoing.take())
                .unwrap_or_default(),
        )
    }

    /// The bytes, for adding and removing.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        POOL.with_borrow_mut(|pool| {
            if bytes.capacity() <= 2 * LARGE {
                pool.outgoing.keep(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut Buffer, bytes: &[u8]) -> usize {
        let space = buffer.space();
        let n = bytes.len().min(space.len());
        space[..n].copy_from_slice(&bytes[..n]);
        buffer.received(n);
        n
    }

    #[test]
    fn grows_after_a_full_read_and_keeps_the_bytes_in_order() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let mut buffer = Buffer::default();
        let mut received = 0;
        while received < LARGE {
            received += receive(&mut buffer, &bytes[received..]);
        }
        assert_eq!(buffer.bytes(), &bytes[..LARGE]);
        assert_eq!(buffer.space().len(), 0);
        buffer.consume(1000);
        received += receive(&mut buffer, &bytes[received..]);
        assert_eq!(buffer.bytes(), &bytes[1000..received]);
    }

    #[test]
    fn grows_beyond_a_large_buffer_when_asked_to() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let mut buffer = Buffer::default();
        let mut received = 0;
        while received < bytes.len() {
            received += receive(&mut buffer, &bytes[received..]);
            buffer.grow_when_full();
        }
        assert_eq!(buffer.bytes(), bytes);
        buffer.consume(bytes.len());
        buffer.release();
        assert!(buffer.storage.is_empty());
        assert_eq!(receive(&mut buffer, &bytes), LARGE);
    }

    #[test]
    fn releases_its_storage_only_when_no_byte_is_unused() {
        let mut buffer = Buffer::default();
        receive(&mut buffer, b"ab");
        buffer.consume(1);
        buffer.release();
        assert_eq!(buffer.bytes(), b"b");
        buffer.consume(1);
        buffer.release();
        assert!(buffer.storage.is_empty());
    }
}
