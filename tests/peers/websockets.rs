//! WebSocket clients: wscat, Python's websocket-client and Chromium, each through a SOCKS5 and
//! a CONNECT proxy and directly, to a real server with and without TLS.

use std::net::SocketAddr;
use std::process::Stdio;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use super::proxies::Proxying;
use crate::support::*;

pub const MESSAGE: &str = "Hello, 世界";

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (row, client) in Talker::ALL.into_iter().enumerate() {
        for (column, with_tls) in [false, true].into_iter().enumerate() {
            let one = (row + column) % 2 == 0;
            let socks = if one {
                Proxying::Microsocks
            } else {
                Proxying::Dante
            };
            let connect = if one {
                Proxying::Squid
            } else {
                Proxying::Tinyproxy
            };
            for via in [Some(socks), Some(connect), None] {
                trials.push(websocket_trial(client, via, with_tls));
            }
        }
    }
    trials
}

#[derive(Clone, Copy)]
enum Talker {
    Wscat,
    Python,
    Chromium,
}

impl Talker {
    const ALL: [Talker; 3] = [Talker::Wscat, Talker::Python, Talker::Chromium];

    fn name(self) -> &'static str {
        match self {
            Talker::Wscat => "wscat",
            Talker::Python => "websocket_client",
            Talker::Chromium => "chromium",
        }
    }

    fn needs(self) -> Vec<Need> {
        match self {
            Talker::Wscat => vec![Need::Wscat],
            Talker::Python => vec![Need::Python("websocket")],
            Talker::Chromium => vec![Need::Command("chromium"), Need::Command("node")],
        }
    }

    /// Opens `url`, sends a message, checks that it is echoed, and closes.
    fn talk(self, url: &str) {
        match self {
            Talker::Wscat => {
                let mut command = command("wscat");
                command.args(["--no-color", "-c", url, "-x", MESSAGE, "-w", "-1"]);
                // wscat exits at the end of its input.
                command.stdin(Stdio::piped());
                let mut process = Process::spawn("wscat", open_folder("wscat"), &mut command);
                process.waits_to_say(MESSAGE);
                drop(process.guard.0.stdin.take());
                let finished = process.finish(PATIENCE);
                assert_eq!(finished.code, 0, "{}", finished.errors);
            }
            Talker::Python => {
                let finished = run("client", python("client.py").args([url, MESSAGE]), PATIENCE);
                assert_eq!(
                    String::from_utf8_lossy(&finished.output),
                    format!("{MESSAGE}\n")
                );
            }
            Talker::Chromium => {
                let profile = open_folder("profile");
                let mut command = command("node");
                command
                    .arg(script_path("console.mjs"))
                    .args([url, MESSAGE])
                    .arg(&profile.0);
                let finished = run("chromium", &mut command, 2 * PATIENCE);
                let seen = String::from_utf8_lossy(&finished.output);
                assert_eq!(seen, format!("open; message {MESSAGE}; close 1000 true\n"));
            }
        }
    }
}

fn websocket_trial(client: Talker, via: Option<Proxying>, with_tls: bool) -> Trial {
    let mut needs = client.needs();
    needs.push(Need::Python("websockets"));
    needs.extend(via.map(|via| via.needs(true)).unwrap_or_default());
    if with_tls {
        needs.push(Need::Port443);
    }
    let route = match via {
        Some(via) => format!("through_{}", via.name(true)),
        None => "directly".to_owned(),
    };
    let scheme = if with_tls { "wss" } else { "ws" };
    let name = format!("{}_{route}_to_{scheme}", client.name());
    trial(&name, &needs, move || websocket(client, via, with_tls))
}

fn websocket(client: Talker, via: Option<Proxying>, with_tls: bool) {
    let _turn = matches!(client, Talker::Chromium).then(one_browser);
    let origin = websocket_origin(with_tls);
    let server = via.map(|via| (via, via.start(true)));
    let (route, flags) = match &server {
        Some((via, server)) => (
            if via.is_socks() {
                "SOCKS5 socks5://alice:***@"
            } else {
                "CONNECT http://alice:***@"
            },
            via.flags(server.address, Some(via.password_in_url())),
        ),
        None => ("直连", vec!["--direct".to_owned()]),
    };
    // Without --tls, the port decides about TLS.
    let proxy = Tested::start(origin.address, &flags);
    let address = proxy.0.address;
    client.talk(&format!("ws://{address}/ws/chat?token=hidden"));
    let log = &proxy.0.log;
    log.wait_for(&format!("路由: {route}"));
    log.wait_for(&format!(
        "===收到请求开始=== GET /ws/chat (Host: {address})"
    ));
    log.wait_for(&format!("WebSocket 请求: /ws/chat (Host: {address})"));
    log.wait_for("WebSocket 连接建立，开始双向转发");
    log.wait_for("WebSocket 连接关闭");
    let log = log.text();
    assert!(!log.contains("hidden") && !log.contains("s3cr"), "{log}");
}

/// A WebSocket server in Python, on port 443 and with a self-signed certificate if `with_tls`.
pub fn websocket_origin(with_tls: bool) -> Server {
    let choose = if with_tls {
        free_address_at_443
    } else {
        free_address
    };
    Server::start("origin", choose, |folder, address| {
        let mut command = python("origin.py");
        command.args([address.ip().to_string(), address.port().to_string()]);
        if with_tls {
            let certificate = Certificate::new("origin.test");
            command.arg(folder.write("cert.pem", &certificate.pem()));
            command.arg(folder.write("key.pem", &certificate.key_pem()));
        }
        command
    })
}

fn free_address_at_443() -> SocketAddr {
    SocketAddr::new(address_of_our_own(), 443)
}
