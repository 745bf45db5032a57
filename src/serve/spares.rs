//! Dials the spare upstream connections, one at a time, and renews them.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use async_io::Timer;
use futures_lite::future;

use crate::error::Result;
use crate::net::deadline::Deadline;
use crate::net::tick::Tick;
use crate::report::log;
use crate::route::spares::Next;
use crate::route::steps::Steps;
use crate::serve::worker::Worker;

/// The pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keeps as many spare connections as `Spares::next` asks for, until the process drains.
pub async fn maintain(worker: Rc<Worker>) {
    let deadline = Deadline::new(&worker.timers);
    let mut pause: Option<Duration> = None;
    loop {
        let next = worker.spares.next(Tick::read(), pause.is_some());
        let (server_name, renews) = match next {
            Next::Stop => return,
            Next::Wait(until) => {
                let timer = until.map_or_else(Timer::never, |at| Timer::after(at.left()));
                changed_or(&worker, timer).await;
                continue;
            }
            Next::Dial {
                server_name,
                renews,
            } => (server_name, renews),
        };
        let dialled = async { Some(dial(&worker, &server_name, &deadline, renews).await) };
        let stopped = async {
            has_stopped(&worker).await;
            None
        };
        match future::or(dialled, stopped).await {
            None => return,
            Some(Ok(())) => pause = None,
            Some(Err(error)) => {
                let length = pause.map_or(FIRST_PAUSE, |pause| (2 * pause).min(LONGEST_PAUSE));
                log::spare_failed(&error, length);
                pause = Some(length);
                // Connections that are old and could not be renewed are closed before the pause.
                if worker.spares.next(Tick::read(), true) == Next::Stop {
                    return;
                }
                rest(&worker, length).await;
            }
        }
    }
}

/// Waits for `length`, or until the process drains.
async fn rest(worker: &Worker, length: Duration) {
    let until = Tick::read() + length;
    while Tick::read() < until && !worker.spares.has_stopped() {
        changed_or(worker, Timer::after(until.left())).await;
    }
}

/// Waits until the process drains.
async fn has_stopped(worker: &Worker) {
    while !worker.spares.has_stopped() {
        poll_fn(|cx| worker.spares.poll_changed(cx)).await;
    }
}

/// Waits until the spare connections have changed or the timer fires.
async fn changed_or(worker: &Worker, mut timer: Timer) {
    poll_fn(|cx| {
        if Pin::new(&mut timer).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        worker.spares.poll_changed(cx)
    })
    .await;
}

/// Dials one, unless requests wait for a dial.
async fn dial(worker: &Worker, server_name: &str, deadline: &Deadline, renews: bool) -> Result<()> {
    let gate = worker.pool.gate();
    if gate.has_queue() {
        return Err(worker.dialer.no_time_left());
    }
    let mut turn = gate.arrive();
    let Some((permit, _)) = future::poll_once(turn.come()).await else {
        return Err(worker.dialer.no_time_left());
    };
    let steps = Steps::begin();
    let mut connection = worker.dialer.dial(server_name, deadline, &steps).await?;
    connection.counted = Some(permit.succeeded());
    let counters = worker.counters();
    match renews {
        true => counters.spare_renewals.add(1),
        false => counters.spare_dials.add(1),
    }
    log::spare_dialled(&steps, renews);
    worker
        .spares
        .put(connection.detach(), server_name, Tick::read());
    Ok(())
}
