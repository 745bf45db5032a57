//! Measures one workload on one contender, once.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::args::Settings;
use crate::client::{Generator, Target};
use crate::contenders::{Contender, Job};
use crate::delivery;
use crate::idle::Sockets;
use crate::process::Daemon;
use crate::secured::Connector;
use crate::stats::{percentile, Metric, Sample};
use crate::task::Task;
use crate::upstream::Upstream;
use crate::workloads::{Field, Kind, Unit, Workload};

/// How many fresh processes the test of restarts starts.
const RESTARTS: usize = 10;

/// The number of generator and upstream threads if the program has several.
pub const MANY: usize = 4;

/// How long to wait for all connections to open.
const OPENING: Duration = Duration::from_secs(10);

/// What all measurements share.
pub struct Bench {
    /// The options of the run.
    pub settings: Settings,
    /// The upstream of all tests except those of threads.
    pub upstream: Upstream,
    /// The folder for configurations and output of the programs.
    pub folder: PathBuf,
}

impl Bench {
    /// The target of the generator.
    pub fn target(&self, workload: &Workload, address: SocketAddr) -> io::Result<Target> {
        let connector = workload.secured.then(Connector::new).transpose()?;
        Ok(Target { address, connector })
    }

    /// Runs a workload once, on a freshly started contender.
    pub fn measure(&self, workload: &Workload, contender: Contender) -> io::Result<Sample> {
        if workload.kind == Kind::Restarts {
            return self.restarts(workload, contender);
        }
        let mut many = None;
        if let Field::Threads(_) = workload.field {
            many = Some(Upstream::start(MANY)?);
        }
        let upstream = many.as_ref().unwrap_or(&self.upstream);
        let (daemon, address) = self.start(workload, contender, upstream)?;
        let daemon = daemon.as_ref();
        let target = self.target(workload, address)?;
        let mut sample = match workload.kind {
            Kind::Load(task, connections) => {
                let generators = match workload.field {
                    Field::Threads(_) => MANY,
                    _ => self.settings.generators,
                };
                let load = Load {
                    task,
                    connections,
                    generators,
                    unit: workload.unit(),
                };
                self.load(&load, daemon, target, upstream)
            }
            Kind::Idle(full, quick) => {
                let count = if self.settings.quick { quick } else { full };
                self.idle(count, daemon, &target)?
            }
            Kind::UpstreamCloses => delivery::upstream_closes(address)?,
            Kind::ClientEnds => delivery::client_ends(address)?,
            Kind::Start => self.started(daemon),
            Kind::Scaling | Kind::Restarts => Sample::default(),
        };
        if matches!(contender, Contender::Ours | Contender::Before) && !workload.logs {
            let said = fs::read_to_string(self.folder.join("said")).unwrap_or_default();
            if let Some(line) = said.lines().next() {
                let lines = said.lines().count();
                sample
                    .error
                    .get_or_insert(format!("it said, in {lines} lines: {line}"));
            }
        }
        Ok(sample)
    }

    /// Starts a contender for a workload.
    pub fn start(
        &self,
        workload: &Workload,
        contender: Contender,
        upstream: &Upstream,
    ) -> io::Result<(Option<Daemon>, SocketAddr)> {
        let job = Job {
            route: workload.route,
            upstream: upstream.address(workload.route),
            secured: workload.secured,
            logs: workload.logs,
            threads: match workload.field {
                Field::Threads(threads) => threads,
                _ => self.settings.threads,
            },
        };
        contender.start(&job, &self.folder, &self.settings.wrap)
    }

    /// Loads the target for the configured time.
    pub fn load(
        &self,
        load: &Load,
        daemon: Option<&Daemon>,
        target: Target,
        upstream: &Upstream,
    ) -> Sample {
        let generator = Generator::start(
            target,
            load.task,
            load.connections,
            load.generators,
            u64::MAX,
        );
        let tally = generator.tally.clone();
        let count = || match load.unit {
            Unit::GiB => (tally.received.load(Relaxed) + upstream.received()) as f64 / GIB,
            _ => tally.done.load(Relaxed) as f64,
        };
        let cpu = || daemon.map(Daemon::cpu).unwrap_or_default();
        sleep(self.settings.warm_up);
        // The cost of opening the connections is not measured here.
        let patience = Instant::now() + OPENING;
        while tally.begun.load(Relaxed) < load.connections as u64
            && Instant::now() < patience
            && !generator.is_finished()
        {
            sleep(Duration::from_millis(10));
        }
        tally.measuring.store(true, Relaxed);
        let (start, count_before, cpu_before) = (Instant::now(), count(), cpu());
        sleep(self.settings.duration);
        let (elapsed, count_after, cpu_after) = (start.elapsed(), count(), cpu());
        tally.measuring.store(false, Relaxed);
        let latencies = generator.end();
        let done = count_after - count_before;
        let mut sample = Sample::with_errors(tally.errors.load(Relaxed), tally.first_error());
        if daemon.is_some() {
            sample.set(Metric::Cpu, (cpu_after - cpu_before).as_secs_f64() / done);
        }
        sample.set(Metric::Rate, done / elapsed.as_secs_f64());
        sample.set(Metric::P50, percentile(&latencies, 50));
        sample.set(Metric::P99, percentile(&latencies, 99));
        sample
    }

    /// Runs the same load on fresh processes, one after the other.
    fn restarts(&self, workload: &Workload, contender: Contender) -> io::Result<Sample> {
        let load = Load {
            task: Task::Echo,
            connections: 64,
            generators: self.settings.generators,
            unit: Unit::Message,
        };
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        let mut sample = Sample::default();
        for _ in 0..RESTARTS {
            let (daemon, address) = self.start(workload, contender, &self.upstream)?;
            let target = self.target(workload, address)?;
            let once = self.load(&load, daemon.as_ref(), target, &self.upstream);
            let cpu = once.get(Metric::Cpu).unwrap_or(f64::NAN);
            (least, most) = (least.min(cpu), most.max(cpu));
            sample.errors += once.errors;
            sample.error = sample.error.or(once.error);
        }
        sample.set(Metric::Cpu, (least + most) / 2.0);
        sample.set(Metric::Spread, most / least);
        Ok(sample)
    }

    /// Measures the memory of idle WebSockets, after they are opened and after each had a message.
    fn idle(&self, count: usize, daemon: Option<&Daemon>, target: &Target) -> io::Result<Sample> {
        let daemon = daemon.ok_or_else(|| io::Error::other("nothing to measure"))?;
        // What the process allocates once, on the first connection, does not count.
        drop(Sockets::open(target, 1)?.exchange()?);
        sleep(self.settings.settle);
        let before = daemon.pss();
        let each = |now: u64| now.saturating_sub(before) as f64 / count as f64;
        let sockets = Sockets::open(target, count)?;
        sleep(self.settings.settle);
        let mut sample = Sample::default();
        sample.set(Metric::Opened, each(daemon.pss()));
        let sockets = sockets.exchange()?;
        sleep(self.settings.settle);
        sample.set(Metric::Memory, each(daemon.pss()));
        drop(sockets);
        Ok(sample)
    }

    /// Measures the start. The connection that detected it has been closed.
    fn started(&self, daemon: Option<&Daemon>) -> Sample {
        let mut sample = Sample::default();
        if let Some(daemon) = daemon {
            sleep(self.settings.settle);
            sample.set(Metric::Started, daemon.started_in.as_secs_f64());
            sample.set(Metric::Resident, daemon.resident() as f64);
        }
        sample
    }
}

/// A load.
pub struct Load {
    /// What each connection does.
    pub task: Task,
    /// The number of connections.
    pub connections: usize,
    /// The number of generator threads.
    pub generators: usize,
    /// The unit that is counted.
    pub unit: Unit,
}

const GIB: f64 = (1024 * 1024 * 1024) as f64;
