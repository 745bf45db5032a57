//! The state that the connections of one thread share.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::Config;
use crate::http::guard::SiteGuard;
use crate::http::naming::Naming;
#[cfg(target_os = "linux")]
use crate::net::dead_way::Tunnels;
use crate::net::deadline::Timers;
use crate::net::tls::HandshakeTurns;
use crate::report::metrics::{Counters, Registry};
use crate::report::status::Board;
use crate::route::dial::Dialer;
use crate::route::pool::{Pool, Shelves};
use crate::route::spares::Spares;
use crate::serve::certificates::Certificates;
use crate::serve::door::Door;

/// The settings, the route, and the thread's own pool, deadlines and counters.
pub struct Worker {
    /// The settings.
    pub config: Arc<Config>,
    /// Makes upstream connections.
    pub dialer: Dialer,
    /// Keeps upstream connections.
    pub pool: Pool,
    /// Upstream connections that are made in advance.
    pub spares: Arc<Spares>,
    /// The thread's tunnels, watched for dead paths.
    #[cfg(target_os = "linux")]
    pub tunnels: Tunnels,
    /// The thread's deadlines.
    pub timers: Rc<Timers>,
    /// The Host for a request that came without one.
    pub default_host: String,
    /// How the origins of client and upstream differ; `None` where they cannot.
    pub naming: Option<Naming>,
    /// Refuses requests of foreign pages and under unlisted names; `None` where every request is
    /// served.
    pub guard: Option<SiteGuard>,
    /// What the status page shows, where one is served.
    pub board: Option<Arc<Board>>,
    /// The counters of all threads.
    pub registry: Registry,
    /// Limits the clients; initially without a limit.
    pub door: Door,
    /// The certificates that clients are shown, where they use TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Schedules the TLS handshakes with clients.
    pub handshakes: HandshakeTurns,
    thread: usize,
}

impl Worker {
    /// The worker of a thread, by its number, without connections.
    pub fn new(
        config: Arc<Config>,
        dialer: Dialer,
        shelves: Arc<Shelves>,
        spares: Arc<Spares>,
        registry: Registry,
        thread: usize,
    ) -> Worker {
        Worker {
            default_host: config.default_host(),
            naming: Naming::of(&config),
            guard: SiteGuard::of(&config),
            dialer,
            pool: Pool::new(shelves, thread),
            spares,
            #[cfg(target_os = "linux")]
            tunnels: Tunnels::default(),
            timers: Rc::default(),
            config,
            board: None,
            registry,
            door: Door::open(),
            certificates: None,
            handshakes: HandshakeTurns::default(),
            thread,
        }
    }

    /// Whether a client's connection ends after the current response: the thread drains, or
    /// another client waits for a slot.
    pub fn ends_connections(&self) -> bool {
        self.timers.draining() || self.door.is_waited_at()
    }

    /// The counters of this thread.
    pub fn counters(&self) -> &Counters {
        self.registry.of_thread(self.thread)
    }
}
