//! Upstreams that speak TLS: nginx with a certificate for each host, nginx and `openssl
//! s_server` that require a client certificate, and one that supports an old version only.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::nginx::nginx;
use super::process::*;
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let openssl = [Need::Command("openssl")];
    let nginx = ["nginx", "curl", "openssl"].map(Need::Command);
    vec![
        trial(
            "openssl_that_speaks_tls_1_0_alone",
            &openssl,
            openssl_that_speaks_tls_1_0_alone,
        ),
        trial(
            "openssl_that_demands_a_client_certificate",
            &openssl,
            openssl_that_demands_a_client_certificate,
        ),
        trial(
            "nginx_three_vhosts_by_sni",
            &nginx,
            nginx_three_vhosts_by_sni,
        ),
        trial(
            "nginx_that_demands_a_client_certificate",
            &nginx,
            nginx_that_demands_a_client_certificate,
        ),
        trial(
            "nginx_three_vhosts_over_one_connection",
            &nginx,
            nginx_three_vhosts_over_one_connection,
        ),
    ]
}

/// The report of `--check`, and whether the check succeeded.
fn checked(upstream: SocketAddr, flags: &[&str]) -> (String, bool) {
    let upstream = upstream.to_string();
    let mut command = program();
    command.args([
        "--check",
        "-u",
        &upstream,
        "--tls",
        "on",
        "--log-lang",
        "en",
    ]);
    let output = command.args(flags).output().expect("the program runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    // The report is wrapped at the width of a terminal.
    let words: Vec<&str> = report.split_whitespace().collect();
    (words.join(" "), output.status.success())
}

/// A self-signed certificate and its key, in PEM files.
fn client_certificate(folder: &Folder) -> [String; 2] {
    let certificate = Certificate::new("client.example");
    let chain = folder.write("client.pem", &certificate.pem());
    [chain, folder.write("client.key", &certificate.key_pem())]
}

const MISSING: &str = "asks for a client certificate; set --tls-cert and --tls-key";

fn nginx_that_demands_a_client_certificate() {
    let clients = open_folder("clients");
    let [chain, key] = client_certificate(&clients);
    let servers = format!(
        "server {{ listen LISTEN ssl; ssl_certificate FOLDER/cert.pem;
         ssl_certificate_key FOLDER/key.pem; ssl_protocols VERSION;
         ssl_client_certificate {chain}; ssl_verify_client on;
         location / {{ return 200 \"$ssl_client_s_dn\"; }} }}\n"
    );
    for version in ["TLSv1.2", "TLSv1.3"] {
        let nginx = nginx(&servers.replace("VERSION", version), |folder| {
            let certificate = Certificate::new("nginx.example");
            folder.write("cert.pem", &certificate.pem());
            folder.write("key.pem", &certificate.key_pem());
        });
        let flags = ["--tls", "on", "--tls-cert", &chain, "--tls-key", &key];
        let proxy = Tested::start(nginx.address, &flags.map(str::to_owned));
        assert_eq!(curl_text(&[&proxy.url("/")]), "CN=client.example");
        let (report, is_well) = checked(nginx.address, &flags[2..]);
        assert!(
            is_well && !report.contains("client certificate"),
            "{report}"
        );
        let (report, is_well) = checked(nginx.address, &[]);
        assert!(!is_well && report.contains(MISSING), "{version}: {report}");
    }
}

fn s_server(folder: &Folder, address: SocketAddr, more: &[&str]) -> Command {
    let certificate = Certificate::new("old.example");
    let mut command = command("openssl");
    command.args(["s_server", "-accept", &address.to_string(), "-www"]);
    command.args(["-cert", &folder.write("cert.pem", &certificate.pem())]);
    command.args(["-key", &folder.write("key.pem", &certificate.key_pem())]);
    command.args(more);
    command
}

/// `s_server` aborts the handshake of a client without a certificate, where nginx answers 400.
fn openssl_that_demands_a_client_certificate() {
    for version in ["-tls1_2", "-tls1_3"] {
        let server = Server::start("s_server", free_address, |folder, address| {
            s_server(folder, address, &[version, "-Verify", "1"])
        });
        let [chain, key] = client_certificate(&server.process.folder);
        let (report, is_well) = checked(server.address, &[]);
        assert!(!is_well && report.contains(MISSING), "{version}: {report}");
        let flags = ["--tls", "on", "--tls-cert", &chain, "--tls-key", &key];
        let proxy = Tested::start(server.address, &flags.map(str::to_owned));
        let response = proxy.0.fetch("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        assert_eq!(response.status(), 200, "{version}");
    }
}

fn openssl_that_speaks_tls_1_0_alone() {
    let server = Server::start("s_server", free_address, |folder, address| {
        s_server(
            folder,
            address,
            &["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"],
        )
    });
    let conf = server.process.folder.write(
        "openssl.cnf",
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n\
         [tls]\nCipherString = DEFAULT:@SECLEVEL=0\n",
    );
    let upstream = server.address.to_string();
    for (min, status) in [("1.0", 200), ("1.2", 502)] {
        let args = ["-u", &upstream, "--tls", "on", "--tls-min", min];
        let proxy = Tested(Proxy::start_with(&args, &[("OPENSSL_CONF", &conf)]));
        assert_eq!(proxy.0.get("/").status(), status, "{min}");
    }
}

const VHOSTS: [&str; 3] = ["a.test", "b.test", "c.test"];

/// Three hosts on one address, each with its own certificate, made by openssl; and a file with
/// all certificates.
fn three_vhosts() -> (Server, String) {
    let mut servers = String::new();
    for name in VHOSTS {
        servers += &format!(
            "server {{ listen LISTEN ssl; server_name {name};\n\
             ssl_certificate FOLDER/{name}.pem; ssl_certificate_key FOLDER/{name}.key;\n\
             return 200 \"{name} $ssl_server_name $host $connection $connection_requests\\n\"; }}\n"
        );
    }
    let nginx = nginx(&servers, |folder| {
        let mut all = String::new();
        for name in VHOSTS {
            let certificate = folder.path(&format!("{name}.pem"));
            let mut command = command("openssl");
            command.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
            command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.args(["-subj", &format!("/CN={name}")]);
            command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
            command.args(["-keyout", &folder.path(&format!("{name}.key"))]);
            command.args(["-out", &certificate]).stdin(Stdio::null());
            run("openssl", &mut command, PATIENCE);
            all += &read(&certificate);
        }
        folder.write("all.pem", &all);
    });
    let all = nginx.process.folder.path("all.pem");
    (nginx, all)
}

fn nginx_three_vhosts_by_sni() {
    let (nginx, certificates) = three_vhosts();
    // With --tls-verify the certificate must match the Host.
    for more in [&[][..], &["--tls-verify", "--tls-ca", &certificates]] {
        let flags = [&["--direct", "--tls", "on"], more].concat();
        let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        let proxy = Tested::start(nginx.address, &flags);
        for host in VHOSTS {
            let text = curl_text(&["-H", &format!("Host: {host}"), &proxy.url("/")]);
            let expected = format!("{host} {host} {host} ");
            assert!(text.starts_with(&expected), "{text} instead of {expected}");
        }
    }
}

fn nginx_three_vhosts_over_one_connection() {
    let (nginx, _) = three_vhosts();
    let flags = ["--direct", "--tls", "on"].map(str::to_owned);
    let proxy = Tested::start(nginx.address, &flags);
    let url = proxy.url("/");
    let headers = VHOSTS.map(|host| format!("Host: {host}"));
    let hosts: Vec<usize> = (0..30).map(|i| (i * i + i / 4) % 3).collect();
    let mut args = Vec::new();
    for &host in &hosts {
        if !args.is_empty() {
            // --next begins another request, with its own options.
            args.extend(["--next", "-q", "-sS", "--noproxy", "*", "-m", "60"]);
        }
        args.extend(["-w", "%{num_connects}\n", "-H", &headers[host], &url]);
    }
    let text = curl_text(&args);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 60, "{text}");
    let connects: Vec<&str> = lines.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(connects.concat(), format!("1{}", "0".repeat(29)), "{text}");
    let mut reused = [false; 3];
    for (&host, line) in hosts.iter().zip(lines.iter().step_by(2)) {
        let name = VHOSTS[host];
        let expected = format!("{name} {name} {name} ");
        assert!(line.starts_with(&expected), "{line} instead of {expected}");
        reused[host] |= !line.ends_with(" 1");
    }
    assert_eq!(
        reused, [true; 3],
        "connections to nginx were not kept: {text}"
    );
}
