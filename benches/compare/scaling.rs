//! How cost grows with the number of idle WebSockets.

use std::io;
use std::thread::sleep;

use crate::contenders::Contender;
use crate::idle::Sockets;
use crate::measure::{Bench, Load};
use crate::report::number;
use crate::stats::{median, Metric};
use crate::task::Task;
use crate::workloads::{Unit, Workload};

/// The numbers of idle WebSockets.
const STEPS: [usize; 5] = [1, 10, 100, 1000, 9000];

/// The largest of these in a quick run.
const QUICK: usize = 1000;

/// The number of WebSockets that exchange messages at the same time.
const BUSY: usize = 100;

/// The results of one run.
struct Step {
    each: f64,
    whole: f64,
    cpu: f64,
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Measures the steps and makes the table, for the program alone: 9000 WebSockets need so many
/// descriptors that two contenders could not run at once.
pub fn table(bench: &Bench, workload: &Workload) -> io::Result<String> {
    let mut text = format!(
        "\n### {}: {}, and {BUSY} busy ones beside them\n\n\
         | idle | KiB each ↓ | KiB in all ↓ | CPU us/message ↓ | messages/s ↑ | p50 us ↓ | p99 us ↓ |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        workload.name, workload.title
    );
    let most = if bench.settings.quick {
        QUICK
    } else {
        usize::MAX
    };
    let steps = STEPS.into_iter().filter(|step| *step <= most);
    let steps: Vec<usize> = steps.collect();
    let mut all: Vec<Vec<Step>> = steps.iter().map(|_| Vec::new()).collect();
    // The steps are interleaved, so that other load on the machine affects all of them.
    for _ in 0..bench.settings.repetitions {
        for (count, samples) in steps.iter().zip(&mut all) {
            samples.push(step(bench, workload, *count)?);
        }
    }
    for (count, samples) in steps.iter().zip(&all) {
        let middle = |of: fn(&Step) -> f64| {
            let median = median(samples.iter().map(of));
            number(median.unwrap_or(f64::NAN))
        };
        text += &format!(
            "| {count} | {} | {} | {} | {} | {} | {} |\n",
            middle(|step| step.each),
            middle(|step| step.whole),
            middle(|step| step.cpu * 1e6),
            middle(|step| step.rate),
            middle(|step| step.p50 * 1e6),
            middle(|step| step.p99 * 1e6),
        );
    }
    Ok(text)
}

fn step(bench: &Bench, workload: &Workload, count: usize) -> io::Result<Step> {
    let (daemon, address) = bench.start(workload, Contender::Ours, &bench.upstream)?;
    let daemon = daemon.ok_or_else(|| io::Error::other("nothing to measure"))?;
    let target = bench.target(workload, address)?;
    drop(Sockets::open(&target, 1)?.exchange()?);
    sleep(bench.settings.settle);
    let before = daemon.pss();
    let idle = Sockets::open(&target, count)?.exchange()?;
    sleep(bench.settings.settle);
    let whole = daemon.pss();
    let load = Load {
        task: Task::Echo,
        connections: BUSY,
        generators: bench.settings.generators,
        unit: Unit::Message,
    };
    let sample = bench.load(&load, Some(&daemon), target, &bench.upstream);
    if let Some(error) = sample.error {
        return Err(io::Error::other(error));
    }
    // The idle ones must still be open.
    drop(idle.exchange()?);
    let get = |metric| sample.get(metric).unwrap_or(f64::NAN);
    Ok(Step {
        each: whole.saturating_sub(before) as f64 / count as f64,
        whole: whole as f64,
        cpu: get(Metric::Cpu),
        rate: get(Metric::Rate),
        p50: get(Metric::P50),
        p99: get(Metric::P99),
    })
}
