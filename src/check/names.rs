//! What a browser on this machine would make of a response: the two origins, and what of
//! them a redirect or a cookie does not get over.

use crate::both;
use crate::config::Config;
use crate::http::cookies::cookie_domain;
use crate::http::fields::no_fields;
use crate::http::guard::is_same_host;
use crate::http::naming::{Names, Naming};
use crate::http::origin::host_of_url;
use crate::http::request::RequestHead;
use crate::http::syntax::split_port;
use crate::language::Words;

/// The two origins as a browser on this machine meets them.
pub struct Origins {
    names: Names,
    /// By which the browser knows us.
    pub outer: String,
    /// By which the upstream knows itself.
    pub inner: String,
    /// Whether one is translated into the other.
    pub translated: bool,
    renamed: bool,
}

impl Origins {
    /// For a browser that opens localhost.
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
        Origins {
            translated: Naming::of(config).is_some() && outer != inner,
            renamed: config.rewrite.host.is_some(),
            names,
            outer,
            inner,
        }
    }

    /// What such a browser stumbles over in a response field of an upstream that was called
    /// by `host`.
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
        let remedy = match self.renamed {
            true => Words::new("leave out --map off", "请去掉 --map off"),
            false => both!("try --host-header {own}", "可加 --host-header {own}"),
        };
        let (english, chinese) = (
            remedy.say(crate::language::Language::English),
            remedy.say(crate::language::Language::Chinese),
        );
        if name.eq_ignore_ascii_case("location") {
            let named = host_of_url(value)?;
            let leaves = is_same_host(named, host) && !self.names.is_outer(value);
            return leaves.then(|| {
                both!(
                    "Location names {own}: a browser at {outer} leaves the proxy; {english}",
                    "Location 指向 {own}：位于 {outer} 的浏览器会离开代理；{chinese}"
                )
            });
        }
        if name.eq_ignore_ascii_case("set-cookie") {
            let domain = cookie_domain(value)?;
            let refused = !domain.is_empty() && !is_same_host(domain, b"localhost");
            let domain = String::from_utf8_lossy(domain);
            return refused.then(|| {
                both!(
                    "a cookie has Domain={domain}: a browser at {outer} refuses it; {english}",
                    "Cookie 带有 Domain={domain}：位于 {outer} 的浏览器会拒收；{chinese}"
                )
            });
        }
        None
    }
}
