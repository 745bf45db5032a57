//! Message syntax and nothing else: heads, fields, framing, chunks (RFC 9110, RFC 9112).
//!
//! Owns what is taken from a peer, what is refused, and what is written in its place. Leaves
//! to others whom a message comes from and where it goes. May use `net`, to read a head and
//! copy a body.

pub mod authentication;
pub mod body;
pub mod chunks;
pub mod connection;
#[cfg(test)]
mod cost;
pub mod fields;
pub mod framing;
pub mod guard;
pub mod head;
pub mod known;
pub mod naming;
pub mod origin;
pub mod read;
pub mod repair;
pub mod request;
pub mod request_sent;
pub mod response;
pub mod syntax;
pub mod trailers;
