//! What people and machines are told: log lines, access log, metrics, and how lines reach
//! standard error and standard output.
//!
//! Owns the words of every event, in both languages and as JSON, and what is counted.
//! Leaves to others when something happens. May use `route` (the steps of a dial), `cli`,
//! `http`, `net`.

pub(crate) mod combined;
pub mod complain;
pub(crate) mod json;
pub(crate) mod line;
pub mod log;
pub(crate) mod metrics;
mod output;
pub(crate) mod prometheus;
pub mod status;
pub(crate) mod subject;
