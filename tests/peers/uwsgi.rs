//! uWSGI as the upstream, which closes after each response without announcing it.

use std::thread;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

const PLUGIN: &str = "/usr/lib/uwsgi/plugins/python3_plugin.so";

/// Answers with the length of what it was sent. The response's end is seen 200 ms before the
/// connection's where `close` takes as long.
const APPLICATION: &str = "import time
class Body:
    def __iter__(self):
        yield b'fine'
    def close(self):
        time.sleep(PAUSE)
def application(environ, start_response):
    environ['wsgi.input'].read()
    start_response('200 OK', [('Content-Length', '4')])
    return Body()
";

pub fn trials() -> Vec<Trial> {
    let needs = [Need::Command("uwsgi"), Need::Path(PLUGIN)];
    [("uwsgi_posts", false), ("uwsgi_posts_slow_to_close", true)]
        .map(|(name, slow)| trial(name, &needs, move || uwsgi_posts(slow)))
        .into()
}

/// 8 clients send 100 POSTs each, and none meets a connection that is about to be closed.
fn uwsgi_posts(slow: bool) {
    let uwsgi = Server::start("uwsgi", free_address, |folder, address| {
        let pause = if slow { "0.2" } else { "0" };
        let application = APPLICATION.replace("PAUSE", pause);
        let file = folder.write("app.py", &application);
        let mut command = command("uwsgi");
        command.args(["--plugin", "python3", "--http-socket", &address.to_string()]);
        command.args(["--wsgi-file", &file, "--processes", "4", "--threads", "8"]);
        command.args(["--enable-threads", "--listen", "100", "--die-on-term"]);
        command
    });
    let proxy = Tested::start(uwsgi.address, &["--direct".to_owned()]);
    let address = proxy.0.address;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let ask = |_| {
                    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
                    client.response().status()
                };
                (0..100).map(ask).collect::<Vec<_>>()
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), vec![200; 100]);
    }
}
