//! Upstreams that run CGI programs, whose response heads have lines that end in a bare LF.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

/// A CGI program.
const PROGRAM: &str = "#!/bin/sh\nprintf 'Status: 201 Created\\nContent-Type: text/plain\\nX-Method: %s\\n\\n' \"$REQUEST_METHOD\"\nhead -c \"${CONTENT_LENGTH:-0}\"\necho end\n";

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "busybox_cgi",
            &[Need::Command("busybox"), Need::Command("curl")],
            || answers_through_the_proxy(busybox(), "201"),
        ),
        // It ignores the field Status: each response is a 200.
        trial("python_http_server_cgi", &[Need::Command("curl")], || {
            answers_through_the_proxy(python_http_server(), "200")
        }),
    ]
}

/// Writes the program to `cgi-bin/say`, executable for all.
fn with_program(folder: &Folder) {
    let path = folder.path("cgi-bin");
    fs::create_dir(&path).expect("a folder");
    let program = folder.write("cgi-bin/say", PROGRAM);
    for path in [&folder.path(""), &path, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
}

fn busybox() -> Server {
    Server::start("busybox", free_address, |folder, address| {
        with_program(folder);
        let mut command = command("busybox");
        command.args(["httpd", "-f", "-p", &address.to_string(), "-h"]);
        command.arg(folder.path(""));
        command
    })
}

fn python_http_server() -> Server {
    Server::start("http.server", free_address, |folder, address| {
        with_program(folder);
        let mut command = command(PYTHON);
        command.args(["-m", "http.server", "--cgi", "--bind"]);
        command.args([address.ip().to_string(), address.port().to_string()]);
        command.current_dir(folder.path(""));
        command
    })
}

fn answers_through_the_proxy(server: Server, status: &str) {
    let proxy = Tested::start(server.address, &["--direct".to_owned()]);
    let url = proxy.url("/cgi-bin/say");
    let method = |head: &str| field(head, "x-method").map(str::to_owned);
    for (method_sent, args) in [("GET", &["-i"][..]), ("POST", &["-i", "-d", "hello "])] {
        let said = curl_text(&[args, &[&url]].concat());
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        assert_eq!(method(&said).as_deref(), Some(method_sent), "{said}");
        let (head, body) = said.split_once("\r\n\r\n").expect("a head");
        assert!(!head.replace("\r\n", "").contains('\n'), "{head:?}");
        let sent = if method_sent == "POST" { "hello " } else { "" };
        assert_eq!(body, format!("{sent}end\n"));
    }
}
