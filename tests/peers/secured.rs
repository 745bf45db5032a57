//! Real clients that connect to the program over TLS, with a certificate from a test authority.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::nginx::FIVE_MIB;
use super::process::*;
use super::websockets::{websocket_origin, MESSAGE};
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let curl = [Need::Command("curl")];
    let openssl = [Need::Command("openssl")];
    let chromium = ["chromium", "node", "certutil"].map(Need::Command);
    let chromium = [&chromium[..], &[Need::Python("websockets")]].concat();
    vec![
        trial("curl_over_https", &curl, curl_over_https),
        trial(
            "hsts_is_kept_on_port_443",
            &[curl[0], Need::Port443],
            hsts_is_kept_on_port_443,
        ),
        trial(
            "chromium_over_https_and_wss",
            &chromium,
            chromium_over_https_and_wss,
        ),
        trial(
            "openssl_finds_old_versions_refused",
            &openssl,
            openssl_finds_old_versions_refused,
        ),
    ]
}

const NAME: &str = "proxy.test";

/// An authority with an intermediate one, and the program with a certificate from the latter.
struct Secured {
    proxy: Tested,
    folder: Folder,
    /// The file of the authority's own certificate.
    root: String,
}

impl Secured {
    fn start(upstream: SocketAddr) -> Secured {
        let folder = open_folder("secured");
        let root = Certificate::new("root.test");
        let between = root.signs("between.test", true);
        let leaf = between.signs(NAME, false);
        let chain = folder.write("chain.pem", &(leaf.pem() + &between.pem()));
        let key = folder.write("key.pem", &leaf.key_pem());
        let flags = ["--direct", "--listen-cert", &chain, "--listen-key", &key];
        let proxy = Tested::start(upstream, &flags.map(str::to_owned));
        let root = folder.write("root.pem", &root.pem());
        Secured {
            proxy,
            folder,
            root,
        }
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.proxy.0.address)
    }
}

fn curl_over_https() {
    let noise = Noise::new(1).bytes(FIVE_MIB);
    let body = noise.clone();
    let upstream = origin(move |mut client| {
        while let Some(head) = client.try_head() {
            if head.starts_with("PUT ") {
                assert!(client.exactly(body.len()) == body, "what was sent");
                client.send(&ok("stored"));
                continue;
            }
            let length = body.len();
            client.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ));
            client.send_bytes(&body);
        }
    });
    let secured = Secured::start(upstream);
    let sent = secured.folder.path("sent");
    fs::write(&sent, &noise).expect("a file");
    let url = secured.url("https", "/");
    for version in ["1.2", "1.3"] {
        let tls = [
            "--cacert",
            &secured.root,
            &format!("--tlsv{version}"),
            "--tls-max",
            version,
        ];
        let got = curl(&[&tls[..], &[&url]].concat());
        assert!(got.output == noise, "{version}");
        // curl offers HTTP/2 in ALPN, and the program does not select it.
        let put = ["-T", &sent, "-w", " %{http_version} %{ssl_verify_result}"];
        let stored = curl_text(&[&tls[..], &put, &[&url]].concat());
        assert_eq!(stored, "stored 1.1 0");
    }
    let plain = curl_text(&["-w", " %{http_code}", &secured.url("http", "/")]);
    assert!(plain.ends_with(" 400"), "{plain}");
    assert!(plain.contains("use https"), "{plain}");
}

/// On any other port the field is removed, see tests/serve/tls.rs.
fn hsts_is_kept_on_port_443() {
    let upstream = tls_origin(NAME, |mut client| {
        while client.try_head().is_some() {
            client.send("HTTP/1.1 204 No Content\r\nStrict-Transport-Security: max-age=1\r\n\r\n");
        }
    });
    let folder = open_folder("secured");
    let certificate = Certificate::new(NAME);
    let address = address_of_our_own().to_string();
    let mut command = program();
    command.args(["--direct", "-p", "443", "-b", &address, "--tls", "on"]);
    command.args(["-u", &upstream.to_string()]);
    command.args([
        "--listen-cert",
        &folder.write("cert.pem", &certificate.pem()),
    ]);
    command.args([
        "--listen-key",
        &folder.write("key.pem", &certificate.key_pem()),
    ]);
    let mut guard = Guard::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()));
    let log = Lines::collect(guard.0.stderr.take().expect("a pipe"));
    log.wait_for(&address);
    let head = curl_text(&["-k", "-i", &format!("https://{address}/")]);
    assert_eq!(field(&head, "strict-transport-security"), Some("max-age=1"));
}

fn chromium_over_https_and_wss() {
    let _turn = one_browser();
    let upstream = websocket_origin(false);
    let secured = Secured::start(upstream.address);
    // Chromium on Linux trusts the certificates in the database in the home folder.
    let home = open_folder("profile");
    let database = home.path(".pki/nssdb");
    fs::create_dir_all(&database).expect("a folder");
    let database = format!("sql:{database}");
    let certutil = |args: &[&str]| {
        let mut command = command("certutil");
        command.args(["-d", &database]).args(args);
        run("certutil", &mut command, PATIENCE);
    };
    certutil(&["-N", "--empty-password"]);
    certutil(&["-A", "-n", "test", "-t", "C,,", "-i", &secured.root]);
    let talk = |url: &str| {
        let mut command = command("node");
        command.arg(script_path("console.mjs")).args([url, MESSAGE]);
        command.arg(&home.0).arg(secured.url("https", "/page"));
        command.env("HOME", &home.0);
        let finished = run("chromium", &mut command, 2 * PATIENCE);
        String::from_utf8_lossy(&finished.output).into_owned()
    };
    let address = secured.proxy.0.address;
    assert_eq!(talk("-").trim(), format!("path=/page host={address}"));
    let seen = talk(&secured.url("wss", "/chat"));
    assert_eq!(seen, format!("open; message {MESSAGE}; close 1000 true\n"));
    // A browser that does not trust the authority refuses the certificate.
    let mut command = command("node");
    command.arg(script_path("console.mjs"));
    command.args([&secured.url("wss", "/chat"), MESSAGE]);
    command.arg(&open_folder("profile").0);
    let finished = run("chromium", &mut command, 2 * PATIENCE);
    let seen = String::from_utf8_lossy(&finished.output);
    assert!(seen.starts_with("error; close 1006"), "{seen}");
}

fn openssl_finds_old_versions_refused() {
    let secured = Secured::start(dead_address());
    let address = secured.proxy.0.address.to_string();
    let connect = |version: &str| {
        let mut command = command("openssl");
        command.args(["s_client", "-connect", &address, version]);
        command.args(["-cipher", "ALL:@SECLEVEL=0", "-CAfile", &secured.root]);
        command.args(["-verify_return_error", "-alpn", "h2,http/1.1"]);
        let process = Process::spawn(
            "s_client",
            open_folder("s_client"),
            command.stdin(Stdio::null()),
        );
        let finished = process.finish(PATIENCE);
        let output = String::from_utf8_lossy(&finished.output).into_owned();
        (finished.code, output + &finished.errors)
    };
    for version in ["-tls1", "-tls1_1"] {
        let (code, said) = connect(version);
        assert_ne!(code, 0, "{said}");
        assert!(said.contains("alert protocol version"), "{said}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let (code, said) = connect(version);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
        assert!(said.contains("Compression: NONE"), "{said}");
    }
    let (_, said) = connect("-tls1_2");
    assert!(said.contains("Secure Renegotiation IS supported"), "{said}");
}
