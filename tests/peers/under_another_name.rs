//! Real software under two names: clients use the proxy's address, and upstreams their own name,
//! over TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::nginx::nginx;
use super::process::*;
use super::tab::Tab;
use super::uwsgi::{uwsgi, wsgiref, PLUGIN as UWSGI_PLUGIN};
use super::websockets::MESSAGE;
use crate::support::*;

const NAME: &str = "app.test";

pub fn trials() -> Vec<Trial> {
    let chromium = [
        Need::Command("chromium"),
        Need::Command("node"),
        Need::Python("websockets"),
    ];
    let curl = Need::Command("curl");
    let apache = [
        curl,
        Need::Command("cadaver"),
        Need::Command("apache2"),
        Need::Path(APACHE_MODULES),
    ];
    let registry = [
        curl,
        Need::Command("docker-registry"),
        Need::Command("skopeo"),
    ];
    let front = [
        curl,
        Need::Command("nginx"),
        Need::Command("uwsgi"),
        Need::Path(UWSGI_PLUGIN),
        Need::Python("wsgiref.simple_server"),
    ];
    let of = |name: &str, needs: &[Need], body: fn()| {
        trial(&format!("under_another_name_{name}"), needs, body)
    };
    vec![
        of(
            "a_websocket_passes_the_check_of_its_origin",
            &chromium,
            a_websocket_passes_the_check_of_its_origin,
        ),
        of(
            "socket_io_goes_from_requests_to_a_websocket",
            &[chromium[0], chromium[1], Need::Node("socket.io")],
            socket_io_goes_from_requests_to_a_websocket,
        ),
        of(
            "a_rebound_page_gets_no_websocket",
            &chromium,
            a_rebound_page_gets_no_websocket,
        ),
        of("a_login_by_cookie_in_curl", &[curl], login_in_curl),
        of(
            "a_chain_of_redirects_across_http_and_https",
            &[curl],
            a_chain_of_redirects_across_http_and_https,
        ),
        of(
            "a_login_by_cookie_in_chromium",
            &chromium[..2],
            login_in_chromium,
        ),
        of(
            "a_registry_is_pushed_to_and_pulled_from",
            &registry,
            registry_push_and_pull,
        ),
        of("webdav_copies_and_moves", &apache, webdav_copies_and_moves),
        of(
            "a_front_that_terminates_tls",
            &front,
            a_front_that_terminates_tls,
        ),
    ]
}

fn flags(more: &[&str]) -> Vec<String> {
    let all = [&["--direct", "--tls=on", "--host-header", NAME][..], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// A server with a certificate in `cert.pem` and its key in `key.pem`.
fn with_certificate(folder: &Folder) -> [String; 2] {
    let certificate = Certificate::new(NAME);
    let files = [
        folder.write("cert.pem", &certificate.pem()),
        folder.write("key.pem", &certificate.key_pem()),
    ];
    files
        .iter()
        .for_each(|file| open_to_all(Path::new(file), 0o644));
    files
}

// Chromium and a WebSocket server that checks Origin.

/// A server with Python's websockets over TLS that accepts WebSockets only from its own origin.
fn checking_origin() -> Server {
    Server::start("origin", free_address, |folder, address| {
        let mut command = python("origin.py");
        command.args([address.ip().to_string(), address.port().to_string()]);
        command.args(with_certificate(folder));
        command.arg(format!("https://{NAME}"));
        command
    })
}

/// What a page in headless Chromium reports about a WebSocket at `url`, or the page's text if
/// `url` is `-`. Names under `.test` resolve to this machine.
fn chromium(url: &str, page: &str) -> String {
    let _turn = one_browser();
    let profile = open_folder("profile");
    let mut command = command("node");
    command.arg(script_path("console.mjs")).args([url, MESSAGE]);
    command.arg(&profile.0).args([page, "MAP *.test 127.0.0.1"]);
    let finished = run("chromium", &mut command, 2 * PATIENCE);
    String::from_utf8_lossy(&finished.output).into_owned()
}

fn a_websocket_passes_the_check_of_its_origin() {
    let server = checking_origin();
    let proxy = Tested::start(server.address, &flags(&[]));
    let (page, socket) = (proxy.url("/"), proxy.url("/ws").replace("http:", "ws:"));
    let seen = chromium(&socket, &page);
    assert_eq!(seen, format!("open; message {MESSAGE}; close 1000 true\n"));
    // Without translation the server refuses it.
    let proxy = Tested::start(server.address, &flags(&["--map=off"]));
    let (page, socket) = (proxy.url("/"), proxy.url("/ws").replace("http:", "ws:"));
    assert_eq!(chromium(&socket, &page), "error; close 1006 false\n");
    proxy.0.log.wait_for("GET /ws -> 403");
}

/// Socket.IO begins with GETs and POSTs, each with an Origin, and then upgrades.
fn socket_io_goes_from_requests_to_a_websocket() {
    let server = Server::start("socket.io", free_address, |folder, address| {
        let mut command = command("node");
        command.arg(script_path("socketio.cjs"));
        command.args([address.ip().to_string(), address.port().to_string()]);
        command.args(with_certificate(folder));
        command.arg(format!("https://{NAME}"));
        command
    });
    let talk = "new Promise((done, failed) => {
        const script = document.createElement('script');
        script.src = '/socket.io/socket.io.js';
        script.onerror = () => failed(new Error('no script'));
        script.onload = () => {
            const socket = io({ reconnection: false }), used = [];
            const say = () => socket.emit('say', 'hello', heard =>
                done([...used, heard].join('; ')));
            socket.on('connect_error', () => done('refused'));
            socket.io.on('open', () => {
                used.push(socket.io.engine.transport.name);
                socket.io.engine.on('upgrade', transport => used.push(transport.name));
            });
            socket.on('connect', () => {
                if (used.at(-1) === 'websocket') say();
                else socket.io.engine.once('upgrade', say);
            });
        };
        document.head.append(script);
    })";
    for (more, expected) in [
        (&[][..], "polling; websocket; heard hello"),
        (&["--map=off"], "refused"),
    ] {
        let _turn = one_browser();
        let proxy = Tested::start(server.address, &flags(more));
        // A POST with an Origin comes first: without translation it is refused.
        let talk = match more {
            [] => talk.to_owned(),
            _ => talk.replace(
                "reconnection: false",
                "reconnection: false, transports: ['websocket']",
            ),
        };
        assert_eq!(Tab::open(&proxy.url("/"), &talk).said(), expected);
    }
}

fn a_rebound_page_gets_no_websocket() {
    let server = checking_origin();
    for (more, page_status, status) in [
        (&[][..], "GET / -> 200", "GET /ws -> 403"),
        (&["--header=X-Token: s3cret"], "421", "421"),
    ] {
        let proxy = Tested::start(server.address, &flags(more));
        let port = proxy.0.address.port();
        let page = format!("http://rebound.test:{port}/");
        let socket = format!("ws://rebound.test:{port}/ws");
        assert_eq!(chromium(&socket, &page), "error; close 1006 false\n");
        proxy.0.log.wait_for(page_status);
        proxy.0.log.wait_for(status);
        let log = proxy.0.log.text();
        assert!(!log.contains("WebSocket 连接建立"), "{log}");
    }
}

// A login by cookie, on an address that is not localhost.

/// An application that, after a login, redirects from page to page: by its own URL, by its
/// authority alone (`//host/path`), and by the path.
fn application() -> SocketAddr {
    tls_origin(NAME, |mut client| {
        while let Some(head) = client.try_head() {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let is_known = field(&head, "cookie").is_some_and(|c| c.contains("session=ok"));
            let found = |location: &str, more: &str| {
                format!(
                    "HTTP/1.1 302 Found\r\nLocation: {location}\r\n{more}Content-Length: 0\r\n\r\n"
                )
            };
            client.send(&match (path, is_known) {
                ("/login", _) => found(
                    &format!("https://{NAME}/a"),
                    &format!(
                        "Set-Cookie: session=ok; Domain={NAME}; Path=/; Secure; HttpOnly; \
                         SameSite=None\r\n"
                    ),
                ),
                ("/a", true) => found(&format!("//{NAME}/b"), ""),
                ("/b", true) => found("/c", ""),
                ("/c", true) => ok("welcome"),
                _ => "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?".to_owned(),
            });
        }
    })
}

/// Starts the program on 127.0.0.2.
fn elsewhere(upstream: SocketAddr, flags: &[String]) -> Tested {
    let mut command = program();
    command.args(["-b", "127.0.0.2", "-p", "0", "-u", &upstream.to_string()]);
    command
        .args(flags)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut command);
    let log = Lines::collect(guard.0.stderr.take().expect("a pipe"));
    let line = log.wait_for("127.0.0.2:");
    let address = line.rsplit(' ').next().expect("an address");
    let address = address.parse().expect("an address");
    Tested(Proxy {
        guard,
        address,
        log,
    })
}

fn login_in_curl() {
    let upstream = application();
    let follow = |proxy: &Tested| {
        let jar = open_folder("jar");
        let jar = jar.path("cookies");
        curl_text(&["-L", "-b", &jar, "-c", &jar, &proxy.url("/login")])
    };
    assert_eq!(follow(&elsewhere(upstream, &flags(&[]))), "welcome");
}

/// Chromium considers every address in 127.0.0.0/8 trustworthy, so it accepts Secure cookies from
/// there over http. For other names it does not.
fn login_in_chromium() {
    let proxy = Tested::start(application(), &flags(&[]));
    let page = format!("http://login.test:{}/login", proxy.0.address.port());
    assert_eq!(chromium("-", &page), "welcome\n");
}

// Redirects.

/// An application behind two instances of the program: clients use http where the upstream has
/// TLS, and https where it has none. It redirects within an origin by full URL and by authority
/// alone, and from each instance to the other by full URL.
fn a_chain_of_redirects_across_http_and_https() {
    let ways: Arc<OnceLock<[String; 2]>> = Arc::default();
    let known = ways.clone();
    let application = move |head: &str| {
        let [http, https] = known.get().expect("both are known");
        let location = match head.split(' ').nth(1) {
            Some("/1") => format!("https://{NAME}/2"),
            Some("/2") => format!("//{NAME}/3"),
            Some("/3") => format!("{https}/4"),
            Some("/4") => format!("http://{NAME}/5"),
            Some("/5") => format!("//{NAME}:80/6"),
            Some("/6") => format!("{http}/7"),
            _ => return ok("arrived"),
        };
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    };
    let plain = answering(application.clone());
    let secured = tls_origin(NAME, move |mut client| {
        while let Some(head) = client.try_head() {
            client.send(&application(&head));
        }
    });
    let by_http = Tested::start(secured, &flags(&[]));
    let folder = open_folder("listen");
    let [certificate, key] = with_certificate(&folder);
    let more = ["--direct", "--host-header", NAME];
    let listen = ["--listen-cert", &certificate, "--listen-key", &key];
    let more = [&more[..], &listen].concat().into_iter().map(str::to_owned);
    let by_https = Tested::start(plain, &more.collect::<Vec<_>>());
    let http = by_http.url("");
    let https = by_https.url("").replace("http:", "https:");
    let told = ways.set([http.clone(), https]);
    told.expect("they are told once");
    let written = " %{num_redirects} %{url_effective}";
    let arrived = curl_text(&["-k", "-L", "-w", written, &format!("{http}/1")]);
    assert_eq!(arrived, format!("arrived 6 {http}/7"));
}

// docker-registry.

fn registry_push_and_pull() {
    let server = Server::start("registry", free_address, |folder, address| {
        let [certificate, key] = with_certificate(folder);
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: {address}\n  secret: s\n  tls: {{certificate: {certificate}, key: {key}}}\n",
            folder.path("images")
        );
        let mut command = command("docker-registry");
        command.args(["serve", &folder.write("config.yml", &config)]);
        command
    });
    let proxy = Tested::start(server.address, &flags(&[]));
    let folder = open_folder("image");
    let digest = |bytes: &[u8]| {
        let hash = openssl::sha::sha256(bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    };
    // Follows the Location that the registry builds from its own name.
    let push = |name: &str, bytes: &[u8]| {
        let start = proxy.url("/v2/image/blobs/uploads/");
        let head = curl_text(&["-i", "-X", "POST", &start]);
        assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
        let location = field(&head, "location").expect("where to go on");
        assert!(location.starts_with(&proxy.url("/v2/image/")), "{location}");
        let file = folder.path(name);
        fs::write(&file, bytes).expect("a file");
        let digest = digest(bytes);
        let target = format!("{location}&digest={digest}");
        let kind = "Content-Type: application/octet-stream";
        let head = curl_text(&["-i", "-T", &file, "-H", kind, &target]);
        assert!(head.contains("HTTP/1.1 201 "), "{head}");
        digest
    };
    let layer = Noise::new(14).bytes(300_000);
    let (config, blob) = (push("config", b"{}"), push("layer", &layer));
    let manifest_type = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{manifest_type}\",\
         \"config\":{{\"mediaType\":\"application/vnd.docker.container.image.v1+json\",\
         \"size\":2,\"digest\":\"{config}\"}},\
         \"layers\":[{{\"mediaType\":\"application/vnd.docker.image.rootfs.diff.tar.gzip\",\
         \"size\":{},\"digest\":\"{blob}\"}}]}}",
        layer.len()
    );
    let file = folder.write("manifest", &manifest);
    let kind = format!("Content-Type: {manifest_type}");
    let target = proxy.url("/v2/image/manifests/latest");
    let head = curl_text(&["-i", "-T", &file, "-H", &kind, &target]);
    assert!(head.contains("HTTP/1.1 201 "), "{head}");
    let accept = format!("Accept: {manifest_type}");
    assert_eq!(curl_text(&["-H", &accept, &target]), manifest);
    let pulled = curl(&["-L", &proxy.url(&format!("/v2/image/blobs/{blob}"))]).output;
    assert!(pulled == layer, "{} bytes came", pulled.len());

    // skopeo pulls and pushes as Docker and Podman do: by blobs, in pieces.
    let address = proxy.0.address;
    let local = format!("dir:{}", folder.path("pulled"));
    let [old, new] = ["image", "copy"].map(|name| format!("docker://{address}/{name}:latest"));
    for (from, to) in [(&old, &local), (&local, &new)] {
        let mut command = command("skopeo");
        command.args(["--insecure-policy", "copy", "--preserve-digests"]);
        command.args([
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            from,
            to,
        ]);
        command.env("HOME", &folder.0);
        run("skopeo", &mut command, 2 * PATIENCE);
    }
    let pulled = curl(&["-L", &proxy.url(&format!("/v2/copy/blobs/{blob}"))]).output;
    assert!(pulled == layer, "{} bytes came", pulled.len());
}

// Apache's mod_dav.

const APACHE_MODULES: &str = "/usr/lib/apache2/modules/mod_dav_fs.so";

fn webdav_copies_and_moves() {
    let server = Server::start("apache2", free_address, |folder, address| {
        let [certificate, key] = with_certificate(folder);
        let path = folder.0.to_str().expect("a path of ASCII");
        for name in ["files", "lock"] {
            let path = folder.path(name);
            fs::create_dir(&path).expect("a folder");
            open_to_all(Path::new(&path), 0o777);
        }
        let modules = ["mpm_event", "authz_core", "ssl", "dav", "dav_fs"].map(|name| {
            format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
        });
        let identity = match rustix::process::geteuid().is_root() {
            true => "User www-data\nGroup www-data\n",
            false => "",
        };
        let conf = format!(
            "{}{identity}ServerRoot {path}\nServerName {NAME}\nListen {address}\n\
             PidFile {path}/pid\nErrorLog /dev/stderr\nDefaultRuntimeDir {path}\n\
             DocumentRoot {path}/files\nDavLockDB {path}/lock/db\nSSLEngine on\n\
             SSLCertificateFile {certificate}\nSSLCertificateKeyFile {key}\n\
             <Directory {path}/files>\nDav On\nRequire all granted\n</Directory>\n",
            modules.concat()
        );
        let mut command = command("apache2");
        command.args(["-D", "FOREGROUND", "-f", &folder.write("conf", &conf)]);
        command
    });
    let proxy = Tested::start(server.address, &flags(&[]));
    let file = server.process.folder.write("upload", "hello from WebDAV\n");
    // Moving a locked resource sends an If field with its full URL.
    let words = format!("put {file} d\nlock d\ncopy d e\nmove e f\nunlock d\nmove d g\n");
    let words = server.process.folder.write("words", &words);
    let mut client = command("cadaver");
    client
        .arg(proxy.url("/"))
        .env("HOME", &server.process.folder.0);
    client.stdin(fs::File::open(words).expect("it was written"));
    let said = run("cadaver", &mut client, PATIENCE).output;
    let said = String::from_utf8_lossy(&said);
    assert_eq!(said.matches("succeeded.").count(), 6, "{said}");
    for moved in ["/f", "/g"] {
        assert_eq!(curl_text(&[&proxy.url(moved)]), "hello from WebDAV\n");
    }
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    let put = ["-T", &file, &proxy.url("/a")];
    assert_eq!(curl_text(&[&put[..], &status].concat()), "201");
    for (method, from, to) in [("COPY", "/a", "/b"), ("MOVE", "/b", "/c")] {
        let destination = format!("Destination: {}", proxy.url(to));
        let request = ["-X", method, "-H", &destination, &proxy.url(from)];
        let status = curl_text(&[&request[..], &status].concat());
        assert_eq!(status, "201", "{method}");
    }
    assert_eq!(curl_text(&[&proxy.url("/c")]), "hello from WebDAV\n");
    let gone = curl_text(&[&status[..], &[&proxy.url("/b")]].concat());
    assert_eq!(gone, "404");
}

// nginx as a front that terminates TLS.

/// Redirects to itself, with the scheme that the server assumes for the client.
const APPLICATION: &str = "def application(environ, start_response):
    if environ['PATH_INFO'] == '/next':
        start_response('200 OK', [('Content-Length', '7')])
        return [b'arrived']
    url = environ['wsgi.url_scheme'] + '://' + environ['HTTP_HOST'] + '/next'
    start_response('302 Found', [('Location', url), ('Content-Length', '0')])
    return [b'']
";

/// uWSGI uses X-Forwarded-Proto; Python's wsgiref always assumes http. The configuration that the
/// manual page shows for a load balancer works with both.
fn a_front_that_terminates_tls() {
    let applications = [
        (uwsgi(APPLICATION, &[]), "https"),
        (wsgiref(APPLICATION), "http"),
    ];
    for (application, scheme) in &applications {
        let told = ["-H", "X-Forwarded-Proto: https", "-H", "Host: app.internal"];
        let url = format!("http://{}/", application.address);
        let head = curl_text(&[&told[..], &["-i", &url]].concat());
        let own = format!("{scheme}://app.internal/next");
        assert_eq!(field(&head, "location"), Some(&*own));

        let renamed = "--direct --host-header app.internal --allow-host www.example.test \
                       --forwarded=append";
        let renamed: Vec<_> = renamed.split(' ').map(str::to_owned).collect();
        let proxy = Tested::start(application.address, &renamed);
        let servers = format!(
            "server {{ listen LISTEN ssl;\nssl_certificate FOLDER/cert.pem;\n\
             ssl_certificate_key FOLDER/key.pem;\nlocation / {{ proxy_pass http://{};\n\
             proxy_set_header Host $http_host;\nproxy_set_header X-Forwarded-Proto $scheme;\n\
             proxy_redirect off; }} }}\n",
            proxy.0.address
        );
        let nginx = nginx(&servers, |folder| {
            with_certificate(folder);
        });
        let (address, port) = (nginx.address.ip(), nginx.address.port());
        let url = format!("https://www.example.test:{port}/");
        let resolve = format!("www.example.test:{port}:{address}");
        let follow = ["-k", "-L", "-w", " %{url_effective}", "--resolve", &resolve];
        let arrived = curl_text(&[&follow[..], &[&url]].concat());
        assert_eq!(arrived, format!("arrived {url}next"));
    }
}
