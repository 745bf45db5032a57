//! The list of what is measured.

use crate::task::Task;
use crate::upstream::Route;

/// One piece of work that every contender is given.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// How the upstream is reached.
    pub route: Route,
    /// What is done.
    pub kind: Kind,
    /// Whether requests are logged, to /dev/null.
    pub logs: bool,
    /// Who takes part.
    pub field: Field,
    /// Whether it belongs to the quick run too.
    pub quick: bool,
}

/// The shape of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A task on so many connections.
    Load(Task, usize),
    /// WebSockets that were used once and rest: so many, and in the quick run.
    Idle(usize, usize),
    /// The upstream sends much and closes, while a slow client still sends.
    UpstreamCloses,
    /// The client ends its side, then the upstream sends much.
    ClientEnds,
    /// A table of its own: cost against the number of idle WebSockets.
    Scaling,
    /// Started, and nothing else.
    Start,
    /// The same load on freshly started processes: the largest cost over the smallest.
    Restarts,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The program and its peers.
    Peers,
    /// These, and for its limit the generator without a proxy.
    PeersAndDirect,
    /// The program alone.
    Alone,
    /// The program alone, with so many threads.
    Threads(usize),
}

/// The unit that work is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A request with its answer.
    Request,
    /// A message there and back.
    Message,
    /// 2^30 bytes, both ways together.
    GiB,
    /// A connection opened.
    Open,
}

impl Workload {
    /// What its cost is counted in.
    pub fn unit(&self) -> Unit {
        match self.kind {
            Kind::Load(Task::Download | Task::Chunked | Task::Upload | Task::Bulk, _) => Unit::GiB,
            Kind::Load(Task::Open, _) => Unit::Open,
            Kind::Load(Task::Echo, _) | Kind::Restarts => Unit::Message,
            _ => Unit::Request,
        }
    }
}

impl Unit {
    /// CPU time and how it is written: its name, and how many make a second.
    pub fn cpu(self) -> (&'static str, f64) {
        match self {
            Unit::Request => ("us/request", 1e6),
            Unit::Message => ("us/message", 1e6),
            Unit::GiB => ("s/GiB", 1.0),
            Unit::Open => ("ms/open", 1e3),
        }
    }

    /// How throughput is written.
    pub fn rate(self) -> &'static str {
        match self {
            Unit::Request => "requests/s",
            Unit::Message => "messages/s",
            Unit::GiB => "GiB/s",
            Unit::Open => "opens/s",
        }
    }
}

const fn load(name: &'static str, title: &'static str, task: Task, connections: usize) -> Workload {
    Workload {
        name,
        title,
        route: Route::Plain,
        kind: Kind::Load(task, connections),
        logs: false,
        field: Field::Peers,
        quick: false,
    }
}

const fn other(name: &'static str, title: &'static str, kind: Kind) -> Workload {
    Workload {
        kind,
        ..load(name, title, Task::Request, 0)
    }
}

impl Workload {
    const fn quick(self) -> Workload {
        Workload {
            quick: true,
            ..self
        }
    }

    const fn tls(self) -> Workload {
        Workload {
            route: Route::Tls,
            ..self
        }
    }

    const fn logged(self) -> Workload {
        Workload { logs: true, ..self }
    }

    const fn by(self, field: Field) -> Workload {
        Workload { field, ..self }
    }

    const fn socks(self) -> Workload {
        Workload {
            route: Route::Socks,
            field: Field::Alone,
            ..self
        }
    }
}

/// All of it, in the order in which it is run.
pub const WORKLOADS: &[Workload] = &[
    load(
        "keepalive",
        "HTTP keep-alive, 1 KiB, 64 connections",
        Task::Request,
        64,
    )
    .by(Field::PeersAndDirect)
    .quick(),
    load(
        "keepalive-logged",
        "the same, with a log to /dev/null",
        Task::Request,
        64,
    )
    .logged(),
    load(
        "page",
        "HTTP keep-alive, 32 KiB, 64 connections",
        Task::Page,
        64,
    ),
    load(
        "new",
        "HTTP, a new connection each, 64 at a time",
        Task::NewConnection,
        64,
    )
    .quick(),
    load(
        "new-logged",
        "the same, with a log to /dev/null",
        Task::NewConnection,
        64,
    )
    .logged(),
    load(
        "download",
        "16 MiB downloads, 4 connections",
        Task::Download,
        4,
    )
    .quick(),
    load("upload", "16 MiB uploads, 4 connections", Task::Upload, 4).quick(),
    load(
        "chunked",
        "16 MiB chunked downloads, 4 connections",
        Task::Chunked,
        4,
    ),
    load(
        "bulk-1",
        "bulk through an upgrade, both ways, 1 connection",
        Task::Bulk,
        1,
    ),
    load("bulk-8", "the same, 8 connections", Task::Bulk, 8).quick(),
    load("bulk-64", "the same, 64 connections", Task::Bulk, 64),
    load(
        "echo-1",
        "WebSocket echo of 64 B, 1 connection",
        Task::Echo,
        1,
    ),
    load("echo-64", "the same, 64 connections", Task::Echo, 64)
        .by(Field::PeersAndDirect)
        .quick(),
    load("echo-512", "the same, 512 connections", Task::Echo, 512).quick(),
    other("idle", "idle WebSockets", Kind::Idle(5000, 1000)).quick(),
    load(
        "tls-keepalive",
        "TLS upstream: HTTP keep-alive, 64 connections",
        Task::Request,
        64,
    )
    .tls()
    .quick(),
    load(
        "tls-echo-64",
        "TLS upstream: echo of 64 B, 64 connections",
        Task::Echo,
        64,
    )
    .tls()
    .quick(),
    load(
        "tls-bulk-8",
        "TLS upstream: bulk both ways, 8 connections",
        Task::Bulk,
        8,
    )
    .tls()
    .quick(),
    other(
        "tls-idle",
        "TLS upstream: idle WebSockets",
        Kind::Idle(1000, 500),
    )
    .tls()
    .quick(),
    load(
        "tls-open",
        "TLS upstream: opening a WebSocket, 16 at a time",
        Task::Open,
        16,
    )
    .tls()
    .quick(),
    load(
        "socks-keepalive",
        "through SOCKS5: HTTP keep-alive, 64 connections",
        Task::Request,
        64,
    )
    .socks()
    .quick(),
    load(
        "socks-open",
        "through SOCKS5: opening a WebSocket, 16 at a time",
        Task::Open,
        16,
    )
    .socks(),
    other(
        "upstream-closes",
        "the upstream sends 4 MiB and closes while a slow client still sends",
        Kind::UpstreamCloses,
    )
    .quick(),
    other(
        "client-ends",
        "the client ends its side, then the upstream sends 4 MiB",
        Kind::ClientEnds,
    )
    .quick(),
    other("start", "from the start to listening", Kind::Start).quick(),
    other(
        "restarts",
        "echo, 64 connections, on ten fresh processes",
        Kind::Restarts,
    ),
    load(
        "threads-1",
        "keep-alive, one thread, more generators",
        Task::Request,
        64,
    )
    .by(Field::Threads(1)),
    load(
        "threads-2",
        "keep-alive, two threads, more generators",
        Task::Request,
        64,
    )
    .by(Field::Threads(2)),
    other(
        "scaling",
        "cost against the number of idle WebSockets",
        Kind::Scaling,
    )
    .by(Field::Alone)
    .quick(),
];
