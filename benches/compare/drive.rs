//! Gives the program an exact amount of work, for tools that count instructions.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Generator;
use crate::contenders::Contender;
use crate::measure::Bench;
use crate::workloads::{self, Kind};

/// One connection, because with several the number that are served per wakeup would vary.
const CONNECTIONS: usize = 1;

/// The longest run; valgrind makes the program much slower.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs `--count` units of the workload of this name, and ends the program with SIGTERM. With
/// `--only before` it drives the other build, which BEFORE names.
pub fn drive(bench: &Bench, name: &str) -> io::Result<()> {
    let mut all = workloads::all().into_iter();
    let workload = all.find(|workload| workload.name == name);
    let kind = workload.as_ref().map(|workload| workload.kind);
    let (Some(workload), Some(Kind::Load(task, _))) = (workload, kind) else {
        return Err(io::Error::other(format!("{name} cannot be driven")));
    };
    let contender = match bench.settings.only.iter().any(|name| name == "before") {
        true => Contender::Before,
        false => Contender::Ours,
    };
    let (daemon, address) = bench.start(&workload, contender, &bench.upstream)?;
    let target = bench.target(&workload, address)?;
    let generator = Generator::start(target, task, CONNECTIONS, 1, bench.settings.count);
    let start = Instant::now();
    while !generator.is_finished() && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(5));
    }
    let tally = generator.tally.clone();
    generator.end();
    daemon.map_or(Ok(()), |daemon| daemon.end())?;
    let error = tally.first_error();
    error.map_or(Ok(()), |error| Err(io::Error::other(error)))
}
