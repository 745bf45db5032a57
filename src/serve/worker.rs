//! What the connections of one thread share.

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

/// The settings, the route, and the thread's own pool and deadlines.
pub struct Worker {
    /// The settings.
    pub config: Arc<Config>,
    /// Makes upstream connections.
    pub dialer: Dialer,
    /// Keeps upstream connections.
    pub pool: Pool,
    /// Upstream connections that are ready before they are wanted.
    pub spares: Arc<Spares>,
    /// Tunnels, whose ways may die.
    #[cfg(target_os = "linux")]
    pub tunnels: Tunnels,
    /// The thread's deadlines.
    pub timers: Rc<Timers>,
    /// Host for a request that came without one.
    pub default_host: String,
    /// How the two origins differ; none where they cannot.
    pub naming: Option<Naming>,
    /// Refuses what foreign pages ask for; none where everyone is served.
    pub guard: Option<SiteGuard>,
    /// What the status page shows, where one is served.
    pub board: Option<Arc<Board>>,
    /// What every thread counts.
    pub registry: Registry,
    /// Who may come in; everybody, until another is put in its place.
    pub door: Door,
    /// What clients are shown, where they speak TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// The handshakes with them.
    pub handshakes: HandshakeTurns,
    thread: usize,
}

impl Worker {
    /// The worker of a thread, by its number, with nothing open.
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

    /// Whether a client's connection ends behind the response that it gets: the thread drains,
    /// or another client waits for a slot.
    pub fn ends_connections(&self) -> bool {
        self.timers.draining() || self.door.is_waited_at()
    }

    /// What this thread counts.
    pub fn counters(&self) -> &Counters {
        self.registry.of_thread(self.thread)
    }
}
