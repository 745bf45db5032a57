//! The performance goals of the program as data, and whether they are met.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::contenders::Contender::{self, Caddy, Haproxy, Nginx, Ours};
use crate::contenders::PROGRAM;
use crate::measure::MANY;
use crate::results::Results;
use crate::stats::Metric;
use crate::workloads::{self, Field, Kind};

/// One goal.
struct Goal<'a> {
    work: &'a str,
    against: Against<'a>,
    /// The maximum, or the minimum if more is better.
    limit: f64,
}

/// The figure that has the limit.
enum Against<'a> {
    /// The ratio to the best of these peers.
    Best(&'a str, Metric, &'static [Contender]),
    /// The program's own figure, times a factor, in a unit.
    Own(&'a str, Metric, f64, &'static str),
    /// The same in the worst repetition.
    Worst(&'a str, Metric, f64, &'static str),
    /// Throughput with two threads divided by that with one.
    Threads,
    /// The size of the stripped binary, in MiB.
    Binary,
}

use Against::{Best, Own, Worst};

const ALL: &[Contender] = &Contender::PEERS;

const GOALS: &[Goal<'static>] = &[
    goal(
        "HTTP keep-alive, CPU",
        Best("keepalive", Metric::Cpu, &[Nginx]),
        0.80,
    ),
    goal(
        "HTTP keep-alive, CPU",
        Best("keepalive", Metric::Cpu, &[Haproxy]),
        0.70,
    ),
    goal(
        "HTTP new connection each, CPU",
        Best("new", Metric::Cpu, &[Nginx, Haproxy]),
        1.0,
    ),
    goal(
        "echo, 64 connections, CPU",
        Best("echo-64", Metric::Cpu, &[Nginx]),
        0.95,
    ),
    goal(
        "echo, 512 connections, CPU",
        Best("echo-512", Metric::Cpu, &[Nginx]),
        0.95,
    ),
    goal(
        "bulk, 8 connections, CPU",
        Best("bulk-8", Metric::Cpu, &[Haproxy]),
        0.95,
    ),
    goal(
        "bulk, 8 connections, CPU",
        Best("bulk-8", Metric::Cpu, &[Caddy]),
        0.5,
    ),
    goal(
        "bulk, 8 connections, CPU",
        Best("bulk-8", Metric::Cpu, &[Nginx]),
        0.5,
    ),
    goal(
        "bulk, 1 connection, throughput",
        Best("bulk-1", Metric::Rate, ALL),
        0.9,
    ),
    goal(
        "bulk, 64 connections, throughput",
        Best("bulk-64", Metric::Rate, ALL),
        0.9,
    ),
    goal(
        "TLS upstream, request, CPU",
        Best("tls-keepalive", Metric::Cpu, ALL),
        1.0,
    ),
    goal(
        "TLS upstream, bulk, CPU",
        Best("tls-bulk-8", Metric::Cpu, ALL),
        1.0,
    ),
    goal(
        "TLS upstream, echo, CPU",
        Best("tls-echo-64", Metric::Cpu, ALL),
        1.0,
    ),
    goal(
        "idle WebSocket",
        Own("idle", Metric::Memory, 1.0, "KiB"),
        1.25,
    ),
    goal(
        "idle WebSocket, TLS upstream",
        Best("tls-idle", Metric::Memory, ALL),
        1.0,
    ),
    goal(
        "opening a TLS connection",
        Own("tls-open", Metric::Cpu, 1e3, "ms"),
        1.3,
    ),
    goal(
        "TLS for clients, request, CPU",
        Best("https-keepalive", Metric::Cpu, &[Nginx, Haproxy]),
        1.0,
    ),
    goal(
        "TLS for clients, new connection each, CPU",
        Best("https-new", Metric::Cpu, &[Nginx, Haproxy]),
        1.0,
    ),
    goal(
        "TLS for clients, echo, CPU",
        Best("https-echo-64", Metric::Cpu, &[Nginx, Haproxy]),
        1.0,
    ),
    goal(
        "TLS for clients, bulk, CPU",
        Best("https-bulk-8", Metric::Cpu, &[Nginx, Haproxy]),
        1.0,
    ),
    goal(
        "TLS for clients, idle WebSocket",
        Best("https-idle", Metric::Memory, &[Nginx, Haproxy]),
        1.3,
    ),
    goal(
        "the upstream closes: delivered",
        Worst("upstream-closes", Metric::Delivered, 100.0, "%"),
        100.0,
    ),
    goal(
        "the client ends: delivered",
        Worst("client-ends", Metric::Delivered, 100.0, "%"),
        100.0,
    ),
    goal(
        "ten restarts, most CPU / least CPU",
        Worst("restarts", Metric::Spread, 1.0, ""),
        1.20,
    ),
    goal("two threads / one, throughput", Against::Threads, 1.6),
    goal("stripped binary", Against::Binary, 2.0),
    goal(
        "start to listening",
        Own("start", Metric::Started, 1e3, "ms"),
        10.0,
    ),
    goal(
        "resident before the first connection",
        Own("start", Metric::Resident, 1.0, "KiB"),
        4096.0,
    ),
];

const fn goal<'a>(work: &'a str, against: Against<'a>, limit: f64) -> Goal<'a> {
    Goal {
        work,
        against,
        limit,
    }
}

/// Whether a goal is met.
struct Verdict {
    measured: String,
    value: f64,
    more_is_better: bool,
    /// The text after the limit: what it is a ratio to, or its unit.
    of: String,
}

/// The final table, of the goals that were measured.
pub fn table(results: &Results, folder: &Path) -> String {
    let mut rows = String::from("| work | goal | measured | met |\n| --- | --- | --- | --- |\n");
    let workloads = workloads::all();
    let latencies = workloads.iter().filter_map(|workload| {
        let Kind::Load(..) = workload.kind else {
            return None;
        };
        (!matches!(workload.field, Field::Alone | Field::Threads(_))).then_some(Goal {
            work: &workload.name,
            against: Best(&workload.name, Metric::P99, ALL),
            limit: 1.0,
        })
    });
    let plain = GOALS.iter().map(|goal| (goal, String::new()));
    let latencies: Vec<Goal> = latencies.collect();
    let latencies = latencies.iter().map(|goal| (goal, "p99, ".to_owned()));
    for (goal, prefix) in plain.chain(latencies) {
        let Some(verdict) = goal.against.verdict(results, folder) else {
            continue;
        };
        let Goal { work, limit, .. } = goal;
        let rounded = (verdict.value * 100.0).round() / 100.0;
        let (sense, met) = match verdict.more_is_better {
            true => ("at least", rounded >= *limit),
            false => ("at most", rounded <= *limit),
        };
        let met = match (&goal.against, met) {
            (_, true) => "yes",
            (Against::Threads, false) if cores() < 2 + 2 * MANY => "needs more cores",
            (_, false) => "**no**",
        };
        let Verdict { measured, of, .. } = verdict;
        rows += &format!("| {prefix}{work} | {sense} {limit}{of} | {measured} | {met} |\n");
    }
    rows
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Against<'_> {
    fn verdict(&self, results: &Results, folder: &Path) -> Option<Verdict> {
        match *self {
            Best(workload, metric, among) => {
                let (peer, _) = results.best(workload, metric, among)?;
                let value = results.ratio(workload, metric, peer)?;
                let of = match among {
                    [only] => format!(" of {}", only.name()),
                    _ => " of the best peer".to_owned(),
                };
                let measured = match among {
                    [_] => format!("{value:.2}"),
                    _ => format!("{value:.2} of {}", peer.name()),
                };
                Some(Verdict {
                    measured,
                    value,
                    more_is_better: metric.more_is_better(),
                    of,
                })
            }
            Own(workload, metric, factor, unit) => {
                let value = results.median(workload, Ours, metric)? * factor;
                Some(own(value, metric.more_is_better(), unit))
            }
            Worst(workload, metric, factor, unit) => {
                let value = results.worst(workload, Ours, metric)? * factor;
                Some(own(value, metric.more_is_better(), unit))
            }
            Against::Threads => {
                let rate = |workload| results.median(workload, Ours, Metric::Rate);
                Some(own(rate("threads-2")? / rate("threads-1")?, true, ""))
            }
            Against::Binary => Some(own(stripped(folder)?, false, "MiB")),
        }
    }
}

fn own(value: f64, more_is_better: bool, unit: &str) -> Verdict {
    let space = if unit.is_empty() { "" } else { " " };
    Verdict {
        measured: format!("{value:.2}{space}{unit}"),
        value,
        more_is_better,
        of: format!("{space}{unit}"),
    }
}

/// The size of the program without its symbols; none if `strip` is not installed.
fn stripped(folder: &Path) -> Option<f64> {
    let file = folder.join("stripped");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&file)
        .arg(PROGRAM)
        .status();
    strip.ok().filter(|status| status.success())?;
    let bytes = fs::metadata(&file).ok()?.len();
    Some(bytes as f64 / (1024.0 * 1024.0))
}
