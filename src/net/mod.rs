//! Bytes: system calls, readiness, sockets, TLS, splicing, buffers, deadlines.
//!
//! Owns how bytes move and how a thread waits for them. Knows nothing of messages and uses no
//! other room.

pub mod budget;
pub mod buffer;
pub mod calls;
#[cfg(target_os = "linux")]
pub mod dead_way;
pub mod deadline;
pub mod listener;
pub mod peer;
pub mod reactor;
pub mod socket;
pub mod spares;
#[cfg(not(portable))]
pub mod splice;
pub mod stream;
pub mod tick;
pub mod tls;
pub mod tls_stream;
