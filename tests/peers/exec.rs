//! The installed `docker exec` and `kubectl exec` with scripted servers: the connection switches
//! to another protocol, in which a shell prints a prompt, reads `exit` and exits with a status.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

/// The exit status of the shell.
const STATUS: i32 = 7;

pub fn trials() -> Vec<Trial> {
    let script = Need::Command("script");
    vec![
        trial("docker_exec", &[Need::Command("docker"), script], || {
            docker_exec()
        }),
        trial("kubectl_exec", &[Need::Command("kubectl"), script], || {
            kubectl_exec()
        }),
    ]
}

/// Answers with a JSON document.
fn json(client: &mut Client, status: &str, document: &str) {
    let length = document.len();
    client.send(&format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n\
         {document}"
    ));
}

/// Runs a command and talks to its remote shell, on a terminal if `with_terminal`.
fn talk(command: Command, with_terminal: bool) {
    let mut command = match with_terminal {
        false => command,
        true => {
            let words = [command.get_program()]
                .into_iter()
                .chain(command.get_args());
            let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
            let mut script = self::command("script");
            script.args(["-qec", &words.join(" "), "/dev/null"]);
            script.envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            script
        }
    };
    command.stdin(Stdio::piped());
    let mut shell = Process::spawn("exec", open_folder("exec"), &mut command);
    let mut input = shell.guard.0.stdin.take().expect("it is a pipe");
    shell.waits_to_say("$ ");
    input.write_all(b"exit\n").expect("it reads");
    shell.waits_to_say("bye");
    let finished = shell.finish(PATIENCE);
    let output = String::from_utf8_lossy(&finished.output);
    assert_eq!(finished.code, STATUS, "{output}{}", finished.errors);
}

type Heads = Mutex<Sender<String>>;

fn reported(heads: &Receiver<String>) -> String {
    heads
        .recv_timeout(PATIENCE)
        .expect("an upgrade was asked for")
}

// Docker's Engine API.

fn docker_exec() {
    let (report, heads) = channel();
    let report: Heads = Mutex::new(report);
    let daemon = origin(move |client| docker_daemon(client, &report));
    let flags = ["--direct", "--upgrade", "tcp"].map(str::to_owned);
    let proxy = Tested::start(daemon, &flags);
    for options in ["-i", "-it"] {
        let mut docker = command("docker");
        docker.env("DOCKER_HOST", format!("tcp://{}", proxy.0.address));
        docker.args(["exec", options, "web", "sh"]);
        talk(docker, options == "-it");
        let head = reported(&heads);
        assert!(
            head.starts_with("POST /v1.41/exec/1/start HTTP/1.1\r\n"),
            "{head}"
        );
        assert_eq!(field(&head, "upgrade"), Some("tcp"), "{head}");
    }
    proxy.0.log.wait_for_count("tcp 连接关闭", 2);
}

/// A Docker daemon with one container, in which it runs a shell.
fn docker_daemon(mut client: Client, upgrades: &Heads) {
    while let Some(head) = client.try_head() {
        let length = field(&head, "content-length").map_or(0, |n| n.parse().expect("a length"));
        let body = client.exactly(length);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let path = path.strip_prefix("/v1.41").unwrap_or(path);
        match path.split('?').next().unwrap_or_default() {
            "/_ping" => {
                // docker sends HEAD, so the response has no body.
                client.send(
                    "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nOstype: linux\r\n\
                     Content-Length: 0\r\n\r\n",
                );
            }
            "/version" => json(
                &mut client,
                "200 OK",
                r#"{"ApiVersion":"1.41","Os":"linux"}"#,
            ),
            "/containers/web/json" => {
                let web = r#"{"Id":"web","State":{"Running":true},"Config":{},"HostConfig":{}}"#;
                json(&mut client, "200 OK", web);
            }
            "/containers/web/exec" => json(&mut client, "201 Created", r#"{"Id":"1"}"#),
            "/exec/1/start" => {
                upgrades.lock().unwrap().send(head).expect("the test waits");
                client.send(
                    "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
                     Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
                );
                let options: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                let has_terminal = options["Tty"] == true;
                // Without a terminal, a byte for the stream and a length precede the data.
                let said = |text: &str| match has_terminal {
                    true => text.as_bytes().to_vec(),
                    false => [&[1, 0, 0, 0, 0, 0, 0, text.len() as u8], text.as_bytes()].concat(),
                };
                client.send_bytes(&said("$ "));
                assert_eq!(client.exactly(4), b"exit");
                client.send_bytes(&said("bye\r\n"));
                return;
            }
            "/exec/1/resize" => json(&mut client, "200 OK", "{}"),
            "/exec/1/json" => {
                let ended = format!(r#"{{"ID":"1","Running":false,"ExitCode":{STATUS}}}"#);
                json(&mut client, "200 OK", &ended);
            }
            _ => json(
                &mut client,
                "404 Not Found",
                r#"{"message":"no such page"}"#,
            ),
        }
    }
}

// Kubernetes' API.

fn kubectl_exec() {
    let (report, heads) = channel();
    let report: Heads = Mutex::new(report);
    let server = origin(move |client| api_server(client, &report));
    let flags = ["--direct", "--upgrade", "spdy/3.1"].map(str::to_owned);
    let proxy = Tested::start(server, &flags);
    let home = open_folder("kubectl");
    // Newer versions try a WebSocket first by default.
    for (websockets, options) in [("false", "-i"), ("false", "-it"), ("true", "-i")] {
        let mut kubectl = command("kubectl");
        kubectl
            .env("HOME", &home.0)
            .env("KUBECONFIG", home.path("none"));
        kubectl.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        kubectl.args(["--server", &format!("http://{}", proxy.0.address)]);
        kubectl.args(["exec", options, "web", "--", "sh"]);
        talk(kubectl, options == "-it");
        let head = reported(&heads);
        let path = " /api/v1/namespaces/default/pods/web/exec?";
        assert!(head.contains(path), "{head}");
        if websockets == "false" {
            assert!(head.starts_with("POST "), "{head}");
            assert_eq!(field(&head, "upgrade"), Some("SPDY/3.1"), "{head}");
        }
    }
    proxy.0.log.wait_for("spdy/3.1 连接关闭");
}

/// A Kubernetes API server with one pod, in which it runs a shell.
fn api_server(mut client: Client, upgrades: &Heads) {
    while let Some(head) = client.try_head() {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let document = match target.split('?').next().unwrap_or_default() {
            "/version" => r#"{"major":"1","minor":"32","gitVersion":"v1.32.0"}"#,
            "/api" => r#"{"kind":"APIVersions","versions":["v1"]}"#,
            "/apis" => r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#,
            "/api/v1" => {
                r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[
                    {"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod",
                     "verbs":["get","list"],"shortNames":["po"]}]}"#
            }
            "/api/v1/namespaces/default/pods/web" => {
                r#"{"kind":"Pod","apiVersion":"v1",
                    "metadata":{"name":"web","namespace":"default"},
                    "spec":{"containers":[{"name":"web","image":"web","stdin":true,"tty":true}]},
                    "status":{"phase":"Running"}}"#
            }
            "/api/v1/namespaces/default/pods/web/exec" => {
                upgrades
                    .lock()
                    .unwrap()
                    .send(head.clone())
                    .expect("the test waits");
                return match field(&head, "upgrade") {
                    Some("websocket") => shell_in_a_websocket(client, &head),
                    _ => shell_in_spdy(client),
                };
            }
            _ => {
                let missing =
                    r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}"#;
                json(&mut client, "404 Not Found", missing);
                continue;
            }
        };
        json(&mut client, "200 OK", document);
    }
}

/// The message with the exit status, which has a separate channel.
fn ended() -> String {
    format!(
        r#"{{"metadata":{{}},"status":"Failure","reason":"NonZeroExitCode",
            "message":"command terminated with non-zero exit code","code":500,
            "details":{{"causes":[{{"reason":"ExitCode","message":"{STATUS}"}}]}}}}"#
    )
}

/// Each message begins with a byte for its channel: 0 is input, 1 output, 3 the exit status.
fn shell_in_a_websocket(mut client: Client, head: &str) {
    let protocols = field(head, "sec-websocket-protocol").expect("some are asked for");
    let protocol = protocols.split(',').next().expect("one at least").trim();
    let protocol = format!("\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n");
    client.send(&switching(head).replace("\r\n\r\n", &protocol));
    client.send_bytes(&frame(b"\x01$ ", None));
    while let Some(message) = client.frame() {
        if message.starts_with(b"\0exit") {
            client.send_bytes(&frame(b"\x01bye\r\n", None));
            client.send_bytes(&frame(&[b"\x03", ended().as_bytes()].concat(), None));
            client.send_bytes(&[0x88, 2, 3, 232]);
        }
    }
}

/// The subset of SPDY/3.1 that a command needs. The client opens its streams one after the
/// other: exit status, input, output, and one that stays unused.
fn shell_in_spdy(mut client: Client) {
    const ENDED: u32 = 1;
    const INPUT: u32 = 3;
    const OUTPUT: u32 = 5;
    const OTHER: u32 = 7;
    client.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
    );
    let data = |stream: u32, flags: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&stream.to_be_bytes()[..], &[flags], &length[1..], payload].concat()
    };
    let mut replied = false;
    while let Some(start) = client.try_exactly(8) {
        let length = u32::from_be_bytes([0, start[5], start[6], start[7]]);
        let payload = client.exactly(length as usize);
        let kind: [u8; 4] = start[..4].try_into().expect("four bytes");
        match kind {
            // SYN_STREAM, answered with SYN_REPLY. The fields of all frames form one zlib stream,
            // here of stored blocks: one with no fields, and an empty one, which flushes the
            // reader's output.
            [0x80, 3, 0, 1] => {
                let begin = if replied { &[][..] } else { &[0x78, 0x01] };
                replied = true;
                let fields = [
                    begin,
                    &[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0],
                    &[0, 0, 0, 0xff, 0xff],
                ]
                .concat();
                let length = 4 + fields.len() as u8;
                let reply = [0x80, 3, 0, 2, 0, 0, 0, length];
                client.send_bytes(&[&reply[..], &payload[..4], &fields].concat());
                if payload[..4] == OUTPUT.to_be_bytes() {
                    client.send_bytes(&data(OUTPUT, 0, b"$ "));
                }
            }
            // PING, which is echoed.
            [0x80, 3, 0, 6] => client.send_bytes(&[start, payload].concat()),
            [0x80, ..] => {}
            stream if stream == INPUT.to_be_bytes() && payload.starts_with(b"exit") => {
                const FIN: u8 = 1;
                client.send_bytes(&data(OUTPUT, FIN, b"bye\r\n"));
                client.send_bytes(&data(OTHER, FIN, b""));
                client.send_bytes(&data(ENDED, FIN, ended().as_bytes()));
            }
            _ => {}
        }
    }
}
