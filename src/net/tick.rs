//! A point in time as one number: half the size of an `Instant`, and compared and subtracted
//! by one instruction.

use std::mem::MaybeUninit;
use std::ops::Add;
use std::time::Duration;

/// A time of the system's monotonic clock, in nanoseconds (clock_gettime(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

impl Tick {
    /// Later than every other tick.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// Reads the clock. `reactor::now` is cheaper, and at most one turn of the thread behind.
    pub fn read() -> Tick {
        let mut at = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the call fills the whole of `at`. It fails only for a clock that does not
        // exist, and every system has this one.
        #[allow(unsafe_code)]
        let at = unsafe {
            libc::clock_gettime(libc::CLOCK_MONOTONIC, at.as_mut_ptr());
            at.assume_init()
        };
        // The clock counts from the start of the system, so neither number is negative.
        Tick(at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64)
    }

    /// The time from `earlier` to this; zero if this is not later.
    #[inline]
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time left until this; zero once it has passed.
    pub fn left(self) -> Duration {
        self.since(Tick::read())
    }

    /// Moves this back, for tests of what happens when time has passed.
    #[cfg(test)]
    pub fn move_back(&mut self, length: Duration) {
        self.0 -= u64::try_from(length.as_nanos()).expect("less than 584 years");
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;

    /// Adds `length`; saturates at `NEVER`.
    #[inline]
    fn add(self, length: Duration) -> Tick {
        let seconds = length.as_secs().saturating_mul(1_000_000_000);
        let nanoseconds = seconds.saturating_add(length.subsec_nanos().into());
        Tick(self.0.saturating_add(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_add_and_subtract_like_instants() {
        let now = Tick::read();
        let later = now + Duration::new(3, 7);
        assert_eq!(later.since(now), Duration::new(3, 7));
        assert_eq!(now.since(later), Duration::ZERO);
        assert!(now < later && later < Tick::NEVER);
        assert_eq!(now + Duration::MAX, Tick::NEVER);
        assert!(Tick::read() >= now);
    }
}
