//! The way to the upstream: names, connections, proxies' handshakes, TLS, and the
//! connections that are kept.
//!
//! Owns which hop is asked for what, under one deadline. Leaves what is sent over the
//! connection to `serve`. May use `cli`, `http`, `net`.

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
