//! Serving: threads accept clients, read their requests, and forward them or relay behind
//! them, until the drain.
//!
//! Data flows one way: `server` accepts, `session` makes the TLS handshake where clients
//! speak it (with the certificate of `certificates`) and reads a head, `forward` sends the request
//! and delivers the response, `relay` carries what follows an upgrade. Leaves the way to the
//! upstream to `route` and the syntax of messages to `http`. May use every room below it:
//! `report`, `route`, `cli`, `http`, `net`.

pub mod answer;
pub mod answering;
pub mod bound;
pub mod carry;
pub mod certificates;
pub mod contain;
pub mod door;
pub mod forward;
pub mod leaving;
pub mod linger;
pub mod listen;
pub mod notify;
pub mod relay;
pub mod scrape;
pub mod server;
pub mod session;
pub mod spares;
pub mod status;
pub mod upstream;
pub mod worker;
