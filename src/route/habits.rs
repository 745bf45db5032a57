//! What the upstream has shown of how long it keeps idle connections, and how quickly it
//! answers. Decides which rest of a kept connection is safe for a request that must not be
//! sent twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::net::tick::Tick;

/// A connection that stays open for so long behind a response shows that the upstream keeps
/// connections; one that ends earlier, unannounced, shows that it does not.
const SHOWS: Duration = Duration::from_secs(1);

/// How long an unannounced end counts against the upstream.
const DOUBT: Duration = Duration::from_secs(60);

/// A request that must not be sent twice may always follow a rest as short as this, less two
/// round trips: no upstream that keeps connections at all is known to keep them for less.
const SHORT_REST: Duration = Duration::from_secs(2);

/// By how much a rest must be shorter than what the upstream has promised or shown, and one
/// round trip more: clocks differ, and an end takes its time to arrive.
const MARGIN: Duration = Duration::from_secs(1);

/// A connection that was idle for longer may have been forgotten by a NAT on the way.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// How long a request that the kernel repeats on such a connection may stay without an
/// acknowledgement, at least. The kernel counts from its second repetition, which it sends
/// after twice 0.2 s and two round trips, and repeats it once more within this time.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(700);

/// What has been learned of the upstream, from all threads.
pub struct Habits {
    /// What the times below count from.
    start: Tick,
    /// Some connection has served a second request, or has stayed open for `SHOWS`.
    keeps: AtomicBool,
    /// Until when, in milliseconds, an unannounced end counts.
    doubted_until: AtomicU64,
    /// The longest rest that a connection has survived, brought down to the rest at which the
    /// upstream ended one; in milliseconds.
    survived: AtomicU64,
    /// The quickest time from a request to the first byte of its response, in microseconds.
    round_trip: AtomicU64,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits {
            start: Tick::read(),
            keeps: AtomicBool::new(false),
            doubted_until: AtomicU64::new(0),
            survived: AtomicU64::new(0),
            round_trip: AtomicU64::new(u64::MAX),
        }
    }
}

impl Habits {
    /// The first byte of a response came so long after its request.
    pub fn answered_after(&self, took: Duration) {
        let micros = micros(took);
        if micros < self.round_trip.load(Relaxed) {
            self.round_trip.fetch_min(micros, Relaxed);
        }
    }

    /// The quickest of those times; zero before the first.
    pub fn round_trip(&self) -> Duration {
        match self.round_trip.load(Relaxed) {
            u64::MAX => Duration::ZERO,
            micros => Duration::from_micros(micros),
        }
    }

    /// A connection that had rested for so long has served another request. `now` is asked
    /// only where that tells something new.
    pub fn served_again(&self, rest: Duration, now: impl FnOnce() -> Tick) {
        self.survived(rest);
        if !self.keeps.load(Relaxed) {
            self.keeps(now());
        }
    }

    /// A connection is still open after this rest.
    pub fn stayed_open(&self, rest: Duration, now: Tick) {
        self.survived(rest);
        if rest >= SHOWS {
            self.keeps(now);
        }
    }

    /// The upstream has ended a connection, unannounced, after this rest at the latest.
    pub fn ended(&self, rest: Duration, now: Tick) {
        self.survived.fetch_min(millis(rest), Relaxed);
        if rest < SHOWS {
            self.keeps.store(false, Relaxed);
            let until = millis(now.since(self.start) + DOUBT);
            self.doubted_until.fetch_max(until, Relaxed);
        }
    }

    fn survived(&self, rest: Duration) {
        let millis = millis(rest);
        if millis > self.survived.load(Relaxed) {
            self.survived.fetch_max(millis, Relaxed);
        }
    }

    fn keeps(&self, now: Tick) {
        if !self.keeps.load(Relaxed) {
            let now = millis(now.since(self.start));
            if now >= self.doubted_until.load(Relaxed) {
                self.keeps.store(true, Relaxed);
            }
        }
    }

    /// How long to wait for an acknowledgement on a connection that was idle for so long; none
    /// is as long as the system does.
    pub fn patience(&self, rest: Duration) -> Option<Duration> {
        let patience = SHORTEST_PATIENCE.max(4 * self.round_trip());
        (rest > FORGOTTEN_AFTER).then_some(patience)
    }

    /// Whether no upstream closes a connection after so short a rest.
    pub fn is_short(&self, rest: Duration) -> bool {
        rest + 2 * self.round_trip() <= SHORT_REST
    }

    /// Whether a request that must not be sent twice may take a connection that has rested
    /// for so long, and that the upstream has promised to keep for `promised`.
    pub fn is_safe_once(&self, rest: Duration, promised: Option<Duration>) -> bool {
        if !self.keeps.load(Relaxed) {
            return false;
        }
        let round_trip = self.round_trip();
        let survived = Duration::from_millis(self.survived.load(Relaxed));
        let within = |kept: Duration| rest + MARGIN + round_trip <= kept;
        self.is_short(rest) || promised.is_some_and(within) || within(survived)
    }

    /// How long a connection may rest at all: at most `most`, and less where the upstream
    /// says that it keeps it for no longer. Zero keeps it not at all.
    pub fn longest_rest(&self, most: Duration, promised: Option<Duration>) -> Duration {
        let Some(promised) = promised else {
            return most;
        };
        most.min(promised.saturating_sub(MARGIN + self.round_trip()))
    }
}

fn millis(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000);
    seconds.saturating_add(duration.subsec_millis().into())
}

fn micros(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000);
    seconds.saturating_add(duration.subsec_micros().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_safe_before_anything_was_shown() {
        let habits = Habits::default();
        let now = Tick::read();
        assert!(!habits.is_safe_once(Duration::ZERO, Some(seconds(60))));
        habits.stayed_open(Duration::from_millis(999), now);
        assert!(!habits.is_safe_once(Duration::ZERO, None));
        habits.stayed_open(seconds(1), now);
        assert!(habits.is_safe_once(Duration::ZERO, None));
    }

    #[test]
    fn a_second_request_shows_it_too() {
        let habits = Habits::default();
        habits.served_again(Duration::ZERO, Tick::read);
        assert!(habits.is_safe_once(seconds(2), None));
        assert!(!habits.is_safe_once(seconds(3), None));
    }

    #[test]
    fn an_early_end_counts_for_a_minute() {
        let habits = Habits::default();
        let now = Tick::read();
        habits.served_again(seconds(5), || now);
        habits.ended(Duration::from_millis(200), now);
        habits.served_again(Duration::ZERO, || now + seconds(59));
        assert!(!habits.is_safe_once(Duration::ZERO, None));
        habits.served_again(Duration::ZERO, || now + seconds(61));
        assert!(habits.is_safe_once(Duration::ZERO, None));
    }

    #[test]
    fn a_long_rest_must_have_been_promised_or_survived() {
        let habits = Habits::default();
        let now = Tick::read();
        habits.answered_after(Duration::from_millis(100));
        habits.served_again(seconds(10), || now);
        for (rest, promised, safe) in [
            (1_800, None, true),
            (8_900, None, true),
            (8_901, None, false),
            (13_900, Some(15), true),
            (13_901, Some(15), false),
        ] {
            let rest = Duration::from_millis(rest);
            let given = habits.is_safe_once(rest, promised.map(seconds));
            assert_eq!(given, safe, "{rest:?} {promised:?}");
        }
        // The upstream has ended one after 5 s.
        habits.ended(seconds(5), now);
        assert!(habits.is_safe_once(Duration::from_millis(3_900), None));
        assert!(!habits.is_safe_once(Duration::from_millis(3_901), None));
        // Two seconds, less two round trips.
        habits.ended(seconds(2), now);
        assert!(habits.is_safe_once(Duration::from_millis(1_800), None));
        assert!(!habits.is_safe_once(Duration::from_millis(1_801), None));
    }

    #[test]
    fn only_after_a_long_rest_is_the_way_doubted() {
        let habits = Habits::default();
        assert_eq!(habits.patience(seconds(5)), None);
        assert_eq!(habits.patience(seconds(6)), Some(SHORTEST_PATIENCE));
        habits.answered_after(Duration::from_millis(400));
        assert_eq!(
            habits.patience(seconds(6)),
            Some(Duration::from_millis(1600))
        );
    }

    #[test]
    fn a_promise_shortens_the_rest_by_a_second_and_a_round_trip() {
        let habits = Habits::default();
        habits.answered_after(Duration::from_millis(100));
        habits.answered_after(Duration::from_millis(300));
        for (promised, rest) in [
            (None, 60_000),
            (Some(75), 60_000),
            (Some(5), 3_900),
            (Some(1), 0),
        ] {
            let rest = Duration::from_millis(rest);
            let given = habits.longest_rest(seconds(60), promised.map(seconds));
            assert_eq!(given, rest, "{promised:?}");
        }
    }
}
