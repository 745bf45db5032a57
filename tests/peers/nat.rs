//! A way on which the packets of one connection are lost from some moment on, as where a NAT
//! has forgotten it.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let commands = ["unshare", "bash", "ip", "ss", "curl"].map(Need::Command);
    let more = [Need::Python("http.server"), Need::PacketFilter];
    vec![trial(
        "a_way_that_a_nat_has_forgotten",
        &[&commands[..], &more].concat(),
        a_way_that_a_nat_has_forgotten,
    )]
}

/// Asks, lets the connection rest, drops what is sent on it, and asks again. Prints the second
/// answer's status and how many seconds it took.
const FORGETTING: &str = r#"
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

/// A request on a kept connection goes on a fresh one once the old one stays silent.
fn a_way_that_a_nat_has_forgotten() {
    let folder = open_folder("forgotten");
    let mut command = Command::new("unshare");
    command.args(["-n", "bash", "-c", FORGETTING]);
    command.env("FOLDER", &folder.0).env("PYTHON", PYTHON);
    command.env("PROGRAM", PROGRAM).stdin(Stdio::null());
    let output = command.output().expect("unshare is there");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, seconds) = told.split_once(' ').unwrap_or_default();
    assert_eq!(status, "200", "{output:?}");
    let seconds: f64 = seconds.parse().expect("curl prints a number");
    // Acknowledgements are waited for for 0.7 s, and not for a quarter of an hour.
    assert!((0.7..30.0).contains(&seconds), "{seconds} s");
}
