//! How long each step of a dial took.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A step on the way to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Attempts through proxies that did not answer, before one did.
    PassedOver,
    /// Looking up the first hop's name.
    Resolve,
    /// The TCP connection to the first hop.
    Connect,
    /// The TLS handshake with the proxy.
    ProxyTls,
    /// The SOCKS5 handshake, or CONNECT.
    Proxy,
    /// The TLS handshake with the upstream.
    Tls,
}

impl Step {
    const ALL: [Step; 6] = [
        Step::PassedOver,
        Step::Resolve,
        Step::Connect,
        Step::ProxyTls,
        Step::Proxy,
        Step::Tls,
    ];

    /// The name in the log and in the report of `--check`.
    pub fn name(self) -> &'static str {
        match self {
            Step::PassedOver => "passed-over",
            Step::Resolve => "resolve",
            Step::Connect => "connect",
            Step::ProxyTls => "proxy-tls",
            Step::Proxy => "proxy",
            Step::Tls => "tls",
        }
    }
}

/// The steps of one dial, which are always taken in the same order.
pub struct Steps {
    began: Instant,
    first_hop: Cell<Option<SocketAddr>>,
    proxy: Cell<Option<usize>>,
    done: [Cell<Option<Duration>>; Step::ALL.len()],
}

impl Steps {
    /// Begins a dial now.
    pub fn begin() -> Steps {
        Steps {
            began: Instant::now(),
            first_hop: Cell::default(),
            proxy: Cell::default(),
            done: Default::default(),
        }
    }

    /// Records that a step has just ended; it began when the previous one ended.
    pub fn done(&self, step: Step) {
        self.done[step as usize].set(Some(self.began.elapsed()));
    }

    /// Records that a proxy is tried now, by its number from 0.
    pub fn through(&self, proxy: usize) {
        self.proxy.set(Some(proxy));
    }

    /// The proxy that was tried last, if any.
    pub fn proxy(&self) -> Option<usize> {
        self.proxy.get()
    }

    /// Records that the proxy that was tried did not answer; the dial begins again with another.
    pub fn passed_over(&self) {
        self.first_hop.set(None);
        self.done.iter().for_each(|done| done.set(None));
        self.done(Step::PassedOver);
    }

    /// Records that the first hop answered at this address.
    pub fn connected(&self, address: Option<SocketAddr>) {
        self.first_hop.set(address);
        self.done(Step::Connect);
    }

    /// The address at which the first hop answered, if it did.
    pub fn first_hop(&self) -> Option<SocketAddr> {
        self.first_hop.get()
    }

    /// The steps that were done, and how long each took.
    pub fn taken(&self) -> impl Iterator<Item = (Step, Duration)> + use<'_> {
        let mut before = Duration::ZERO;
        Step::ALL.into_iter().filter_map(move |step| {
            let until = self.done[step as usize].get()?;
            Some((step, until - std::mem::replace(&mut before, until)))
        })
    }

    /// How long all of them took.
    pub fn total(&self) -> Duration {
        let done = self.done.iter().filter_map(Cell::get);
        done.max().unwrap_or_default()
    }
}
