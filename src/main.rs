//! Turns flags and variables into a configuration, starts the listeners and threads, and ends
//! them on a signal.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;

use simple_proxy::both;
use simple_proxy::check;
use simple_proxy::cli::manner::Manner;
use simple_proxy::cli::resolve::{resolve, Command};
use simple_proxy::cli::settings::Setting;
use simple_proxy::complaint::Complaint;
use simple_proxy::config::{Config, Route};
use simple_proxy::language::Words;
use simple_proxy::report::status::Board;
use simple_proxy::report::{complain, log};
use simple_proxy::route::dial::Dialer;
use simple_proxy::route::own::Own;
use simple_proxy::serve::certificates::Certificates;
use simple_proxy::serve::listen;
use simple_proxy::serve::listen::Listeners;
use simple_proxy::serve::notify::{notify, Status};
use simple_proxy::serve::scrape::Pages;
use simple_proxy::serve::server::{self, Clients, Watched};

/// The exit status for an invalid flag or setting.
const USAGE: u8 = 2;

/// The exit status for valid settings that cannot be carried out.
const CANNOT_RUN: u8 = 1;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let manner = Manner::of(&args, |name| std::env::var_os(name));
    let (status, complaint) = match resolve(args, std::env::vars_os()) {
        Ok(command) => match run(command) {
            Ok(status) => return ExitCode::from(status),
            Err(complaint) => (CANNOT_RUN, complaint),
        },
        Err(complaint) => (USAGE, complaint),
    };
    let Manner { language, format } = manner;
    let lines = complain::lines(&complaint, language, format, status == USAGE);
    // Standard error may be closed.
    let _ = std::io::stderr().write_all(lines.as_bytes());
    ExitCode::from(status)
}

/// Runs the command and returns the exit status.
fn run(command: Command) -> Result<u8, Complaint> {
    match command {
        Command::Print(text) => print(&text).map(|()| 0),
        Command::Serve(config, settings) => serve(*config, settings).map(|()| 0),
        Command::Check(settings) => {
            let (report, is_reachable) = check::run(*settings)?;
            print(&report)?;
            Ok(if is_reachable { 0 } else { CANNOT_RUN })
        }
    }
}

/// Prints a text such as the help. A broken pipe is no failure, because the reader has closed;
/// a full disk is.
fn print(text: &str) -> Result<(), Complaint> {
    let mut stdout = std::io::stdout();
    let text = format!("{}\n", text.trim_end());
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let source = Words::new("standard output", "标准输出");
            Err(Complaint::io(source, &error))
        }
        _ => Ok(()),
    }
}

fn serve(mut config: Config, settings: Vec<Setting>) -> Result<(), Complaint> {
    log::init(config.log);
    let listeners = listen::listeners(&config.listen, config.threads)?;
    std::panic::set_hook(Box::new(|panic| {
        log::panicked(&panic.to_string());
        log::flush();
    }));
    let source = |flag: &'static str| {
        let setting = settings.iter().find(|setting| setting.name == &flag[2..]);
        setting.and_then(|setting| setting.source).unwrap_or(flag)
    };
    let listen_on = |flag, address: Option<SocketAddr>| {
        let listener = address.map(|address| listen::watched(source(flag), address));
        listener.transpose()
    };
    let metrics = listen_on("--metrics-listen", config.metrics)?;
    let status = listen_on("--status-listen", config.status)?;
    let limit_is_given = config.limits.max_connections.is_some();
    share_out_descriptors(&mut config, raise_descriptor_limit());

    let mut signals = Interruptions::new()?;
    let addresses = listeners.addresses();
    let own = Own::of(&addresses);
    // An inherited socket and one on port 0 have a port that only the kernel knows.
    if let Some(port) = own.port() {
        config.listen.port = port;
    }
    let config = Arc::new(config);
    refuse_itself(&config, &own, source("--upstream-host"))?;
    let certificates = config.listen.tls.as_ref();
    let certificates = certificates.map(|tls| Certificates::new(tls, source("--listen-cert")));
    let certificates = certificates.transpose()?.map(Arc::new);
    let dialer = Dialer::new(config.clone())?.never_to(own);
    let Listeners { of_threads, file } = listeners;
    let address_of = |listener: &Option<TcpListener>| {
        let listener = listener.as_ref();
        listener.and_then(|listener| listener.local_addr().ok())
    };
    let (metrics_address, status_address) = (address_of(&metrics), address_of(&status));
    let board = status.is_some().then(|| {
        let board = Board::new(config.clone(), settings, addresses.clone());
        Arc::new(board)
    });
    let metrics = metrics.map(|listener| (listener, Pages::Metrics));
    let status = status.map(|listener| (listener, Pages::Status));
    let watched = Watched {
        listeners: metrics.into_iter().chain(status).collect(),
        board,
    };
    let ready = {
        let config = config.clone();
        move || {
            log::started(&addresses, metrics_address, status_address, &config);
            if let Some(limit) = config.limits.max_connections {
                log::connection_limit(limit, limit_is_given);
            }
            notify(Status::Ready);
            log::flush_waiting();
        }
    };

    let renewals = certificates.clone().map(Certificates::watch).transpose()?;
    let hangup = move || match &renewals {
        // The receiver lives as long as this sender, so sending cannot fail.
        Some(ask) => drop(ask.send(())),
        None => {
            log::hangup_ignored();
            log::flush_waiting();
        }
    };
    let shutdown = async move {
        let reason = signals.first(hangup).await;
        drop(file);
        notify(Status::Stopping);
        std::thread::spawn(move || {
            // A second signal exits without draining.
            async_io::block_on(signals.next());
            std::process::exit(130);
        });
        reason
    };
    let clients = Clients {
        listeners: of_threads,
        certificates,
    };
    server::run(config, dialer, clients, watched, ready, shutdown)
        .map_err(|error| Complaint::io(Words::new("threads", "线程"), &error))
}

/// Refuses an upstream that is the program's own listening address, since the program would send
/// requests to itself for ever. `source` is the flag or the variable that names the upstream.
fn refuse_itself(config: &Config, own: &Own, source: &str) -> Result<(), Complaint> {
    let upstream = &config.upstream;
    if !matches!(config.route, Route::Direct) || !own.includes(upstream) {
        return Ok(());
    }
    let problem = both!(
        "{upstream} is the address that this program listens on; give the server \
         behind it, or listen on another port",
        "{upstream} 是本程序自己监听的地址；请填写真正的上游，或换一个监听端口"
    );
    Err(Complaint::new(source, problem))
}

/// The signals that end the program.
struct Interruptions {
    signals: Signals,
    /// Whether the program was started on a terminal, which cannot be determined after the
    /// terminal has been closed.
    on_terminal: bool,
}

impl Interruptions {
    /// Starts to catch the signals. SIGHUP stays ignored if it is ignored at the start, as under
    /// nohup.
    fn new() -> Result<Interruptions, Complaint> {
        let mut caught = vec![Signal::Term, Signal::Int, Signal::Quit];
        if !hangup_is_ignored() {
            caught.push(Signal::Hup);
        }
        let signals = Signals::new(caught);
        Ok(Interruptions {
            signals: signals
                .map_err(|error| Complaint::io(Words::new("signals", "信号"), &error))?,
            on_terminal: has_terminal(),
        })
    }

    /// Waits for the first signal to end, and returns its name. Calls `hangup` for a SIGHUP that
    /// does not mean to end.
    async fn first(&mut self, hangup: impl Fn()) -> &'static str {
        loop {
            match self.signals.next().await {
                Some(Ok(Signal::Term)) => return "SIGTERM",
                Some(Ok(Signal::Int)) => return "SIGINT",
                Some(Ok(Signal::Quit)) => return "SIGQUIT",
                Some(Ok(Signal::Hup)) if self.on_terminal || has_terminal() => return "SIGHUP",
                Some(Ok(Signal::Hup)) => hangup(),
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits for another signal to end.
    async fn next(&mut self) {
        loop {
            match self.signals.next().await {
                Some(Ok(Signal::Hup) | Err(_)) => {}
                Some(Ok(_)) => return,
                None => std::future::pending().await,
            }
        }
    }
}

/// Whether the process has a controlling terminal (tty(4)).
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether SIGHUP was ignored when the program was started (proc_pid_status(5)); false without
/// /proc.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The first bit is signal 1, SIGHUP.
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Divides the descriptors: each client may need two, at most an eighth is for idle upstream
/// connections and another eighth for pipes, and some are for everything else.
fn share_out_descriptors(config: &mut Config, descriptors: u64) {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let limits = &mut config.limits;
    let idle = descriptors / 8 / config.threads;
    limits.idle_upstreams = limits.idle_upstreams.min(idle);
    limits.pipes = limits.pipes.min(idle / 2);
    // For threads and listeners: 64, or half if there are few.
    let own = 64.min(descriptors / 2);
    let set_aside = own + (limits.idle_upstreams + 2 * limits.pipes) * config.threads;
    let affordable = (descriptors.saturating_sub(set_aside) / 2).max(1);
    let limit = limits.max_connections.get_or_insert(affordable);
    if *limit > affordable {
        log::limit_lowered(*limit, affordable, descriptors);
        *limit = affordable;
    }
}

/// Raises the soft limit on descriptors to the hard one, and returns the limit that then holds.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A sandbox may refuse the call; the current limit stays then.
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    now.unwrap_or(u64::MAX)
}
