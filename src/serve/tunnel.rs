//! What follows an upgrade: the relay, and the close of both connections.

use std::future::Future;
use std::time::Instant;

use futures_lite::future;

use crate::http::request::Protocol;
use crate::net::deadline::Deadline;
use crate::net::stream::Connection;
use crate::report::combined::Access;
use crate::report::log;
use crate::report::metrics::Counters;
use crate::report::subject::Client;
use crate::serve::door::Permit;
use crate::serve::linger::linger;
use crate::serve::relay::relay;
use crate::serve::worker::Worker;

/// The upgrade that the last request of a session has become.
pub(super) struct Upgraded {
    /// The client.
    pub(super) downstream: Connection,
    /// The upstream that answered 101.
    pub(super) upstream: Connection,
    /// The protocol that the two now speak.
    pub(super) protocol: Protocol,
    /// The client's slot, held until the end of the tunnel.
    pub(super) slot: Permit,
    /// The entry of the access log, where one is kept.
    pub(super) access: Option<Box<Access>>,
}

/// Relays the two connections of an upgrade, and closes them.
#[allow(clippy::manual_async_fn)]
pub(super) fn tunnel<'a>(
    worker: &'a Worker,
    client: &'a Client,
    mut upgraded: Upgraded,
) -> impl Future<Output = ()> + use<'a> {
    async move {
        let _until_the_end = &upgraded.slot;
        log::upgraded(client, upgraded.protocol.name());
        let start = Instant::now();
        let open = OpenUpgrade::counted(worker.counters());
        let ended = relay(worker, &mut upgraded.downstream, &mut upgraded.upstream).await;
        drop(open);
        let carried = (ended.to_upstream, ended.to_downstream);
        log::upgrade_closed(client, upgraded.protocol.name(), start.elapsed(), carried);
        if let Some(mut access) = upgraded.access {
            access.answered(client, 101, ended.to_downstream);
        }
        if ended.client_reset {
            // No client is left to read what the upstream still sends.
            return;
        }
        // If the upstream has reset, the client may still be reading what it was sent.
        let one = linger_alone(worker, upgraded.downstream);
        let other = linger_alone(worker, upgraded.upstream);
        Box::pin(future::zip(one, other)).await;
    }
}

/// Counts the end of an upgrade when it is dropped.
struct OpenUpgrade<'a>(&'a Counters);

impl OpenUpgrade<'_> {
    fn counted(counters: &Counters) -> OpenUpgrade<'_> {
        counters.upgrades.add(1);
        OpenUpgrade(counters)
    }
}

impl Drop for OpenUpgrade<'_> {
    fn drop(&mut self) {
        self.0.upgrades_closed.add(1);
    }
}

async fn linger_alone(worker: &Worker, connection: Connection) {
    let deadline = Deadline::new(&worker.timers);
    linger(worker, connection, &deadline, None).await;
}

// The portable relay is larger.
#[cfg(all(test, not(portable)))]
mod tests {
    use super::*;

    /// The size of a tunnel's future, without buffers and sockets.
    #[test]
    fn a_tunnel_is_small() {
        fn size<F>(_: impl FnOnce(&'static Worker, &'static Client, Upgraded) -> F) -> usize {
            size_of::<F>()
        }
        let tunnel = size(tunnel);
        // 32 bytes of it count the connections of their hop and detect a dead path.
        assert!(tunnel <= 760, "{tunnel} bytes for a tunnel");
    }
}
