//! The command line.

use std::time::Duration;

/// The help text.
pub const USAGE: &str = "\
cargo bench --bench compare -- [OPTION]... [WORKLOAD]...
  WORKLOAD         run only what has this in its name; =NAME for exactly that name
  --quick          two short repetitions of the most important; less than two minutes
  --reps N         repetitions (5)
  --seconds S      measured time of each (2)
  --only NAME      no other contenders but this one; may be repeated
  --generators N   threads of the generator and of the upstream (1 each)
  --threads N      threads of the program (1); its peers always have one
  --list           name the workloads and end
  --drive NAME     give the program alone exactly --count units of one workload
  --count N        so many units (1000)
  --wrap COMMAND   start the program by this, for example under valgrind
BEFORE=BINARY in the environment: another build of the program takes part";

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Parts of names of workloads; empty means all.
    pub filters: Vec<String>,
    /// The quick run.
    pub quick: bool,
    /// How often each workload is measured.
    pub repetitions: usize,
    /// How long each measurement takes.
    pub duration: Duration,
    /// How long the load runs before a measurement.
    pub warm_up: Duration,
    /// How long to wait before memory is measured.
    pub settle: Duration,
    /// Names of contenders, in lower case; empty means all.
    pub only: Vec<String>,
    /// The threads of the generator, and of the upstream.
    pub generators: usize,
    /// The threads of the program, unless a workload sets them.
    pub threads: usize,
    /// Only print the help.
    pub help: bool,
    /// Only print the names of the workloads.
    pub list: bool,
    /// A workload to drive with a fixed count.
    pub drive: Option<String>,
    /// The count to drive it with.
    pub count: u64,
    /// A command that runs the program, such as valgrind.
    pub wrap: Vec<String>,
}

/// Parses the arguments. None if cargo runs this as a test instead of a benchmark.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Option<Settings>, String> {
    let (mut benchmark, mut repetitions, mut seconds) = (false, None, None);
    let mut settings = Settings {
        filters: Vec::new(),
        quick: false,
        repetitions: 0,
        duration: Duration::ZERO,
        warm_up: Duration::ZERO,
        settle: Duration::from_millis(400),
        only: Vec::new(),
        generators: 1,
        threads: 1,
        help: false,
        list: false,
        drive: None,
        count: 1000,
        wrap: Vec::new(),
    };
    let mut args = args;
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match arg.as_str() {
            "--bench" => benchmark = true,
            "--quick" => settings.quick = true,
            "-h" | "--help" => settings.help = true,
            "--list" => settings.list = true,
            "--reps" => repetitions = Some(number(&value()?, 1.0, 1000.0)? as usize),
            "--seconds" => seconds = Some(number(&value()?, 0.1, 600.0)?),
            "--only" => settings.only.push(value()?.to_lowercase()),
            "--generators" => settings.generators = number(&value()?, 1.0, 64.0)? as usize,
            "--threads" => settings.threads = number(&value()?, 1.0, 64.0)? as usize,
            "--drive" => settings.drive = Some(value()?),
            "--count" => settings.count = number(&value()?, 1.0, 1e9)? as u64,
            "--wrap" => settings.wrap = value()?.split_whitespace().map(str::to_owned).collect(),
            _ if arg.starts_with('-') => return Err(format!("{arg} is no option\n{USAGE}")),
            _ => settings.filters.push(arg),
        }
    }
    let quick = settings.quick;
    settings.repetitions = repetitions.unwrap_or(if quick { 2 } else { 5 });
    let seconds = seconds.unwrap_or(if quick { 0.4 } else { 2.0 });
    settings.duration = Duration::from_secs_f64(seconds);
    settings.warm_up = Duration::from_secs_f64((seconds / 4.0).clamp(0.15, 1.0));
    if quick {
        settings.settle /= 2;
    }
    Ok(benchmark.then_some(settings))
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    let number = number.filter(|number| (least..=most).contains(number));
    number.ok_or(format!("{text} is not a number between {least} and {most}"))
}
