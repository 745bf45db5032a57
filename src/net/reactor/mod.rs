//! Which of this thread's sockets are ready, and how the thread waits for them.
//!
//! On Linux, each socket is registered once, edge-triggered, in its thread's own epoll set: a
//! wait for one socket needs no system call, and threads never wake each other for sockets.
//! Rare events such as timers and signals come from async-io, through an eventfd. On every
//! other Unix, and with the feature `portable`, async-io's `Async` is used instead.

#[cfg(not(portable))]
mod epoll;
#[cfg(portable)]
mod portable;

#[cfg(not(portable))]
pub use epoll::{
    all_told, block_on, looks, next_look, next_turn, now, poll_stirred, share, wake_next_turn,
    Source, BLIND,
};
#[cfg(portable)]
pub use portable::{
    all_told, block_on, looks, next_look, next_turn, now, poll_stirred, share, wake_next_turn,
    Source, BLIND,
};

/// The least that `share` returns, in bytes, however many tasks are ready.
pub const SMALLEST_SHARE: usize = 64 * 1024;

/// What a socket may be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Bytes, an end or a connection have arrived.
    Read,
    /// There is room for bytes to be sent.
    Write,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use futures_lite::future::poll_once;
    use socket2::SockRef;

    /// Two ends of a connection, the first of them non-blocking.
    pub(crate) fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        let here = TcpStream::connect(address).expect("it listens");
        let (there, _) = listener.accept().expect("it was connected");
        here.set_nonblocking(true).expect("a socket");
        (here, there)
    }

    #[test]
    fn bytes_and_fin_reported_by_one_edge_are_both_read() {
        let (here, mut there) = pair();
        there.write_all(b"bye").expect("connected");
        drop(there);
        let read = block_on(
            async {
                let source = Source::new(here).expect("registered");
                let mut all = Vec::new();
                loop {
                    poll_fn(|cx| source.poll_ready(Direction::Read, cx)).await;
                    let mut buf = [0; 64];
                    match source.get_ref().read(&mut buf) {
                        Ok(0) => return all,
                        Ok(n) => {
                            all.extend_from_slice(&buf[..n]);
                            source.ran_dry();
                        }
                        Err(_) => source.would_block(Direction::Read),
                    }
                }
            },
            || None,
        );
        assert_eq!(read.expect("the reactor runs"), b"bye");
    }

    #[test]
    fn writability_is_reported_after_a_write_blocked() {
        let (here, mut there) = pair();
        let written = block_on(
            async {
                let source = Source::new(here).expect("registered");
                let mut written = 0;
                let mut blocked = 0;
                while blocked < 3 {
                    poll_fn(|cx| source.poll_ready(Direction::Write, cx)).await;
                    match source.get_ref().write(&[7; 65_536]) {
                        Ok(n) => written += n,
                        Err(_) => {
                            source.would_block(Direction::Write);
                            blocked += 1;
                            let mut sink = vec![0; written];
                            there.read_exact(&mut sink).expect("connected");
                            written = 0;
                        }
                    }
                }
                written
            },
            || None,
        );
        assert!(written.is_ok());
    }

    #[test]
    fn fin_and_reset_are_reported_while_bytes_are_unread() {
        let told = block_on(
            async {
                let (here, mut there) = pair();
                let source = Source::new(here).expect("registered");
                there.write_all(b"unread").expect("connected");
                there.shutdown(Shutdown::Write).expect("connected");
                poll_fn(|cx| source.poll_hung_up(cx)).await;
                let too_early = poll_once(poll_fn(|cx| source.poll_broken(cx))).await;
                let linger = SockRef::from(&there).set_linger(Some(Duration::ZERO));
                linger.expect("connected");
                drop(there);
                poll_fn(|cx| source.poll_broken(cx)).await;
                too_early
            },
            || None,
        );
        assert_eq!(told.expect("the reactor runs"), None);
    }

    /// A process that inspects /proc may hold a socket for a moment after it was closed. Events
    /// of the closed socket were then taken for those of a new one with the same slab key.
    #[cfg(not(portable))]
    #[test]
    fn events_of_a_closed_socket_do_not_reach_a_new_one_with_its_key() {
        let told = block_on(
            async {
                let (old, old_peer) = pair();
                let (new, _new_peer) = pair();
                let _held = old.try_clone().expect("a descriptor is left");
                drop(Source::new(old).expect("registered"));
                let source = Source::new(new).expect("registered");
                drop(old_peer);
                next_turn().await;
                next_turn().await;
                poll_fn(|cx| std::task::Poll::Ready(source.poll_hung_up(cx).is_ready())).await
            },
            || None,
        );
        assert!(!told.expect("the reactor runs"));
    }

    #[cfg(not(portable))]
    #[test]
    fn the_time_is_cached_within_one_turn_only() {
        let pause = || std::thread::sleep(Duration::from_millis(2));
        let read = async {
            let first = now();
            pause();
            let second = now();
            next_turn().await;
            (first, second, now())
        };
        let (first, second, third) = block_on(read, || None).expect("the reactor runs");
        assert!(first == second && second < third);
        let outside = now();
        pause();
        assert!(third < outside && outside < now());
    }

    #[cfg(not(portable))]
    #[test]
    fn shares_shrink_as_more_tasks_are_ready() {
        use std::future::Future;
        use std::task::Poll;

        let shares = [1, 32, 1000].map(|crowd| {
            let mut turns: Vec<_> = (0..crowd).map(|_| Box::pin(next_turn())).collect();
            let after = poll_fn(|cx| {
                turns.retain_mut(|turn| turn.as_mut().poll(cx).is_pending());
                match turns.is_empty() {
                    true => Poll::Ready(share()),
                    false => Poll::Pending,
                }
            });
            block_on(after, || None).expect("the reactor runs")
        });
        assert_eq!(shares, [1024 * 1024, 256 * 1024, 64 * 1024]);
    }

    #[test]
    fn other_threads_wake_the_reactor() {
        let woken = block_on(smol::unblock(|| 7), || None);
        assert_eq!(woken.expect("the reactor runs"), 7);
    }
}
