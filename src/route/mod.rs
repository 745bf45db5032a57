//! The way to the upstream: names, connections, proxies' handshakes, TLS, and the
//! connections that are kept.
//!
//! Owns which hop is asked for what, under one deadline. Leaves what is sent over the
//! connection to `serve`. May use `cli`, `http`, `net`.

pub mod connect;
pub mod dial;
pub mod gate;
pub mod habits;
pub mod hops;
pub mod http_connect;
pub mod names;
pub mod own;
pub mod pool;
pub mod socks5;
pub mod spares;
pub mod steps;
