//! Who is served while others hold connections, flood, or stay silent.

use std::time::{Duration, Instant};

use crate::support::*;

/// What a client that left did not read was discarded without a turn for anybody else, for as
/// long as an upstream over TLS went on sending.
pub fn a_flood_behind_a_reset_holds_nobody_up() {
    // Generous: a flood without a pause could stop the thread for as long as 15 s.
    const BOUND: Duration = Duration::from_secs(5);
    let upstream = tls_origin("origin.test", |mut client| {
        let head = client.head();
        if field(&head, "upgrade").is_some() {
            client.send(&switching(&head));
            let flood = vec![0x5a; 256 * 1024];
            while client.try_send(&flood) {}
        }
    });
    let args = ["--tls", "on", "--threads", "1", "--health-path", "/healthz"];
    let proxy = Proxy::before(upstream, &args);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.upgrade("/");
    }
    let mut other = proxy.connect();
    for client in clients {
        client.reset();
    }
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let asked = Instant::now();
        other.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(other.response().status(), 200);
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < BOUND, "{longest:?}");
}
