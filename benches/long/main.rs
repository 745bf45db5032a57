//! `make bench-long`: how long users wait over a path with a long delay, in round trips.
//!
//! An emulated path (`way.rs`) joins two network namespaces: one has the program, its client and
//! a name server, the other the proxies and the upstream (`far.rs`). `contenders.rs` starts the
//! program and the peers, `lines.rs` has the lines of the tables. Goals are in whole round trips,
//! and the best of five attempts counts, because noise of the machine only adds. Options:
//! `--rtt MILLISECONDS`, `--rest SECONDS` (how long a connection is left idle), `--rate MBIT`,
//! `--loss PER_MILLION`, `--only WORDS` (lines whose name contains them), `--counts` (only round
//! trips and numbers, no times).

mod contenders;
mod far;
mod lines;
mod name_server;
#[path = "../compare/tls.rs"]
mod tls;
mod way;

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{exit, Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use contenders::{Proxy, Who};
use lines::{Lab, Unit, Wait, BESIDES, NOISE, PEERS, WAITS};
use name_server::NameServer;

/// The program that cargo has built for this benchmark.
const PROGRAM: &str = env!("CARGO_BIN_EXE_simple-proxy");

/// The body of a POST.
pub const BODY: &[u8] = b"name=value";

const FAR: &str = "10.77.0.2";

/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Options {
    rtt: Duration,
    rest: Duration,
    rate: u64,
    loss: u64,
    only: String,
    counts: bool,
}

impl Options {
    fn read() -> Options {
        let given: Vec<String> = env::args().collect();
        let number = |name: &str, default: u64| {
            let value = given.iter().position(|word| word == name);
            let value = value.and_then(|at| given.get(at + 1));
            value.map_or(default, |value| {
                value.parse().unwrap_or_else(|_| {
                    eprintln!("{name} {value}: not a number");
                    exit(2)
                })
            })
        };
        Options {
            rtt: Duration::from_millis(number("--rtt", 100).max(1)),
            rest: Duration::from_secs(number("--rest", 40)),
            rate: number("--rate", 200).max(1) * 1_000_000,
            loss: number("--loss", 0),
            only: given
                .iter()
                .position(|word| word == "--only")
                .and_then(|at| given.get(at + 1).cloned())
                .unwrap_or_default(),
            counts: given.iter().any(|word| word == "--counts"),
        }
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }
}

fn main() {
    let role = env::args().nth(1);
    let outcome = match role.as_deref() {
        Some("far") => far::serve(),
        Some("inside") => inside(&Options::read()),
        _ => enter(),
    };
    if let Err(error) = outcome {
        eprintln!("bench-long: {error}");
        exit(1);
    }
}

/// Runs the same program again in its own network namespace, or returns why it cannot.
fn enter() -> io::Result<()> {
    let mut reasons = Vec::new();
    if !rustix::process::geteuid().is_root() {
        reasons.push("it needs root, for network namespaces".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        reasons.push("the kernel has no TUN devices (/dev/net/tun)".to_owned());
    }
    for tool in ["ip", "unshare", "nsenter"] {
        if find(tool).is_none() {
            reasons.push(format!("{tool} is missing (iproute2, util-linux)"));
        }
    }
    if !reasons.is_empty() {
        println!(
            "The long way cannot be emulated here: {}.",
            reasons.join("; ")
        );
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.arg("--net").arg(env::current_exe()?).arg("inside");
    Err(command.args(env::args().skip(1)).exec())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = env::split_paths(&path).chain(usual);
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()))
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    let program = find(words[0]).unwrap_or_else(|| words[0].into());
    match Command::new(program).args(&words[1..]).status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("`{}` failed", words.join(" ")))),
    }
}

/// Starts the far end and the emulated path to it.
fn lay(options: &Options) -> io::Result<(Arc<way::Way>, Running)> {
    let mut command = Command::new("unshare");
    command.arg("--net").arg(env::current_exe()?).arg("far");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn()?);
    let mut line = String::new();
    let said = child.0.stdout.take().expect("it is piped");
    BufReader::new(said).read_line(&mut line)?;
    let pid = child.0.id().to_string();
    let near = way::device("near0")?;
    let far = way::device("far0")?;
    run(&["ip", "link", "set", "lo", "up"])?;
    run(&["ip", "link", "set", "far0", "netns", &pid])?;
    run(&["ip", "address", "add", "10.77.0.1/30", "dev", "near0"])?;
    run(&["ip", "link", "set", "near0", "up"])?;
    for words in ["address add 10.77.0.2/30 dev far0", "link set far0 up"] {
        let mut all = vec!["nsenter", "--net", "--target", &pid, "ip"];
        all.extend(words.split(' '));
        run(&all)?;
    }
    let way = Arc::new(way::Way {
        delay: options.rtt / 2,
        rate: options.rate.into(),
        loss: options.loss,
        nat: Default::default(),
    });
    way::join(near, far, &way)?;
    Ok((way, child))
}

fn inside(options: &Options) -> io::Result<()> {
    let (way, _far) = lay(options)?;
    let folder = env::temp_dir().join(format!("simple-proxy-long.{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let help = Command::new(PROGRAM).arg("--help").output()?.stdout;
    let lab = Lab {
        options,
        folder: &folder,
        spares: String::from_utf8_lossy(&help).contains("--spares"),
        way,
        names: NameServer::start(FAR.parse().expect("an address"), &folder)?,
    };
    let missed = waits(&lab) + besides(&lab);
    fs::remove_dir_all(&folder)?;
    match missed {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{missed} goals were missed"))),
    }
}

fn failure(error: &io::Error) -> String {
    let words = error.to_string();
    format!("failed: {}", words.lines().next().unwrap_or_default())
}

/// Prints the table of waits, and returns the number of missed goals.
fn waits(lab: &Lab) -> usize {
    let (milliseconds, rest) = (lab.options.rtt.as_millis(), lab.options.rest.as_secs());
    println!("How many round trips of {milliseconds} ms a user waits, where no unit is named: less is better,");
    println!("1 is the least for a request. simple-proxy goes through SOCKS5 with a password and");
    println!("TLS 1.3, the peers directly over TLS, all of them directly where names are looked");
    println!(
        "up; a pause is {rest} s. A number of round trips is met up to {NOISE} above its goal.\n"
    );
    println!("| work | simple-proxy | nginx | HAProxy | goal | |");
    println!("| --- | ---: | ---: | ---: | ---: | --- |");
    let mut missed = 0;
    let is_wanted = |line: &&Wait| {
        let is_counted = line.unit != Unit::Seconds;
        lab.options.wants(line.name) && (is_counted || !lab.options.counts)
    };
    for line in WAITS.iter().filter(is_wanted) {
        let shown = |measured: &io::Result<Option<f64>>| match measured {
            Ok(Some(figure)) => format!("{figure:.2}"),
            Ok(None) => String::new(),
            Err(error) => failure(error),
        };
        let ours = (line.measure)(Who::Ours, lab);
        let verdict = match &ours {
            Ok(Some(figure)) if *figure <= line.goal + line.unit.noise() => "met",
            Ok(None) => "no such flag",
            _ => {
                missed += 1;
                "**missed**"
            }
        };
        let [nginx, haproxy] = PEERS.map(|peer| match line.peers.contains(&peer) {
            true => shown(&(line.measure)(peer, lab)),
            false => String::new(),
        });
        let (name, ours, goal) = (line.name, shown(&ours), line.goal);
        println!("| {name} | {ours} | {nginx} | {haproxy} | {goal} | {verdict} |");
    }
    missed
}

/// Prints the table of the client without a proxy and through each, and returns the number of
/// missed goals.
fn besides(lab: &Lab) -> usize {
    let wanted = || BESIDES.iter().filter(|line| lab.options.wants(line.name));
    if wanted().next().is_none() || lab.options.counts {
        return 0;
    }
    let rate = lab.options.rate / 1_000_000;
    println!(
        "\nThe client without a proxy and through each proxy, on a link of {rate} Mbit/s where no other is"
    );
    println!(
        "named; the best of three, each with a fresh proxy. The last four lines are over TLS,"
    );
    println!("simple-proxy through SOCKS5 as well; bulk is measured once.\n");
    println!("| work | unit | client itself | simple-proxy | nginx | HAProxy | goal | |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |");
    let mut missed = 0;
    for line in wanted() {
        let once = |who: Who| -> io::Result<Option<Vec<f64>>> {
            let proxy = Proxy::start(who, line.route, &[], lab.folder)?;
            if proxy.is_none() && who != Who::Client {
                return Ok(None);
            }
            (line.measure)(proxy.as_ref(), line.route, lab).map(Some)
        };
        let measure = |who: Who| -> io::Result<Option<Vec<f64>>> {
            let mut best = once(who)?;
            for _ in 1..line.attempts {
                if let (Some(next), Some(best)) = (once(who)?, &mut best) {
                    if line.goal.prefers(&next, best) {
                        *best = next;
                    }
                }
            }
            Ok(best)
        };
        let all = [Who::Client, Who::Ours, Who::Nginx, Who::Haproxy].map(measure);
        let is_met = match &all[..2] {
            [Ok(Some(client)), Ok(Some(ours))] => line.goal.is_met(ours, client),
            _ => false,
        };
        missed += usize::from(!is_met);
        let verdict = if is_met { "met" } else { "**missed**" };
        let shown = all.map(|measured| match measured {
            Ok(Some(figures)) => {
                let figures = figures.iter().map(|figure| format!("{figure:.1}"));
                figures.collect::<Vec<_>>().join(" / ")
            }
            Ok(None) => String::new(),
            Err(error) => failure(&error),
        });
        let (name, unit, goal) = (line.name, line.unit, line.goal.words());
        println!(
            "| {name} | {unit} | {} | {goal} | {verdict} |",
            shown.join(" | ")
        );
    }
    missed
}
