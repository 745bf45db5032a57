//! Compares simple-proxy with nginx, HAProxy and Caddy on the same workloads, interleaved in one
//! run. `benches/README.md` explains the output.

mod args;
mod client;
mod contenders;
mod content;
mod delivery;
mod drive;
mod goals;
mod http;
mod idle;
mod measure;
mod process;
mod report;
mod results;
mod scaling;
mod secured;
mod stats;
mod task;
mod tls;
mod upstream;
mod wire;
mod workloads;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use futures_lite::{future, StreamExt as _};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use crate::args::Settings;
use crate::contenders::Contender;
use crate::measure::Bench;
use crate::results::Results;
use crate::upstream::Upstream;
use crate::workloads::{Field, Kind, Workload};

/// The quick run starts no measurement after this time.
const QUICK: Duration = Duration::from_secs(95);

/// The longest run, which only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);

fn main() -> ExitCode {
    let settings = match args::parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("A benchmark, not a test: run it with `make bench`.");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if settings.help {
        println!("{}", args::USAGE);
        return ExitCode::SUCCESS;
    }
    if settings.list {
        for workload in workloads::all() {
            println!("{:18} {}", workload.name, workload.title);
        }
        return ExitCode::SUCCESS;
    }
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench failed: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let folder = Folder::new()?;
    clean_up_at_the_end(folder.0.clone())?;
    raise_descriptor_limit();
    secured::write_files(&folder.0)?;
    let bench = Bench {
        upstream: Upstream::start(settings.generators)?,
        folder: folder.0.clone(),
        settings,
    };
    if let Some(name) = &bench.settings.drive {
        return Ok(drive::drive(&bench, name)?);
    }
    let field = field(&bench.settings);
    println!("# simple-proxy and its peers\n");
    for contender in &field {
        if let Some(version) = contender.version() {
            println!("- {}: {version}", contender.name());
        }
    }
    let Settings {
        repetitions,
        duration,
        ..
    } = bench.settings;
    println!("- {repetitions} repetitions of {duration:?}; the figures are their medians");
    println!("- ↓ less is better, ↑ more is better");
    println!(
        "- a ratio is simple-proxy's figure divided by the peer's: 0.80 under ↓ is a fifth less"
    );
    println!("- CPU is what the proxy itself used; p50 and p99 are the response times that half");
    println!("  and one in a hundred of the requests exceeded");
    tell_if_busy();
    let mut results = Results::default();
    let start = Instant::now();
    for workload in &workloads::all() {
        if !bench.settings.wants(workload) {
            continue;
        }
        if bench.settings.quick && start.elapsed() > QUICK {
            println!("\n{}: left out, the time is up", workload.name);
        } else if workload.kind == Kind::Scaling {
            print!("{}", scaling::table(&bench, workload)?);
        } else {
            compare(&bench, workload, &field, &mut results);
            print!("{}", report::table(workload, &results));
        }
    }
    println!("\n## Goals\n");
    println!("Of a goal with a peer, the figure is simple-proxy's divided by the peer's.\n");
    print!("{}", goals::table(&results, &bench.folder));
    Ok(())
}

/// Runs a workload on all contenders in turn, once per repetition.
fn compare(bench: &Bench, workload: &Workload, field: &[Contender], results: &mut Results) {
    for repetition in 1..=bench.settings.repetitions {
        for contender in field
            .iter()
            .filter(|&&contender| workload.is_for(contender))
        {
            let sample = bench.measure(workload, *contender);
            if let Err(error) = &sample {
                let name = contender.name();
                eprintln!(
                    "{}, {name}, repetition {repetition}: {error}",
                    workload.name
                );
            }
            results.add(&workload.name, *contender, sample.ok());
        }
    }
}

/// The contenders that are installed and selected; prints which are not installed.
fn field(settings: &Settings) -> Vec<Contender> {
    let builds = [Contender::Ours, Contender::Before].into_iter();
    let all = builds.chain(Contender::PEERS);
    let mut field = Vec::new();
    for contender in all.chain([Contender::Direct]) {
        let name = contender.name();
        let wanted = settings.only.is_empty() || settings.only.contains(&name.to_lowercase());
        match contender.binary() {
            _ if !wanted => {}
            Some(_) => field.push(contender),
            None if contender == Contender::Before => {}
            None => println!("{name} is not installed, and left out."),
        }
    }
    field
}

impl Workload {
    fn is_for(&self, contender: Contender) -> bool {
        match contender {
            Contender::Ours | Contender::Before => true,
            Contender::Direct => self.field == Field::PeersAndDirect,
            _ => matches!(self.field, Field::Peers | Field::PeersAndDirect),
        }
    }
}

impl Settings {
    fn wants(&self, workload: &Workload) -> bool {
        if self.filters.is_empty() {
            return !self.quick || workload.quick;
        }
        self.filters
            .iter()
            .any(|filter| match filter.strip_prefix('=') {
                Some(name) => workload.name == name,
                None => workload.name.contains(filter.as_str()),
            })
    }
}

/// Kills all started programs and exits on Ctrl-C or after a hang.
fn clean_up_at_the_end(folder: PathBuf) -> std::io::Result<()> {
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    thread::spawn(move || {
        let signal = async {
            signals.next().await;
        };
        let hang = async {
            async_io::Timer::after(PATIENCE).await;
        };
        async_io::block_on(future::or(signal, hang));
        process::kill_all();
        let _ = std::fs::remove_dir_all(folder);
        std::process::exit(130)
    });
    Ok(())
}

/// Prints a warning if the machine is busy.
fn tell_if_busy() {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
    if let Some(load) = load.filter(|load: &f64| *load > 0.5 * cores) {
        println!("- a load of {load} on {cores} cores before the start: expect noise");
    }
}

fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        println!("The limit on descriptors stays as it is: {error}");
    }
}

/// A folder that is removed when the run is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        let name = format!("simple-proxy-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
