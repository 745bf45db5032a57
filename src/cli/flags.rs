//! The table of flags: everything that the program knows about a flag is in its entry.
//
// To add a flag: add an entry to the table at the end of this file (its kind, the type of its
// field in `Settings`, the function that reads one value, then metavariable, default, group
// and the help in both languages); implement the trait `Shown` for the type in `settings.rs`
// if it is not implemented yet; pass the value to its field of `Config` in `resolve.rs`; add
// an entry to the manual page, a row to docs/settings.md and docs/settings.zh-CN.md and a line
// to the CHANGELOG; run `make completions`. Help, variables, `--check` and the tests that
// compare the documents follow from the entry.

use argh::FromArgs;

use crate::cli::settings::{Given, Shown, Value};
use crate::cli::upstream::Upstream;
use crate::cli::values::*;
use crate::complaint::Complaint;
use crate::config::{Bind, Forwarded, LogFormat, TlsVersion};
use crate::edits::FieldEdits;
use crate::language::{Language, Text, Words};
use crate::network::Network;
use crate::proxy::Proxies;

/// One flag: how it is written, what it means, and its help text.
#[derive(Debug)]
pub struct Flag {
    /// With its hyphens: `--upstream-host`.
    pub long: &'static str,
    /// The letter of the short form, which follows a single hyphen.
    pub short: Option<char>,
    /// Whether it takes a value, and how many.
    pub kind: Kind,
    /// What the value is called in help and documents, in capitals.
    pub metavar: &'static str,
    /// Its environment variable: `SIMPLE_PROXY_` and the long name in capitals.
    prefixed: &'static str,
    /// A second variable that sets it, without the program's prefix.
    pub variable: Option<&'static str>,
    /// What applies when it is not given.
    pub default: Default,
    /// The values that shell completion offers.
    pub values: Offer,
    /// The heading that the help lists it under.
    pub group: Group,
    /// What it does: a phrase that begins in lower case. Completions show its first clause.
    pub help: Text,
}

/// Whether a flag takes a value, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It takes no value.
    Switch,
    /// It takes one value; the last one wins if it is given several times.
    Single,
    /// It takes one value, and all are collected if it is given several times.
    Repeatable,
    /// A value is optional, and follows `=`.
    Optional,
}

/// What applies when a flag is not given.
#[derive(Debug)]
pub enum Default {
    /// The flag must be given.
    Required,
    /// This value, read as if it were given.
    Value(&'static str),
    /// No value; this text describes what applies.
    Words(Text),
}

/// What shell completion offers for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Nothing.
    Nothing,
    /// File names.
    Files,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// A heading of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The addresses of the listener and the upstream.
    Addresses,
    /// How the upstream is reached.
    Route,
    /// TLS to the upstream.
    Tls,
    /// How requests are checked and rewritten.
    Requests,
    /// Times and sizes.
    Limits,
    /// Log, metrics and status page.
    Monitoring,
    /// Flags that do something other than serve.
    Other,
}

impl Group {
    /// All groups, in the order of the help.
    pub(crate) const ALL: [Group; 7] = [
        Group::Addresses,
        Group::Route,
        Group::Tls,
        Group::Requests,
        Group::Limits,
        Group::Monitoring,
        Group::Other,
    ];

    /// The heading.
    pub(crate) fn title(self) -> Text {
        match self {
            Group::Addresses => Text::new("Addresses", "地址"),
            Group::Route => Text::new("Route to the upstream", "到上游的路由"),
            Group::Tls => Text::new("TLS to the upstream", "到上游的 TLS"),
            Group::Requests => Text::new("Requests", "请求"),
            Group::Limits => Text::new("Limits", "限制"),
            Group::Monitoring => Text::new("Log and monitoring", "日志与监控"),
            Group::Other => Text::new("Other", "其他"),
        }
    }
}

impl Flag {
    /// The defaults for the members that an entry leaves out.
    const BASE: Flag = Flag {
        long: "",
        short: None,
        kind: Kind::Switch,
        metavar: "",
        prefixed: "",
        variable: None,
        default: Default::Value("off"),
        values: Offer::Nothing,
        group: Group::Other,
        help: Text::new("", ""),
    };

    /// Whether the next argument is its value.
    pub(crate) fn takes_value(&self) -> bool {
        matches!(self.kind, Kind::Single | Kind::Repeatable)
    }

    /// Its variable: `SIMPLE_PROXY_` and the long name in capitals. `--help`, `--version` and
    /// `--check` have none, so that no variable can keep a service from serving.
    pub fn prefixed_variable(&self) -> Option<&'static str> {
        let acts = matches!(self.long, "--help" | "--version" | "--check");
        (!acts).then_some(self.prefixed)
    }

    /// Its name without the hyphens.
    pub fn name(&self) -> &'static str {
        &self.long[2..]
    }
}

const fn hyphens<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        let byte = name.as_bytes()[at];
        bytes[at] = if byte == b'_' { b'-' } else { byte };
        at += 1;
    }
    bytes
}

const fn capitals<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = name.as_bytes()[at].to_ascii_uppercase();
        at += 1;
    }
    bytes
}

/// Generates from the entries: `Args`, which argh fills; `TABLE`, the table of flags; and
/// `Settings`, which has a field with the parsed value of each flag.
macro_rules! flags {
    ($(
        $kind:ident $name:ident: $type:ty = $read:path {
            en: $english:literal,
            zh: $chinese:literal,
            $($member:ident: $value:expr,)*
        }
    )*) => {
        /// The command line as argh parses it: each flag with its values, in order. Every
        /// field is a list of strings, even for a switch or a single value, so that argh
        /// never refuses a repeated value in a message that would show it.
        #[derive(FromArgs)]
        pub(crate) struct Args {
            $(#[argh(option)] $name: Vec<String>,)*
        }

        impl Args {
            /// The values of each flag, in the order of the table.
            pub(crate) fn values(self) -> Vec<Vec<String>> {
                vec![$(self.$name,)*]
            }
        }

        /// All flags except `--help`, in the order of the documents.
        pub(crate) static TABLE: &[Flag] = &[$(
            Flag {
                long: {
                    const NAME: &str = concat!("--", stringify!($name));
                    const BYTES: [u8; NAME.len()] = hyphens(NAME);
                    match std::str::from_utf8(&BYTES) {
                        Ok(name) => name,
                        Err(_) => "",
                    }
                },
                prefixed: {
                    const NAME: &str = concat!("SIMPLE_PROXY_", stringify!($name));
                    const BYTES: [u8; NAME.len()] = capitals(NAME);
                    match std::str::from_utf8(&BYTES) {
                        Ok(name) => name,
                        Err(_) => "",
                    }
                },
                kind: Kind::$kind,
                help: Text::new($english, $chinese),
                $($member: $value,)*
                ..Flag::BASE
            },
        )*];

        /// The settings as given or by default, each parsed and checked on its own.
        pub struct Settings {
            $(
                #[doc = $english]
                pub $name: $type,
            )*
        }

        impl Settings {
            /// Parses the values of each flag; `given` is in the order of the table.
            pub(crate) fn read(given: &[Vec<Given>]) -> Result<Settings, Complaint> {
                let mut rows = TABLE.iter().zip(given);
                Ok(Settings {
                    $($name: {
                        let (flag, given) = rows.next().expect("a list for each flag");
                        Value::read(flag, given, $read)?
                    },)*
                })
            }

            /// Each value as `--check` shows it, in the order of the table; None for an absent
            /// one, for which the text of its default is shown.
            pub(crate) fn shown(&self) -> Vec<Option<Words>> {
                vec![$(Shown::shown(&self.$name),)*]
            }
        }
    };
}

/// All flags, `--help` first.
pub fn flags() -> impl Iterator<Item = &'static Flag> {
    [&HELP].into_iter().chain(TABLE)
}

/// `--help` is not in the table: it is answered before any other flag is parsed.
static HELP: Flag = Flag {
    long: "--help",
    short: Some('h'),
    help: Text::new("print this help and exit", "显示本帮助并退出"),
    ..Flag::BASE
};

flags! {
    Single upstream_host: Upstream = upstream {
        en: "where every request goes; port 443 means TLS",
        zh: "所有请求的目的地；端口 443 表示 TLS",
        short: Some('u'),
        metavar: "HOST:PORT",
        variable: Some("UPSTREAM_HOST"),
        default: Default::Required,
        group: Group::Addresses,
    }
    Single listen_port: u16 = port {
        en: "port to listen on; 0 takes any free one",
        zh: "监听端口；0 表示任一空闲端口",
        short: Some('p'),
        metavar: "PORT",
        variable: Some("LISTEN_PORT"),
        default: Default::Value("80"),
        group: Group::Addresses,
    }
    Single bind: Option<Bind> = bind_address {
        en: "address to listen on",
        zh: "监听地址",
        short: Some('b'),
        metavar: "ADDRESS",
        default: Default::Words(Text::new("all addresses", "所有地址")),
        group: Group::Addresses,
    }
    Repeatable allow: Vec<Network> = network {
        en: "serve only clients at this address or in this range; may be repeated",
        zh: "只服务此地址或此网段的客户端；可重复给出",
        metavar: "ADDRESS[/BITS]",
        default: Default::Words(Text::new("all", "所有")),
        group: Group::Addresses,
    }
    Single listen_mode: Mode = mode {
        en: "permissions of a unix socket that is listened on",
        zh: "监听的 unix 套接字的权限",
        metavar: "OCTAL",
        default: Default::Value("0660"),
        group: Group::Addresses,
    }
    Single listen_cert: Option<Chain> = certificate_chain {
        en: "PEM file of the certificate to show clients, which then use TLS",
        zh: "向客户端出示的证书（PEM 文件）；客户端须使用 TLS",
        metavar: "FILE",
        values: Offer::Files,
        default: Default::Words(Text::new("none (no TLS)", "无（不使用 TLS）")),
        group: Group::Addresses,
    }
    Single listen_key: Option<Key> = private_key {
        en: "PEM file of its private key",
        zh: "该证书的私钥（PEM 文件）",
        metavar: "FILE",
        values: Offer::Files,
        default: Default::Words(Text::new("none", "无")),
        group: Group::Addresses,
    }
    Single socks_proxy: Option<Proxies> = socks5_proxy {
        en: "SOCKS5 proxy, socks5://[USER:PASS@]HOST[:1080]; it resolves names",
        zh: "SOCKS5 代理，socks5://[USER:PASS@]HOST[:1080]；域名由它解析",
        short: Some('s'),
        metavar: "URL",
        variable: Some("SOCKS_PROXY"),
        default: Default::Words(Text::new("none", "无")),
        group: Group::Route,
    }
    Single http_proxy: Option<Proxies> = http_proxy {
        en: "HTTP proxy, http[s]://[USER:PASS@]HOST[:PORT], used with CONNECT",
        zh: "HTTP 代理，http[s]://[USER:PASS@]HOST[:PORT]，使用 CONNECT",
        metavar: "URL",
        variable: Some("HTTP_PROXY"),
        default: Default::Words(Text::new("none", "无")),
        group: Group::Route,
    }
    Single https_proxy: Option<Proxies> = http_proxy {
        en: "HTTP proxy that is preferred when the upstream speaks TLS",
        zh: "上游使用 TLS 时优先采用的 HTTP 代理",
        metavar: "URL",
        variable: Some("HTTPS_PROXY"),
        default: Default::Words(Text::new("none", "无")),
        group: Group::Route,
    }
    Switch direct: bool = switch {
        en: "use no proxy, whatever the environment says",
        zh: "不使用代理，忽略环境变量中的代理",
        short: Some('d'),
        group: Group::Route,
    }
    Single tls: Option<bool> = tls_mode {
        en: "TLS to the upstream: auto (on port 443), on or off",
        zh: "到上游的 TLS：auto（端口 443 时启用）、on 或 off",
        metavar: "MODE",
        values: Offer::Words(&["auto", "on", "off"]),
        default: Default::Value("auto"),
        group: Group::Tls,
    }
    Single tls_name: Option<String> = dns_name {
        en: "server name sent in TLS, and checked by --tls-verify",
        zh: "TLS 握手中发送的服务器名称，--tls-verify 也校验它",
        metavar: "NAME",
        default: Default::Words(Text::new("the upstream's name", "上游的名称")),
        group: Group::Tls,
    }
    Switch tls_verify: bool = switch {
        en: "refuse an upstream certificate that is not valid",
        zh: "上游证书无效时拒绝连接",
        group: Group::Tls,
    }
    Single tls_ca: Option<Roots> = roots {
        en: "PEM file of root certificates to trust in addition to the system's",
        zh: "除系统根证书外另行信任的根证书（PEM 文件）",
        metavar: "FILE",
        values: Offer::Files,
        default: Default::Words(Text::new("only the system's", "仅系统的根证书")),
        group: Group::Tls,
    }
    Single tls_cert: Option<Chain> = certificate_chain {
        en: "PEM file of the certificate to show an upstream that asks for one",
        zh: "上游要求客户端证书时出示的证书（PEM 文件）",
        metavar: "FILE",
        values: Offer::Files,
        default: Default::Words(Text::new("none", "无")),
        group: Group::Tls,
    }
    Single tls_key: Option<Key> = private_key {
        en: "PEM file of its private key",
        zh: "该证书的私钥（PEM 文件）",
        metavar: "FILE",
        values: Offer::Files,
        default: Default::Words(Text::new("none", "无")),
        group: Group::Tls,
    }
    Single tls_min: TlsVersion = tls_version {
        en: "oldest TLS version for the upstream and an https proxy",
        zh: "与上游和 https 代理之间允许的最低 TLS 版本",
        metavar: "VERSION",
        values: Offer::Words(&["1.0", "1.1", "1.2", "1.3"]),
        default: Default::Value("1.2"),
        group: Group::Tls,
    }
    Single host_header: Option<String> = host {
        en: "send this Host instead of the client's",
        zh: "发送此 Host，而不是客户端的 Host",
        metavar: "NAME",
        default: Default::Words(Text::new("the client's", "客户端的 Host")),
        group: Group::Requests,
    }
    Repeatable upgrade: Vec<String> = upgrade_token {
        en: "also let this Upgrade token through; may be repeated",
        zh: "另外放行的 Upgrade 协议名；可重复给出",
        metavar: "TOKEN",
        default: Default::Words(Text::new("websocket", "websocket")),
        group: Group::Requests,
    }
    Optional forwarded: Forwarded = forwarded_mode {
        en: "add X-Forwarded-For, -Host and -Proto, and Via; with =append, continue what a trusted front end sent",
        zh: "添加 X-Forwarded-For、-Host、-Proto 和 Via；用 =append 时，在可信前端发来的内容之后追加",
        metavar: "append",
        values: Offer::Words(&["append"]),
        group: Group::Requests,
    }
    Single map: String = map_mode {
        en: "translate between the client's origin and the upstream's: auto or off",
        zh: "在客户端的源与上游的源之间转换：auto 或 off",
        metavar: "MODE",
        values: Offer::Words(&["auto", "off"]),
        default: Default::Value("auto"),
        group: Group::Requests,
    }
    Repeatable header: Vec<FieldEdits> = header_lines {
        en: "set ('Name: value'), empty ('Name;') or remove ('Name:') a request field, or read such lines from @FILE; may be repeated",
        zh: "设置（'Name: value'）、置空（'Name;'）或删除（'Name:'）请求字段，或用 @FILE 从文件读取；可重复给出",
        metavar: "LINE",
        default: Default::Words(Text::new("none", "无")),
        group: Group::Requests,
    }
    Repeatable response_header: Vec<FieldEdits> = header_lines {
        en: "the same for response fields; may be repeated",
        zh: "同上，用于响应字段；可重复给出",
        metavar: "LINE",
        default: Default::Words(Text::new("none", "无")),
        group: Group::Requests,
    }
    Repeatable allow_host: Vec<String> = listed_host {
        en: "serve only requests for this Host (*.example.com, or * for all); may be repeated",
        zh: "只服务此 Host 的请求，可写 *.example.com，* 表示所有；可重复给出",
        metavar: "NAME",
        default: Default::Words(Text::new("all", "所有")),
        group: Group::Requests,
    }
    Repeatable allow_origin: Vec<String> = listed_origin {
        en: "serve only pages of this origin (* for all) and of the proxy's own; may be repeated",
        zh: "只服务来自此源（* 表示所有）和本代理自身的页面；可重复给出",
        metavar: "ORIGIN",
        default: Default::Words(Text::new("all, or its own with --header or --tls-cert", "所有；用 --header 或 --tls-cert 时仅自身")),
        group: Group::Requests,
    }
    Single connect_timeout: std::time::Duration = time_above_zero {
        en: "time to resolve, connect and complete the handshakes",
        zh: "解析、连接和握手的总时限",
        metavar: "SECONDS",
        default: Default::Value("10"),
        group: Group::Limits,
    }
    Single head_timeout: std::time::Duration = time_above_zero {
        en: "time for a client to send a request head",
        zh: "客户端发完一个请求头的时限",
        metavar: "SECONDS",
        default: Default::Value("30"),
        group: Group::Limits,
    }
    Single response_timeout: std::time::Duration = time {
        en: "time for the upstream to begin its response, and for a stalled body; 0 means no limit",
        zh: "上游开始响应的时限，也是正文停滞的时限；0 表示不限",
        metavar: "SECONDS",
        default: Default::Value("300"),
        group: Group::Limits,
    }
    Single abandon_timeout: std::time::Duration = time {
        en: "time for the upstream to go on answering a client that has left; 0 means the same as --response-timeout",
        zh: "客户端离开后，上游可继续响应的时间；0 表示同 --response-timeout",
        metavar: "SECONDS",
        default: Default::Value("30"),
        group: Group::Limits,
    }
    Single keepalive_timeout: std::time::Duration = time_above_zero {
        en: "time that an idle client connection is kept",
        zh: "空闲的客户端连接保留的时间",
        metavar: "SECONDS",
        default: Default::Value("75"),
        group: Group::Limits,
    }
    Single tunnel_timeout: Option<std::time::Duration> = time {
        en: "time after which an idle WebSocket is closed; 0 means never",
        zh: "空闲的 WebSocket 在此时间后关闭；0 表示不关闭",
        metavar: "SECONDS",
        default: Default::Words(Text::new("never", "不关闭")),
        group: Group::Limits,
    }
    Single drain_timeout: std::time::Duration = time {
        en: "time for open requests and WebSockets to finish after SIGTERM",
        zh: "收到 SIGTERM 后，未完成的请求和 WebSocket 还可继续的时间",
        metavar: "SECONDS",
        default: Default::Value("10"),
        group: Group::Limits,
    }
    Single upstream_idle: std::time::Duration = time {
        en: "longest time that an idle upstream connection is kept; 0 keeps none",
        zh: "空闲的上游连接最多保留的时间；0 表示不保留",
        metavar: "SECONDS",
        default: Default::Value("60"),
        group: Group::Limits,
    }
    Single spares: usize = spare_count {
        en: "spare upstream connections to keep ready, 0 to 64",
        zh: "预先建立好的上游连接数，0 到 64",
        metavar: "N",
        default: Default::Value("0"),
        group: Group::Limits,
    }
    Single max_head: usize = head_bytes {
        en: "longest request head, in bytes: 4096 to 1048576",
        zh: "请求头的最大字节数：4096 到 1048576",
        metavar: "BYTES",
        default: Default::Value("32768"),
        group: Group::Limits,
    }
    Single threads: Option<usize> = thread_count {
        en: "threads that serve connections",
        zh: "处理连接的线程数",
        metavar: "N",
        default: Default::Words(Text::new("one per core", "每核一个")),
        group: Group::Limits,
    }
    Single max_connections: Option<usize> = connection_count {
        en: "clients served at once; more wait",
        zh: "同时服务的客户端数；超出的须等待",
        metavar: "N",
        default: Default::Words(Text::new("as file descriptors allow", "由文件描述符上限决定")),
        group: Group::Limits,
    }
    Single health_path: Option<String> = path_alone {
        en: "answer GET of this path without asking the upstream: 200, or 503 while draining",
        zh: "由本程序直接应答对此路径的 GET：200，停止过程中为 503",
        metavar: "PATH",
        default: Default::Words(Text::new("none", "无")),
        group: Group::Monitoring,
    }
    Single metrics_listen: Option<std::net::SocketAddr> = socket_address {
        en: "serve metrics for Prometheus at this address, under /metrics",
        zh: "在此地址的 /metrics 提供 Prometheus 指标",
        metavar: "ADDRESS:PORT",
        default: Default::Words(Text::new("off", "关闭")),
        group: Group::Monitoring,
    }
    Single status_listen: Option<std::net::SocketAddr> = socket_address {
        en: "serve a status page and /metrics at this address",
        zh: "在此地址提供状态页和 /metrics",
        metavar: "ADDRESS:PORT",
        default: Default::Words(Text::new("off", "关闭")),
        group: Group::Monitoring,
    }
    Single log_lang: Option<Language> = language {
        en: "language of the log: zh or en",
        zh: "日志的语言：zh 或 en",
        metavar: "LANG",
        values: Offer::Words(&["zh", "en"]),
        default: Default::Words(Text::new("zh", "zh")),
        group: Group::Monitoring,
    }
    Single log_format: LogFormat = log_format {
        en: "log format: text; json, one object per line; or combined, an access log on standard output",
        zh: "日志格式：text、json（每行一个对象）或 combined（访问日志写到标准输出）",
        metavar: "FORMAT",
        values: Offer::Words(&["text", "json", "combined"]),
        default: Default::Value("text"),
        group: Group::Monitoring,
    }
    Switch quiet: bool = switch {
        en: "log errors only",
        zh: "只记录错误",
        short: Some('q'),
        group: Group::Monitoring,
    }
    Switch verbose: bool = switch {
        en: "log each connection in detail",
        zh: "记录每个连接的细节",
        short: Some('v'),
        group: Group::Monitoring,
    }
    Switch check: bool = switch {
        en: "try the route to the upstream once, print each step, and exit",
        zh: "按路由实际连接一次上游，显示每一步，然后退出",
        group: Group::Other,
    }
    Single check_path: Option<String> = path {
        en: "with --check, also try a WebSocket on this path",
        zh: "与 --check 合用，同时在此路径尝试 WebSocket",
        metavar: "PATH",
        default: Default::Words(Text::new("none", "无")),
        group: Group::Other,
    }
    Switch version: bool = switch {
        en: "print the version and exit",
        zh: "显示版本并退出",
        short: Some('V'),
        group: Group::Other,
    }
}
