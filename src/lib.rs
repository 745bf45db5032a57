//! `simple-proxy`, room by room. A room is a folder; its `mod.rs` says what it owns. A room uses
//! only the rooms below it, which `tests/rooms.rs` checks.
//!
//! ```text
//! client -> accept -> head -> dial -> forward or relay -> upstream
//!           serve     http    route   serve
//! ```
//!
//! | room | owns |
//! | --- | --- |
//! | `check` | `--check`: tests the route once and reports each step |
//! | `serve` | threads, one client connection, one exchange, the relay, the drain |
//! | `report` | log, metrics, status page |
//! | `route` | the route to the upstream: dial, proxies, kept connections |
//! | `cli` | flags and variables, parsed into settings |
//! | `http` | message syntax: heads, fields, framing, chunks |
//! | `net` | bytes: readiness, sockets, TLS, buffers, deadlines |
//! | `config`, `authority`, `network`, `proxy`, `complaint`, `edits`, `error`, `language`, `text`, `date` | plain data that all rooms use |
//!
//! This library exists for the program, its tests, benchmarks, examples and fuzz targets; it is
//! not a published API. What none of them needs is `pub(crate)`, or in a module that is.

pub mod check;
pub mod cli;
pub mod http;
pub(crate) mod net;
pub mod report;
pub mod route;
pub mod serve;

pub mod authority;
pub mod complaint;
pub mod config;
pub(crate) mod date;
pub(crate) mod edits;
pub mod error;
pub(crate) mod identity;
pub mod language;
pub(crate) mod network;
pub mod proxy;
pub mod text;
