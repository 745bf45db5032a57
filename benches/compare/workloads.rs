//! The list of what is measured.

use crate::task::Task;
use crate::upstream::Route::{self, Plain, Socks, Tls};

/// One workload that every contender runs.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name on the command line.
    pub name: String,
    /// Its title in the tables.
    pub title: String,
    /// How the upstream is reached.
    pub route: Route,
    /// Whether the generator connects with TLS.
    pub secured: bool,
    /// What is done.
    pub kind: Kind,
    /// Whether requests are logged, to /dev/null.
    pub logs: bool,
    /// Who takes part.
    pub field: Field,
    /// Whether it belongs to the quick run, too.
    pub quick: bool,
}

/// The kind of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A task on this many connections.
    Load(Task, usize),
    /// WebSockets that are idle after one message: how many, and how many in the quick run.
    Idle(usize, usize),
    /// The upstream sends much and closes, while a slow client still sends.
    UpstreamCloses,
    /// The client ends its side, then the upstream sends much.
    ClientEnds,
    /// The cost by the number of idle WebSockets, in a separate table.
    Scaling,
    /// Only the start of the program.
    Start,
    /// The same load on freshly started processes: the largest cost divided by the smallest.
    Restarts,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The program and its peers.
    Peers,
    /// The same, and the generator without a proxy, to show its limit.
    PeersAndDirect,
    /// The program alone.
    Alone,
    /// The program alone, with this many threads.
    Threads(usize),
}

/// The unit that work is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A request with its response.
    Request,
    /// A message and its echo.
    Message,
    /// 2^30 bytes, both directions together.
    GiB,
    /// A connection opened.
    Open,
}

impl Workload {
    /// The unit of its cost.
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
    /// The unit of CPU time in the tables, and how many of these make a second.
    pub fn cpu(self) -> (&'static str, f64) {
        match self {
            Unit::Request => ("us/request", 1e6),
            Unit::Message => ("us/message", 1e6),
            Unit::GiB => ("s/GiB", 1.0),
            Unit::Open => ("ms/open", 1e3),
        }
    }

    /// The unit of throughput in the tables.
    pub fn rate(self) -> &'static str {
        match self {
            Unit::Request => "requests/s",
            Unit::Message => "messages/s",
            Unit::GiB => "GiB/s",
            Unit::Open => "opens/s",
        }
    }
}

/// A workload as listed in this file, once for all routes.
struct Work {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    logs: bool,
    field: Field,
    routes: &'static [Route],
    /// The routes by which it belongs to the quick run.
    quick: &'static [Route],
}

const fn load(name: &'static str, title: &'static str, task: Task, connections: usize) -> Work {
    Work {
        name,
        title,
        kind: Kind::Load(task, connections),
        logs: false,
        field: Field::Peers,
        routes: &Route::ALL,
        quick: &[],
    }
}

const fn other(name: &'static str, title: &'static str, kind: Kind) -> Work {
    let load = load(name, title, Task::Request, 0);
    let routes = &[Plain];
    Work {
        kind,
        routes,
        ..load
    }
}

impl Work {
    const fn over(self, routes: &'static [Route]) -> Work {
        Work { routes, ..self }
    }

    const fn quick(self, quick: &'static [Route]) -> Work {
        Work { quick, ..self }
    }

    const fn logged(self) -> Work {
        Work { logs: true, ..self }
    }

    const fn by(self, field: Field) -> Work {
        Work { field, ..self }
    }

    /// The same for clients with TLS, to an upstream without.
    fn secured(&self) -> Workload {
        let plain = self.by_route(Plain);
        Workload {
            name: format!("https-{}", self.name),
            title: format!("TLS for clients: {}", self.title),
            secured: true,
            field: Field::Peers,
            quick: false,
            ..plain
        }
    }

    fn by_route(&self, route: Route) -> Workload {
        let (prefix, words) = match route {
            Plain => ("", ""),
            Tls => ("tls-", "TLS upstream: "),
            Socks => ("socks-", "through SOCKS5: "),
        };
        Workload {
            name: format!("{prefix}{}", self.name),
            title: format!("{words}{}", self.title),
            route,
            secured: false,
            kind: self.kind,
            logs: self.logs,
            field: match (route, self.field) {
                (Plain, field) => field,
                (Tls, _) => Field::Peers,
                (Socks, _) => Field::Alone,
            },
            quick: self.quick.contains(&route),
        }
    }
}

/// All workloads, in the order in which they run.
pub fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    for route in Route::ALL {
        let works = WORKS.iter().filter(|work| work.routes.contains(&route));
        all.extend(works.map(|work| work.by_route(route)));
    }
    let secured = WORKS.iter().filter(|work| SECURED.contains(&work.name));
    all.extend(secured.map(Work::secured));
    all
}

/// The workloads that are also measured with TLS for clients.
const SECURED: [&str; 9] = [
    "keepalive",
    "page",
    "new",
    "download",
    "upload",
    "bulk-8",
    "echo-64",
    "open",
    "idle",
];

const WORKS: &[Work] = &[
    load(
        "keepalive",
        "HTTP keep-alive, 1 KiB, 64 connections",
        Task::Request,
        64,
    )
    .by(Field::PeersAndDirect)
    .quick(&[Plain, Tls]),
    load(
        "keepalive-logged",
        "HTTP keep-alive, with a log to /dev/null",
        Task::Request,
        64,
    )
    .over(&[Plain])
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
    .quick(&[Plain]),
    load(
        "new-logged",
        "HTTP, a new connection each, with a log to /dev/null",
        Task::NewConnection,
        64,
    )
    .over(&[Plain])
    .logged(),
    load(
        "download",
        "16 MiB downloads, 4 connections",
        Task::Download,
        4,
    )
    .quick(&[Plain]),
    load("upload", "16 MiB uploads, 4 connections", Task::Upload, 4).quick(&[Plain]),
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
    load(
        "bulk-8",
        "bulk through an upgrade, both ways, 8 connections",
        Task::Bulk,
        8,
    )
    .quick(&[Plain, Tls]),
    load(
        "bulk-64",
        "bulk through an upgrade, both ways, 64 connections",
        Task::Bulk,
        64,
    ),
    load(
        "echo-1",
        "WebSocket echo of 64 B, 1 connection",
        Task::Echo,
        1,
    ),
    load(
        "echo-64",
        "WebSocket echo of 64 B, 64 connections",
        Task::Echo,
        64,
    )
    .by(Field::PeersAndDirect)
    .quick(&[Plain, Tls]),
    load(
        "echo-512",
        "WebSocket echo of 64 B, 512 connections",
        Task::Echo,
        512,
    )
    .quick(&[Plain]),
    load("open", "opening a WebSocket, 16 at a time", Task::Open, 16).quick(&[Tls]),
    other("idle", "idle WebSockets", Kind::Idle(5000, 1000))
        .over(&Route::ALL)
        .quick(&[Plain, Tls]),
    other(
        "upstream-closes",
        "the upstream sends 4 MiB and closes while a slow client still sends",
        Kind::UpstreamCloses,
    )
    .quick(&[Plain]),
    other(
        "client-ends",
        "the client ends its side, then the upstream sends 4 MiB",
        Kind::ClientEnds,
    )
    .quick(&[Plain]),
    other("start", "from the start to listening", Kind::Start).quick(&[Plain]),
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
    .over(&[Plain])
    .by(Field::Threads(1)),
    load(
        "threads-2",
        "keep-alive, two threads, more generators",
        Task::Request,
        64,
    )
    .over(&[Plain])
    .by(Field::Threads(2)),
    other(
        "scaling",
        "cost against the number of idle WebSockets",
        Kind::Scaling,
    )
    .by(Field::Alone)
    .quick(&[Plain]),
];
