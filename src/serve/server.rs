//! The threads: what they share, what each runs, and the drain at the end. Leaves accepting to
//! `acceptor`, and the limit of connections to `door`.

use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use async_io::Timer;
use futures_lite::{future, Future, FutureExt};
use smol::channel::{self, Receiver, Sender};
use smol::LocalExecutor;

use crate::config::Config;
use crate::error::describe;
use crate::net::listener::Listener;
use crate::net::reactor;
use crate::net::spares as unused;
use crate::report::log;
use crate::report::metrics::Registry;
use crate::report::status::Board;
use crate::route::dial::Dialer;
use crate::route::pool::Shelves;
use crate::route::spares::Spares;
use crate::serve::acceptor::Acceptor;
use crate::serve::certificates::Certificates;
use crate::serve::door::{Ask, Door};
use crate::serve::scrape::{self, Pages};
use crate::serve::spares;
use crate::serve::worker::Worker;

/// Tasks run in a row before the thread polls its sockets.
const TASKS_IN_A_ROW: usize = 200;

/// How long to wait for the threads to end after the drain timeout.
const OVERDUE: Duration = Duration::from_secs(2);

/// The state that all threads share.
struct Shared {
    config: Arc<Config>,
    dialer: Dialer,
    /// The certificates that clients are shown, where they use TLS.
    certificates: Option<Arc<Certificates>>,
    registry: Registry,
    /// The kept upstream connections.
    shelves: Arc<Shelves>,
    /// What the status page shows, where one is served.
    board: Option<Arc<Board>>,
    /// Upstream connections that are made in advance.
    spares: Arc<Spares>,
    /// Numbers the connections in the log.
    accepted: Arc<AtomicU64>,
    /// Connections that were still open when their thread ended.
    cut_off: AtomicUsize,
}

/// The listeners of the metrics and of the status page, and the data of the latter.
#[derive(Default)]
pub struct Watched {
    /// The listeners, and what each serves.
    pub listeners: Vec<(TcpListener, Pages)>,
    /// What the status page shows, where one is served.
    pub board: Option<Arc<Board>>,
}

/// The listeners for clients, and the certificates that clients are shown.
pub struct Clients {
    /// The listeners of each thread.
    pub listeners: Vec<Vec<TcpListener>>,
    /// The certificates, where clients use TLS.
    pub certificates: Option<Arc<Certificates>>,
}

/// Serves on the listeners, one thread for each group of them, and serves the metrics and the
/// status page. Calls `ready` when all threads are listening. Goes on until `shutdown` resolves
/// to the reason; then finishes the open connections, for at most the drain timeout.
pub fn run(
    config: Arc<Config>,
    dialer: Dialer,
    clients: Clients,
    mut watched: Watched,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = &'static str>,
) -> io::Result<()> {
    let Clients {
        listeners,
        certificates,
    } = clients;
    let most = config.limits.max_connections.unwrap_or(usize::MAX >> 4);
    let drain_timeout = config.limits.drain_timeout;
    let shelves = Arc::new(Shelves::new(listeners.len(), &config.limits));
    let spares = Arc::new(Spares::new(config.limits.spares));
    let shared = Arc::new(Shared {
        config,
        registry: Registry::new(listeners.len())
            .with_proxies(dialer.hops().clone())
            .with_limit(most),
        dialer,
        certificates,
        shelves,
        board: watched.board.take(),
        spares,
        accepted: Arc::default(),
        cut_off: AtomicUsize::new(0),
    });
    // Closing the channel is the signal to drain.
    let (alive, draining) = channel::bounded::<()>(1);
    let mut running = 0;
    let (report, reports) = mpsc::channel();
    let (end, ends) = channel::unbounded::<()>();
    // Closing the channel lets the threads begin.
    let (hold, begin) = channel::bounded::<()>(1);
    let doors = Door::new(most, listeners.len());
    for (n, (listeners, door)) in listeners.into_iter().zip(doors).enumerate() {
        let (shared, draining, report) = (shared.clone(), draining.clone(), report.clone());
        let sockets = Sockets {
            clients: listeners,
            watched: std::mem::take(&mut watched.listeners),
        };
        let thread = thread::Builder::new().name(format!("worker-{n}"));
        let (end, begin) = (Ending(end.clone()), begin.clone());
        thread.spawn(move || {
            let _told_at_the_end = end;
            serve(shared, n, door, sockets, draining, report, begin);
        })?;
        running += 1;
    }
    drop((draining, report, end, begin));
    for _ in 0..running {
        // A thread that panicked before its report has logged that.
        reports.recv().map_err(io::Error::other)??;
    }
    // The lines about the program come first in the log.
    ready();
    drop(hold);
    let reason = async_io::block_on(reason_to_end(shutdown, &ends))?;
    log::draining(reason, drain_timeout);
    log::flush_waiting();
    drop(alive);
    let all_end = async { while ends.recv().await.is_ok() {} };
    let overdue = async {
        Timer::after(drain_timeout.saturating_add(OVERDUE)).await;
    };
    async_io::block_on(all_end.or(overdue));
    log::stopped(shared.cut_off.load(Ordering::Relaxed));
    log::flush_waiting();
    Ok(())
}

/// Waits until the program is to end. A thread that ends earlier, by a bug or because its poll
/// fails, is an error: its clients are no longer served, and a service manager may restart the
/// program.
async fn reason_to_end(
    shutdown: impl Future<Output = &'static str>,
    ends: &Receiver<()>,
) -> io::Result<&'static str> {
    let asked = async { Ok(shutdown.await) };
    let broken = async {
        let _ = ends.recv().await;
        Err(io::Error::other(
            "a thread that serves connections has ended",
        ))
    };
    asked.or(broken).await
}

/// Reports when it is dropped that its thread has ended.
struct Ending(Sender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        // The channel is unbounded, so this fails only if there is no receiver any more.
        let _ = self.0.try_send(());
    }
}

/// The sockets on which one thread listens.
struct Sockets<T> {
    clients: Vec<T>,
    watched: Vec<(T, Pages)>,
}

impl Sockets<TcpListener> {
    /// Registers them with the reactor of this thread.
    fn register(self) -> io::Result<Sockets<Listener>> {
        let clients = self.clients.into_iter().map(Listener::new);
        let watched = self.watched.into_iter();
        let watched = watched.map(|(listener, pages)| Ok((Listener::new(listener)?, pages)));
        Ok(Sockets {
            clients: clients.collect::<io::Result<_>>()?,
            watched: watched.collect::<io::Result<_>>()?,
        })
    }
}

/// Runs one thread until it has drained.
fn serve(
    shared: Arc<Shared>,
    number: usize,
    (door, asks): (Door, Receiver<Ask>),
    sockets: Sockets<TcpListener>,
    draining: Receiver<()>,
    report: mpsc::Sender<io::Result<()>>,
    begin: Receiver<()>,
) {
    #[cfg(not(portable))]
    crate::net::splice::allow(shared.config.limits.pipes);
    // The main thread waits for one report of each thread.
    let sockets = match sockets.register() {
        Ok(sockets) => {
            let _ = report.send(Ok(()));
            drop(report);
            // Nothing is ever sent: `recv` fails when all threads may begin.
            let _ = begin.recv_blocking();
            sockets
        }
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let executor = Rc::new(LocalExecutor::new());
    let config = shared.config.clone();
    let mut worker = Worker::new(
        config.clone(),
        shared.dialer.clone(),
        shared.shelves.clone(),
        shared.spares.clone(),
        shared.registry.clone(),
        number,
    );
    worker.board = shared.board.clone();
    worker.door = door;
    worker.certificates = shared.certificates.clone();
    let acceptor = Acceptor {
        worker: Rc::new(worker),
        executor: executor.clone(),
        open: Rc::default(),
        accepted: shared.accepted.clone(),
    };
    let (open, worker) = (acceptor.open.clone(), acceptor.worker.clone());
    executor.spawn(sweep(worker.clone())).detach();
    let asked = worker.clone();
    let answering = async move { asked.door.clone().answer(asks, &asked.timers).await };
    executor.spawn(answering).detach();
    #[cfg(target_os = "linux")]
    {
        let worker = worker.clone();
        let watching = async move { worker.tunnels.sweep().await };
        executor.spawn(watching).detach();
    }
    // The first thread dials the spare connections for all threads.
    if number == 0 && worker.spares.are_wanted() {
        executor.spawn(spares::maintain(worker.clone())).detach();
    }
    for (listener, pages) in sockets.watched {
        // A task that held its own executor through an `Rc` would form a cycle, and neither
        // would ever be dropped.
        let scraping = scrape::serve(Rc::downgrade(&executor), worker.clone(), listener, pages);
        executor.spawn(scraping).detach();
    }
    let acceptor = Rc::new(acceptor);
    let accepting: Vec<_> = sockets
        .clients
        .into_iter()
        .map(|listener| {
            let accepting = acceptor.clone().accept_all(listener, draining.clone());
            executor.spawn(accepting)
        })
        .collect();
    drop(acceptor);
    let counted = open.clone();
    let over = Rc::new(Cell::new(false));
    let ended = over.clone();
    let life = async move {
        for task in accepting {
            task.await;
        }
        worker.timers.drain();
        worker.spares.stop();
        let out_of_time = async {
            Timer::after(config.limits.drain_timeout).await;
        };
        future::or(counted.none(), out_of_time).await;
        ended.set(true);
    };
    executor.spawn(life).detach();
    if let Err(error) = reactor::block_on(run_tasks(&executor, &over), log::flush) {
        log::thread_failed(&describe(&error));
    }
    shared
        .cut_off
        .fetch_add(open.count.get(), Ordering::Relaxed);
    // Dropping the executor runs the destructors of the open connections; they log, so flush
    // after it.
    drop(executor);
    log::flush_waiting();
}

/// Runs the tasks of `executor` until `over` is set by one of them. `Executor::run` would also
/// look for tasks of other threads at each step.
async fn run_tasks(executor: &LocalExecutor<'_>, over: &Cell<bool>) {
    loop {
        for _ in 0..TASKS_IN_A_ROW {
            if over.get() {
                return;
            }
            executor.tick().await;
        }
        future::yield_now().await;
    }
}

async fn sweep(worker: Rc<Worker>) {
    let spares = unused::sweep();
    future::or(
        future::or(worker.timers.sweep(), worker.pool.sweep()),
        spares,
    )
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_too_early_ends_the_program() {
        let (end, ends) = channel::unbounded();
        let (asked, other) = (Ending(end.clone()), Ending(end));
        let reason = async_io::block_on(reason_to_end(async { "SIGTERM" }, &ends));
        assert_eq!(reason.ok(), Some("SIGTERM"));
        let broken = thread::spawn(move || {
            let _told = asked;
            panic!("a bug, on purpose");
        });
        assert!(broken.join().is_err());
        let reason = async_io::block_on(reason_to_end(future::pending(), &ends));
        assert!(reason.is_err());
        drop(other);
    }
}
