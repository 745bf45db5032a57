//! Message syntax and nothing else: heads, fields, framing, chunks (RFC 9110, RFC 9112).
//!
//! Owns what is accepted from a peer, what is refused, and what is written in its place. Which
//! peer a message comes from and where it goes is left to others. May use `net`, to read a head
//! and copy a body.

mod authentication;
pub(crate) mod body;
pub mod chunks;
mod connection;
pub(crate) mod cookies;
#[cfg(test)]
mod cost;
pub mod fields;
pub mod framing;
pub(crate) mod guard;
pub mod head;
mod known;
pub(crate) mod naming;
pub(crate) mod origin;
mod policies;
pub(crate) mod read;
mod refresh;
pub mod rejection;
pub(crate) mod repair;
pub mod request;
mod request_line;
mod request_sent;
pub mod response;
pub(crate) mod syntax;
mod trailers;
