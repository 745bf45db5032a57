//! Why the route to the upstream failed: the stage, the cause as text, and the status that the
//! client gets. Also decides which I/O errors are an ordinary close.

use std::fmt;
use std::io;

use crate::config::{Config, Route};
use crate::language::Text;

/// The result of dialing the route or of one exchange over it.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The stage in which a request failed, as the log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking up the first hop's name.
    Resolve,
    /// Connecting to the upstream itself.
    Connect,
    /// Connecting to the proxy, including TLS to it, and waiting for its reply.
    ProxyConnect,
    /// Presenting credentials to the proxy.
    ProxyAuth,
    /// The proxy replied that it would not or could not connect.
    ProxyRefused,
    /// The TLS handshake with the upstream.
    Tls,
    /// Sending the request and receiving the response.
    Response,
}

impl Stage {
    /// Every stage, in order.
    pub(crate) const ALL: [Stage; 7] = [
        Stage::Resolve,
        Stage::Connect,
        Stage::ProxyConnect,
        Stage::ProxyAuth,
        Stage::ProxyRefused,
        Stage::Tls,
        Stage::Response,
    ];

    /// The name of the stage in the log and in responses to clients.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Resolve => "resolve",
            Stage::Connect => "connect",
            Stage::ProxyConnect => "proxy-connect",
            Stage::ProxyAuth => "proxy-auth",
            Stage::ProxyRefused => "proxy-refused",
            Stage::Tls => "tls",
            Stage::Response => "response",
        }
    }
}

/// A failure on the route to the upstream. Displays the stage and the cause, without the address,
/// so that it may be shown to a client; `address` is for the log.
#[derive(Debug, Clone)]
pub struct Error {
    /// The stage that failed.
    pub stage: Stage,
    /// What went wrong, as text without address or credential.
    pub cause: String,
    /// The proxy's own text about the failure, which is never sent to a client.
    pub said: String,
    /// The peer that failed, as `host:port`.
    pub address: String,
    /// The error type of RFC 9209 §2.3 that fits best.
    pub token: &'static str,
    /// Whether the stage timed out (504) instead of failing otherwise (502).
    pub timed_out: bool,
}

impl Error {
    /// A failure of the given stage with this cause.
    pub(crate) fn new(stage: Stage, token: &'static str, cause: impl Into<String>) -> Error {
        Error {
            stage,
            cause: cause.into(),
            said: String::new(),
            address: String::new(),
            token,
            timed_out: false,
        }
    }

    /// A failure of the given stage that the operating system reported.
    pub(crate) fn io(stage: Stage, error: &io::Error) -> Error {
        let mut failure = Error::new(stage, io_token(stage, error), describe(error));
        failure.timed_out = error.kind() == io::ErrorKind::TimedOut;
        failure
    }

    /// A failure of the given stage, which took longer than `after`.
    pub(crate) fn timed_out(stage: Stage, after: std::time::Duration) -> Error {
        let token = match stage {
            Stage::Response => "http_response_timeout",
            Stage::Resolve => "dns_timeout",
            _ => "connection_timeout",
        };
        let mut failure = Error::new(stage, token, format!("timed out after {after:?}"));
        failure.timed_out = true;
        failure
    }

    /// Whether a hop has refused the connection, which it may accept while fewer are open.
    pub(crate) fn is_refusal(&self) -> bool {
        let hops = [
            Stage::Connect,
            Stage::ProxyConnect,
            Stage::ProxyRefused,
            Stage::Tls,
        ];
        hops.contains(&self.stage) && !self.timed_out && self.token != "tls_certificate_error"
    }

    /// Whether the hop has refused as an overloaded one does, by closing or with a general
    /// error. A closed port or an unreachable address does not count.
    pub(crate) fn is_refusal_for_load(&self) -> bool {
        let for_load = ["connection_terminated", "destination_unavailable"];
        self.is_refusal() && for_load.contains(&self.token)
    }

    /// The cause and the proxy's own text, for the log.
    pub(crate) fn in_full(&self) -> String {
        format!("{} {}", self.cause, self.said)
            .trim_end()
            .to_owned()
    }

    /// Adds the address of the peer at fault, unless one is known.
    pub(crate) fn at(mut self, address: impl fmt::Display) -> Error {
        if self.address.is_empty() {
            self.address = address.to_string();
        }
        self
    }

    /// Advice for the person who reads the failure.
    pub(crate) fn advice(&self, config: &Config) -> Text {
        let direct = config.route == Route::Direct;
        let certificate = self.token == "tls_certificate_error";
        let on_unix_socket = self.address.starts_with("unix:");
        match self.stage {
            Stage::Resolve if direct => {
                Text::new("check the spelling of the upstream's name, or use its IP address or a proxy that can resolve it", "请检查上游域名的拼写，或改用其 IP 地址，或设置能解析该域名的代理")
            }
            Stage::Resolve => Text::new("check the spelling of the proxy's name, or use its IP address", "请检查代理域名的拼写，或改用其 IP 地址"),
            Stage::Connect if on_unix_socket => {
                Text::new("check that the upstream listens on this socket, and that this user may connect to it", "请确认上游在监听此套接字，且当前用户有权连接")
            }
            Stage::ProxyConnect if on_unix_socket => {
                Text::new("check that the proxy listens on this socket and speaks SOCKS5, and that this user may connect to it", "请确认代理在监听此套接字并支持 SOCKS5，且当前用户有权连接")
            }
            Stage::Connect if self.timed_out => {
                Text::new("a firewall may be dropping the packets; if only a proxy can reach the upstream, set one", "可能被防火墙拦截；如果只能经代理访问，请设置代理")
            }
            Stage::Connect => {
                Text::new("check that the upstream listens on this port; if only a proxy can reach it, set one", "请确认上游在监听此端口；如果只能经代理访问，请设置代理")
            }
            Stage::ProxyConnect if certificate => {
                Text::new("trust the proxy's root certificate with --tls-ca, or use http:// for the proxy", "请用 --tls-ca 信任代理的根证书，或改用 http:// 连接代理")
            }
            Stage::ProxyConnect => {
                Text::new("check that the proxy listens on this port and is of this kind (socks5, http or https)", "请确认代理在监听此端口，且类型正确（socks5、http 或 https）")
            }
            Stage::ProxyAuth => {
                Text::new("check the user name and password in the proxy's URL; write % as %25, / as %2F, ? as %3F, # as %23", "请检查代理 URL 中的用户名和密码；% 写成 %25，/ 写成 %2F，? 写成 %3F，# 写成 %23")
            }
            Stage::ProxyRefused => {
                Text::new("the proxy works; check that it allows connections to this host and port, and can reach them", "代理本身工作正常；请确认它允许连接此主机和端口，并且能够到达")
            }
            Stage::Tls if certificate => {
                Text::new("trust its root certificate with --tls-ca, set the expected name with --tls-name, or leave out --tls-verify", "请用 --tls-ca 信任其根证书，或用 --tls-name 指定证书上的名称，或去掉 --tls-verify")
            }
            Stage::Tls if self.timed_out => Text::new("check that the upstream speaks TLS on this port, or use --tls off", "请确认上游的此端口使用 TLS，否则请用 --tls off"),
            Stage::Tls => {
                Text::new("check that the upstream speaks TLS on this port, or use --tls off; if it expects another name, use --tls-name", "请确认上游的此端口使用 TLS，否则请用 --tls off；如果它要求其他服务器名称，请用 --tls-name")
            }
            Stage::Response if self.cause.contains("returned 403") => {
                match (&config.rewrite.host, config.rewrite.map_off) {
                    (None, _) => Text::new(
                        "the upstream may check Origin; send its own name with --host-header, or another Origin with --header",
                        "上游可能检查 Origin；请用 --host-header 指定它自己的域名，或用 --header 另设 Origin",
                    ),
                    (Some(_), true) => Text::new(
                        "the upstream may check Origin; leave out --map off",
                        "上游可能检查 Origin；请去掉 --map off",
                    ),
                    // The upstream already got its own name as Origin.
                    (Some(_), false) => Text::new(
                        "the upstream may require a login, or an Origin other than its own name; --header can set either",
                        "上游可能要求登录，或要求不同于自身域名的 Origin；两者都可用 --header 设置",
                    ),
                }
            }
            Stage::Response if self.cause.contains("WebSocket") => {
                Text::new("check the path, and whether the upstream expects another Host (--host-header)", "请检查路径，以及上游是否要求其他 Host（--host-header）")
            }
            Stage::Response if config.tls.is_none() => {
                Text::new("if the upstream speaks TLS on this port, use --tls on; otherwise check that it speaks HTTP/1.1, and see its own log", "如果上游的此端口使用 TLS，请用 --tls on；否则请确认它支持 HTTP/1.1，并查看上游自己的日志")
            }
            Stage::Response => Text::new("check that the upstream speaks HTTP/1.1, and see its own log", "请确认上游支持 HTTP/1.1，并查看上游自己的日志"),
        }
    }

    /// The status that a client gets for this failure (RFC 9110 §15.6.3, §15.6.5).
    pub(crate) fn status(&self) -> u16 {
        if self.timed_out {
            504
        } else {
            502
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage.name(), self.cause)
    }
}

impl std::error::Error for Error {}

/// Whether an error means that the peer closed, which is ordinary however abrupt.
pub(crate) fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted | NotConnected | WriteZero
    )
}

/// Describes an I/O error as lower-case text, without the operating system's number.
pub(crate) fn describe(error: &io::Error) -> String {
    use io::ErrorKind::*;
    let words = match error.kind() {
        ConnectionRefused => "connection refused",
        ConnectionReset => "connection reset by peer",
        ConnectionAborted => "connection aborted",
        BrokenPipe => "broken pipe",
        UnexpectedEof => "connection closed too early",
        NetworkUnreachable => "network is unreachable",
        HostUnreachable => "host is unreachable",
        TimedOut => "timed out",
        PermissionDenied => "permission denied",
        AddrInUse => "address already in use",
        AddrNotAvailable => "address not available",
        _ => {
            let text = error.to_string();
            return match text.split_once(" (os error") {
                Some((words, _)) => words.to_lowercase(),
                None => text,
            };
        }
    };
    words.to_owned()
}

fn io_token(stage: Stage, error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    match (stage, error.kind()) {
        (Stage::Resolve, _) => "dns_error",
        (_, ConnectionRefused) => "connection_refused",
        (_, TimedOut) => "connection_timeout",
        (Stage::Connect | Stage::ProxyConnect, NetworkUnreachable | HostUnreachable) => {
            "destination_ip_unroutable"
        }
        (Stage::Response, _) => "http_response_incomplete",
        _ => "connection_terminated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_display_has_the_stage_but_no_address() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::io(Stage::Connect, &refused).at("192.0.2.1:80");
        assert_eq!(error.to_string(), "connect: connection refused");
        assert_eq!(error.status(), 502);
        assert_eq!(error.token, "connection_refused");
    }

    #[test]
    fn a_timeout_is_504() {
        let error = Error::timed_out(Stage::Tls, std::time::Duration::from_secs(10));
        assert_eq!(error.status(), 504);
        assert_eq!(error.to_string(), "tls: timed out after 10s");
    }
}
