//! What has been observed of the upstream: how long it keeps idle connections and how quickly it
//! answers. Decides after which idle time a kept connection is still safe for a request that
//! must not be sent twice. "Rest" here is the time that a connection has been idle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::net::tick::Tick;

/// A connection that stays open this long after a response proves that the upstream keeps
/// connections; one that ends earlier, without an announcement, proves that it does not.
const PROVEN_AFTER: Duration = Duration::from_secs(1);

/// How long an unannounced end counts against the upstream.
const DOUBT: Duration = Duration::from_secs(60);

/// A request that must not be sent twice may always use a connection that has been idle for this
/// long, less two round trips: no upstream that keeps connections at all is known to keep them
/// for less.
const SHORT_REST: Duration = Duration::from_secs(2);

/// By how much an idle time, plus one round trip, must be shorter than what the upstream has
/// promised or shown: clocks differ, and a FIN takes time to arrive.
const MARGIN: Duration = Duration::from_secs(1);

/// A NAT on the path may have forgotten a connection that was idle for longer.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// The least time in which a request on such a connection must be acknowledged. The kernel
/// measures it from its second retransmission, which it sends after twice 0.2 s and two round
/// trips, and retransmits once more within this time.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(700);

/// What all threads have learned about the upstream.
pub struct Habits {
    /// The origin of the times below.
    start: Tick,
    /// Whether a connection has served a second request, or has stayed open for `PROVEN_AFTER`.
    keeps: AtomicBool,
    /// Until when an unannounced end counts, in milliseconds.
    doubted_until: AtomicU64,
    /// The longest idle time that a connection has survived, lowered to the idle time after
    /// which the upstream has ended one; in milliseconds.
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
    /// Records the time from a request to the first byte of its response.
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

    /// Records that a connection has served another request after this idle time. `now` is
    /// called only where the record may change.
    pub fn served_again(&self, rest: Duration, now: impl FnOnce() -> Tick) {
        self.survived(rest);
        if !self.keeps.load(Relaxed) {
            self.keeps(now());
        }
    }

    /// Records that a connection is still open after this idle time.
    pub fn stayed_open(&self, rest: Duration, now: Tick) {
        self.survived(rest);
        if rest >= PROVEN_AFTER {
            self.keeps(now);
        }
    }

    /// Records that the upstream has ended a connection, unannounced, after this idle time at
    /// the latest.
    pub fn ended(&self, rest: Duration, now: Tick) {
        self.survived.fetch_min(millis(rest), Relaxed);
        if rest < PROVEN_AFTER {
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

    /// How long to wait for an acknowledgement on a connection that was idle for this long;
    /// `None` leaves it to the system.
    pub fn patience(&self, rest: Duration) -> Option<Duration> {
        let patience = SHORTEST_PATIENCE.max(4 * self.round_trip());
        (rest > FORGOTTEN_AFTER).then_some(patience)
    }

    /// Whether this idle time is so short that no upstream that keeps connections would have
    /// closed one.
    pub fn is_short(&self, rest: Duration) -> bool {
        rest + 2 * self.round_trip() <= SHORT_REST
    }

    /// Whether a request that must not be sent twice may use a connection that has been idle for
    /// this long, and that the upstream has promised to keep for `promised`.
    pub fn is_safe_once(&self, rest: Duration, promised: Option<Duration>) -> bool {
        if !self.keeps.load(Relaxed) {
            return false;
        }
        let round_trip = self.round_trip();
        let survived = Duration::from_millis(self.survived.load(Relaxed));
        let within = |kept: Duration| rest + MARGIN + round_trip <= kept;
        self.is_short(rest) || promised.is_some_and(within) || within(survived)
    }

    /// How long to keep an idle connection: at most `most`, and less where the upstream has
    /// promised to keep it for less. Zero means not to keep it.
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
    fn no_connection_is_safe_before_one_was_kept_for_a_second() {
        let habits = Habits::default();
        let now = Tick::read();
        assert!(!habits.is_safe_once(Duration::ZERO, Some(seconds(60))));
        habits.stayed_open(Duration::from_millis(999), now);
        assert!(!habits.is_safe_once(Duration::ZERO, None));
        habits.stayed_open(seconds(1), now);
        assert!(habits.is_safe_once(Duration::ZERO, None));
    }

    #[test]
    fn a_second_request_proves_that_connections_are_kept() {
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
    fn a_long_idle_time_must_have_been_promised_or_survived() {
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
        // The upstream ends a connection after 5 s.
        habits.ended(seconds(5), now);
        assert!(habits.is_safe_once(Duration::from_millis(3_900), None));
        assert!(!habits.is_safe_once(Duration::from_millis(3_901), None));
        // Two seconds, less two round trips.
        habits.ended(seconds(2), now);
        assert!(habits.is_safe_once(Duration::from_millis(1_800), None));
        assert!(!habits.is_safe_once(Duration::from_millis(1_801), None));
    }

    #[test]
    fn acknowledgements_are_timed_only_after_a_long_idle_time() {
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
    fn a_promise_limits_the_idle_time_less_a_second_and_a_round_trip() {
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
