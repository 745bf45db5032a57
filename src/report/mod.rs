//! What people and machines are told: log lines, metrics, and how they reach standard error.
//!
//! Owns the words of every event, in both languages and as JSON, and what is counted.
//! Leaves to others when something happens. May use `route` (the steps of a dial), `cli`,
//! `http`, `net`.

pub mod json;
pub mod log;
pub mod metrics;
pub mod status;
pub mod stderr;
