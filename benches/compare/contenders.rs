//! The program and its peers: how each is started for the same work.
//!
//! Each has one serving thread, streams bodies, keeps connections to the upstream, verifies no
//! certificate, and logs nothing unless the workload has logs. Everything else is left at its
//! default.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{free_address, Daemon};
use crate::upstream::Route;

/// The binary that cargo has built for this benchmark.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_simple-proxy");

/// A program that may take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contender {
    /// simple-proxy.
    Ours,
    /// Another build of it, for before and after.
    Before,
    /// nginx.
    Nginx,
    /// HAProxy, with splice.
    Haproxy,
    /// Caddy.
    Caddy,
    /// No proxy: the generator connects to the upstream directly.
    Direct,
}

/// What a contender is to do.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// How it reaches the upstream.
    pub route: Route,
    /// The address of the upstream.
    pub upstream: SocketAddr,
    /// Whether clients connect with TLS, with the certificate in the folder.
    pub secured: bool,
    /// Whether it logs each request, to /dev/null.
    pub logs: bool,
    /// The threads of the program; peers always have one.
    pub threads: usize,
}

impl Contender {
    /// The programs that simple-proxy is compared with.
    pub const PEERS: [Contender; 3] = [Contender::Nginx, Contender::Haproxy, Contender::Caddy];

    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Ours => "simple-proxy",
            Contender::Before => "before",
            Contender::Nginx => "nginx",
            Contender::Haproxy => "HAProxy",
            Contender::Caddy => "Caddy",
            Contender::Direct => "(no proxy)",
        }
    }

    /// Its binary, if it is installed.
    pub fn binary(self) -> Option<PathBuf> {
        let name = match self {
            Contender::Ours => return Some(PROGRAM.into()),
            Contender::Before => return std::env::var_os("BEFORE").map(PathBuf::from),
            Contender::Direct => return Some(PathBuf::new()),
            Contender::Nginx => "nginx",
            Contender::Haproxy => "haproxy",
            Contender::Caddy => "caddy",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let mut candidates = std::env::split_paths(&path).chain(usual);
        candidates.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()))
    }

    /// The first line of its version output.
    pub fn version(self) -> Option<String> {
        let flag = match self {
            Contender::Direct => return None,
            Contender::Ours | Contender::Before => "--version",
            Contender::Caddy => "version",
            _ => "-v",
        };
        let output = Command::new(self.binary()?).arg(flag).output().ok()?;
        // nginx prints its version on standard error.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().map(str::to_owned)
    }

    /// Starts it in `folder`. Returns the process and the address to connect to.
    pub fn start(
        self,
        job: &Job,
        folder: &Path,
        wrap: &[String],
    ) -> io::Result<(Option<Daemon>, SocketAddr)> {
        if self == Contender::Direct {
            return Ok((None, job.upstream));
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            let address = free_address()?;
            let mut command = self.command(job, address, folder, wrap)?;
            match Daemon::start(&mut command, address, &folder.join("said")) {
                Ok(daemon) => return Ok((Some(daemon), address)),
                // Another process may have taken the port.
                Err(error) if attempts == 3 => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn command(
        self,
        job: &Job,
        address: SocketAddr,
        folder: &Path,
        wrap: &[String],
    ) -> io::Result<Command> {
        let binary = self
            .binary()
            .ok_or_else(|| io::Error::other("not installed"))?;
        let file = folder.join("config");
        let text = match self {
            Contender::Ours | Contender::Before => {
                return Ok(ours(&binary, job, address, folder, wrap))
            }
            Contender::Nginx => nginx(job, address, folder),
            Contender::Haproxy => haproxy(job, address, folder),
            Contender::Caddy => caddy(job, address, folder),
            Contender::Direct => String::new(),
        };
        fs::write(&file, text)?;
        let mut command = Command::new(binary);
        match self {
            Contender::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file),
            Contender::Haproxy if job.logs => {
                // HAProxy logs to its standard output.
                command = Command::new("sh");
                let script = r#"exec "$0" -db -f "$1" >/dev/null"#;
                command.args(["-c", script]);
                command.arg(self.binary().unwrap_or_default()).arg(file)
            }
            Contender::Haproxy => command.arg("-db").arg("-f").arg(file),
            _ => {
                command.args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(file).env("GOMAXPROCS", "1");
                command.env("HOME", folder).env_remove("XDG_CONFIG_HOME")
            }
        };
        Ok(command)
    }
}

fn ours(binary: &Path, job: &Job, address: SocketAddr, folder: &Path, wrap: &[String]) -> Command {
    let mut words: Vec<OsString> = wrap.iter().map(OsString::from).collect();
    words.push(binary.into());
    let mut command = match job.logs {
        false => {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg("-q");
            command
        }
        true => {
            let mut command = Command::new("sh");
            command.args(["-c", r#"exec "$0" "$@" 2>/dev/null"#]);
            command.args(&words);
            command
        }
    };
    let (port, upstream) = (address.port().to_string(), job.upstream.to_string());
    let threads = job.threads.to_string();
    command.args(["-b", "127.0.0.1", "-p", &port, "--threads", &threads]);
    if job.secured {
        command.arg("--listen-cert").arg(folder.join("cert.pem"));
        command.arg("--listen-key").arg(folder.join("key.pem"));
    }
    match job.route {
        Route::Plain => command.args(["-d", "--tls", "off", "-u", &upstream]),
        Route::Tls => command.args(["-d", "--tls", "on", "-u", &upstream]),
        Route::Socks => {
            let proxy = format!("socks5://{upstream}");
            command.args(["-s", &proxy, "--tls", "off", "-u", "127.0.0.1:1"])
        }
    };
    command
}

/// The configuration of nginx: buffering is off for streams, and on for small responses, which
/// is faster.
fn nginx(job: &Job, address: SocketAddr, folder: &Path) -> String {
    let Job { upstream, .. } = job;
    let log = if job.logs { "/dev/null" } else { "off" };
    let scheme = scheme(job);
    let user = match rustix::process::geteuid().is_root() {
        true => "user root;",
        false => "",
    };
    let folder = folder.display();
    let (ssl, certificate) = match job.secured {
        true => (
            " ssl",
            format!("ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;"),
        ),
        false => ("", String::new()),
    };
    format!(
        r#"
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log {log};
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream up {{
    server {upstream};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  proxy_http_version 1.1;
  proxy_set_header Host $http_host;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_upgrade;
  proxy_ssl_verify off;
  proxy_read_timeout 1h;
  proxy_send_timeout 1h;
  server {{
    listen {address}{ssl} backlog=4096;
    {certificate}
    proxy_request_buffering off;
    location / {{ proxy_pass {scheme}://up; proxy_buffering off; }}
    location /small {{ proxy_pass {scheme}://up; }}
    location /page {{ proxy_pass {scheme}://up; }}
  }}
}}
"#
    )
}

fn haproxy(job: &Job, address: SocketAddr, folder: &Path) -> String {
    let Job { upstream, .. } = job;
    let (global, log) = match job.logs {
        true => (
            "log stdout format raw local0",
            "log global\n  option httplog",
        ),
        false => ("", ""),
    };
    let ssl = match job.secured {
        true => format!("ssl crt {}/both.pem", folder.display()),
        false => String::new(),
    };
    let tls = match job.route {
        Route::Tls => "ssl verify none",
        _ => "",
    };
    format!(
        r#"
global
  nbthread 1
  maxconn 8000
  maxpipes 512
  {global}
defaults
  mode http
  option splice-auto
  http-reuse always
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
  {log}
frontend front
  bind {address} backlog 4096 {ssl}
  default_backend back
backend back
  server up {upstream} {tls}
"#
    )
}

fn caddy(job: &Job, address: SocketAddr, folder: &Path) -> String {
    let (upstream, port) = (job.upstream, address.port());
    let tls = match job.route {
        Route::Tls => "tls_insecure_skip_verify",
        _ => "",
    };
    let log = if job.logs {
        "log {\n    output file /dev/null {\n      roll_disabled\n    }\n  }"
    } else {
        ""
    };
    let scheme = scheme(job);
    let folder = folder.display();
    let (site, certificate) = match job.secured {
        true => ("https", format!("tls {folder}/cert.pem {folder}/key.pem")),
        false => ("http", String::new()),
    };
    format!(
        r#"
{{
  admin off
  auto_https off
  servers {{
    protocols h1
  }}
  log {{
    output discard
  }}
}}
{site}://:{port} {{
  bind 127.0.0.1
  {certificate}
  {log}
  reverse_proxy {scheme}://{upstream} {{
    flush_interval -1
    header_up Host {{http.request.host}}
    transport http {{
      versions 1.1
      keepalive_idle_conns_per_host 256
      {tls}
    }}
  }}
}}
"#
    )
}

fn scheme(job: &Job) -> &'static str {
    match job.route {
        Route::Tls => "https",
        _ => "http",
    }
}
