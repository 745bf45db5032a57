//! Upstreams that authenticate connections, by NTLM: Apache, and express-ntlm.

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

const MODULES: &str = "/usr/lib/apache2/modules";

const GSSAPI: &str = "/usr/lib/apache2/modules/mod_auth_gssapi.so";

/// The file that registers NTLM with GSSAPI.
const NTLM_MECHANISM: &str = "/etc/gss/mech.d/mech.ntlmssp.conf";

pub fn trials() -> Vec<Trial> {
    let needs = [
        Need::Command("apache2"),
        Need::Path(GSSAPI),
        Need::Path(NTLM_MECHANISM),
        Need::Python("requests_ntlm"),
        // Of requests_ntlm 1.2 and newer: Apache refuses the logins of older ones.
        Need::Python("spnego"),
    ];
    let express = [
        Need::Command("node"),
        Need::Node("express-ntlm"),
        Need::Python("requests_ntlm"),
    ];
    vec![
        trial(
            "apache_ntlm_logins_are_not_mixed_up",
            &needs,
            apache_ntlm_logins_are_not_mixed_up,
        ),
        trial(
            "express_ntlm_logins_are_not_mixed_up",
            &express,
            express_ntlm_logins_are_not_mixed_up,
        ),
    ]
}

/// Six clients log in repeatedly, next to clients without a login, on two threads.
fn apache_ntlm_logins_are_not_mixed_up() {
    logins_are_not_mixed_up(&apache_with_ntlm());
}

/// The same with express-ntlm, which ties a login to a connection instead of a GSSAPI session.
fn express_ntlm_logins_are_not_mixed_up() {
    let express = Server::start("express-ntlm", free_address, |_, address| {
        let mut command = command("node");
        command.arg(script_path("ntlm.cjs"));
        command.args([address.ip().to_string(), address.port().to_string()]);
        command
    });
    logins_are_not_mixed_up(&express);
}

fn logins_are_not_mixed_up(upstream: &Server) {
    let flags = ["--direct", "--threads", "2"].map(str::to_owned);
    let proxy = Tested::start(upstream.address, &flags);
    let url = proxy.url("/page");
    let finished = run("logins", python("logins.py").arg(url), PATIENCE * 2);
    let output = String::from_utf8_lossy(&finished.output);
    assert_eq!(output, "refused: 90, right: 90\n");
}

/// Apache, which authenticates connections by NTLM: user1 with password1, to user6.
fn apache_with_ntlm() -> Server {
    Server::start("apache2", free_address, |folder, address| {
        let path = folder.0.to_str().expect("a path of ASCII");
        folder.write("page", "for users");
        let users = (1..=6).map(|n| format!("DOMAIN:user{n}:password{n}\n"));
        let users = folder.write("users", &users.collect::<String>());
        let user = match rustix::process::geteuid().is_root() {
            true => "User nobody\nGroup nogroup\n",
            false => "",
        };
        let modules = [
            "mpm_event",
            "authn_core",
            "authz_core",
            "authz_user",
            "headers",
            "auth_gssapi",
        ];
        let modules = modules
            .map(|name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so\n"))
            .concat();
        let conf = format!(
            "ServerName localhost\nServerRoot {path}\nPidFile {path}/pid\nErrorLog /dev/stderr\n\
             Listen {address}\n{user}{modules}DocumentRoot {path}\n\
             KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
             <Directory {path}>\nAuthType GSSAPI\nAuthName users\n\
             GssapiConnectionBound On\nGssapiAllowedMech ntlmssp\nRequire valid-user\n\
             Header always set X-User \"expr=%{{REMOTE_USER}}\"\n</Directory>\n"
        );
        let mut command = command("apache2");
        command.args(["-X", "-f", &folder.write("conf", &conf)]);
        command.env("NTLM_USER_FILE", users);
        command
    })
}
