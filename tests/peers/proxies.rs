//! Routes through real proxies: microsocks, dante, tinyproxy, squid and privoxy, with and without
//! a password, with HTTP and TLS, and two of them with failover.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use rustix::process::{kill_process_group, Pid, Signal};

use super::needs::{find, trial, Need};
use super::process::*;
use crate::support::*;

const SQUID_HELPER: &str = "/usr/lib/squid/basic_ncsa_auth";

const PRIVOXY_FOLDER: &str = "/etc/privoxy";

/// The user name at every proxy that requires a password.
const USER: &str = "alice";

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (via, locked) in Proxying::CONFIGURATIONS {
        let name = |what: &str| format!("{}_{what}", via.name(locked));
        let needs = via.needs(locked);
        trials.push(trial(&name("carries_http_and_tls"), &needs, move || {
            carries_http_and_tls(via, locked)
        }));
        trials.push(trial(
            &name("names_a_refused_upstream"),
            &needs,
            move || names_a_refused_upstream(via, locked),
        ));
        if locked {
            let name = name("refuses_a_wrong_or_missing_password");
            trials.push(trial(&name, &needs, move || {
                refuses_a_wrong_or_missing_password(via)
            }));
        }
    }
    for (first, second) in [
        (Proxying::Microsocks, Proxying::Dante),
        (Proxying::Dante, Proxying::Microsocks),
        (Proxying::Tinyproxy, Proxying::Squid),
    ] {
        let name = format!("{}_and_{}_in_turn", first.command(), second.command());
        let needs = [first.needs(false), second.needs(false)].concat();
        trials.push(trial(&name, &needs, move || two_in_turn(first, second)));
    }
    trials
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proxying {
    Microsocks,
    Dante,
    Tinyproxy,
    Squid,
    Privoxy,
}

impl Proxying {
    /// Each proxy, and whether it requires a password; privoxy cannot.
    const CONFIGURATIONS: [(Proxying, bool); 9] = [
        (Proxying::Microsocks, false),
        (Proxying::Microsocks, true),
        (Proxying::Dante, false),
        (Proxying::Dante, true),
        (Proxying::Tinyproxy, false),
        (Proxying::Tinyproxy, true),
        (Proxying::Squid, false),
        (Proxying::Squid, true),
        (Proxying::Privoxy, false),
    ];

    pub fn command(self) -> &'static str {
        match self {
            Proxying::Microsocks => "microsocks",
            Proxying::Dante => "danted",
            Proxying::Tinyproxy => "tinyproxy",
            Proxying::Squid => "squid",
            Proxying::Privoxy => "privoxy",
        }
    }

    pub fn name(self, locked: bool) -> String {
        let command = match self {
            Proxying::Dante => "dante",
            other => other.command(),
        };
        format!(
            "{command}_{}",
            if locked { "with_password" } else { "open" }
        )
    }

    pub fn needs(self, locked: bool) -> Vec<Need> {
        let mut needs = vec![Need::Command(self.command())];
        match self {
            Proxying::Dante if locked => {
                let commands = ["unshare", "mount", "sh"].map(Need::Command);
                needs.extend(commands.into_iter().chain([Need::MountNamespace]));
            }
            Proxying::Squid if locked => needs.push(Need::Path(SQUID_HELPER)),
            Proxying::Privoxy => needs.push(Need::Path(PRIVOXY_FOLDER)),
            _ => {}
        }
        needs
    }

    pub fn is_socks(self) -> bool {
        matches!(self, Proxying::Microsocks | Proxying::Dante)
    }

    /// A password with characters that a URL must escape; tinyproxy accepts only letters and
    /// digits.
    fn password(self) -> &'static str {
        match self {
            Proxying::Tinyproxy => "s3cret",
            _ => "s3cr:t@/x",
        }
    }

    pub fn password_in_url(self) -> &'static str {
        match self {
            Proxying::Tinyproxy => "s3cret",
            _ => "s3cr%3At%40%2Fx",
        }
    }

    /// The program's flags for this proxy, with a password as it is escaped in the URL.
    pub fn flags(self, address: SocketAddr, password: Option<&str>) -> Vec<String> {
        let login = password.map_or(String::new(), |password| format!("{USER}:{password}@"));
        let (flag, scheme) = match self.is_socks() {
            true => ("--socks-proxy", "socks5"),
            false => ("--http-proxy", "http"),
        };
        vec![flag.to_owned(), format!("{scheme}://{login}{address}")]
    }

    pub fn start(self, locked: bool) -> Server {
        Server::start(&self.name(locked), free_address, |folder, address| {
            self.prepare(folder, address, locked)
        })
    }

    pub fn prepare(self, folder: &Folder, address: SocketAddr, locked: bool) -> Command {
        match self {
            Proxying::Microsocks => microsocks(address, locked),
            Proxying::Dante => dante(folder, address, locked),
            Proxying::Tinyproxy => tinyproxy(folder, address, locked),
            Proxying::Squid => squid(folder, address, locked),
            Proxying::Privoxy => privoxy(folder, address),
        }
    }
}

fn microsocks(address: SocketAddr, locked: bool) -> Command {
    let mut command = command("microsocks");
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    command.args(["-i", &ip, "-p", &port]);
    if locked {
        command.args(["-u", USER, "-P", Proxying::Microsocks.password()]);
    }
    command
}

fn dante(folder: &Folder, address: SocketAddr, locked: bool) -> Command {
    let (ip, port) = (address.ip(), address.port());
    let method = if locked { "username" } else { "none" };
    let users = match rustix::process::geteuid().is_root() {
        true => "user.privileged: root\nuser.unprivileged: nobody\n",
        false => "",
    };
    let conf = folder.write(
        "conf",
        &format!(
            "logoutput: stderr\ninternal: {ip} port = {port}\nexternal: lo\n\
             clientmethod: none\nsocksmethod: {method}\n{users}\
             client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n"
        ),
    );
    let pid = folder.path("pid");
    if !locked {
        let mut command = command("danted");
        command.args(["-f", &conf, "-p", &pid]);
        return command;
    }
    // dante checks the system's accounts: a private mount namespace supplies one.
    // The hash is of its password, made with `openssl passwd -6`.
    const ACCOUNT: &str = "alice:x:64999:65534::/nonexistent:/usr/sbin/nologin\n";
    const SHADOW: &str = "alice:$6$simpleproxy$BDBgcOhWt4AUqtcbLUWv32IuXpKcpgMZrm2wKvAPvbny7YXu8.bzZbPDNtRVlcXvzZxVSzsltCMFaQDrCSEbt0:19000:0:99999:7:::\n";
    let passwd = folder.write("passwd", &(read("/etc/passwd") + ACCOUNT));
    let shadow = folder.write("shadow", &(read("/etc/shadow") + SHADOW));
    open_to_all(Path::new(&shadow), 0o600);
    let mut command = command("unshare");
    command.args([
        "-m",
        "sh",
        "-c",
        "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/shadow &&
         exec \"$3\" -f \"$4\" -p \"$5\"",
        "sh",
    ]);
    let danted = find("danted").expect("danted is installed");
    command.args([&passwd, &shadow]).arg(danted);
    command.args([&conf, &pid]);
    command
}

fn tinyproxy(folder: &Folder, address: SocketAddr, locked: bool) -> Command {
    let (ip, port) = (address.ip(), address.port());
    let login = match locked {
        true => format!("BasicAuth {USER} {}\n", Proxying::Tinyproxy.password()),
        false => String::new(),
    };
    let conf = format!("Port {port}\nListen {ip}\nTimeout 600\n{login}");
    let mut command = command("tinyproxy");
    command.args(["-d", "-c", &folder.write("conf", &conf)]);
    command
}

fn squid(folder: &Folder, address: SocketAddr, locked: bool) -> Command {
    let path = folder.0.display();
    let access = if locked {
        // The hash is of its password, made with `openssl passwd -apr1`.
        let users = folder.write("users", "alice:$apr1$simple$EOgyZrtlOtpooynWlprYD1\n");
        format!(
            "auth_param basic program {SQUID_HELPER} {users}\n\
             auth_param basic children 2\nauth_param basic realm test\n\
             acl authed proxy_auth REQUIRED\n\
             http_access allow authed\nhttp_access deny all\n"
        )
    } else {
        "http_access allow all\n".to_owned()
    };
    let conf = format!(
        "http_port {address}\nvisible_hostname squid.test\npid_filename {path}/pid\n\
         cache_log stdio:{path}/stderr\ncoredump_dir {path}\naccess_log none\n\
         cache deny all\npinger_enable off\nshutdown_lifetime 0 seconds\n\
         max_filedescriptors 1024\n{access}"
    );
    // The name keeps its shared memory apart from that of other squids.
    let name = format!("peer{}n{}", std::process::id(), number());
    let mut command = command("squid");
    command.args(["-N", "-n", &name, "-f", &folder.write("conf", &conf)]);
    command
}

fn privoxy(folder: &Folder, address: SocketAddr) -> Command {
    // Without its folder, it answers every failure with an error 500 about missing templates.
    let conf = format!(
        "listen-address {address}\nconfdir {PRIVOXY_FOLDER}\ntoggle 0\n\
         forwarded-connect-retries 0\n"
    );
    let mut command = command("privoxy");
    command.args(["--no-daemon", &folder.write("conf", &conf)]);
    command
}

/// Two proxies: the first is killed, restarted and stopped, then the second. No request fails
/// that begins while one of them works.
fn two_in_turn(first: Proxying, second: Proxying) {
    let upstream = origin(|mut client| {
        if client.try_head().is_some() {
            client.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (mut one, two) = (first.start(false), second.start(false));
    let [flag, one_url] = &first.flags(one.address, None)[..] else {
        panic!("a flag and a URL")
    };
    let two_url = &second.flags(two.address, None)[1];
    let flags = [flag.clone(), format!("{one_url},{two_url}")];
    // A proxy that hangs may use up half of the timeout.
    let timeout = ["--connect-timeout".to_owned(), "8".to_owned()];
    let proxy = Tested::start(upstream, &[&flags[..], &timeout].concat());
    let all_are_served = |what: &str| {
        let clients: Vec<_> = (0..40).map(|_| proxy.0.connect()).collect();
        for mut client in clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let response = client.response();
            assert_eq!(response.status(), 200, "{what}: {}", response.text());
        }
    };
    all_are_served("both serve");
    let address = one.address;
    drop(one);
    all_are_served("the first is killed");
    one = Server::start(
        first.command(),
        || address,
        |folder, address| first.prepare(folder, address, false),
    );
    all_are_served("the first is back");
    let group = Pid::from_child(&one.process.guard.0);
    kill_process_group(group, Signal::STOP).expect("it runs");
    all_are_served("the first is stopped");
    kill_process_group(group, Signal::CONT).expect("it is stopped");
    all_are_served("the first goes on");
    drop(two);
    all_are_served("the second is killed");
    drop(one);
    assert_eq!(proxy.0.get("/").status(), 502);
}

/// Starts an origin at localhost, over both IPv4 and IPv6 where available, and returns its port.
pub fn origin_on_localhost(script: impl Fn(Client) + Clone + Send + Sync + 'static) -> u16 {
    loop {
        let port = origin_at("127.0.0.1:0", script.clone()).port();
        let v6 = TcpListener::bind(("::1", port)).map(drop);
        match v6.map_err(|error| error.kind()) {
            Ok(()) => {
                origin_at(&format!("[::1]:{port}"), script);
                return port;
            }
            Err(std::io::ErrorKind::AddrInUse) => {}
            Err(_) => return port,
        }
    }
}

fn carries_http_and_tls(via: Proxying, locked: bool) {
    let plain = origin_on_localhost(echo);
    let acceptor = Certificate::new("localhost").acceptor();
    let tls = origin_on_localhost(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    });
    let server = via.start(locked);
    let password = locked.then(|| via.password_in_url());
    for (host, port, mode) in [
        ("127.0.0.1", plain, "off"),
        ("localhost", plain, "off"),
        ("127.0.0.1", tls, "on"),
        ("localhost", tls, "on"),
    ] {
        let mut flags = via.flags(server.address, password);
        flags.extend(["--tls".to_owned(), mode.to_owned()]);
        let proxy = Tested::start(format!("{host}:{port}"), &flags);
        for path in ["/one", "/two"] {
            let response = proxy.0.get(path);
            assert_eq!(response.status(), 200, "{host} TLS {mode}: {response:?}");
            assert_eq!(response.text(), format!("path={path} host=a.example\n"));
        }
    }
}

/// A request is answered with 502, and the log has the stage and `words`, but no credential.
fn fails(proxy: &Tested, stage: &str, words: &str) {
    let response = proxy.0.get("/failing");
    assert_eq!(response.status(), 502, "{response:?}");
    let line = proxy.0.log.wait_for("/failing -> 502");
    assert!(line.contains(&format!(" [{stage}] ")), "{line}");
    assert!(line.contains(words), "no {words:?} in {line}");
    let text = format!("{}{response:?}", proxy.0.log.text());
    assert!(!text.contains("s3cr"), "a password in {text}");
}

fn names_a_refused_upstream(via: Proxying, locked: bool) {
    let server = via.start(locked);
    let flags = via.flags(server.address, locked.then(|| via.password_in_url()));
    let words = match via {
        Proxying::Microsocks | Proxying::Dante => "SOCKS5 reply 5: connection refused",
        Proxying::Tinyproxy => "CONNECT answered 500 Unable to connect",
        Proxying::Squid => "CONNECT answered 503 Service Unavailable",
        Proxying::Privoxy => "CONNECT answered 503 ",
    };
    fails(
        &Tested::start(free_address(), &flags),
        "proxy-refused",
        words,
    );
}

fn refuses_a_wrong_or_missing_password(via: Proxying) {
    let upstream = origin(echo);
    let server = via.start(true);
    let (wrong, missing) = match via {
        Proxying::Microsocks | Proxying::Dante => (
            "the proxy refused the user name or password",
            "the proxy requires a user name and a password",
        ),
        // tinyproxy answers a wrong password with 401, as if it were the origin.
        Proxying::Tinyproxy => ("CONNECT answered 401 ", "CONNECT answered 407 "),
        _ => ("CONNECT answered 407 ", "CONNECT answered 407 "),
    };
    for (password, words) in [(Some("wrong-s3cr%3At%40%2Fx"), wrong), (None, missing)] {
        let proxy = Tested::start(upstream, &via.flags(server.address, password));
        fails(&proxy, "proxy-auth", words);
        let route = proxy.0.log.wait_for("路由: ");
        assert_eq!(route.contains("alice:***@"), password.is_some(), "{route}");
    }
    // The same server accepts the correct password.
    let flags = via.flags(server.address, Some(via.password_in_url()));
    let proxy = Tested::start(upstream, &flags);
    assert_eq!(proxy.0.get("/").status(), 200);
    let log = proxy.0.log.text();
    assert!(!log.contains("s3cr"), "a password in {log}");
}
