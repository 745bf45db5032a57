//! Spare connections: upstream connections made in advance for the server names in use. Decides
//! how many each name gets, and when one is dialled, renewed or closed. Leaves the dialling to
//! `serve`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::net::stream::Detached;
use crate::net::tick::Tick;

/// A name gets no spare connection when no request for it was answered for this long.
const IN_USE: Duration = Duration::from_secs(60);

/// The age at which a spare connection is renewed: servers wait at least 10 s for a first
/// request.
const RENEWED_AT: Duration = Duration::from_secs(10);

/// The spare connections of all threads.
pub struct Spares {
    /// How many may be idle in total; zero disables them.
    most: usize,
    stock: Mutex<Stock<Detached>>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A connection is to be dialled for this server name.
    Dial {
        /// The name.
        server_name: Box<str>,
        /// Whether it replaces one that has become old.
        renews: bool,
    },
    /// There is nothing to do before this time, or before `poll_changed` is ready.
    Wait(Option<Tick>),
    /// The process drains: there is nothing more to do.
    Stop,
}

impl Spares {
    /// No connections yet, with room for `most`.
    pub fn new(most: usize) -> Spares {
        Spares {
            most,
            stock: Mutex::new(Stock::new(most)),
        }
    }

    /// Whether spare connections are enabled.
    pub fn are_wanted(&self) -> bool {
        self.most > 0
    }

    fn stock(&self) -> MutexGuard<'_, Stock<Detached>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a request for this server name was answered successfully. `now` is called
    /// only where spare connections are enabled.
    pub fn used(&self, server_name: &str, now: impl FnOnce() -> Tick) {
        if self.are_wanted() {
            self.stock().used(server_name, now());
        }
    }

    /// Takes the youngest spare connection for this name if its age fits, with that age.
    pub fn take(
        &self,
        server_name: &str,
        now: Tick,
        fits: impl Fn(Duration) -> bool,
    ) -> Option<(Detached, Duration)> {
        match self.are_wanted() {
            true => self.stock().take(server_name, now, fits),
            false => None,
        }
    }

    /// Takes the oldest spare connection, whatever its name, to be closed in favour of another
    /// connection.
    pub fn take_oldest(&self) -> Option<Detached> {
        self.stock().take_oldest()
    }

    /// Keeps a connection that was dialled as `Next::Dial` said.
    pub fn put(&self, connection: Detached, server_name: &str, now: Tick) {
        let _closed = self.stock().put(connection, server_name, now);
    }

    /// What is to be done next. Closes connections that are old and could not be renewed
    /// (`failed`), and those for names that are no longer in use.
    pub fn next(&self, now: Tick, failed: bool) -> Next {
        let (next, _closed) = self.stock().next(now, failed);
        next
    }

    /// Closes all of them and accepts no more.
    pub fn stop(&self) {
        let _closed = self.stock().stop();
    }

    /// Whether the process drains.
    pub fn has_stopped(&self) -> bool {
        self.stock().stopped
    }

    /// Waits until something has changed since the last call of `next`.
    pub fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stock = self.stock();
        if std::mem::take(&mut stock.changed) {
            return Poll::Ready(());
        }
        stock.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The spare connections, generic so that the rules can be tested without sockets.
struct Stock<C> {
    most: usize,
    /// The names in use, the most recently used first.
    names: Vec<(Box<str>, Tick)>,
    /// The oldest first.
    idle: Vec<Spare<C>>,
    changed: bool,
    waker: Option<Waker>,
    stopped: bool,
}

struct Spare<C> {
    connection: C,
    server_name: Box<str>,
    since: Tick,
}

impl<C> Stock<C> {
    fn new(most: usize) -> Stock<C> {
        Stock {
            most,
            names: Vec::new(),
            idle: Vec::new(),
            changed: false,
            waker: None,
            stopped: false,
        }
    }

    fn changed(&mut self) {
        self.changed = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn used(&mut self, server_name: &str, now: Tick) {
        let at = self
            .names
            .iter()
            .position(|(name, _)| **name == *server_name);
        if at == Some(0) {
            self.names[0].1 = now;
            return;
        }
        let name = match at {
            Some(at) => self.names.remove(at).0,
            None => server_name.into(),
        };
        self.names.insert(0, (name, now));
        self.names.truncate(self.most);
        self.changed();
    }

    fn take(
        &mut self,
        server_name: &str,
        now: Tick,
        fits: impl Fn(Duration) -> bool,
    ) -> Option<(C, Duration)> {
        let is_for_it = |spare: &Spare<C>| *spare.server_name == *server_name;
        let at = self.idle.iter().rposition(is_for_it)?;
        let age = now.since(self.idle[at].since);
        if !fits(age) {
            return None;
        }
        let spare = self.idle.remove(at);
        self.changed();
        Some((spare.connection, age))
    }

    fn take_oldest(&mut self) -> Option<C> {
        (!self.idle.is_empty()).then(|| self.idle.remove(0).connection)
    }

    /// Adds a connection; returns the one that it replaces, if it renews one or there is no
    /// room.
    fn put(&mut self, connection: C, server_name: &str, now: Tick) -> Option<C> {
        if self.stopped {
            return Some(connection);
        }
        let old = self.old(now);
        let replaced = match old.filter(|at| *self.idle[*at].server_name == *server_name) {
            Some(at) => Some(at),
            None => (self.idle.len() >= self.most).then_some(0),
        };
        let replaced = replaced.map(|at| self.idle.remove(at).connection);
        self.idle.push(Spare {
            connection,
            server_name: server_name.into(),
            since: now,
        });
        replaced
    }

    /// The index of a connection that is due for renewal.
    fn old(&self, now: Tick) -> Option<usize> {
        let is_old = |spare: &Spare<C>| now.since(spare.since) >= RENEWED_AT;
        self.idle.first().filter(|oldest| is_old(oldest)).map(|_| 0)
    }

    fn next(&mut self, now: Tick, failed: bool) -> (Next, Vec<Spare<C>>) {
        self.changed = false;
        let mut closed = Vec::new();
        if self.stopped {
            return (Next::Stop, closed);
        }
        self.names.retain(|(_, used)| now.since(*used) < IN_USE);
        // If a name has more than it is to have, the youngest are kept.
        let wanted = self.wanted();
        for (name, count) in self.counts() {
            let wanted = wanted.iter().find(|(wanted, _)| *wanted == name);
            for _ in wanted.map_or(0, |(_, count)| *count)..count {
                let at = self.idle.iter().position(|spare| spare.server_name == name);
                closed.push(self.idle.remove(at.expect("it was counted")));
            }
        }
        while failed && self.old(now).is_some() {
            closed.push(self.idle.remove(0));
        }
        let counts = self.counts();
        let missing = wanted.into_iter().find(|(name, wanted)| {
            let count = counts.iter().find(|(counted, _)| counted == name);
            count.map_or(0, |(_, count)| *count) < *wanted
        });
        if let Some((server_name, _)) = missing {
            let renews = false;
            return (
                Next::Dial {
                    server_name,
                    renews,
                },
                closed,
            );
        }
        if let Some(at) = self.old(now) {
            let server_name = self.idle[at].server_name.clone();
            let renews = true;
            return (
                Next::Dial {
                    server_name,
                    renews,
                },
                closed,
            );
        }
        let renewal = self.idle.first().map(|oldest| oldest.since + RENEWED_AT);
        let forgotten = self.names.last().map(|(_, used)| *used + IN_USE);
        let first = renewal.into_iter().chain(forgotten).min();
        (Next::Wait(first), closed)
    }

    /// How many spare connections each name in use is to have: one, until each name has one.
    fn wanted(&self) -> Vec<(Box<str>, usize)> {
        let names = self.names.len();
        let share = |place: usize| self.most / names + usize::from(place < self.most % names);
        let names = self.names.iter().enumerate();
        names
            .map(|(place, (name, _))| (name.clone(), share(place)))
            .collect()
    }

    /// How many each name has.
    fn counts(&self) -> Vec<(Box<str>, usize)> {
        let mut counts: Vec<(Box<str>, usize)> = Vec::new();
        for spare in &self.idle {
            match counts
                .iter_mut()
                .find(|(name, _)| *name == spare.server_name)
            {
                Some((_, count)) => *count += 1,
                None => counts.push((spare.server_name.clone(), 1)),
            }
        }
        counts
    }

    fn stop(&mut self) -> Vec<Spare<C>> {
        self.stopped = true;
        self.changed();
        std::mem::take(&mut self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Dials until none is missing, and returns the names in order. Each connection is
    /// represented by its number.
    fn fill(stock: &mut Stock<u32>, now: Tick) -> Vec<String> {
        let mut dialled = Vec::new();
        loop {
            assert!(stock.idle.len() <= stock.most);
            match stock.next(now, false).0 {
                Next::Dial { server_name, .. } => {
                    stock.put(dialled.len() as u32, &server_name, now);
                    dialled.push(server_name.into());
                }
                _ => return dialled,
            }
        }
    }

    #[test]
    fn nothing_is_dialled_without_requests() {
        let now = Tick::read();
        let mut stock = Stock::<u32>::new(3);
        assert_eq!(stock.next(now, false).0, Next::Wait(None));
        stock.used("a", now);
        assert_eq!(fill(&mut stock, now), ["a", "a", "a"]);
        // A minute without requests has passed.
        let (next, closed) = stock.next(now + seconds(60), false);
        assert_eq!((next, closed.len()), (Next::Wait(None), 3));
    }

    #[test]
    fn each_name_gets_one_before_any_gets_two() {
        let now = Tick::read();
        let mut stock = Stock::<u32>::new(3);
        stock.used("a", now);
        stock.used("b", now);
        assert_eq!(fill(&mut stock, now), ["b", "b", "a"]);
        // A third name takes the place of a second spare.
        stock.used("c", now);
        assert_eq!(fill(&mut stock, now), ["c"]);
        // A fourth name takes the place of the name that was used longest ago.
        stock.used("d", now);
        assert_eq!(fill(&mut stock, now), ["d"]);
        assert!(
            stock.take("a", now, |_| true).is_none() && stock.take("b", now, |_| true).is_some()
        );
        // A connection that was taken is replaced.
        assert_eq!(fill(&mut stock, now), ["b"]);
    }

    #[test]
    fn a_spare_connection_is_renewed_at_ten_seconds() {
        let now = Tick::read();
        let mut stock = Stock::<u32>::new(1);
        stock.used("a", now);
        fill(&mut stock, now);
        let at = now + seconds(10);
        assert_eq!(stock.next(now, false).0, Next::Wait(Some(at)));
        let renewal = Next::Dial {
            server_name: "a".into(),
            renews: true,
        };
        assert_eq!(stock.next(at, false).0, renewal);
        // The old one stays available until the new one is there.
        assert_eq!(stock.put(7, "a", at), Some(0));
        assert_eq!(stock.take("a", at, |_| true), Some((7, Duration::ZERO)));
        fill(&mut stock, at);
        // If the renewal fails, the old one is closed.
        let (_, closed) = stock.next(at + seconds(10), true);
        assert_eq!(closed.len(), 1);
    }

    #[test]
    fn a_drain_closes_all_spare_connections() {
        let now = Tick::read();
        let mut stock = Stock::<u32>::new(2);
        stock.used("a", now);
        fill(&mut stock, now);
        assert_eq!(stock.stop().len(), 2);
        assert_eq!(stock.next(now, false).0, Next::Stop);
        assert_eq!(stock.put(1, "a", now), Some(1));
    }
}
