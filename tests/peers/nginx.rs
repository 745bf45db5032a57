//! nginx as the upstream, curl as the client: bodies of all framings, kept connections,
//! compression, and a Unix socket.

use std::fs::{self, File};

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let needs = [Need::Command("nginx"), Need::Command("curl")];
    [
        ("nginx_get_and_head", nginx_get_and_head as fn()),
        (
            "nginx_five_mebibytes_each_way",
            nginx_five_mebibytes_each_way,
        ),
        ("nginx_chunked_upload", nginx_chunked_upload),
        (
            "nginx_upload_that_expects_100",
            nginx_upload_that_expects_100,
        ),
        ("nginx_keep_alive", nginx_keep_alive),
        ("nginx_on_a_unix_socket", nginx_on_a_unix_socket),
        ("nginx_gzip_passes", nginx_gzip_passes),
    ]
    .map(|(name, body)| trial(name, &needs, body))
    .into()
}

/// nginx with these server blocks, in which LISTEN and FOLDER are replaced by its address and
/// folder.
pub fn nginx(servers: &str, prepare: impl Fn(&Folder)) -> Server {
    Server::start("nginx", free_address, |folder, address| {
        prepare(folder);
        let path = folder.0.to_str().expect("a path of ASCII");
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            temporary += &format!("{kind}_temp_path {path}/{kind};\n");
        }
        let servers = servers.replace("LISTEN", &address.to_string());
        let conf = format!(
            "daemon off;\nworker_processes 1;\npid {path}/pid;\nerror_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{\naccess_log off;\ndefault_type text/plain;\nclient_max_body_size 0;\n\
             {temporary}{}}}\n",
            servers.replace("FOLDER", path)
        );
        let mut command = command("nginx");
        let conf = folder.write("conf", &conf);
        command.args(["-p", path, "-e", "stderr", "-c", &conf]);
        command
    })
}

/// nginx with files to read and to write, one of them with 5 MiB.
struct Files {
    nginx: Server,
    proxy: Tested,
    noise: Vec<u8>,
}

pub const FIVE_MIB: usize = 5 << 20;

const TEXT: &str = "a line that gzip makes shorter\n";

impl Files {
    fn serve() -> Files {
        let noise = Noise::new(5).bytes(FIVE_MIB);
        let servers = "server { listen LISTEN; root FOLDER/files;
             gzip on; gzip_min_length 1; gzip_types text/plain;
             location /up/ { dav_methods PUT; }
             location = /connection { return 200 \"$connection $connection_requests\\n\"; }
             location = /discard { return 200 \"$http_content_length\"; } }\n";
        let nginx = nginx(servers, |folder| {
            for path in [folder.0.join("files"), folder.0.join("files/up")] {
                fs::create_dir(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                open_to_all(&path, 0o777);
            }
            folder.write("files/hello", "hello from nginx\n");
            folder.write("files/text", &TEXT.repeat(1000));
            let path = folder.path("files/noise");
            fs::write(&path, &noise).unwrap_or_else(|error| panic!("{path}: {error}"));
        });
        let proxy = Tested::start(nginx.address, &["--direct".to_owned()]);
        Files {
            nginx,
            proxy,
            noise,
        }
    }

    fn noise_path(&self) -> String {
        self.nginx.process.folder.path("files/noise")
    }

    /// Whether nginx has stored the noise, byte for byte, under this name.
    fn assert_stored(&self, name: &str) {
        let path = self.nginx.process.folder.path(&format!("files/up/{name}"));
        let stored = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let same = stored == self.noise;
        assert!(
            same,
            "{} bytes arrived as {} others",
            self.noise.len(),
            stored.len()
        );
    }
}

fn nginx_get_and_head() {
    let files = Files::serve();
    assert_eq!(
        curl_text(&[&files.proxy.url("/hello")]),
        "hello from nginx\n"
    );
    let head = curl_text(&["-I", &files.proxy.url("/noise")]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(field(&head, "content-length"), Some("5242880"));
    assert!(
        field(&head, "server").is_some_and(|s| s.starts_with("nginx")),
        "{head}"
    );
    let status = curl_text(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &files.proxy.url("/none"),
    ]);
    assert_eq!(status, "404");
    files
        .proxy
        .0
        .log
        .wait_for("请求完成: HEAD /noise -> 200 (0 bytes, ");
    files
        .proxy
        .0
        .log
        .wait_for("请求完成: GET /hello -> 200 (17 bytes, ");
}

fn nginx_five_mebibytes_each_way() {
    let files = Files::serve();
    let download = curl(&[&files.proxy.url("/noise")]).output;
    assert!(download == files.noise, "{} bytes came", download.len());
    let status = ["-w", "%{http_code}"];
    let put = ["-T", &files.noise_path(), &files.proxy.url("/up/put")];
    assert_eq!(curl_text(&[&put[..], &status].concat()), "201");
    files.assert_stored("put");
    // nginx answers this request at once and discards the body.
    let body = format!("@{}", files.noise_path());
    let post = ["--data-binary", &body, &files.proxy.url("/discard")];
    assert_eq!(curl_text(&[&post[..], &status].concat()), "5242880200");
    let log = &files.proxy.0.log;
    log.wait_for("请求完成: GET /noise -> 200 (5242880 bytes, ");
    log.wait_for("请求完成: PUT /up/put -> 201 (0 bytes, ");
    log.wait_for("请求完成: POST /discard -> 200 (7 bytes, ");
}

fn nginx_chunked_upload() {
    let files = Files::serve();
    let noise = File::open(files.noise_path()).expect("it was written");
    let url = files.proxy.url("/up/chunked");
    let sent = curl_with(noise.into(), &["-v", "-T", "-", &url]);
    let chunked = sent.errors.contains("> Transfer-Encoding: chunked");
    assert!(
        chunked && sent.errors.contains("< HTTP/1.1 201 "),
        "{}",
        sent.errors
    );
    files.assert_stored("chunked");
}

fn nginx_upload_that_expects_100() {
    let files = Files::serve();
    let (path, url) = (files.noise_path(), files.proxy.url("/up/expected"));
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "50"];
    let sent = curl(&[&["-v", "-T", &path, &url][..], &expect].concat());
    let asked = sent.errors.contains("> Expect: 100-continue");
    assert!(
        asked && sent.errors.contains("< HTTP/1.1 100 Continue"),
        "{}",
        sent.errors
    );
    assert!(sent.errors.contains("< HTTP/1.1 201 "), "{}", sent.errors);
    files.assert_stored("expected");
}

fn nginx_on_a_unix_socket() {
    let servers = "server { listen LISTEN; listen unix:FOLDER/socket; root FOLDER; }\n";
    let nginx = nginx(servers, |folder| {
        folder.write("hello", "hello from nginx\n");
    });
    let socket = nginx.process.folder.path("socket");
    let proxy = Tested::start(format!("unix:{socket}"), &[]);
    assert_eq!(curl_text(&[&proxy.url("/hello")]), "hello from nginx\n");
    let head = curl_text(&["-I", &proxy.url("/hello")]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

fn nginx_keep_alive() {
    let files = Files::serve();
    let url = files.proxy.url("/connection");
    let text = curl_text(&["-w", "%{num_connects}\n", &url, &url]);
    let lines: Vec<&str> = text.lines().collect();
    let &[first, "1", second, "0"] = &lines[..] else {
        panic!("not two responses over one connection: {text}")
    };
    // The upstream connection to nginx is kept, too.
    let connection = first.split(' ').next().unwrap_or_default();
    assert_eq!(first, format!("{connection} 1"));
    assert_eq!(second, format!("{connection} 2"));
}

fn nginx_gzip_passes() {
    let files = Files::serve();
    let (url, gzip) = (files.proxy.url("/text"), "Accept-Encoding: gzip");
    let head = curl_text(&["-D", "-", "-o", "/dev/null", "-H", gzip, &url]);
    assert_eq!(field(&head, "content-encoding"), Some("gzip"), "{head}");
    let raw = curl(&["-H", gzip, &url]).output;
    assert!(raw.starts_with(&[0x1f, 0x8b]) && raw.len() < TEXT.len() * 100);
    assert_eq!(curl_text(&["--compressed", &url]), TEXT.repeat(1000));
    assert_eq!(curl_text(&[&url]), TEXT.repeat(1000));
}
