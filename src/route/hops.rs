//! The proxies of the route, in the order given: which is tried first, which is tried last
//! because it has failed, and which is probed. Shared by all threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a proxy that has failed is tried last before it is probed.
const PASSED_OVER: Duration = Duration::from_secs(10);

/// The proxies of the route, by number from 0.
pub struct Hops {
    each: Box<[Hop]>,
}

#[derive(Default)]
struct Hop {
    health: Mutex<Health>,
    dials: [AtomicU64; Dial::ALL.len()],
}

/// Whether a proxy can be used, as far as is known.
#[derive(Clone, Copy, Default)]
enum Health {
    /// It has not failed since it last served.
    #[default]
    Good,
    /// It has failed, at this time.
    Failed(Instant),
    /// It has failed, and is being probed while a dial goes through another.
    Probed,
}

/// How a dial through a proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// A connection to the upstream was made.
    Done,
    /// The proxy answered that it will not, or cannot, connect.
    Refused,
    /// The proxy gave no answer.
    Failed,
}

impl Dial {
    /// All outcomes.
    pub const ALL: [Dial; 3] = [Dial::Done, Dial::Refused, Dial::Failed];

    /// The name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Dial::Done => "done",
            Dial::Refused => "refused",
            Dial::Failed => "failed",
        }
    }
}

/// Which proxies a dial is to use.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The proxies to try, in order: those that have failed come after the others.
    pub order: Vec<usize>,
    /// A proxy to probe during the dial. The outcome must be passed to `ended`.
    pub probe: Option<usize>,
}

impl Hops {
    /// `count` proxies, none of which has failed.
    pub fn new(count: usize) -> Hops {
        Hops {
            each: (0..count).map(|_| Hop::default()).collect(),
        }
    }

    /// The number of proxies.
    pub fn count(&self) -> usize {
        self.each.len()
    }

    fn health(&self, n: usize) -> MutexGuard<'_, Health> {
        let health = self.each[n].health.lock();
        health.unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan for a dial that begins now.
    pub fn plan(&self) -> Plan {
        let (mut order, mut failed): (Vec<_>, Vec<_>) =
            (0..self.count()).partition(|n| matches!(*self.health(*n), Health::Good));
        // If all have failed, the dial itself tries them.
        let probe = match order.is_empty() {
            true => None,
            false => failed.iter().copied().find(|n| self.begin_probe(*n)),
        };
        order.append(&mut failed);
        Plan { order, probe }
    }

    fn begin_probe(&self, n: usize) -> bool {
        let mut health = self.health(n);
        let is_due = matches!(*health, Health::Failed(since) if since.elapsed() >= PASSED_OVER);
        if is_due {
            *health = Health::Probed;
        }
        is_due
    }

    /// Records how a dial through a proxy, or a probe of it, has ended.
    pub fn ended(&self, n: usize, dial: Dial) {
        *self.health(n) = match dial {
            Dial::Done | Dial::Refused => Health::Good,
            Dial::Failed => Health::Failed(Instant::now()),
        };
        self.each[n].dials[dial as usize].fetch_add(1, Relaxed);
    }

    /// The number of dials through a proxy that have ended this way.
    pub fn dials(&self, n: usize, dial: Dial) -> u64 {
        self.each[n].dials[dial as usize].load(Relaxed)
    }

    /// Whether a proxy has failed, so that others are tried before it.
    pub fn is_passed_over(&self, n: usize) -> bool {
        !matches!(*self.health(n), Health::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(order: &[usize], probe: Option<usize>) -> Plan {
        Plan {
            order: order.to_vec(),
            probe,
        }
    }

    fn let_time_pass(hops: &Hops, n: usize) {
        let mut health = hops.health(n);
        if let Health::Failed(since) = &mut *health {
            *since -= PASSED_OVER;
        }
    }

    #[test]
    fn a_failed_proxy_is_tried_last_and_probed_during_a_dial() {
        let hops = Hops::new(3);
        assert_eq!(hops.plan(), plan(&[0, 1, 2], None));
        hops.ended(0, Dial::Failed);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], None));
        let_time_pass(&hops, 0);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], Some(0)));
        // There is one probe at a time.
        assert_eq!(hops.plan(), plan(&[1, 2, 0], None));
        hops.ended(0, Dial::Failed);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], None));
        let_time_pass(&hops, 0);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], Some(0)));
        hops.ended(0, Dial::Done);
        assert_eq!(hops.plan(), plan(&[0, 1, 2], None));
    }

    #[test]
    fn if_all_have_failed_each_is_tried() {
        let hops = Hops::new(2);
        hops.ended(0, Dial::Failed);
        hops.ended(1, Dial::Failed);
        let_time_pass(&hops, 0);
        assert_eq!(hops.plan(), plan(&[0, 1], None));
        hops.ended(1, Dial::Refused);
        assert_eq!(hops.plan(), plan(&[1, 0], Some(0)));
        assert_eq!(hops.dials(1, Dial::Failed), 1);
        assert!(hops.is_passed_over(0) && !hops.is_passed_over(1));
    }
}
