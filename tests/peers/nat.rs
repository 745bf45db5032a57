//! A kept connection whose packets are dropped from some moment on, as by a NAT that has lost
//! its mapping.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let commands = ["unshare", "bash", "ip", "ss", "curl"].map(Need::Command);
    let more = [Need::Python("http.server"), Need::PacketFilter];
    vec![trial(
        "a_kept_connection_that_a_nat_has_forgotten",
        &[&commands[..], &more].concat(),
        a_kept_connection_that_a_nat_has_forgotten,
    )]
}

/// Sends a request, leaves the upstream connection idle, drops all packets to the upstream on it,
/// and sends a second request. Prints the second response's status and its time in seconds.
const SCRIPT: &str = r#"
ip link set lo up
cat > "$FOLDER/origin.py" <<'END'
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()
server = ThreadingHTTPServer(('127.0.0.1', 9000), Handler)
print('ready', flush=True)
server.serve_forever()
END
"$PYTHON" "$FOLDER/origin.py" >"$FOLDER/origin" 2>&1 &
"$PROGRAM" -b 127.0.0.1 -p 9001 -d -u 127.0.0.1:9000 2>"$FOLDER/log" &
until grep -q ready "$FOLDER/origin" && grep -q 127.0.0.1:9001 "$FOLDER/log"; do sleep 0.1; done
curl -s -o /dev/null http://127.0.0.1:9001/
sleep 6
port=$(ss -Htn state established dport = :9000 | awk '{ sub(/.*:/, "", $3); print $3 }')
iptables -A OUTPUT -p tcp --sport "$port" --dport 9000 -j DROP
curl -s -m 60 -o /dev/null -w '%{http_code} %{time_total}' http://127.0.0.1:9001/
kill %1 %2
"#;

/// A request on a kept connection moves to a new one if the old one acknowledges nothing.
fn a_kept_connection_that_a_nat_has_forgotten() {
    let folder = open_folder("forgotten");
    let mut command = Command::new("unshare");
    command.args(["-n", "bash", "-c", SCRIPT]);
    command.env("FOLDER", &folder.0).env("PYTHON", PYTHON);
    command.env("PROGRAM", PROGRAM).stdin(Stdio::null());
    let output = command.output().expect("unshare is installed");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, seconds) = told.split_once(' ').unwrap_or_default();
    assert_eq!(status, "200", "{output:?}");
    let seconds: f64 = seconds.parse().expect("curl prints a number");
    // The program waits 0.7 s for an acknowledgement; the kernel would retry for 15 minutes.
    assert!((0.7..30.0).contains(&seconds), "{seconds} s");
}
