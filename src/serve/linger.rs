//! How a connection is closed without losing what is still on its way to the peer.

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::net::budget::Budget;
use crate::net::deadline::{Deadline, Way};
use crate::net::stream::Connection;
use crate::serve::carry::Movement;
use crate::serve::worker::Worker;

/// Once one direction has ended, how long the other may rest.
pub const FINISH_IDLE: Duration = Duration::from_secs(10);

/// How long what a client still sends is read once nothing is to come for it any more.
const LINGER_TOTAL: Duration = Duration::from_secs(15);

/// Ends a connection behind its last byte: our side is shut down, then what the client
/// still sends is read and discarded for a while. Closing at once would reset the
/// connection and destroy what the client has not yet read. `way` says to whom that gives way.
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

/// Lets what is left of a connection's other direction end, within bounds. None when it
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
