//! The order in which the addresses of a name are tried: the resolver's order, alternating
//! between the families; addresses that failed within the last ten minutes come last.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an address that failed is tried last.
const SHUNNED: Duration = Duration::from_secs(10 * 60);

/// The largest number of failed addresses that are remembered.
const MAX_SHUNNED: usize = 256;

/// The addresses that failed, and when.
#[derive(Default)]
pub(super) struct Shunned(Mutex<HashMap<SocketAddr, Instant>>);

impl Shunned {
    /// Orders the addresses of both families, alternating (RFC 8305 §4); those that have failed
    /// come after all others.
    pub(super) fn in_order(&self, families: [Vec<SocketAddr>; 2]) -> VecDeque<SocketAddr> {
        let failed = self.0.lock();
        let failed = failed.unwrap_or_else(PoisonError::into_inner);
        let has_failed = |address: &SocketAddr| {
            let since = failed.get(address);
            since.is_some_and(|since| since.elapsed() < SHUNNED)
        };
        let [(v6_failed, v6), (v4_failed, v4)] =
            families.map(|family| family.into_iter().partition::<Vec<_>, _>(has_failed));
        let mut order = alternate(v6, v4);
        order.extend(alternate(v6_failed, v4_failed));
        order
    }

    /// Records that the dial of an address has failed.
    pub(super) fn failed(&self, address: SocketAddr) {
        let failed = self.0.lock();
        let mut failed = failed.unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= MAX_SHUNNED {
            failed.retain(|_, since| since.elapsed() < SHUNNED);
        }
        if failed.len() < MAX_SHUNNED {
            failed.insert(address, Instant::now());
        }
    }

    /// Records that the dial of an address has succeeded.
    pub(super) fn succeeded(&self, address: SocketAddr) {
        let failed = self.0.lock();
        let mut failed = failed.unwrap_or_else(PoisonError::into_inner);
        failed.remove(&address);
    }
}

fn alternate(these: Vec<SocketAddr>, those: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let mut turns = VecDeque::with_capacity(these.len() + those.len());
    let (mut these, mut those) = (these.into_iter(), those.into_iter());
    loop {
        let pair = [these.next(), those.next()];
        if pair == [None, None] {
            return turns;
        }
        turns.extend(pair.into_iter().flatten());
    }
}
