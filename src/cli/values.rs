//! Parsers for the values of flags, named in the table of flags. No error repeats a value that
//! may contain a password.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use native_tls::Certificate;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use crate::authority::{is_dns_name, parse_port, Authority, Host};
use crate::both;
use crate::cli::upstream::Upstream;
use crate::config::{Bind, Forwarded, Language, LogFormat, TlsVersion};
use crate::edits::{is_twin, FieldEdit, FieldEdits};
use crate::error::describe;
use crate::http::syntax::{is_host, is_protocol, is_token, split_port};
use crate::identity;
use crate::language::Words;
use crate::network::Network;
use crate::proxy::Proxies;

type Read<T> = Result<T, Words>;

pub(super) fn switch(text: &str) -> Read<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Words::new(
            "must be 1, true, yes or on, or 0, false, no or off",
            "必须是 1、true、yes、on 或 0、false、no、off",
        )),
    }
}

pub(super) fn upstream(text: &str) -> Read<Upstream> {
    Upstream::parse(text)
}

pub(super) fn port(text: &str) -> Read<u16> {
    parse_port(text).ok_or(Words::new(
        "must be a port from 0 to 65535",
        "端口须为 0 到 65535 的整数",
    ))
}

pub(super) fn bind_address(text: &str) -> Read<Bind> {
    if text.starts_with("unix:") {
        return match Authority::parse(text).map(|authority| authority.host) {
            Ok(Host::Unix(path)) => Ok(Bind::Unix(path)),
            Ok(_) => unreachable!("the prefix says that it is a path"),
            Err(problem) => Err(problem),
        };
    }
    let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = match literal.unwrap_or(text) {
        "*" => Ok(Ipv6Addr::UNSPECIFIED.into()),
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        address => address.parse(),
    };
    address.map(Bind::Address).map_err(|_| {
        Words::new(
            "must be an IP address, localhost or *; set the port with --listen-port",
            "须为 IP 地址、localhost 或 *；端口请用 --listen-port 指定",
        )
    })
}

/// Permissions in octal, as chmod(1) accepts them; displayed in the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

pub(super) fn mode(text: &str) -> Read<Mode> {
    let plain = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) if plain => Ok(Mode(mode)),
        _ => Err(Words::new(
            "must be octal permissions, such as 0660",
            "须为八进制权限，例如 0660",
        )),
    }
}

pub(super) fn socks5_proxy(text: &str) -> Read<Proxies> {
    Proxies::parse_socks5(text)
}

pub(super) fn http_proxy(text: &str) -> Read<Proxies> {
    Proxies::parse_http(text)
}

/// Whether TLS is on; None leaves it to the port.
pub(super) fn tls_mode(text: &str) -> Read<Option<bool>> {
    match text {
        "auto" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        _ => Err(Words::new(
            "must be auto, on or off",
            "必须是 auto、on 或 off",
        )),
    }
}

pub(super) fn dns_name(text: &str) -> Read<String> {
    match is_dns_name(text) {
        true => Ok(text.trim_end_matches('.').to_owned()),
        false => Err(Words::new(
            "must be a DNS name such as example.com, without a port",
            "须为域名，例如 example.com，不带端口",
        )),
    }
}

/// The root certificates in a PEM file, and the file's name.
pub struct Roots {
    /// The file.
    pub path: String,
    /// The certificates in it.
    pub certificates: Vec<Certificate>,
}

pub(super) fn roots(path: &str) -> Read<Roots> {
    let pem = std::fs::read(path).map_err(|error| {
        let cause = describe(&error);
        both!(
            "cannot read the file: {cause}; check its path and permissions",
            "无法读取文件：{cause}；请检查路径和权限"
        )
    })?;
    match Certificate::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(Roots {
            path: path.to_owned(),
            certificates,
        }),
        _ => Err(Words::new(
            "the file contains no PEM certificate; it must have a line -----BEGIN CERTIFICATE-----",
            "文件中没有 PEM 证书；其中应有一行 -----BEGIN CERTIFICATE-----",
        )),
    }
}

/// The certificate chain in a PEM file, and the file's name.
pub struct Chain {
    /// The file.
    pub path: String,
    /// The certificates in it.
    pub certificates: Vec<X509>,
}

pub(super) fn certificate_chain(path: &str) -> Read<Chain> {
    Ok(Chain {
        path: path.to_owned(),
        certificates: identity::read_chain(path)?,
    })
}

/// The private key in a PEM file, and the file's name.
pub struct Key {
    /// The file.
    pub path: String,
    /// The key in it.
    pub key: PKey<Private>,
}

pub(super) fn private_key(path: &str) -> Read<Key> {
    Ok(Key {
        path: path.to_owned(),
        key: identity::read_key(path)?,
    })
}

pub(super) fn tls_version(text: &str) -> Read<TlsVersion> {
    let found = TlsVersion::ALL.iter().find(|(_, name)| *name == text);
    let version = found.map(|(version, _)| *version);
    version.ok_or(Words::new(
        "must be 1.0, 1.1, 1.2 or 1.3",
        "必须是 1.0、1.1、1.2 或 1.3",
    ))
}

pub(super) fn host(text: &str) -> Read<String> {
    match is_host(text.as_bytes()) {
        true => Ok(text.to_owned()),
        false => Err(Words::new(
            "must be NAME or NAME:PORT, with an IPv6 address in brackets",
            "须为 NAME 或 NAME:PORT，IPv6 地址加方括号",
        )),
    }
}

pub(super) fn forwarded_mode(text: &str) -> Read<Forwarded> {
    if text == "append" {
        return Ok(Forwarded::Append);
    }
    match switch(text) {
        Ok(true) => Ok(Forwarded::Replace),
        Ok(false) => Ok(Forwarded::Off),
        Err(_) => Err(Words::new(
            "must be on, off or append",
            "必须是 on、off 或 append",
        )),
    }
}

pub(super) fn map_mode(text: &str) -> Read<String> {
    match text {
        "auto" | "off" => Ok(text.to_owned()),
        _ => Err(Words::new("must be auto or off", "必须是 auto 或 off")),
    }
}

/// One field line in the syntax of curl's `-H`, or `@FILE` with one on each line. A value may be
/// a credential, so no error repeats one.
pub(super) fn header_lines(text: &str) -> Read<FieldEdits> {
    let Some(path) = text.strip_prefix('@') else {
        return Ok(FieldEdits(vec![header_line(text)?]));
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let cause = describe(&error);
        both!(
            "cannot read the file: {cause}; check its path and permissions",
            "无法读取文件：{cause}；请检查路径和权限"
        )
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Words::new(
            "the file is not UTF-8 text; save it as UTF-8",
            "文件不是 UTF-8 文本；请另存为 UTF-8",
        )
    })?;
    // Editors on Windows begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let edits = lines.map(|(number, line)| {
        header_line(line).map_err(|problem| {
            let number = number + 1;
            let (english, chinese) = (
                problem.say(Language::English),
                problem.say(Language::Chinese),
            );
            both!(
                "line {number} of the file: {english}",
                "文件第 {number} 行：{chinese}"
            )
        })
    });
    edits.collect::<Read<Vec<_>>>().map(FieldEdits)
}

/// `Name: value` sets the field, `Name;` empties it, `Name:` removes it.
fn header_line(line: &str) -> Read<FieldEdit> {
    let malformed = Words::new(
        "write 'Name: value', 'Name;' or 'Name:'",
        "请写成 'Name: value'、'Name;' 或 'Name:'",
    );
    let line = line.trim();
    let Some(at) = line.find([':', ';']) else {
        return Err(malformed);
    };
    let (name, value) = (&line[..at], line[at + 1..].trim());
    if !is_token(name.as_bytes()) {
        return Err(malformed);
    }
    let value = match (line.as_bytes()[at], value) {
        (b':', "") => None,
        (b':', value) => Some(value.as_bytes().to_vec()),
        (_, "") => Some(Vec::new()),
        // `Name;` empties the field, so a value after the semicolon is a mistake.
        _ => return Err(malformed),
    };
    if value
        .iter()
        .flatten()
        .any(|&b| b.is_ascii_control() && b != b'\t')
    {
        return Err(both!(
            "the value of {name} contains a control character; remove it",
            "{name} 的值含有控制字符；请去掉该字符"
        ));
    }
    if is_twin(name, "host") {
        return Err(Words::new(
            "Host is set with --host-header",
            "Host 请用 --host-header 设置",
        ));
    }
    const REFUSED: [&str; 8] = [
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "keep-alive",
        "te",
        "trailer",
        "expect",
    ];
    // Fields that frame a message or belong to one hop, also when spelled with `_` for `-`.
    let is_proxy_field = name.get(..6).is_some_and(|start| is_twin(start, "proxy-"));
    if is_proxy_field || REFUSED.iter().any(|refused| is_twin(name, refused)) {
        return Err(both!(
            "{name} applies to a single connection and cannot be set; leave it out",
            "{name} 只属于单个连接，不能设置；请去掉此项"
        ));
    }
    Ok(FieldEdit {
        name: name.to_owned(),
        value,
    })
}

/// An address or a range of addresses.
pub(super) fn network(text: &str) -> Read<Network> {
    Network::parse(text)
}

/// A host without a port, `*.` followed by a name, or `*`.
pub(super) fn listed_host(text: &str) -> Read<String> {
    let name = match text {
        "*" => "any",
        text => text.strip_prefix("*.").unwrap_or(text),
    };
    let is_name = is_host(name.as_bytes()) && split_port(name.as_bytes()).1.is_none();
    if is_name && !name.contains('*') && !name.starts_with('.') {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Words::new(
        "write NAME without a port, *.NAME, or * for all; IPv6 addresses in brackets",
        "请写成不带端口的 NAME、*.NAME，或用 * 表示所有；IPv6 地址加方括号",
    ))
}

/// `*`, or an origin as browsers write it (RFC 6454 §6.2).
pub(super) fn listed_origin(text: &str) -> Read<String> {
    let origin = text.strip_suffix('/').unwrap_or(text);
    let parts = origin.split_once("://");
    let is_origin = parts.is_some_and(|(scheme, host)| {
        let scheme_is_good = scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        // Only --allow-host accepts patterns; here one would match nothing.
        let host_is_good = is_host(host.as_bytes()) && !host.contains('*');
        !scheme.is_empty() && scheme_is_good && host_is_good
    });
    if text == "*" || is_origin {
        return Ok(origin.to_ascii_lowercase());
    }
    Err(Words::new(
        "write SCHEME://HOST[:PORT], or * for all",
        "请写成 SCHEME://HOST[:PORT]，或用 * 表示所有",
    ))
}

pub(super) fn upgrade_token(text: &str) -> Read<String> {
    if !is_protocol(text.as_bytes()) {
        return Err(Words::new(
            "must be a single Upgrade token, such as tcp or spdy/3.1",
            "须为单个 Upgrade 协议名，例如 tcp 或 spdy/3.1",
        ));
    }
    let token = text.to_ascii_lowercase();
    // Requests in HTTP/2 frames after the upgrade would bypass every check.
    if token == "h2c" {
        return Err(Words::new(
            "h2c is never let through; leave it out, and clients will use HTTP/1.1",
            "h2c 一律不放行；请去掉此项，客户端会使用 HTTP/1.1",
        ));
    }
    Ok(token)
}

pub(super) fn time_above_zero(text: &str) -> Read<Duration> {
    // A time that rounds to zero would mean no limit.
    seconds(text)
        .filter(|time| !time.is_zero())
        .ok_or(Words::new(
            "must be a time above 0, in seconds or with the unit ms, s, m or h",
            "须为大于 0 的时间：秒数，或带单位 ms、s、m、h 的数",
        ))
}

pub(super) fn time(text: &str) -> Read<Duration> {
    seconds(text).ok_or(Words::new(
        "must be a time, in seconds or with the unit ms, s, m or h",
        "须为时间：秒数，或带单位 ms、s、m、h 的数",
    ))
}

/// A number of seconds, or a number with a unit, up to a year; both may have decimals.
fn seconds(text: &str) -> Option<Duration> {
    const YEAR: f64 = 365.0 * 86_400.0;
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let parsed = number.parse::<f64>().ok().map(|number| number * unit);
    let parsed = parsed.filter(|seconds| plain && *seconds <= YEAR);
    parsed.map(Duration::from_secs_f64)
}

pub(super) fn thread_count(text: &str) -> Read<usize> {
    count(text, 1, 1024)
}

pub(super) fn connection_count(text: &str) -> Read<usize> {
    count(text, 1, 10_000_000)
}

pub(super) fn head_bytes(text: &str) -> Read<usize> {
    count(text, 4096, 1024 * 1024)
}

pub(super) fn spare_count(text: &str) -> Read<usize> {
    count(text, 0, 64)
}

fn count(text: &str, least: usize, most: usize) -> Read<usize> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if plain && (least..=most).contains(&n) => Ok(n),
        _ => Err(both!(
            "must be a number from {least} to {most}",
            "须为 {least} 到 {most} 的整数"
        )),
    }
}

/// A target in origin-form (RFC 9112 §3.2.1).
pub(super) fn path(text: &str) -> Read<String> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match text.starts_with('/') && printable {
        true => Ok(text.to_owned()),
        false => Err(Words::new(
            "a path must begin with /; write spaces and # as %20 and %23",
            "路径须以 / 开头；空格和 # 请写成 %20 和 %23",
        )),
    }
}

pub(super) fn path_alone(text: &str) -> Read<String> {
    match text.contains('?') {
        true => Err(Words::new(
            "the path must not have a query; remove the ? and what follows it",
            "路径不能带查询串；请去掉 ? 及其后的部分",
        )),
        false => path(text),
    }
}

pub(super) fn socket_address(text: &str) -> Read<SocketAddr> {
    // As with `-b`, a port alone means all addresses.
    let with_address = match text.rsplit_once(':') {
        Some(("" | "*", port)) => format!("[::]:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    with_address.parse().map_err(|_| {
        Words::new(
            "write ADDRESS:PORT, with an IPv6 address in brackets, or :PORT for all addresses",
            "请写成 ADDRESS:PORT，IPv6 地址加方括号；所有地址写成 :PORT",
        )
    })
}

pub(super) fn language(text: &str) -> Read<Language> {
    match text {
        "zh" => Ok(Language::Chinese),
        "en" => Ok(Language::English),
        _ => Err(Words::new("must be zh or en", "必须是 zh 或 en")),
    }
}

pub(super) fn log_format(text: &str) -> Read<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "combined" => Ok(LogFormat::Combined),
        _ => Err(Words::new(
            "must be text, json or combined",
            "必须是 text、json 或 combined",
        )),
    }
}
