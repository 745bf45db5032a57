//! Writes a request head for the upstream: without hop-by-hop fields, and with those that
//! describe the client and the proxy. `naming` owns the fields that name an origin.

use std::io::Write;
use std::net::IpAddr;

use crate::config::{Forwarded, Rewrite};
use crate::http::fields::{values, write_field};
use crate::http::known::Known;
use crate::http::naming::Names;
use crate::http::request::{upgrades_asked, Protocol, RequestHead, MAX_ELEMENTS};
use crate::http::syntax::list;

impl RequestHead<'_, '_> {
    /// The Host that is sent upstream; `authority` is the one for a request without Host.
    pub fn host_sent<'a>(&'a self, rewrite: &'a Rewrite, authority: &'a str) -> &'a [u8] {
        match (&rewrite.host, self.host.as_deref()) {
            (Some(host), _) => host.as_bytes(),
            (None, Some(host)) => host,
            (None, None) => authority.as_bytes(),
        }
    }

    /// The X-Forwarded-Proto that is sent upstream, if any. `https` says whether the client's
    /// connection uses TLS.
    pub fn proto_sent<'a>(&'a self, rewrite: &'a Rewrite, https: bool) -> Option<&'a [u8]> {
        const NAME: &str = "x-forwarded-proto";
        if let Some(outcome) = rewrite.request_fields.outcome(NAME) {
            return outcome;
        }
        let own = Some(scheme_of(https));
        let sent = values(self.fields, NAME)
            .next()
            .filter(|_| !self.options.drops(NAME));
        match rewrite.forwarded {
            Forwarded::Off => sent,
            Forwarded::Replace => own,
            Forwarded::Append => sent.or(own),
        }
    }

    /// Appends the head for the upstream. `client` is the address for X-Forwarded-For, `https`
    /// says whether the client's connection uses TLS, and `authority` is the Host for a request
    /// without one. `names` translates between the two origins, if they may differ.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        rewrite: &Rewrite,
        client: Option<IpAddr>,
        https: bool,
        authority: &str,
        names: Option<&Names>,
    ) {
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let host = self.host_sent(rewrite, authority);
        if !self.present.has(Known::Host) {
            write_field(out, "Host", host);
        }
        let mut framing_written = false;
        for field in self.fields {
            let name = field.name;
            let known = Known::of(name.as_bytes());
            match known {
                Some(Known::Host) => write_field(out, name, host),
                Some(Known::ContentLength | Known::TransferEncoding) => {
                    if !std::mem::replace(&mut framing_written, true) {
                        self.request.framing.write_field(out, name);
                    }
                }
                Some(Known::Expect) if self.request.minor == 0 => {}
                _ if self.options.drops_known(known, name) || rewrite.gives_way(name) => {}
                _ => match names {
                    Some(names) => names.write_request_field(out, name, field.value),
                    None => write_field(out, name, field.value),
                },
            }
        }
        if rewrite.forwarded != Forwarded::Off {
            self.write_forwarded(out, rewrite, client, https);
        }
        for (name, value) in rewrite.request_fields.written() {
            write_field(out, name, value);
        }
        self.write_connection(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the fields that describe the client (X-Forwarded-*) and the proxy (Via).
    fn write_forwarded(
        &self,
        out: &mut Vec<u8>,
        rewrite: &Rewrite,
        client: Option<IpAddr>,
        https: bool,
    ) {
        let appends = rewrite.forwarded == Forwarded::Append;
        // The values from a front proxy, if it is trusted.
        let came = |name: &'static str| {
            let passes = appends && !self.options.drops(name);
            values(self.fields, name).filter(move |_| passes)
        };
        let is_ours = |name: &str| !rewrite.request_fields.replaces(name);
        if is_ours("X-Forwarded-For") {
            out.extend_from_slice(b"X-Forwarded-For: ");
            for before in came("x-forwarded-for").filter(|value| !value.is_empty()) {
                out.extend_from_slice(before);
                out.extend_from_slice(b", ");
            }
            // Writing to a Vec cannot fail. A client without an address is on a unix socket
            // (RFC 7239 §6.2).
            let _ = match client {
                Some(address) => write!(out, "{address}\r\n"),
                None => write!(out, "unknown\r\n"),
            };
        }
        let mut write = |name: &str, value: &[u8]| {
            if is_ours(name) {
                write_field(out, name, value);
            }
        };
        if let (None, Some(host)) = (came("x-forwarded-host").next(), &self.host) {
            write("X-Forwarded-Host", host);
        }
        if came("x-forwarded-proto").next().is_none() {
            write("X-Forwarded-Proto", scheme_of(https));
        }
        let via = if self.request.minor == 0 {
            "1.0"
        } else {
            "1.1"
        };
        write("Via", format!("{via} simple-proxy").as_bytes());
    }

    /// Appends the hop-by-hop fields for the upstream: TE, Upgrade and Connection (RFC 9110
    /// §7.6.1, §7.8, §10.1.4).
    pub(super) fn write_connection(&self, out: &mut Vec<u8>) {
        let wants_trailers = self.present.has(Known::Te)
            && values(self.fields, "te")
                .flat_map(list)
                .take(MAX_ELEMENTS)
                .any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        match (&self.request.upgrade, wants_trailers) {
            (None, false) => {}
            (None, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
            (Some(protocol), _) => {
                // Only the chosen protocol, in the client's letter case.
                let mut asked = upgrades_asked(self.fields);
                if let Some(token) =
                    asked.find(|t| t.eq_ignore_ascii_case(protocol.token().as_bytes()))
                {
                    write_field(out, "Upgrade", token);
                }
                out.extend_from_slice(b"Connection: Upgrade\r\n");
            }
        }
    }

    /// The requested protocols that are not forwarded, as received; none if all are.
    pub fn upgrades_withheld(&self) -> Option<Vec<u8>> {
        if self.request.minor == 0 || !self.options.upgrade {
            return None;
        }
        let chosen = self.request.upgrade.as_ref().map_or("", Protocol::token);
        let withheld = upgrades_asked(self.fields);
        let withheld = withheld.filter(|t| !t.eq_ignore_ascii_case(chosen.as_bytes()));
        let withheld = withheld.collect::<Vec<_>>().join(&b", "[..]);
        (!withheld.is_empty()).then_some(withheld)
    }
}

fn scheme_of(https: bool) -> &'static [u8] {
    if https {
        b"https"
    } else {
        b"http"
    }
}
