//! Listening sockets, TCP or unix: inherited from a service manager, or bound here. Every thread
//! gets its own handle for every address.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::both;
use crate::complaint::Complaint;
use crate::config::{Bind, Listen};
use crate::error::describe;
use crate::language::{Language, Text, Words};
use crate::net::calls::{is_listener, open_stream};
use crate::net::socket::set_options;
use crate::text::Escaped;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The message for a port that only a privileged process may bind (ip(7)).
const PRIVILEGED: Text = Text::new(
    "permission denied; ports below 1024 need a privilege: take another one, such as -p 8080, \
     or grant CAP_NET_BIND_SERVICE",
    "permission denied；1024 以下的端口需要特权：请换一个端口，例如 -p 8080，\
     或授予 CAP_NET_BIND_SERVICE",
);

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST_INHERITED: RawFd = 3;

/// The listeners of all threads. Unix sockets are held in `TcpListener` as well, since the
/// operations on their descriptors are the same.
pub struct Listeners {
    /// The listeners of each thread.
    pub of_threads: Vec<Vec<TcpListener>>,
    /// The unix socket that was bound here, if any; it is removed when this is dropped.
    pub file: Option<SocketFile>,
}

impl Listeners {
    /// The addresses as they are logged.
    pub fn addresses(&self) -> Vec<String> {
        let listeners = self.of_threads.first();
        listeners.into_iter().flatten().filter_map(shown).collect()
    }
}

/// The address of a listener: `ADDRESS:PORT` or `unix:PATH`; `unix:@NAME` for a socket in the
/// abstract namespace (unix(7)), which a service manager has bound.
fn shown(listener: &TcpListener) -> Option<String> {
    let address = SockRef::from(listener).local_addr().ok()?;
    if let Some(address) = address.as_socket() {
        return Some(address.to_string());
    }
    match address.as_pathname() {
        Some(path) => Some(format!("unix:{}", path.display())),
        None => {
            let name = address.as_abstract_namespace()?;
            Some(format!("unix:@{}", Escaped(name)))
        }
    }
}

/// Why an address cannot be listened on, and what to do about it.
fn refusal(error: &io::Error) -> Words {
    let cause = describe(error);
    match error.kind() {
        io::ErrorKind::AddrInUse => both!(
            "{cause}; choose another one, or stop the program that uses it",
            "{cause}；请换一个，或停止占用它的程序"
        ),
        io::ErrorKind::AlreadyExists => Words::new(
            "the file there is not a socket; choose another path, or remove the file",
            "该路径上已有文件，且不是套接字；请换一个路径，或删除该文件",
        ),
        io::ErrorKind::AddrNotAvailable => both!(
            "{cause}; choose an address of this machine",
            "{cause}；请选用本机的地址"
        ),
        _ => Words::same(cause),
    }
}

/// The listeners for `threads` threads: the inherited ones, else those bound to `listen`. Must
/// be called once, before any other descriptor is opened.
pub fn listeners(listen: &Listen, threads: usize) -> Result<Listeners, Complaint> {
    let mut shared = inherit()?;
    let mut file = None;
    if shared.is_empty() {
        let port = listen.port;
        let address = match &listen.bind {
            Some(Bind::Unix(path)) => {
                let bound = bind_unix(path, listen.mode);
                let (listener, bound) = bound.map_err(|error| {
                    let source = both!("listen on unix:{path}", "监听 unix:{path}");
                    Complaint::about(source, refusal(&error))
                })?;
                shared.push(listener);
                file = Some(bound);
                None
            }
            Some(Bind::Address(address)) => Some(*address),
            None => None,
        };
        if file.is_none() {
            let bound = bind(address, port, threads).map_err(|error| {
                let source = match address {
                    Some(address) => {
                        both!(
                            "listen on {address} port {port}",
                            "监听 {address} 端口 {port}"
                        )
                    }
                    None => both!("listen on port {port}", "监听端口 {port}"),
                };
                let problem = match error.kind() {
                    io::ErrorKind::PermissionDenied if port < 1024 => PRIVILEGED.words(),
                    _ => refusal(&error),
                };
                Complaint::about(source, problem)
            });
            let of_threads = bound?.into_iter().map(|listener| vec![listener]).collect();
            return Ok(Listeners { of_threads, file });
        }
    }
    let share = || shared.iter().map(TcpListener::try_clone).collect();
    let of_threads: io::Result<Vec<_>> = (0..threads).map(|_| share()).collect();
    Ok(Listeners {
        of_threads: of_threads.map_err(|error| Complaint::io(Words::same("LISTEN_FDS"), &error))?,
        file,
    })
}

/// The file of a unix socket that was bound here. It is removed when this is dropped, which must
/// happen while the socket still listens: after that, the next process may replace the file.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have replaced the file.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens on a path. The file of a socket that no process listens on any more is replaced; any
/// other file, and a socket in use, is an error.
fn bind_unix(path: &str, mode: u32) -> io::Result<(TcpListener, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = open_stream(Domain::UNIX)?;
    if let Err(error) = socket.bind(&address) {
        let probe = open_stream(Domain::UNIX)?;
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        if !fs::symlink_metadata(path)?.file_type().is_socket() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let is_stale = probe
            .connect(&address)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    let file = SocketFile {
        path: path.into(),
        identity: identity(path.as_ref())?,
    };
    // The mode is set before `listen`: no client can connect earlier.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((socket.into(), file))
}

/// A listener for the metrics or the status page; errors name `source`, a flag or a variable.
pub fn watched(source: &str, address: SocketAddr) -> Result<TcpListener, Complaint> {
    let bound = bind_one(address, false).and_then(|listener| {
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let problem = refusal(&error);
        let at = |language| format!("{address}: {}", problem.say(language));
        let problem = Words::made(at(Language::English), at(Language::Chinese));
        Complaint::new(source, problem)
    })
}

/// The sockets of LISTEN_FDS, if LISTEN_PID is this process.
fn inherit() -> Result<Vec<TcpListener>, Complaint> {
    let complaint = |problem: Words| Complaint::new("LISTEN_FDS", problem);
    let variable = |name| std::env::var(name).ok();
    let (Some(pid), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    if pid != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count: RawFd = match count.parse() {
        Ok(count @ 0..=1024) => count,
        _ => {
            return Err(complaint(Words::new(
                "not a number of sockets",
                "不是套接字的数量",
            )))
        }
    };
    (FIRST_INHERITED..FIRST_INHERITED + count)
        .map(|fd| {
            // SAFETY: the service manager opened this descriptor for this process alone
            // (LISTEN_PID), and this is the only place that takes it.
            #[allow(unsafe_code)]
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let is_listener = is_listener(&socket)
                && matches!(socket.r#type(), Ok(Type::STREAM))
                && matches!(socket.local_addr(), Ok(address) if is_known(&address));
            if !is_listener {
                // Dropping it would close a descriptor that may belong to other code.
                std::mem::forget(socket);
                return Err(complaint(both!(
                    "descriptor {fd} is not a listening TCP or unix socket",
                    "描述符 {fd} 不是监听的 TCP 或 unix 套接字"
                )));
            }
            socket
                .set_nonblocking(true)
                .and_then(|()| socket.set_cloexec(true))
                .and_then(|()| match socket.local_addr()?.is_unix() {
                    true => Ok(()),
                    false => set_options(&socket),
                })
                .map_err(|error| complaint(Words::same(crate::error::describe(&error))))?;
            Ok(socket.into())
        })
        .collect()
}

fn is_known(address: &SockAddr) -> bool {
    address.as_socket().is_some() || address.is_unix()
}

/// Binds `count` listeners that share the connections to one address. Fails when any
/// other process listens there.
fn bind(address: Option<IpAddr>, port: u16, count: usize) -> io::Result<Vec<TcpListener>> {
    let any = |address: IpAddr| SocketAddr::new(address, port);
    let first = match address {
        Some(address) => bind_one(any(address), false)?,
        // Both families if the kernel has IPv6, else only IPv4.
        None => match bind_one(any(Ipv6Addr::UNSPECIFIED.into()), false) {
            Err(error) if is_without_ipv6(&error) => {
                bind_one(any(Ipv4Addr::UNSPECIFIED.into()), false)?
            }
            bound => bound?,
        },
    };
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    if count > 1 {
        // SO_REUSEPORT is set only after the first bind, which therefore fails on an occupied
        // port.
        SockRef::from(&listeners[0]).set_reuse_port(true)?;
        for _ in 1..count {
            listeners.push(bind_one(address, true)?);
        }
    }
    for listener in &listeners {
        rustix::net::listen(listener, BACKLOG)?;
    }
    Ok(listeners)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = open_stream(Domain::for_address(address))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    set_options(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_an_error_with_any_number_of_threads() {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        let first = bind(loopback, 0, 3).expect("a free port");
        assert_eq!(first.len(), 3);
        let port = first[0].local_addr().expect("bound").port();
        assert!(first
            .iter()
            .all(|l| l.local_addr().is_ok_and(|a| a.port() == port)));
        for count in [1, 2] {
            let kind = bind(loopback, port, count).map(drop).map_err(|e| e.kind());
            assert_eq!(kind, Err(io::ErrorKind::AddrInUse), "{count}");
        }
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_no_other_file() {
        let name = format!("simple-proxy-{}-listen", std::process::id());
        let path = std::env::temp_dir().join(name);
        let path = path.to_str().expect("UTF-8");
        let _ = fs::remove_file(path);
        let kind = |bound: io::Result<_>| bound.map(drop).map_err(|error: io::Error| error.kind());
        let (listener, file) = bind_unix(path, 0o600).expect("a new path");
        let mode = fs::metadata(path).expect("the socket file exists").mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(shown(&listener), Some(format!("unix:{path}")));
        assert_eq!(kind(bind_unix(path, 0o600)), Err(io::ErrorKind::AddrInUse));
        drop(listener);
        // Renamed, so that its inode stays taken.
        let other = format!("{path}-other");
        fs::rename(path, &other).expect("the file exists");
        fs::write(path, "").expect("a new file");
        drop(file);
        assert!(
            fs::metadata(path).is_ok(),
            "a file of another process is left"
        );
        fs::rename(&other, path).expect("the file exists");
        let (_listener, file) = bind_unix(path, 0o660).expect("a stale socket");
        drop(file);
        assert!(fs::metadata(path).is_err());
        fs::write(path, "precious").expect("a new file");
        let refused = bind_unix(path, 0o600).map(drop).expect_err("it is taken");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let words = refusal(&refused);
        assert!(words.say(Language::English).contains("not a socket"));
        assert_eq!(fs::read(path).expect("the file exists"), b"precious");
        fs::remove_file(path).expect("the file exists");
    }
}
