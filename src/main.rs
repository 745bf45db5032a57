//! Flags and variables become a configuration, the configuration a listener and threads;
//! signals end them.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;

use simple_proxy::check;
use simple_proxy::cli::resolve::{resolve, Command};
use simple_proxy::cli::settings::Setting;
use simple_proxy::config::Config;
use simple_proxy::error::describe;
use simple_proxy::report::log;
use simple_proxy::report::status::Board;
use simple_proxy::route::dial::Dialer;
use simple_proxy::serve::listen;
use simple_proxy::serve::listen::Listeners;
use simple_proxy::serve::notify::{notify, Status};
use simple_proxy::serve::scrape::Pages;
use simple_proxy::serve::server::{self, Watched};

/// A bad flag or setting.
const USAGE: u8 = 2;

/// Settings that are good but cannot be carried out.
const CANNOT_RUN: u8 = 1;

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1);
    match resolve(args, |name| std::env::var_os(name)) {
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Serve(config, settings)) => match serve(*config, settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => complain(CANNOT_RUN, &format!("simple-proxy: {problem}")),
        },
        Ok(Command::Check(settings)) => match check::run(*settings) {
            Ok((report, all_is_well)) => match (print(&report), all_is_well) {
                (ExitCode::SUCCESS, false) => ExitCode::from(CANNOT_RUN),
                (status, _) => status,
            },
            Err(problem) => complain(CANNOT_RUN, &format!("simple-proxy: {problem}")),
        },
        Err(usage) => complain(USAGE, &usage.to_string()),
    }
}

/// Prints help or version. A reader that closed early has what it wanted; a full disk is
/// a failure.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout();
    let text = format!("{}\n", text.trim_end());
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let problem = format!("simple-proxy: standard output: {}", describe(&error));
            complain(CANNOT_RUN, &problem)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn complain(status: u8, problem: &str) -> ExitCode {
    // Nobody may be listening.
    let _ = std::io::stderr().write_all(format!("{problem}\n").as_bytes());
    ExitCode::from(status)
}

fn serve(mut config: Config, settings: Vec<Setting>) -> Result<(), String> {
    log::init(config.log);
    let listeners = listen::listeners(&config.listen, config.threads)?;
    std::panic::set_hook(Box::new(|panic| {
        log::panicked(&panic.to_string());
        log::flush();
    }));
    let listen_on = |flag, address: Option<SocketAddr>| {
        let listener = address.map(|address| listen::watched(flag, address));
        listener.transpose()
    };
    let metrics = listen_on("--metrics-listen", config.metrics)?;
    let status = listen_on("--status-listen", config.status)?;
    let limit_is_given = config.limits.max_connections.is_some();
    share_out_descriptors(&mut config, raise_descriptor_limit());

    let mut signals = Signals::new([Signal::Term, Signal::Int])
        .map_err(|error| format!("signals: {}", describe(&error)))?;
    let config = Arc::new(config);
    let dialer = Dialer::new(config.clone())?;
    let addresses = listeners.addresses();
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

    let shutdown = async move {
        let reason = next_signal(&mut signals).await;
        drop(file);
        notify(Status::Stopping);
        std::thread::spawn(move || {
            // The second one means now.
            async_io::block_on(next_signal(&mut signals));
            std::process::exit(130);
        });
        reason
    };
    server::run(config, dialer, of_threads, watched, ready, shutdown)
        .map_err(|error| describe(&error))
}

async fn next_signal(signals: &mut Signals) -> &'static str {
    loop {
        match signals.next().await {
            Some(Ok(Signal::Term)) => return "SIGTERM",
            Some(Ok(_)) => return "SIGINT",
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

/// Each client may need two descriptors; an eighth at most is for idle upstream
/// connections and another for pipes, and some are needed for other things.
fn share_out_descriptors(config: &mut Config, descriptors: u64) {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let limits = &mut config.limits;
    let idle = descriptors / 8 / config.threads;
    limits.idle_upstreams = limits.idle_upstreams.min(idle);
    limits.pipes = limits.pipes.min(idle / 2);
    let set_aside = 64 + (limits.idle_upstreams + 2 * limits.pipes) * config.threads;
    let affordable = (descriptors.saturating_sub(set_aside) / 2).max(1);
    let limit = limits.max_connections.get_or_insert(affordable);
    if *limit > affordable {
        log::limit_lowered(*limit, affordable, descriptors);
        *limit = affordable;
    }
}

/// Raises the soft limit on descriptors to the hard one and gives what is then allowed.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A sandbox may refuse; what there is must do then.
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    now.unwrap_or(u64::MAX)
}
