//! uWSGI as the upstream, which closes after each response without announcing it.

use std::thread;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use crate::support::*;

pub const PLUGIN: &str = "/usr/lib/uwsgi/plugins/python3_plugin.so";

/// Answers with the length of the request body. With a slow `close`, the end of the connection
/// follows 200 ms after the end of the response.
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
    let wsgiref = Need::Python("wsgiref.simple_server");
    vec![
        trial("uwsgi_posts", &needs, || uwsgi_posts(false)),
        trial("uwsgi_posts_slow_to_close", &needs, || uwsgi_posts(true)),
        trial(
            "wsgi_applications_see_our_forwarded_fields_alone",
            &[&needs[..], &[wsgiref]].concat(),
            wsgi_applications_see_our_forwarded_fields_alone,
        ),
    ]
}

/// Answers with what it takes for the client's address. In WSGI, as in CGI, `-` and `_` in a
/// field name are the same.
const WHOSE: &str = "def application(environ, start_response):
    client = environ.get('HTTP_X_FORWARDED_FOR', 'none').encode()
    start_response('200 OK', [('Content-Length', str(len(client)))])
    return [client]
";

/// The server in Python's standard library for such an application.
const WSGIREF: &str = "
if __name__ == '__main__':
    import sys
    from wsgiref.simple_server import make_server
    make_server(sys.argv[1], int(sys.argv[2]), application).serve_forever()
";

/// Starts uWSGI with an application.
pub fn uwsgi(application: &str, more: &[&str]) -> Server {
    Server::start("uwsgi", free_address, |folder, address| {
        let mut command = command("uwsgi");
        command.args(["--plugin", "python3", "--http-socket", &address.to_string()]);
        command.args(["--wsgi-file", &folder.write("app.py", application)]);
        command.args(more).arg("--die-on-term");
        command
    })
}

/// Starts Python's wsgiref server with an application.
pub fn wsgiref(application: &str) -> Server {
    Server::start("wsgiref", free_address, |folder, address| {
        let file = folder.write("app.py", &[application, WSGIREF].concat());
        let mut command = command(PYTHON);
        command.arg(file);
        command.args([address.ip().to_string(), address.port().to_string()]);
        command
    })
}

fn wsgi_applications_see_our_forwarded_fields_alone() {
    let (uwsgi, wsgiref) = (uwsgi(WHOSE, &[]), wsgiref(WHOSE));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\n\
                   X-Forwarded-For: 192.0.2.1\r\nx-forwarded_for: 7.7.7.7\r\n\r\n";
    for server in [&uwsgi, &wsgiref] {
        for (flag, expected) in [
            ("--forwarded", "127.0.0.1"),
            ("--forwarded=append", "192.0.2.1, 127.0.0.1"),
        ] {
            let flags = ["--direct", flag].map(str::to_owned);
            let proxy = Tested::start(server.address, &flags);
            assert_eq!(proxy.0.fetch(request).text(), expected, "{flag}");
        }
    }
}

/// 8 clients send 100 POSTs each, and none is sent on a connection that is about to be closed.
fn uwsgi_posts(slow: bool) {
    let pause = if slow { "0.2" } else { "0" };
    let application = APPLICATION.replace("PAUSE", pause);
    let workers = "--processes 4 --threads 8 --enable-threads --listen 100";
    let workers: Vec<&str> = workers.split(' ').collect();
    let uwsgi = uwsgi(&application, &workers);
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
