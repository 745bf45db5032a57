//! Which of this thread's sockets are ready, and how the thread waits for them.
//!
//! Each socket is registered once, edge-triggered, in an epoll set of its thread: no wait
//! costs a system call of its own, and threads never wake each other for sockets. Timers,
//! signals and whatever else is rare come from async-io, through an eventfd. That is Linux.
//! On every other Unix, and with the feature `portable`, async-io's `Async` stands in.

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

/// The smallest share of a turn, however many there are.
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
    fn bytes_and_an_end_under_one_edge_are_both_seen() {
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
    fn room_to_write_is_told_once_it_was_missed() {
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
    fn an_end_and_a_reset_are_told_while_bytes_are_unread() {
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

    /// Whoever looks into /proc holds a socket for a moment; that of a closed one then told a
    /// new socket of its end.
    #[cfg(not(portable))]
    #[test]
    fn a_socket_is_not_told_of_an_earlier_one() {
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
    fn the_clock_stands_within_a_turn_only() {
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
    fn the_more_there_are_the_smaller_their_shares() {
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
    fn other_threads_wake_it() {
        let woken = block_on(smol::unblock(|| 7), || None);
        assert_eq!(woken.expect("the reactor runs"), 7);
    }
}
