//! The tables of results.

use crate::contenders::Contender;
use crate::results::{Results, Row};
use crate::stats::Metric;
use crate::workloads::{Kind, Workload};

/// The table of a workload: the medians of each contender, and the program's ratios to them.
pub fn table(workload: &Workload, results: &Results) -> String {
    let columns = columns(workload);
    let ratios = columns.iter().filter(|column| column.ratio);
    let mut text = format!("\n### {}: {}\n\n| |", workload.name, workload.title);
    for Column { title, metric, .. } in &columns {
        text += &format!(" {title} {} |", metric.arrow());
    }
    for Column { short, metric, .. } in ratios.clone() {
        text += &format!(" ratio {short} {} |", metric.arrow());
    }
    text += " errors ↓ |\n| --- |";
    text += &" ---: |".repeat(columns.len() + ratios.clone().count() + 1);
    text.push('\n');
    for row in results.of(&workload.name) {
        text += &format!("| {} |", row.contender.name());
        for column in &columns {
            let value = row.median(column.metric);
            text += &format!(
                " {} |",
                value.map_or("-".to_owned(), |v| number(v * column.factor))
            );
        }
        for column in ratios.clone() {
            let peer = Some(row.contender).filter(|peer| *peer != Contender::Ours);
            let ratio = peer.and_then(|peer| results.ratio(&workload.name, column.metric, peer));
            text += &format!(" {} |", ratio.map_or(String::new(), |r| format!("{r:.2}")));
        }
        text += &format!(" {} |\n", errors(row));
    }
    for row in results.of(&workload.name) {
        let first = row
            .samples
            .iter()
            .flatten()
            .find_map(|sample| sample.error.clone());
        if let Some(error) = first {
            text += &format!("\n{}: {error}\n", row.contender.name());
        }
    }
    text
}

struct Column {
    metric: Metric,
    title: String,
    /// The title of the column with the ratio.
    short: &'static str,
    factor: f64,
    ratio: bool,
}

fn columns(workload: &Workload) -> Vec<Column> {
    let column = |metric, title: &str, short, factor| Column {
        metric,
        title: title.to_owned(),
        short,
        factor,
        ratio: metric != Metric::P50,
    };
    match workload.kind {
        Kind::Load(..) => {
            let unit = workload.unit();
            let (name, factor) = unit.cpu();
            vec![
                column(Metric::Cpu, &format!("CPU {name}"), "CPU", factor),
                column(Metric::Rate, unit.rate(), "rate", 1.0),
                column(Metric::P50, "p50 us", "p50", 1e6),
                column(Metric::P99, "p99 us", "p99", 1e6),
            ]
        }
        Kind::Idle(..) => vec![
            column(Metric::Opened, "KiB each, opened", "opened", 1.0),
            column(Metric::Memory, "KiB each, after a message", "after", 1.0),
        ],
        Kind::UpstreamCloses | Kind::ClientEnds => {
            vec![column(Metric::Delivered, "delivered %", "delivered", 100.0)]
        }
        Kind::Restarts => vec![
            column(Metric::Cpu, "CPU us/message, middle", "CPU", 1e6),
            column(Metric::Spread, "most / least", "spread", 1.0),
        ],
        Kind::Start => vec![
            column(Metric::Started, "ms to listening", "start", 1e3),
            column(Metric::Resident, "resident KiB", "resident", 1.0),
        ],
        Kind::Scaling => Vec::new(),
    }
}

fn errors(row: &Row) -> String {
    let samples = row.samples.iter();
    let failed = samples.clone().filter(|sample| sample.is_none()).count();
    let errors: u64 = samples.flatten().map(|sample| sample.errors).sum();
    match failed {
        0 => errors.to_string(),
        _ => format!("{errors}, {failed} failed"),
    }
}

/// A number with three significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        0.0..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
