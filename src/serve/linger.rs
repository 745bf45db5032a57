//! How a connection is closed without losing bytes that are still on the way to the peer.

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::net::budget::Budget;
use crate::net::deadline::{Deadline, Way};
use crate::net::stream::Connection;
use crate::serve::carry::Movement;
use crate::serve::worker::Worker;

/// How long the other direction may be idle once one direction has ended.
pub const FINISH_IDLE: Duration = Duration::from_secs(10);

/// How long to go on reading what a client sends after its last response.
const LINGER_TOTAL: Duration = Duration::from_secs(15);

/// Closes a connection after its last byte: sends a FIN, then reads and discards what the peer
/// still sends for a while. Closing at once would make the kernel send a reset, which destroys
/// what the peer has not read yet. `way` says for whom this wait may be ended early.
pub async fn linger(
    worker: &Worker,
    mut connection: Connection,
    deadline: &Deadline,
    way: Option<Way>,
) {
    let movement = Movement::new(deadline, FINISH_IDLE);
    let rest = async {
        connection.stream.shutdown_write().await?;
        let mut budget = Budget::default();
        loop {
            connection.received.consume(connection.received.len());
            budget.turn().await;
            let n = connection.fill().await?;
            if n == 0 {
                return io::Result::Ok(());
            }
            budget.draw(n);
            movement.happened();
        }
    };
    end(worker, &movement, rest, LINGER_TOTAL, way).await;
}

/// Waits for the remaining direction of a connection to end, within time limits. `None` when it
/// does not.
pub async fn finish<T>(
    worker: &Worker,
    movement: &Movement<'_>,
    rest: impl Future<Output = T>,
    in_all: Duration,
) -> Option<T> {
    end(worker, movement, rest, in_all, None).await
}

async fn end<T>(
    worker: &Worker,
    movement: &Movement<'_>,
    rest: impl Future<Output = T>,
    in_all: Duration,
    way: Option<Way>,
) -> Option<T> {
    movement.rest.set(FINISH_IDLE);
    let total = Deadline::new(&worker.timers);
    let bounded = movement.deadline.limit(FINISH_IDLE, rest);
    let mut bounded = total.limit(in_all, bounded);
    if let Some(way) = way {
        bounded = bounded.giving_way(way);
    }
    bounded.await.ok()?.ok()
}
