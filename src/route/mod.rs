//! The way to the upstream: name resolution, connections, proxy handshakes, TLS, and the kept
//! connections.
//!
//! Owns each step of a dial, under one deadline. Leaves what is sent over the connection to
//! `serve`. May use `cli`, `http`, `net`.

mod connect;
pub mod dial;
mod gate;
mod habits;
pub(crate) mod hops;
pub mod http_connect;
mod names;
pub mod own;
pub(crate) mod pool;
mod resolver;
mod shunned;
mod socks5;
pub(crate) mod spares;
pub(crate) mod steps;
