//! OpenSSH as the proxy: the SOCKS server of `ssh -D`, which is connected to an sshd.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use super::proxies::origin_on_localhost;
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let needs = ["sshd", "ssh", "ssh-keygen"].map(Need::Command);
    vec![trial(
        "ssh_carries_and_names_a_dead_target",
        &needs,
        ssh_carries_and_names_a_dead_target,
    )]
}

/// A server that accepts only the key in `folder`, for the user who runs the tests.
fn sshd(folder: &Folder, address: SocketAddr) -> Command {
    for key in ["host", "user"] {
        let path = folder.path(key);
        let mut keygen = command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path]);
        run("ssh-keygen", &mut keygen, PATIENCE);
    }
    let conf = folder.write(
        "conf",
        &format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nAllowTcpForwarding yes\n",
            folder.path("host"),
            folder.path("user.pub"),
        ),
    );
    // Packages leave the creation of this folder to the service manager.
    let _ = fs::create_dir_all("/run/sshd");
    let mut command = command("sshd");
    command.args(["-D", "-e", "-f", &conf]);
    command
}

/// The SOCKS server of a client that is logged in at `server`.
fn ssh(server: &Server, folder: &Folder, address: SocketAddr) -> Command {
    let known = folder.path("known_hosts");
    let mut command = command("ssh");
    command.args(["-N", "-F", "none", "-D", &address.to_string()]);
    command.args(["-i", &server.process.folder.path("user")]);
    for option in [
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        "StrictHostKeyChecking=no",
        &format!("UserKnownHostsFile={known}"),
    ] {
        command.args(["-o", option]);
    }
    command.args(["-p", &server.address.port().to_string()]);
    command.arg(server.address.ip().to_string());
    command
}

/// `ssh -D` sends no SOCKS reply for a target that it cannot reach, but closes the connection.
fn ssh_carries_and_names_a_dead_target() {
    let server = Server::start("sshd", free_address, sshd);
    let socks = Server::start("ssh", free_address, |folder, address| {
        ssh(&server, folder, address)
    });
    let flags = ["-s".to_owned(), format!("socks5://{}", socks.address)];
    let upstream = origin_on_localhost(echo);
    for host in ["127.0.0.1", "localhost"] {
        let proxy = Tested::start(format!("{host}:{upstream}"), &flags);
        assert_eq!(proxy.0.get("/p").text(), "path=/p host=a.example\n");
        let mut client = proxy.0.connect();
        client.upgrade("/");
        client.send_bytes(&frame(b"through ssh", MASK));
        assert_eq!(client.frame().as_deref(), Some(&b"through ssh"[..]));
    }
    let proxy = Tested::start(dead_address(), &flags);
    assert_eq!(proxy.0.get("/").status(), 502);
    let line = proxy.0.log.wait_for("[proxy-refused]");
    assert!(
        line.contains("closed the connection without replying"),
        "{line}"
    );
}
