//! Several proxies of one kind, in the order given: which is tried first, which is passed
//! over, and which is probed. Shared by all threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a proxy that has failed is passed over before it is probed.
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
    /// It has failed, and is being tried beside a dial through another.
    Probed,
}

/// How a dial through a proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// With a connection to the upstream.
    Done,
    /// With the proxy's word that it will not, or cannot, connect.
    Refused,
    /// Without an answer of the proxy's.
    Failed,
}

impl Dial {
    /// Every end.
    pub const ALL: [Dial; 3] = [Dial::Done, Dial::Refused, Dial::Failed];

    /// Its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Dial::Done => "done",
            Dial::Refused => "refused",
            Dial::Failed => "failed",
        }
    }
}

/// What a dial is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The proxies to try, first to last: those that have failed come behind the others.
    pub order: Vec<usize>,
    /// One to probe beside the dial. `ended` must be told how that went.
    pub probe: Option<usize>,
}

impl Hops {
    /// So many proxies that have not failed.
    pub fn new(count: usize) -> Hops {
        Hops {
            each: (0..count).map(|_| Hop::default()).collect(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.each.len()
    }

    fn health(&self, n: usize) -> MutexGuard<'_, Health> {
        let health = self.each[n].health.lock();
        health.unwrap_or_else(PoisonError::into_inner)
    }

    /// The order for a dial that begins now.
    pub fn plan(&self) -> Plan {
        let (mut order, mut failed): (Vec<_>, Vec<_>) =
            (0..self.count()).partition(|n| matches!(*self.health(*n), Health::Good));
        // Without a good one, the dial itself tries those that have failed.
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

    /// A dial through a proxy, or a probe of it, has ended.
    pub fn ended(&self, n: usize, dial: Dial) {
        *self.health(n) = match dial {
            Dial::Done | Dial::Refused => Health::Good,
            Dial::Failed => Health::Failed(Instant::now()),
        };
        self.each[n].dials[dial as usize].fetch_add(1, Relaxed);
    }

    /// How many dials through a proxy have ended so.
    pub fn dials(&self, n: usize, dial: Dial) -> u64 {
        self.each[n].dials[dial as usize].load(Relaxed)
    }

    /// Whether a proxy is passed over.
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
    fn one_that_failed_comes_last_and_is_probed_beside_another() {
        let hops = Hops::new(3);
        assert_eq!(hops.plan(), plan(&[0, 1, 2], None));
        hops.ended(0, Dial::Failed);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], None));
        let_time_pass(&hops, 0);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], Some(0)));
        // One probe at a time.
        assert_eq!(hops.plan(), plan(&[1, 2, 0], None));
        hops.ended(0, Dial::Failed);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], None));
        let_time_pass(&hops, 0);
        assert_eq!(hops.plan(), plan(&[1, 2, 0], Some(0)));
        hops.ended(0, Dial::Done);
        assert_eq!(hops.plan(), plan(&[0, 1, 2], None));
    }

    #[test]
    fn without_a_good_one_each_is_tried() {
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
