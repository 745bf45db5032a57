//! Serving: each thread accepts clients, reads their requests, and forwards them or relays the
//! upgraded connection, until the drain.
//!
//! Data flows one way: `acceptor` accepts, `session` performs the TLS handshake where clients
//! use TLS (with the certificate of `certificates`) and reads a head, `forward` sends the
//! request and delivers the response, `relay` carries what follows an upgrade. Leaves the
//! connection to the upstream to `route` and the syntax of messages to `http`. May use every
//! room below it: `report`, `route`, `cli`, `http`, `net`.

mod acceptor;
mod answer;
mod answering;
mod bound;
mod carry;
pub mod certificates;
mod contain;
mod door;
mod forward;
mod leaving;
mod linger;
pub mod listen;
pub mod notify;
mod relay;
pub mod scrape;
pub mod server;
mod session;
mod spares;
mod status;
mod tunnel;
mod upstream;
mod worker;
