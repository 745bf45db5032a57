//! The events of the log: one function per event, which writes its line in either language or
//! as JSON.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Config, Language};
use crate::error::Error;
use crate::identity::{Identity, Summary};
use crate::language::Words;
use crate::net::peer::Peer;
use crate::report::json::Value;
use crate::report::line::{detail, emit, emit_about, is_enabled, millis, tells_requests, Priority};
use crate::report::subject::{without_query, Client, Subject, Took};
use crate::route::steps::Steps;
use crate::text::Escaped;

pub use crate::report::line::{flush, init};
pub use crate::report::output::flush_waiting;

/// Logs the listening addresses, the upstream, the route and warnings, once at startup.
pub fn started(
    addresses: &[String],
    metrics: Option<SocketAddr>,
    status: Option<SocketAddr>,
    config: &Config,
) {
    for address in addresses {
        emit(
            Priority::Info,
            ("listening", &[("address", Value::Shown(address))]),
            format_args!("开始监听: {address}"),
            format_args!("listening on {address}"),
        );
    }
    if let Some(address) = metrics {
        emit(
            Priority::Info,
            ("metrics", &[("address", Value::Shown(&address))]),
            format_args!("指标: http://{address}/metrics"),
            format_args!("metrics: http://{address}/metrics"),
        );
    }
    if let Some(address) = status {
        emit(
            Priority::Info,
            ("status_page", &[("address", Value::Shown(&address))]),
            format_args!("状态页: http://{address}/"),
            format_args!("status page: http://{address}/"),
        );
    }
    if let Some(tls) = &config.listen.tls {
        certificate(
            "certificate",
            &tls.identity,
            ["服务器证书", "server certificate"],
        );
    }
    let with_tls = config.tls.is_some();
    let tls = if with_tls { " (TLS)" } else { "" };
    let upstream = &config.upstream;
    emit(
        Priority::Info,
        (
            "upstream",
            &[
                ("address", Value::Shown(upstream)),
                ("tls", Value::Flag(with_tls)),
            ],
        ),
        format_args!("上游: {upstream}{tls}"),
        format_args!("upstream: {upstream}{tls}"),
    );
    let route = &config.route;
    emit(
        Priority::Info,
        ("route", &[("route", Value::Shown(route))]),
        format_args!("路由: {}", route.words().say(Language::Chinese)),
        format_args!("route: {route}"),
    );
    for (source, problem) in &config.ignored {
        let english = problem.say(Language::English);
        let chinese = problem.say(Language::Chinese);
        emit(
            Priority::Warning,
            (
                "setting_ignored",
                &[
                    ("source", Value::Text(source)),
                    ("problem", Value::Text(english)),
                ],
            ),
            format_args!("已忽略 {source}: {chinese}"),
            format_args!("{source} is ignored: {english}"),
        );
    }
    if config.tls.as_ref().is_some_and(|tls| !tls.verify) {
        emit(
            Priority::Warning,
            ("certificate_not_verified", &[]),
            format_args!("未校验上游证书（--tls-verify 可启用校验）"),
            format_args!("the upstream's certificate is not verified (--tls-verify does)"),
        );
    }
}

/// The subject and expiry of the server certificate, after the given words for the event.
fn certificate(event: &str, identity: &Identity, [chinese, english]: [&str; 2]) {
    let Some(first) = identity.chain.first() else {
        return;
    };
    let summary = Summary::of(first);
    let words = summary.words();
    let priority = match summary.days_left {
        0.. => Priority::Info,
        _ => Priority::Warning,
    };
    let members = [
        ("subject", Value::Text(&summary.subject)),
        ("expires", Value::Text(&summary.expires)),
        ("days_left", Value::Signed(summary.days_left.into())),
    ];
    emit(
        priority,
        (event, &members),
        format_args!("{chinese}: {}", words.say(Language::Chinese)),
        format_args!("{english}: {}", words.say(Language::English)),
    );
}

/// The files contain another certificate, which new connections get.
pub(crate) fn certificate_renewed(identity: &Identity) {
    let words = ["服务器证书已更新", "server certificate renewed"];
    certificate("certificate_renewed", identity, words);
}

/// The files were read again on SIGHUP and have not changed.
pub(crate) fn certificate_unchanged() {
    emit(
        Priority::Info,
        ("certificate_unchanged", &[]),
        format_args!("收到 SIGHUP，服务器证书没有变化"),
        format_args!("SIGHUP: the server certificate has not changed"),
    );
}

/// The files contain no usable certificate and key; the old ones stay in use.
pub(crate) fn certificate_kept(file: &str, problem: &Words) {
    let (english, chinese) = (
        problem.say(Language::English),
        problem.say(Language::Chinese),
    );
    emit(
        Priority::Error,
        (
            "certificate_kept",
            &[
                ("file", Value::Text(file)),
                ("problem", Value::Text(english)),
            ],
        ),
        format_args!("无法更新服务器证书，继续使用旧证书: {file}: {chinese}"),
        format_args!(
            "cannot renew the server certificate, the old one stays in use: {file}: {english}"
        ),
    );
}

/// A request head has arrived.
pub(crate) fn request(client: &Client, method: &str, path: &[u8], host: &[u8]) {
    // Returns before any formatting if requests are not logged.
    if !tells_requests() {
        return;
    }
    let method = method.as_bytes();
    let path = without_query(path);
    let members = [
        ("method", Value::Bytes(method)),
        ("path", Value::Bytes(path)),
        ("host", Value::Bytes(host)),
    ];
    let (method, path, host) = (Escaped(method), Escaped(path), Escaped(host));
    emit_about(
        &client.members(),
        Priority::Info,
        ("request", &members),
        format_args!("===收到请求开始=== {method} {path} (Host: {host})"),
        format_args!("request: {method} {path} (Host: {host})"),
    );
}

/// Whether a line may be written that is limited to one per minute; if so, starts the minute.
fn is_due(last: &Mutex<Option<Instant>>) -> bool {
    const PAUSE: Duration = Duration::from_secs(60);
    // A panic cannot leave the single value inconsistent.
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.is_none_or(|last| last.elapsed() >= PAUSE);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// The Origin of a request was not translated, because its Host may be the result of DNS
/// rebinding. Logged at most once a minute.
pub(crate) fn origin_not_translated(client: &Client, host: &[u8]) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    if !is_due(&LAST) {
        return;
    }
    let members = [("host", Value::Bytes(host))];
    let host = Escaped(host);
    emit_about(
        &client.members(),
        Priority::Warning,
        ("origin_not_translated", &members),
        format_args!(
            "Host 为 {host} 的请求，其 Origin 未转换；若该域名是您自己的，请用 --allow-host 列出（不含端口）"
        ),
        format_args!(
            "the Origin of a request for Host {host} was not translated; \
             if that name is yours, list it with --allow-host (without the port)"
        ),
    );
}

/// The request asks for upgrades to `protocols`, which are not forwarded.
pub(crate) fn upgrade_withheld(client: &Client, protocols: &[u8]) {
    let members = [("protocols", Value::Bytes(protocols))];
    let protocols = Escaped(protocols);
    emit_about(
        &client.members(),
        Priority::Info,
        ("upgrade_withheld", &members),
        format_args!("未放行的协议升级: {protocols}（参见 --upgrade）"),
        format_args!("upgrade not let through: {protocols} (see --upgrade)"),
    );
}

/// The request asks for an upgrade to `protocol`.
pub(crate) fn upgrade_request(client: &Client, protocol: &str, path: &[u8], host: &[u8]) {
    if !tells_requests() {
        return;
    }
    let path = without_query(path);
    let members = [
        ("protocol", Value::Text(protocol)),
        ("path", Value::Bytes(path)),
        ("host", Value::Bytes(host)),
    ];
    let (path, host) = (Escaped(path), Escaped(host));
    emit_about(
        &client.members(),
        Priority::Info,
        ("upgrade_request", &members),
        format_args!("{protocol} 请求: {path} (Host: {host})"),
        format_args!("{protocol} request: {path} (Host: {host})"),
    );
}

/// The upstream has switched protocols and the relay begins.
pub(crate) fn upgraded(client: &Client, protocol: &str) {
    if !tells_requests() {
        return;
    }
    let members = [("protocol", Value::Text(protocol))];
    emit_about(
        &client.members(),
        Priority::Info,
        ("upgraded", &members),
        format_args!("{protocol} 连接建立，开始双向转发"),
        format_args!("{protocol} connection established, relaying both ways"),
    );
}

/// The relay has ended; `after` is its duration, and the counts are its bytes in each direction.
pub(crate) fn upgrade_closed(
    client: &Client,
    protocol: &str,
    after: Duration,
    (to_upstream, to_downstream): (u64, u64),
) {
    if !tells_requests() {
        return;
    }
    let members = [
        ("protocol", Value::Text(protocol)),
        ("seconds", Value::Seconds(after)),
        ("bytes_up", Value::Number(to_upstream)),
        ("bytes_down", Value::Number(to_downstream)),
    ];
    emit_about(
        &client.members(),
        Priority::Info,
        ("upgrade_closed", &members),
        format_args!("{protocol} 连接关闭"),
        format_args!("{protocol} connection closed"),
    );
    let connection = client.connection;
    let seconds = after.as_secs_f64();
    detail(
        format_args!(
            "连接 {connection}: {seconds:.3} 秒内转发 {to_upstream} 字节到上游，\
             {to_downstream} 字节到客户端"
        ),
        format_args!(
            "connection {connection}: relayed {to_upstream} bytes up, {to_downstream} down \
             in {seconds:.3} s"
        ),
    );
}

/// A response was delivered completely; `bytes` is the length of its body.
pub(crate) fn request_done(subject: &Subject, status: u16, bytes: u64) {
    if !tells_requests() {
        return;
    }
    let elapsed = subject.elapsed();
    let took = Took(elapsed, subject.client());
    let members = [
        ("status", Value::Number(status.into())),
        ("bytes", Value::Number(bytes)),
        ("seconds", Value::Seconds(elapsed)),
    ];
    emit_about(
        &subject.members(),
        Priority::Info,
        ("request_done", &members),
        format_args!("请求完成: {subject} -> {status} ({bytes} bytes, {took})"),
        format_args!("request done: {subject} -> {status} ({bytes} bytes, {took})"),
    );
    let (connection, millis) = (subject.client().connection, millis(elapsed));
    detail(
        format_args!("连接 {connection}: {subject} -> {status}，用时 {millis} 毫秒"),
        format_args!("connection {connection}: {subject} -> {status} in {millis} ms"),
    );
}

/// The upstream gave no usable response, and the client got `status`.
pub(crate) fn request_failed(subject: &Subject, status: u16, error: &Error) {
    let elapsed = subject.elapsed();
    let took = Took(elapsed, subject.client());
    let (stage, address, cause) = (error.stage.name(), &error.address, &error.in_full());
    let members = [
        ("status", Value::Number(status.into())),
        ("stage", Value::Text(stage)),
        ("address", Value::Text(address)),
        ("cause", Value::Text(cause)),
        ("seconds", Value::Seconds(elapsed)),
    ];
    emit_about(
        &subject.members(),
        Priority::Error,
        ("request_failed", &members),
        format_args!("请求失败: {subject} -> {status} [{stage}] {address}: {cause} ({took})"),
        format_args!("request failed: {subject} -> {status} [{stage}] {address}: {cause} ({took})"),
    );
}

/// An exchange was aborted before its response was complete.
pub(crate) fn request_aborted(subject: &Subject, cause: &str) {
    let elapsed = subject.elapsed();
    let took = Took(elapsed, subject.client());
    let members = [
        ("cause", Value::Text(cause)),
        ("seconds", Value::Seconds(elapsed)),
    ];
    emit_about(
        &subject.members(),
        Priority::Warning,
        ("request_aborted", &members),
        format_args!("请求中断: {subject}: {cause} ({took})"),
        format_args!("request aborted: {subject}: {cause} ({took})"),
    );
}

/// A client sent a request that is not forwarded, or something that is no request.
pub(crate) fn request_rejected(client: &Client, status: u16, reason: &str) {
    let members = [
        ("status", Value::Number(status.into())),
        ("cause", Value::Text(reason)),
    ];
    let address = client.address;
    emit_about(
        &client.members(),
        Priority::Warning,
        ("request_rejected", &members),
        format_args!("请求被拒绝: {address} -> {status} {reason}"),
        format_args!("request rejected: {address} -> {status} {reason}"),
    );
}

/// A client's connection was accepted.
pub(crate) fn connection_opened(client: &Client) {
    let Client {
        connection,
        address,
    } = client;
    emit_about(
        &client.members(),
        Priority::Debug,
        ("connection_opened", &[]),
        format_args!("连接 {connection}: 来自 {address}"),
        format_args!("connection {connection}: from {address}"),
    );
}

/// A client's TLS handshake has failed or timed out.
pub(crate) fn handshake_failed(client: &Client, cause: &str) {
    let members = [("cause", Value::Text(cause))];
    let connection = client.connection;
    emit_about(
        &client.members(),
        Priority::Debug,
        ("handshake_failed", &members),
        format_args!("连接 {connection}: TLS 握手失败: {cause}"),
        format_args!("connection {connection}: TLS handshake failed: {cause}"),
    );
}

/// A client's connection was closed.
pub(crate) fn connection_closed(client: &Client, after: Duration) {
    let seconds = after.as_secs_f64();
    let members = [("seconds", Value::Seconds(after))];
    let connection = client.connection;
    emit_about(
        &client.members(),
        Priority::Debug,
        ("connection_closed", &members),
        format_args!("连接 {connection}: 关闭，历时 {seconds:.3} 秒"),
        format_args!("connection {connection}: closed after {seconds:.3} s"),
    );
}

/// A response over TLS was delimited by the end of the connection, which came without
/// close_notify.
pub(crate) fn ended_unannounced(subject: &Subject) {
    if !is_enabled(Priority::Debug) {
        return;
    }
    let (connection, members) = (subject.client().connection, subject.client().members());
    emit_about(
        &members,
        Priority::Debug,
        ("ended_without_close_notify", &[]),
        format_args!("连接 {connection}: 上游结束 TLS 时未发 close_notify，响应视为完整"),
        format_args!(
            "connection {connection}: the upstream ended TLS without close_notify; \
             the response counts as complete"
        ),
    );
}

/// An upstream connection was dialled for a request.
pub(crate) fn dialled(subject: &Subject, steps: &Steps) {
    if !is_enabled(Priority::Debug) {
        return;
    }
    let total = steps.total();
    let mut members = vec![("seconds", Value::Seconds(total))];
    members.extend(
        steps
            .taken()
            .map(|(step, took)| (step.name(), Value::Seconds(took))),
    );
    let mut each = String::new();
    for (step, took) in steps.taken() {
        let separator = if each.is_empty() { "" } else { ", " };
        each.push_str(&format!("{separator}{} {}", step.name(), millis(took)));
    }
    let (connection, total) = (subject.client().connection, millis(total));
    emit_about(
        &subject.client().members(),
        Priority::Debug,
        ("dialled", &members),
        format_args!("连接 {connection}: 已连接上游，用时 {total} 毫秒 ({each})"),
        format_args!("connection {connection}: upstream reached in {total} ms ({each})"),
    );
}

/// A spare upstream connection was dialled; `renews` says that it replaces an old one.
pub(crate) fn spare_dialled(steps: &Steps, renews: bool) {
    let total = steps.total();
    let members = [
        ("renewal", Value::Flag(renews)),
        ("seconds", Value::Seconds(total)),
    ];
    let total = millis(total);
    let (kind_zh, kind_en) = match renews {
        true => ("已更新", "renewed"),
        false => ("已就绪", "ready"),
    };
    emit(
        Priority::Debug,
        ("spare_dialled", &members),
        format_args!("备用上游连接{kind_zh}，用时 {total} 毫秒"),
        format_args!("spare upstream connection {kind_en} in {total} ms"),
    );
}

/// A spare upstream connection could not be dialled; the next attempt follows after `pause`.
pub(crate) fn spare_failed(error: &Error, pause: Duration) {
    let cause = error.in_full();
    let (stage, seconds) = (error.stage.name(), pause.as_secs_f64());
    let members = [
        ("stage", Value::Text(stage)),
        ("cause", Value::Text(&cause)),
        ("pause", Value::Seconds(pause)),
    ];
    emit(
        Priority::Debug,
        ("spare_failed", &members),
        format_args!("备用上游连接失败 [{stage}]: {cause}；{seconds} 秒后重试"),
        format_args!(
            "spare upstream connection failed [{stage}]: {cause}; next attempt in {seconds} s"
        ),
    );
}

/// A request took a spare upstream connection.
pub(crate) fn spare_taken(subject: &Subject, age: Duration) {
    if !is_enabled(Priority::Debug) {
        return;
    }
    let connection = subject.client().connection;
    let members = [
        ("connection", Value::Number(connection)),
        ("age", Value::Seconds(age)),
    ];
    let age = age.as_secs_f64();
    emit(
        Priority::Debug,
        ("spare_taken", &members),
        format_args!("连接 {connection}: 使用备用上游连接（已建立 {age:.1} 秒）"),
        format_args!("connection {connection}: uses a spare upstream connection, {age:.1} s old"),
    );
}

/// A client was refused because `--allow` does not list its address.
pub(crate) fn client_not_allowed(client: Peer) {
    emit(
        Priority::Debug,
        ("client_not_allowed", &[("client", Value::Shown(&client))]),
        format_args!("拒绝 {client}: 不在 --allow 之列"),
        format_args!("{client} refused: not listed by --allow"),
    );
}

/// Accepting is paused because descriptors or memory have run out.
pub(crate) fn accept_paused(cause: &str) {
    emit(
        Priority::Error,
        ("accept_paused", &[("cause", Value::Text(cause))]),
        format_args!("暂停接受新连接: {cause}"),
        format_args!("accepting paused: {cause}"),
    );
}

/// Logs the limit of client connections at startup, at debug priority unless it was set.
pub fn connection_limit(limit: usize, was_asked_for: bool) {
    let priority = match was_asked_for {
        true => Priority::Info,
        false => Priority::Debug,
    };
    emit(
        priority,
        ("limit", &[("connections", Value::Number(limit as u64))]),
        format_args!("连接数上限: {limit}"),
        format_args!("connection limit: {limit}"),
    );
}

/// The limit of client connections is reached; others wait.
pub(crate) fn limit_reached(limit: usize) {
    let members = [("limit", Value::Number(limit as u64))];
    emit(
        Priority::Warning,
        ("limit_reached", &members),
        format_args!("连接数已达上限 {limit}，新客户端需等待 (--max-connections)"),
        format_args!(
            "the limit of {limit} connections is reached, new clients wait (--max-connections)"
        ),
    );
}

/// The limit of connections was lowered to what the limit of descriptors allows.
pub fn limit_lowered(asked: usize, limit: usize, descriptors: usize) {
    let members = [
        ("asked", Value::Number(asked as u64)),
        ("limit", Value::Number(limit as u64)),
        ("descriptors", Value::Number(descriptors as u64)),
    ];
    emit(
        Priority::Warning,
        ("limit_lowered", &members),
        format_args!(
            "--max-connections {asked} 超出 {descriptors} 个文件描述符所能承载，降为 {limit}"
        ),
        format_args!(
            "--max-connections {asked} is more than {descriptors} file descriptors allow: \
             lowered to {limit}"
        ),
    );
}

/// A thread cannot serve connections.
pub(crate) fn thread_failed(cause: &str) {
    emit(
        Priority::Error,
        ("thread_failed", &[("cause", Value::Text(cause))]),
        format_args!("线程无法工作: {cause}"),
        format_args!("a thread cannot serve: {cause}"),
    );
}

/// A signal has started the graceful shutdown.
pub(crate) fn draining(signal: &str, within: Duration) {
    let members = [
        ("signal", Value::Text(signal)),
        ("seconds", Value::Seconds(within)),
    ];
    let seconds = within.as_secs_f64();
    emit(
        Priority::Info,
        ("draining", &members),
        format_args!("收到 {signal}，不再接受新连接，最多等待 {seconds} 秒"),
        format_args!("{signal}: no new connections, finishing what is open within {seconds} s"),
    );
}

/// SIGHUP was ignored, because the program has no controlling terminal.
pub fn hangup_ignored() {
    emit(
        Priority::Info,
        ("hangup_ignored", &[]),
        format_args!("收到 SIGHUP，已忽略（没有控制终端）"),
        format_args!("SIGHUP: ignored, there is no terminal"),
    );
}

/// The program stops; `cut_off` connections were still open.
pub(crate) fn stopped(cut_off: usize) {
    emit(
        Priority::Info,
        ("stopped", &[("cut_off", Value::Number(cut_off as u64))]),
        format_args!("已停止，中断 {cut_off} 个连接"),
        format_args!("stopped, {cut_off} connections cut off"),
    );
}

/// A notification to the service manager failed.
pub(crate) fn not_notified(cause: &str) {
    emit(
        Priority::Warning,
        ("not_notified", &[("cause", Value::Text(cause))]),
        format_args!("无法通知服务管理器: {cause}"),
        format_args!("the service manager cannot be told: {cause}"),
    );
}

/// A connection's task panicked; other connections are not affected.
pub fn panicked(message: &str) {
    let members = [("cause", Value::Bytes(message.as_bytes()))];
    let message = Escaped(message.as_bytes());
    emit(
        Priority::Error,
        ("panicked", &members),
        format_args!("内部错误: {message}"),
        format_args!("internal error: {message}"),
    );
}
