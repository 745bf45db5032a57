//! How a request gets an upstream connection: a kept one, a spare one, or a new one, for which
//! it may have to queue.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::net::deadline::Deadline;
use crate::net::reactor::now;
use crate::net::stream::{Connection, Detached};
use crate::report::log;
use crate::report::subject::Subject;
use crate::route::steps::Steps;
use crate::serve::worker::Worker;

/// How long to wait for a peer to close a connection that was closed here to make room: until
/// the peer has noticed, it may refuse another.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// An upstream connection for a request.
pub struct Obtained {
    /// The connection.
    pub connection: Connection,
    /// How long it was idle; `None` for a new connection and for a spare, which has served no
    /// request yet.
    pub rest: Option<Duration>,
    /// Whether it was made for this request.
    pub is_new: bool,
}

/// A request that needs an upstream connection.
pub struct Wanted<'a> {
    /// The state that the connections of this thread share.
    pub worker: &'a Worker,
    /// The name that TLS is made for.
    pub server_name: &'a str,
    /// Whether the request may be sent again.
    pub may_be_sent_twice: bool,
    /// The session's deadline.
    pub deadline: &'a Deadline,
    /// The request as it is named in the log.
    pub subject: &'a Subject,
}

impl Wanted<'_> {
    /// A kept or spare connection, unless other requests queue for one.
    pub fn at_hand(&self) -> Option<Obtained> {
        let counters = self.worker.counters();
        let queue = self.worker.pool.gate().has_queue();
        let kept = if queue { None } else { self.kept() };
        match kept {
            Some(_) => counters.pool_hits.add(1),
            None => counters.pool_misses.add(1),
        }
        if kept.is_some() || !self.worker.spares.are_wanted() {
            return kept;
        }
        let spare = if queue { None } else { self.spare() };
        match spare {
            Some(_) => counters.spare_hits.add(1),
            None => counters.spare_misses.add(1),
        }
        spare
    }

    fn kept(&self) -> Option<Obtained> {
        let pool = &self.worker.pool;
        let kept = pool.take(self.server_name, self.may_be_sent_twice)?;
        Some(Obtained {
            connection: kept.connection,
            rest: Some(kept.rest),
            is_new: false,
        })
    }

    /// A spare connection. A request that must not be sent twice gets none that has waited so
    /// long for its first request that the upstream may be about to close it.
    fn spare(&self) -> Option<Obtained> {
        let habits = self.worker.pool.habits();
        let fits = |age| self.may_be_sent_twice || habits.is_short(age);
        let take = || self.worker.spares.take(self.server_name, now(), fits);
        while let Some((spare, age)) = take() {
            if let Some(connection) = spare.attach().ok().filter(Connection::read_unused) {
                log::spare_taken(self.subject, age);
                return Some(Obtained {
                    connection,
                    rest: None,
                    is_new: false,
                });
            }
        }
        None
    }

    /// Dials a new connection within the connect timeout. Unless it must be new, returns a
    /// connection that was given back while this one queued.
    pub async fn dial(&self, must_be_new: bool) -> Result<Obtained> {
        let worker = self.worker;
        let timeout = worker.config.limits.connect_timeout;
        let start = Instant::now();
        let left = || {
            let left = timeout.saturating_sub(start.elapsed());
            left.max(Duration::from_millis(1))
        };
        let mut turn = worker.pool.gate().arrive();
        let mut refusal: Option<Error> = None;
        let mut may_displace = true;
        loop {
            let Ok((permit, waited)) = self.deadline.limit(left(), turn.come()).await else {
                return Err(refusal.unwrap_or_else(|| worker.dialer.no_time_left()));
            };
            if !must_be_new && (waited || refusal.is_some()) {
                if let Some(kept) = self.kept() {
                    return Ok(kept);
                }
            }
            let steps = Steps::begin();
            let dialler = &worker.dialer;
            let dialled = dialler.dial_within(left(), self.server_name, self.deadline, &steps);
            let error = match dialled.await {
                Ok(mut connection) => {
                    connection.counted = Some(permit.succeeded());
                    worker.counters().dial.observe(steps.total());
                    log::dialled(self.subject, &steps);
                    if let Some(board) = &worker.board {
                        board.dialled(&steps);
                    }
                    return Ok(Obtained {
                        connection,
                        rest: None,
                        is_new: true,
                    });
                }
                Err(error) => error,
            };
            if !error.is_refusal() {
                return Err(error);
            }
            let oldest = || {
                worker
                    .pool
                    .take_oldest()
                    .or_else(|| worker.spares.take_oldest())
            };
            if let Some(oldest) = may_displace.then(oldest).flatten() {
                may_displace = false;
                self.close(oldest, left().min(CLOSE_TIMEOUT)).await;
                continue;
            }
            if !error.is_refusal_for_load() || !turn.note_refusal(permit) {
                return Err(error);
            }
            refusal = Some(error);
            may_displace = true;
        }
    }

    /// Closes a connection, and waits for the peer to close it, too.
    async fn close(&self, connection: Detached, patience: Duration) {
        let Ok(mut connection) = connection.attach() else {
            return;
        };
        let ending = async {
            connection.stream.shutdown_write().await?;
            while connection.fill().await? > 0 {
                connection.received.consume(connection.received.len());
            }
            std::io::Result::Ok(())
        };
        let _ = self.deadline.limit(patience, ending).await;
    }
}
