//! `--check`: connects to the upstream once, sends a request, and reports each step.
//!
//! Owns the sequence of steps, the inspection of the certificate, and the report. Leaves
//! dialling to `route` and the wording of log lines to `report`. May use every room below it
//! but `serve`: `report`, `route`, `cli`, `http`, `net`.

mod certificate;
mod names;
mod report;
mod walk;

use std::rc::Rc;
use std::sync::Arc;

use futures_lite::future;

use crate::check::report::Report;
use crate::check::walk::Walk;
use crate::cli::resolve::Check;
use crate::complaint::Complaint;
use crate::config::LogFormat;
use crate::language::Words;
use crate::net::deadline::Timers;
use crate::net::reactor;

/// Runs the check and returns its report, and whether the check succeeded.
pub fn run(check: Check) -> Result<(String, bool), Complaint> {
    let timers = Rc::new(Timers::default());
    let mut walk = Walk::new(Arc::new(check.config), &timers)?;
    let walking = async {
        let outcome = walk.all(check.websocket.as_deref()).await;
        (walk, outcome)
    };
    let forever = async {
        timers.sweep().await;
        future::pending().await
    };
    let walked = reactor::block_on(future::or(walking, forever), || None);
    let (walk, outcome) = walked.map_err(|error| Complaint::io(Words::same("--check"), &error))?;
    let report = Report {
        settings: &check.settings,
        walk: &walk,
        failure: outcome.as_ref().err(),
        language: check.language,
    };
    let text = match walk.config.log.format {
        LogFormat::Text | LogFormat::Combined => report.to_string(),
        LogFormat::Json => report.json(),
    };
    Ok((text, outcome.is_ok()))
}
