//! `simple-proxy`, room by room. A room is a folder; its `mod.rs` says what it owns. A room
//! uses only those below it, which `tests/rooms.rs` checks.
//!
//! ```text
//! client -> accept -> head -> dial -> forward or relay -> upstream
//!           serve     http    route   serve
//! ```
//!
//! | room | owns |
//! | --- | --- |
//! | `check` | `--check`: the way walked once, and told |
//! | `serve` | threads, one client connection, one exchange, the relay, the drain |
//! | `report` | what people and machines are told: log, metrics |
//! | `route` | the way to the upstream: dial, proxies, kept connections |
//! | `cli` | flags and variables become settings |
//! | `http` | message syntax: heads, fields, framing, chunks |
//! | `net` | bytes: readiness, sockets, TLS, buffers, deadlines |
//! | `config`, `authority`, `network`, `proxy`, `complaint`, `edits`, `error`, `language`, `text`, `date` | plain data that all rooms know |
//!
//! This library exists for the program, its tests, benchmarks, examples and fuzz targets; it is
//! no published API. What none of them needs is `pub(crate)`, or in a module that is.

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
