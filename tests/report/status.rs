//! The status page: what it serves and to whom, and how it looks to a browser.

use libtest_mimic::Trial;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::*;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        the_page_is_served_under_local_names_only,
        the_metrics_port_has_no_page,
        the_numbers_match_the_traffic,
        failures_name_their_cause_and_the_remedy,
    ]
}

/// Starts the program with a status page, and returns the page's address.
fn watched(args: &[&str]) -> (Proxy, SocketAddr) {
    let mut all = vec!["--status-listen", "127.0.0.1:0", "--log-lang", "en"];
    all.extend_from_slice(args);
    let proxy = Proxy::start(&all);
    let line = proxy.log.wait_for("status page: http://");
    let address = line.split("http://").nth(1).unwrap().trim_end_matches('/');
    let address = address.parse().unwrap();
    (proxy, address)
}

fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> Response {
    let mut client = Client::connect(address);
    client.send(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.response_to(method)
}

fn status(address: SocketAddr) -> serde_json::Value {
    let response = ask(address, "GET", "/status.json", "localhost");
    assert_eq!(response.field("content-type"), Some("application/json"));
    serde_json::from_str(&response.text()).unwrap()
}

pub fn the_page_is_served_under_local_names_only() {
    let (proxy, address) = watched(&["-u", "127.0.0.1:1"]);
    for host in ["127.0.0.1", "localhost:9090", "[::1]"] {
        let page = ask(address, "GET", "/", host);
        assert_eq!(page.status(), 200, "{host}");
        assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.field("cache-control"), Some("no-store"));
        assert_eq!(page.field("access-control-allow-origin"), None);
        let policy = page.field("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "script-src 'sha256-",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(page.text().contains("<html lang=\"en\">"));
    }
    assert_eq!(ask(address, "HEAD", "/", "localhost").status(), 200);
    let metrics = ask(address, "GET", "/metrics", "localhost");
    assert!(metrics.text().contains("simple_proxy_connections_open"));
    assert_eq!(ask(address, "GET", "/other", "localhost").status(), 404);
    // The owner of a name can make it resolve to this machine.
    for path in ["/", "/status.json", "/metrics"] {
        assert_eq!(ask(address, "GET", path, "rebound.example").status(), 421);
    }
    drop(proxy);
}

pub fn the_metrics_port_has_no_page() {
    let proxy = Proxy::start(&["-u", "127.0.0.1:1", "--metrics-listen", "127.0.0.1:0"]);
    let line = proxy.log.wait_for("/metrics");
    let address = line.split("http://").nth(1).unwrap();
    let address = address.trim_end_matches("/metrics").parse().unwrap();
    for path in ["/", "/status.json"] {
        assert_eq!(ask(address, "GET", path, "localhost").status(), 404);
    }
    // The metrics port may be open to a network, under any name.
    assert_eq!(
        ask(address, "GET", "/metrics", "metrics.example").status(),
        200
    );
}

pub fn the_numbers_match_the_traffic() {
    let upstream = origin(echo).to_string();
    let (proxy, address) = watched(&["-u", &upstream]);
    let before = status(address);
    assert_eq!(before["hops"][0]["role"], "upstream");
    assert_eq!(before["hops"][0]["state"], "unknown");
    assert_eq!(before["upgrades"]["open"], 0);
    let mut client = proxy.connect();
    client.upgrade("/ws/chat");
    // The client receives its 101 a moment before the tunnel is counted.
    wait_until("the tunnel is counted", || {
        status(address)["upgrades"]["open"] == 1
    });
    let open = status(address);
    assert_eq!(open["hops"][0]["state"], "ok");
    assert!(open["hops"][0]["steps"]["connect"].as_f64().is_some());
    assert_eq!(open["listening"][0], proxy.address.to_string());
    drop(client);
    wait_until("the tunnel is closed", || {
        let closed = status(address);
        closed["upgrades"]["open"] == 0 && closed["upgrades"]["total"] == 1
    });
}

pub fn failures_name_their_cause_and_the_remedy() {
    let dead = dead_address().to_string();
    let proxy_url = format!("socks5://alice:s3cr3t@{dead}");
    let (proxy, address) = watched(&["-u", "upstream.example:80", "-s", &proxy_url]);
    for n in 0..25 {
        let request = format!("GET /{n}?q HTTP/1.1\r\nHost: <script>x</script>\r\n\r\n");
        let refused = proxy.fetch(&request);
        assert_eq!(refused.status(), 400, "a Host has no such bytes");
        assert_eq!(proxy.get(&format!("/{n}?token=hidden")).status(), 502);
    }
    let told = status(address);
    let failures = told["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 20, "the last ones only");
    let last = &failures[0];
    assert_eq!(last["path"], "/24");
    assert_eq!(last["stage"], "proxy-connect");
    assert_eq!(last["status"], 502);
    assert_eq!(last["host"], "a.example");
    assert_eq!(last["client"], "127.0.0.1");
    assert_eq!(last["address"], dead);
    assert_eq!(last["cause"], "connection refused");
    assert!(last["advice"]
        .as_str()
        .unwrap()
        .contains("check that the proxy listens"));
    assert_eq!(told["failed"], 25);
    assert_eq!(told["hops"][0]["role"], "proxy");
    assert_eq!(told["hops"][0]["state"], "failed");
    assert_eq!(told["hops"][1]["state"], "unknown");
    let settings = told["settings"].as_array().unwrap();
    let socks = settings
        .iter()
        .find(|s| s["name"] == "socks-proxy")
        .unwrap();
    assert_eq!(socks["source"], "--socks-proxy");
    let text = told.to_string();
    assert!(
        !text.contains("s3cr3t") && !text.contains("hidden"),
        "{text}"
    );
}

/// A page in a browser, which evaluates an expression per line of its standard input.
struct Page {
    guard: Guard,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Page {
    fn open(mut command: Command) -> Page {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = Guard::spawn(&mut command);
        let lines = BufReader::new(guard.0.stdout.take().unwrap()).lines();
        let mut page = Page { guard, lines };
        assert_eq!(page.line(), "loaded");
        page
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the browser is running").unwrap()
    }

    /// Waits until this expression is true on the page.
    fn shows(&mut self, expression: &str) {
        self.ask(expression);
        assert_eq!(self.line(), "\"yes\"", "{expression}");
    }

    fn ask(&mut self, expression: &str) {
        let patience = 2 * PATIENCE.as_millis() as u64;
        self.tell(&serde_json::json!([expression, patience]));
    }

    /// Has the browser do something, which `tests/peers/status.mjs` lists.
    fn does(&mut self, what: serde_json::Value) {
        self.tell(&what);
        assert_eq!(self.line(), "\"yes\"", "{what}");
    }

    fn tell(&mut self, what: &serde_json::Value) {
        let input = self.guard.0.stdin.as_mut().unwrap();
        writeln!(input, "{what}").unwrap();
    }
}

/// The least contrast of a text with what is behind it (WCAG 2.2, 1.4.3).
const LEAST_CONTRAST: f64 = 4.5;

/// True if the page's text is legible: each text that is shown contrasts with the nearest
/// background behind it.
fn is_legible() -> String {
    format!(
        "(() => {{
          const channels = c => c.match(/[\\d.]+/g).map(Number);
          const light = c => {{
            const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          }};
          const behind = e => {{
            const c = channels(getComputedStyle(e).backgroundColor);
            if (c.length === 3) return c;
            const [under, alpha] = [e.parentElement ? behind(e.parentElement) : [255, 255, 255], c[3]];
            return under.map((v, n) => alpha * c[n] + (1 - alpha) * v);
          }};
          const texts = [...document.body.querySelectorAll('*')].filter(e => e.offsetParent &&
            [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
          return texts.length > 20 && texts.every(e => {{
            const [a, b] = [light(channels(getComputedStyle(e).color)), light(behind(e))];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) >= {LEAST_CONTRAST};
          }});
        }})()"
    )
}

/// Checks the page in `browser`, which also prints a line for each error on the page's console:
/// the line would be taken for the next answer and fail the test.
pub fn the_page_in_a_browser_shows_what_happens(browser: impl FnOnce(&str) -> Command) {
    let upstream = origin(|mut client| {
        let Some(head) = client.try_head() else {
            return;
        };
        match head.contains("/broken") {
            // Closes without a response.
            true => {}
            false => {
                client.send(&switching(&head));
                client.rest_or_reset();
            }
        }
    });
    let upstream = upstream.to_string();
    let (proxy, address) = watched(&["-u", &upstream]);
    let mut page = Page::open(browser(&format!("http://{address}/")));
    let tile = |name: &str, value: &str| {
        format!(
            "[...document.querySelectorAll('.tile')].some(t => \
             t.querySelector('h3').textContent === '{name}' && \
             t.querySelector('.value').textContent === '{value}')"
        )
    };
    page.shows("document.getElementById('state').textContent === 'serving'");
    page.shows(&tile("Open WebSockets", "0"));
    let mut client = proxy.connect();
    client.upgrade("/ws/chat");
    page.shows(&tile("Open WebSockets", "1"));
    drop(client);
    page.shows(&tile("Open WebSockets", "0"));
    let path = "/broken/<img%20src=x%20onerror=alert(1)>";
    let mut client = proxy.connect();
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: a'onload=alert(1).example\r\n\r\n"
    ));
    assert_eq!(client.response().status(), 502);
    page.shows("document.querySelector('.failure .stage')?.textContent === 'response'");
    page.shows("document.querySelector('.failure .advice').textContent.includes('HTTP/1.1')");
    page.shows("document.querySelector('.failure').textContent.includes('onload=alert(1)')");
    page.shows("document.getElementById('state').textContent === 'failing'");
    page.shows("document.querySelectorAll('img').length === 0");
    // The settings that were given, and all settings on demand.
    page.shows("document.getElementById('settings').textContent.includes('--upstream-host')");
    page.shows("!document.getElementById('settings').textContent.includes('drain-timeout')");
    // By the keyboard alone: the box is what comes first, and shows that it has the focus.
    page.does(serde_json::json!({ "key": "Tab" }));
    page.shows("document.activeElement.id === 'all'");
    page.shows("getComputedStyle(document.activeElement).outlineStyle !== 'none'");
    page.does(serde_json::json!({ "key": " ", "text": " " }));
    page.shows("document.getElementById('settings').textContent.includes('drain-timeout')");
    page.does(serde_json::json!({ "key": "Tab" }));
    page.shows("document.activeElement.getAttribute('href') === '/status.json'");
    // In a window and on a phone, light and dark: nothing sticks out, no column of the
    // settings is too narrow to read, and each text stands out from what is behind it.
    for (width, scheme) in [
        (1280, "light"),
        (1280, "dark"),
        (360, "dark"),
        (360, "light"),
    ] {
        page.does(serde_json::json!({ "width": width, "scheme": scheme }));
        page.shows(&format!(
            "matchMedia('(prefers-color-scheme: {scheme})').matches"
        ));
        page.shows("document.documentElement.scrollWidth <= innerWidth");
        page.shows(
            "[...document.querySelectorAll('#settings > tr > *')].every(c => c.clientWidth >= 80)",
        );
        page.shows(&is_legible());
    }
    // A proxy that does not listen: the page names it, and says what to look at.
    let dead = format!("socks5://{}", dead_address());
    let (broken, at) = watched(&["-u", "upstream.example:80", "-s", &dead]);
    page.does(serde_json::json!({ "url": format!("http://{at}/") }));
    page.shows("document.getElementById('state').textContent === 'serving'");
    assert_eq!(broken.get("/").status(), 502);
    page.shows("document.querySelector('.hop[data-state=failed] h3')?.textContent === 'Proxy'");
    page.shows("document.querySelector('.failure .stage').textContent === 'proxy-connect'");
    page.shows("document.querySelector('.advice').textContent.includes('the proxy listens')");
    page.does(serde_json::json!({ "url": format!("http://{address}/") }));
    page.shows("document.getElementById('state').textContent === 'failing'");
    drop((broken, proxy));
    // From here on the console has an error for each fetch that fails.
    page.ask("!document.getElementById('lost').hidden");
    let mut answer = page.line();
    while answer.starts_with("error Failed to load resource") {
        answer = page.line();
    }
    assert_eq!(answer, "\"yes\"");
}
