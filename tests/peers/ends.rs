//! How real clients behave when a connection ends: a tab that is closed while responses are
//! outstanding, and a request whose upstream closes the connection without a response.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;
use super::tab::Tab;
use crate::support::*;

pub fn trials() -> Vec<Trial> {
    let chromium = [Need::Command("chromium"), Need::Command("node")];
    vec![
        trial(
            "closing_a_tab_of_chromium_ends_its_requests",
            &chromium,
            closing_a_tab_of_chromium_ends_its_requests,
        ),
        trial(
            "chromium_sends_no_post_twice",
            &chromium,
            chromium_sends_no_post_twice,
        ),
        trial(
            "curl_sends_no_post_twice",
            &[Need::Command("curl")],
            curl_sends_no_post_twice,
        ),
    ]
}

/// The page that the requests are sent from.
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n<p>page";

fn closing_a_tab_of_chromium_ends_its_requests() {
    let _turn = one_browser();
    let (ended, ends) = channel::<&'static str>();
    let ended: Mutex<Sender<_>> = Mutex::new(ended);
    let upstream = origin(move |mut client| {
        while let Some(head) = client.try_head() {
            let what = match head.split(' ').nth(1) {
                Some("/events") => {
                    client.send(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                         Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
                    );
                    "events"
                }
                Some("/never") => "never",
                Some("/ws") => {
                    client.send(&switching(&head));
                    "ws"
                }
                _ => {
                    client.send(PAGE);
                    continue;
                }
            };
            client.rest_or_reset();
            let ended = ended.lock().expect("a sender");
            return ended.send(what).expect("a receiver");
        }
    });
    // No timeout of the program ends a request.
    let flags = [
        "--direct",
        "--response-timeout=3600",
        "--connect-timeout=3600",
    ];
    let proxy = Tested::start(upstream, &flags.map(str::to_owned));
    let mut tab = Tab::open(
        &proxy.url("/"),
        "fetch('/never'); Promise.all([
          new Promise(done => new EventSource('/events').onmessage = done),
          new Promise(done => new WebSocket('ws://' + location.host + '/ws').onopen = done),
        ]).then(() => 'all open')",
    );
    assert_eq!(tab.said(), "all open");
    let mut seen: Vec<_> = (0..3)
        .map(|_| ends.recv_timeout(PATIENCE).expect("an end"))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, ["events", "never", "ws"]);
}

/// An origin that answers GET, and closes the connection one second after a POST, without a
/// response. Returned with the number of POSTs that it received.
fn closes_after_posts() -> (SocketAddr, &'static AtomicU32) {
    let posts: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
    let upstream = origin(|mut client| {
        while let Some(head) = client.try_head() {
            if head.starts_with("POST ") {
                client.exactly(2);
                posts.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_secs(1));
                return;
            }
            // The connection stays open however long the client takes between two requests.
            client.send(&PAGE.replace("\r\n\r\n", "\r\nKeep-Alive: timeout=600\r\n\r\n"));
        }
    });
    (upstream, posts)
}

fn chromium_sends_no_post_twice() {
    let _turn = one_browser();
    let (upstream, posts) = closes_after_posts();
    let proxy = Tested::start(upstream, &["--direct".to_owned()]);
    let mut tab = Tab::open(
        &proxy.url("/"),
        "fetch('/again').then(answer => answer.text())
          .then(() => fetch('/pay', { method: 'POST', body: 'hi' }))
          .then(answer => answer.status)",
    );
    assert_eq!(tab.said(), "502");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

fn curl_sends_no_post_twice() {
    let (upstream, posts) = closes_after_posts();
    let proxy = Tested::start(upstream, &["--direct".to_owned()]);
    let (page, pay): (&str, &str) = (&proxy.url("/"), &proxy.url("/pay"));
    let next = ["--next", "-sS", "--noproxy", "*", "--max-time", "60"];
    let request = ["-d", "hi", "-o", "/dev/null", "-w", " %{http_code}", pay];
    let seen = curl_text(&[&[page, page][..], &next, &request].concat());
    assert_eq!(seen, "<p>page<p>page 502");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}
