//! Resolves names through the system's resolver, for all threads: at most one lookup of a name
//! at a time, whose result is shared by all that wait for it.
//!
//! A and AAAA records are looked up separately, so that a lost reply for one family costs 50 ms
//! and not the whole deadline (RFC 8305 §3). The last good answer is remembered for an hour. It
//! is used when a lookup fails, unless the name server answers that there is no such name, and
//! when a lookup has not ended after a second, while it continues in the background (RFC 8767
//! §5). Leaves the lookup itself to `resolver`, and the order of the addresses to `shunned`.

use std::collections::{HashMap, VecDeque};
use std::future::{poll_fn, Future};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;

use crate::route::resolver::{look_up, Answer, Failure, Family};
use crate::route::shunned::Shunned;

/// How long to wait for the other family's answer once one has come (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// After this long a remembered answer is used instead of the pending one. RFC 8767 §5 suggests
/// 1.8 s, but for clients with more patience than ours.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

type Lookup = dyn Fn(&str, Family) -> Answer + Send + Sync;

/// Looks names up, and remembers the answers. Clones share their state.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    lookup: Box<Lookup>,
    names: Mutex<HashMap<String, Arc<Name>>>,
    shunned: Shunned,
}

/// What is known about one name.
#[derive(Default)]
struct Name(Mutex<State>);

#[derive(Default)]
struct State {
    /// When the current or last lookup began.
    began: Option<Instant>,
    /// Its answers, in the order of `Family::ALL`, and when each came.
    answers: [Option<(Instant, Answer)>; 2],
    /// The last good answer of each family, and when it came.
    remembered: [Option<(Instant, Vec<SocketAddr>)>; 2],
    /// The tasks that wait for an answer.
    waiting: Vec<Waker>,
}

impl State {
    fn is_under_way(&self) -> bool {
        self.began.is_some() && self.answers.iter().any(Option::is_none)
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|one| one.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    /// Takes the answer for one family.
    fn take(&mut self, family: usize, answer: Answer) {
        match &answer {
            Ok(addresses) => {
                self.remembered[family] = Some((Instant::now(), addresses.clone()));
            }
            Err(Failure::None(_)) => self.remembered[family] = None,
            Err(Failure::Broken(_)) => {}
        }
        self.answers[family] = Some((Instant::now(), answer));
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn remembered(&self, family: usize) -> &[SocketAddr] {
        match &self.remembered[family] {
            Some((since, addresses)) if since.elapsed() < REMEMBERED => addresses,
            _ => &[],
        }
    }

    /// The addresses of a family: from the current answer, else the remembered ones, unless the
    /// answer is that there are none.
    fn known(&self, family: usize) -> &[SocketAddr] {
        match &self.answers[family] {
            Some((_, Ok(addresses))) => addresses,
            Some((_, Err(Failure::None(_)))) => &[],
            Some((_, Err(Failure::Broken(_)))) | None => self.remembered(family),
        }
    }

    /// Whether enough is known to begin connecting, and if not, when time alone may change that.
    fn verdict(&self, began: Instant) -> Verdict {
        let [ended, came] = [
            |answer: &Option<(Instant, Answer)>| answer.is_some(),
            |answer: &Option<(Instant, Answer)>| matches!(answer, Some((_, Ok(_)))),
        ]
        .map(|is| self.answers.iter().filter(|answer| is(answer)).count());
        if ended == 2 {
            return Verdict::Enough;
        }
        let mut until = None;
        if came > 0 {
            let first = self.answers.iter().flatten().map(|(when, _)| *when).min();
            until = first.map(|first| first + RESOLUTION_DELAY);
        } else if (0..2).any(|family| !self.known(family).is_empty()) {
            until = Some(began + PATIENCE);
        }
        match until {
            Some(until) if until <= Instant::now() => Verdict::Enough,
            until => Verdict::Wait(until),
        }
    }

    /// Why there is no address. A lookup that failed is reported before one that found no
    /// address.
    fn words(&self) -> String {
        let failures = self.answers.iter().rev().flatten();
        let failures: Vec<_> = failures.filter_map(|(_, a)| a.as_ref().err()).collect();
        let broken = failures.iter().find_map(|failure| match failure {
            Failure::Broken(words) => Some(words),
            Failure::None(_) => None,
        });
        let none = || match failures.first() {
            Some(Failure::None(words) | Failure::Broken(words)) => Some(words),
            None => None,
        };
        let words = broken.or_else(none).cloned();
        words.unwrap_or_else(|| "the name has no address".to_owned())
    }
}

enum Verdict {
    Enough,
    Wait(Option<Instant>),
}

impl Name {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::with(look_up)
    }
}

impl Names {
    fn with(lookup: impl Fn(&str, Family) -> Answer + Send + Sync + 'static) -> Names {
        Names(Arc::new(Shared {
            lookup: Box::new(lookup),
            names: Mutex::default(),
            shunned: Shunned::default(),
        }))
    }

    /// The addresses of a name, in the order in which to try them. Fails with the resolver's
    /// message. May take as long as the resolver does.
    pub async fn resolve(&self, name: &str, port: u16) -> Result<Addresses, String> {
        let known = self.known(name);
        let began = self.look_up(name, &known);
        let mut timer = Timer::never();
        let mut armed = None;
        poll_fn(|cx| loop {
            let mut state = known.state();
            match state.verdict(began) {
                Verdict::Enough => return Poll::Ready(()),
                Verdict::Wait(until) => {
                    state.wait(cx);
                    if until != armed {
                        armed = until;
                        timer = until.map_or_else(Timer::never, Timer::at);
                    }
                }
            }
            drop(state);
            if Pin::new(&mut timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
        })
        .await;
        let state = known.state();
        let families = [0, 1].map(|family| with_port(state.known(family), port));
        let late = state.answers.iter().position(Option::is_none);
        if late.is_none() && families.iter().all(Vec::is_empty) {
            return Err(state.words());
        }
        drop(state);
        Ok(Addresses {
            queue: self.0.shunned.in_order(families),
            late: late.map(|family| Late {
                name: known,
                family,
                port,
            }),
        })
    }

    fn known(&self, name: &str) -> Arc<Name> {
        let names = self.0.names.lock();
        let mut names = names.unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(known) => known.clone(),
            None => names.entry(name.to_owned()).or_default().clone(),
        }
    }

    /// Begins a lookup unless one is in progress; returns when it began. The lookup of each
    /// family blocks its own thread, which then ends: the threads of the `blocking` crate's pool
    /// never do.
    fn look_up(&self, name: &str, known: &Arc<Name>) -> Instant {
        let mut state = known.state();
        if let (true, Some(began)) = (state.is_under_way(), state.began) {
            return began;
        }
        let began = Instant::now();
        state.began = Some(began);
        state.answers = [None, None];
        drop(state);
        for (n, family) in Family::ALL.into_iter().enumerate() {
            let (shared, known, name) = (self.0.clone(), known.clone(), name.to_owned());
            let given = known.clone();
            let thread = thread::Builder::new().name("resolver".to_owned());
            let started = thread.spawn(move || {
                let answer = (shared.lookup)(&name, family);
                given.state().take(n, answer);
            });
            if let Err(error) = started {
                let words = format!("cannot start a thread: {error}");
                known.state().take(n, Err(Failure::Broken(words)));
            }
        }
        began
    }

    /// Records that the dial of an address has failed.
    pub fn failed(&self, address: SocketAddr) {
        self.0.shunned.failed(address);
    }

    /// Records that the dial of an address has succeeded.
    pub fn succeeded(&self, address: SocketAddr) {
        self.0.shunned.succeeded(address);
    }
}

fn with_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let with_port = |address: &SocketAddr| {
        let mut address = *address;
        address.set_port(port);
        address
    };
    addresses.iter().map(with_port).collect()
}

/// The addresses of a name, in the order in which to try them, and those of a family whose
/// answer is still pending.
pub struct Addresses {
    queue: VecDeque<SocketAddr>,
    late: Option<Late>,
}

struct Late {
    name: Arc<Name>,
    family: usize,
    port: u16,
}

impl Addresses {
    /// These addresses, with no answer pending.
    pub fn all_of(addresses: Vec<SocketAddr>) -> Addresses {
        Addresses {
            queue: addresses.into(),
            late: None,
        }
    }

    /// The next address to try; pending while there is none but an answer is awaited, and `None`
    /// when there are no more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<SocketAddr>> {
        if let Some(Late { name, family, port }) = &self.late {
            let mut state = name.state();
            if state.answers[*family].is_some() {
                let known = with_port(state.known(*family), *port);
                drop(state);
                let queue = &mut self.queue;
                for address in known {
                    if !queue.contains(&address) {
                        queue.push_back(address);
                    }
                }
                self.late = None;
            } else if self.queue.is_empty() {
                state.wait(cx);
                return Poll::Pending;
            }
        }
        Poll::Ready(self.queue.pop_front())
    }

    /// Whether there is another address, or an answer is pending.
    pub fn has_more(&self) -> bool {
        !self.queue.is_empty() || self.late.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{channel, Receiver, Sender};

    use super::*;
    use crate::net::reactor::block_on;

    fn v4(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 0))
    }

    fn v6(n: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 0))
    }

    fn none() -> Answer {
        Err(Failure::None("no such name".to_owned()))
    }

    fn broken() -> Answer {
        Err(Failure::Broken("no answer".to_owned()))
    }

    /// A resolver that answers for each family when the test sends the answer.
    struct Scripted {
        names: Names,
        v6: Sender<Answer>,
        v4: Sender<Answer>,
        asked: Arc<AtomicUsize>,
    }

    fn scripted() -> Scripted {
        let ([v6, v4], answers): ([Sender<Answer>; 2], [Mutex<Receiver<Answer>>; 2]) = {
            let ((a, b), (c, d)) = (channel(), channel());
            ([a, c], [Mutex::new(b), Mutex::new(d)])
        };
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let names = Names::with(move |_, family| {
            count.fetch_add(1, Ordering::SeqCst);
            let answers = answers[family as usize].lock().expect("no panic");
            answers.recv().unwrap_or_else(|_| broken())
        });
        Scripted {
            names,
            v6,
            v4,
            asked,
        }
    }

    impl Scripted {
        fn say(&self, v6: Answer, v4: Answer) {
            self.v6.send(v6).expect("it is open");
            self.v4.send(v4).expect("it is open");
        }

        /// All addresses of the name; those of a pending family only if they have come.
        fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
            let found = block_on(self.names.resolve("a.example", 0), || None);
            let found = found.expect("the reactor runs")?;
            Ok(found.queue.into())
        }
    }

    #[test]
    fn families_alternate_and_failed_addresses_come_last() {
        let resolver = scripted();
        resolver.say(Ok(vec![v6(1), v6(2), v6(3)]), Ok(vec![v4(1), v4(2)]));
        assert_eq!(
            resolver.resolve(),
            Ok(vec![v6(1), v4(1), v6(2), v4(2), v6(3)])
        );
        resolver.names.failed(v6(1));
        resolver.names.failed(v4(1));
        resolver.say(Ok(vec![v6(1), v6(2), v6(3)]), Ok(vec![v4(1), v4(2)]));
        assert_eq!(
            resolver.resolve(),
            Ok(vec![v6(2), v4(2), v6(3), v6(1), v4(1)])
        );
        // An address that succeeded is not moved to the front: the resolver's rotation stays.
        resolver.names.succeeded(v6(1));
        resolver.names.succeeded(v4(1));
        resolver.say(none(), Ok(vec![v4(2), v4(1)]));
        assert_eq!(resolver.resolve(), Ok(vec![v4(2), v4(1)]));
    }

    #[test]
    fn a_lost_answer_of_one_family_costs_little() {
        let resolver = scripted();
        let started = Instant::now();
        resolver.v4.send(Ok(vec![v4(1)])).expect("it is open");
        assert_eq!(resolver.resolve(), Ok(vec![v4(1)]));
        assert!(started.elapsed() >= RESOLUTION_DELAY);
        // An answer that comes later adds to the addresses being tried.
        let resolver = scripted();
        resolver.v6.send(Ok(vec![v6(1)])).expect("it is open");
        let tried = async {
            let mut found = resolver.names.resolve("a.example", 0).await?;
            let first = poll_fn(|cx| found.poll_next(cx)).await;
            resolver.v4.send(Ok(vec![v4(1)])).expect("it is open");
            let second = poll_fn(|cx| found.poll_next(cx)).await;
            assert!(!found.has_more());
            Ok::<_, String>([first, second])
        };
        let tried = block_on(tried, || None).expect("the reactor runs");
        assert_eq!(tried, Ok([Some(v6(1)), Some(v4(1))]));
    }

    #[test]
    fn a_family_without_addresses_ends_the_wait_for_it_alone() {
        let resolver = scripted();
        resolver.say(none(), Ok(vec![v4(1)]));
        assert_eq!(resolver.resolve(), Ok(vec![v4(1)]));
        // While one family has no addresses, the other is awaited.
        let (names, v4_answer) = (resolver.names.clone(), resolver.v4.clone());
        resolver.v6.send(none()).expect("it is open");
        let waiting = thread::spawn(move || {
            let found = block_on(names.resolve("b.example", 0), || None);
            found.expect("the reactor runs").map(|found| found.queue)
        });
        thread::sleep(2 * RESOLUTION_DELAY);
        assert!(!waiting.is_finished());
        v4_answer.send(Ok(vec![v4(9)])).expect("it is open");
        assert_eq!(waiting.join().expect("no panic"), Ok([v4(9)].into()));
    }

    #[test]
    fn the_last_good_answer_is_used_when_a_lookup_fails_or_is_slow() {
        let resolver = scripted();
        resolver.say(none(), Ok(vec![v4(1)]));
        assert_eq!(resolver.resolve(), Ok(vec![v4(1)]));
        resolver.say(broken(), broken());
        assert_eq!(resolver.resolve(), Ok(vec![v4(1)]));
        // Without an answer it is used after a second; the next caller does not wait another
        // second.
        let started = Instant::now();
        assert_eq!(resolver.resolve(), Ok(vec![v4(1)]));
        assert!(started.elapsed() >= PATIENCE);
        let asked = resolver.asked.load(Ordering::SeqCst);
        assert_eq!(resolver.resolve(), Ok(vec![v4(1)]));
        assert_eq!(
            resolver.asked.load(Ordering::SeqCst),
            asked,
            "no new lookup"
        );
        // The lookup continues in the background, and its answer is the next one.
        resolver.say(none(), Ok(vec![v4(2)]));
        while known(&resolver).is_under_way() {
            thread::sleep(Duration::from_millis(1));
        }
        resolver.say(broken(), broken());
        assert_eq!(resolver.resolve(), Ok(vec![v4(2)]));
        // An answer that there is no such name is believed, and the remembered answer is
        // forgotten.
        resolver.say(none(), none());
        assert_eq!(resolver.resolve(), Err("no such name".to_owned()));
        resolver.say(broken(), none());
        assert_eq!(resolver.resolve(), Err("no answer".to_owned()));
    }

    fn known(resolver: &Scripted) -> StateOf {
        StateOf(resolver.names.known("a.example"))
    }

    struct StateOf(Arc<Name>);

    impl StateOf {
        fn is_under_way(&self) -> bool {
            self.0.state().is_under_way()
        }
    }

    #[test]
    fn hundreds_of_waiters_share_one_lookup() {
        let resolver = scripted();
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let names = resolver.names.clone();
                thread::spawn(move || {
                    let all = async {
                        let one = || names.resolve("a.example", 80);
                        let mut all: Vec<_> = (0..175).map(|_| Box::pin(one())).collect();
                        poll_fn(|cx| {
                            all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
                            match all.is_empty() {
                                true => Poll::Ready(()),
                                false => Poll::Pending,
                            }
                        })
                        .await;
                    };
                    block_on(all, || None).expect("the reactor runs");
                })
            })
            .collect();
        while resolver.asked.load(Ordering::SeqCst) < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 2);
        // Threads that came too late for the first lookup start another.
        for _ in 0..waiting.len() {
            resolver.say(none(), Ok(vec![v4(1)]));
        }
        for thread in waiting {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn the_system_resolver_is_used() {
        let names = Names::default();
        let found = block_on(names.resolve("localhost", 80), || None);
        let found = found
            .expect("the reactor runs")
            .expect("every system resolves localhost");
        assert!(found
            .queue
            .iter()
            .all(|a| a.ip().is_loopback() && a.port() == 80));
    }
}
