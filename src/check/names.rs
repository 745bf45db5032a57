//! The origin of the proxy for a browser on this machine, the origin of the upstream, and the
//! redirects and cookies that do not work across the two.

use crate::both;
use crate::config::Config;
use crate::http::cookies::{cookie_domain, covers};
use crate::http::fields::no_fields;
use crate::http::guard::{is_ip_literal, is_same_host};
use crate::http::naming::{Names, Naming};
use crate::http::origin::host_of_url;
use crate::http::request::RequestHead;
use crate::http::syntax::split_port;
use crate::language::Words;

/// The two origins, for a browser on this machine.
pub struct Origins {
    names: Names,
    /// The proxy's origin, as the browser sees it.
    pub outer: String,
    /// The upstream's origin.
    pub inner: String,
    /// Whether one is translated into the other.
    pub translated: bool,
    /// The Host that is sent for a request of such a browser.
    pub host: String,
    /// Whether that is set by `--host-header`.
    renamed: bool,
    /// Whether `--map off` is given.
    map_off: bool,
}

impl Origins {
    /// The origins for a browser that opens `localhost` with the listening port.
    pub fn of(config: &Config) -> Origins {
        let naming = Naming::new(config);
        let port = config.listen.port;
        let head = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        let (mut canonical, mut fields) = (Vec::new(), no_fields());
        let mut names = Names::default();
        if let Ok(head) = RequestHead::parse(head.as_bytes(), &mut canonical, &mut fields, &[]) {
            names.set(&naming, &config.rewrite, &head, &config.default_host());
        }
        let (outer, inner) = names.texts();
        let authority = outer
            .split_once("://")
            .map_or("", |(_, authority)| authority);
        let host = config.rewrite.host.as_deref().unwrap_or(authority);
        Origins {
            translated: Naming::of(config).is_some() && outer != inner,
            host: host.to_owned(),
            renamed: config.rewrite.host.is_some(),
            map_off: config.rewrite.map_off,
            names,
            outer,
            inner,
        }
    }

    /// The Origin that is sent for a page that such a browser has loaded from the proxy.
    pub fn origin_sent(&self) -> &str {
        match self.translated {
            true => &self.inner,
            false => &self.outer,
        }
    }

    /// The problem that such a browser would have with a response field, if any; `host` is the
    /// Host of the request.
    pub fn remark(&self, name: &str, value: &[u8], host: &str) -> Option<Words> {
        let mut line = Vec::new();
        match self.translated {
            true => self.names.write_response_field(&mut line, name, value),
            false => crate::http::fields::write_field(&mut line, name, value),
        }
        let value = line.get(name.len() + 2..line.len().saturating_sub(2))?;
        let (host, _) = split_port(host.as_bytes());
        let outer = &self.outer;
        let own = String::from_utf8_lossy(host);
        if name.eq_ignore_ascii_case("location") {
            let named = host_of_url(value)?;
            let leaves = is_same_host(named, host) && !self.names.is_outer(value);
            let remark = || {
                both!(
                    "Location names {own}: a browser at {outer} would leave the proxy",
                    "Location 指向 {own}：位于 {outer} 的浏览器会离开代理"
                )
            };
            return leaves.then(|| self.with_remedy(remark(), host));
        }
        if name.eq_ignore_ascii_case("set-cookie") {
            let domain = cookie_domain(value)?;
            // A browser refuses a cookie for a domain that does not cover the upstream's Host
            // even without the proxy.
            let may_be_own = !self.renamed || covers(domain, host);
            let refused = !domain.is_empty() && !is_same_host(domain, b"localhost") && may_be_own;
            let domain = String::from_utf8_lossy(domain);
            let remark = || {
                both!(
                    "a cookie has Domain={domain}: a browser at {outer} would reject it",
                    "Cookie 带有 Domain={domain}：位于 {outer} 的浏览器会拒收"
                )
            };
            return refused.then(|| self.with_remedy(remark(), host));
        }
        None
    }

    /// The remark that the upstream accepts WebSockets without Origin but answers 403 to those
    /// of a page that such a browser has loaded from the proxy.
    pub fn origin_is_refused(&self, host: &str) -> Words {
        let outer = &self.outer;
        let (host, _) = split_port(host.as_bytes());
        let remark = both!(
            "a WebSocket from a page at {outer} gets 403: the upstream checks Origin",
            "来自 {outer} 页面的 WebSocket 得到 403：上游检查 Origin"
        );
        self.with_remedy(remark, host)
    }

    /// Appends the setting to change, if one would help; `host` is the Host of the request.
    fn with_remedy(&self, remark: Words, host: &[u8]) -> Words {
        let own = match is_ip_literal(host) {
            true => "NAME".into(),
            false => String::from_utf8_lossy(host),
        };
        let remedy = match (self.renamed, self.map_off) {
            (true, true) => Words::new("; leave out --map off", "；请去掉 --map off"),
            (false, false) => both!("; try --host-header {own}", "；可加 --host-header {own}"),
            (false, true) => both!(
                "; try --host-header {own} without --map off",
                "；可加 --host-header {own}，并去掉 --map off"
            ),
            (true, false) => return remark,
        };
        remark.followed_by(&remedy)
    }
}
