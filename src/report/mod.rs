//! Log lines, access log, metrics and status page, and how lines are written to standard error
//! and standard output.
//!
//! Owns the wording of every event, in both languages and as JSON, and the counters. Leaves to
//! the callers when an event happens. May use `route` (the steps of a dial), `cli`, `http`,
//! `net`.

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
