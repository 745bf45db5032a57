//! The parts of `simple-proxy`, from the top of a request's way to the bottom; a file
//! uses only files below it.
//!
//! ```text
//! client -> server -> session -> forward -> dial -> upstream
//!           accept    head       or relay   route
//! ```
//!
//! | file | owns |
//! | --- | --- |
//! | `cli` | how flags and variables become a `Config` |
//! | `settings` | the settings in effect, as they are shown |
//! | `args` | the flags, and the forms in which they are typed |
//! | `check` | the way to the upstream, tried once and reported |
//! | `certificate` | what a TLS peer shows of itself, for `check` |
//! | `server` | threads, accept loops, the limit on connections, the drain |
//! | `listen` | listening sockets |
//! | `scrape` | the port that metrics are read from |
//! | `session` | one client connection, request after request |
//! | `answer` | responses of our own |
//! | `relay`, `carry` | two streams joined, and closing without losing |
//! | `forward` | one exchange: request out, response back |
//! | `worker` | what the connections of one thread share |
//! | `pool` | idle upstream connections |
//! | `dial` | the route to the upstream, under one deadline |
//! | `socks5`, `http_connect` | what the proxies on the way are told |
//! | `response`, `request` | message heads: checked, and written anew |
//! | `body` | message bodies: framing, chunks, copying |
//! | `head` | what all message heads have in common |
//! | `stream`, `tls` | byte streams, and TLS over them |
//! | `splice` | bytes moved inside the kernel |
//! | `socket` | one non-blocking TCP socket |
//! | `reactor` | which sockets are ready, and the wait for them |
//! | `deadline`, `buffer` | deadlines and buffers of one thread |
//! | `notify` | what the service manager is told |
//! | `metrics` | what is counted, and how Prometheus reads it |
//! | `log` | one function per event, in either language or as JSON |
//! | `stderr` | lines on standard error, never waited for |
//! | `steps` | what each step of the route took |
//! | `json`, `text`, `date` | values, peers' text and times as they are written |
//! | `error` | stage, cause and status of a failure |
//! | `config` | validated settings |
//!
//! This library exists for the program, its tests and its benchmarks; it is no
//! published API.

pub mod answer;
pub mod args;
pub mod body;
pub mod buffer;
pub mod carry;
pub mod certificate;
pub mod check;
pub mod cli;
pub mod config;
pub mod date;
pub mod deadline;
pub mod dial;
pub mod error;
pub mod forward;
pub mod head;
pub mod http_connect;
pub mod json;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod pool;
pub mod reactor;
pub mod relay;
pub mod request;
pub mod response;
pub mod scrape;
pub mod server;
pub mod session;
pub mod settings;
pub mod socket;
pub mod socks5;
#[cfg(not(feature = "portable"))]
pub mod splice;
pub mod stderr;
pub mod steps;
pub mod stream;
pub mod text;
pub mod tls;
pub mod worker;
