//! The environment: which variable sets which flag, and which of several sources wins.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::both;
use crate::cli::flags::{flags, Args, Flag, Kind, Settings, TABLE};
use crate::cli::nearest::nearest;
use crate::cli::settings::Given;
use crate::cli::values::switch;
use crate::complaint::Complaint;
use crate::language::Words;

/// The prefix of every flag's variable, so that an unrelated variable with a name like `TLS`
/// has no effect.
const PREFIX: &str = "SIMPLE_PROXY_";

/// The flags that choose the route to the upstream.
pub(crate) const ROUTE: [&str; 4] = ["--direct", "--socks-proxy", "--http-proxy", "--https-proxy"];

/// Groups of flags that decide one thing together: if any of them is on the command line, the
/// variables of the whole group are ignored.
const TOGETHER: [&[&str]; 2] = [&ROUTE, &["--quiet", "--verbose"]];

/// The variables that are set. An empty one counts as unset.
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    pub(crate) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
        Environment(set.collect())
    }

    /// The value of a variable, if it is set.
    pub(crate) fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(OsStr::new(name)).cloned()
    }

    /// The values of a variable: one, or one per line for a repeatable flag.
    fn values(&self, name: &'static str, kind: Kind) -> Result<Vec<Given>, Complaint> {
        let Some(value) = self.0.get(OsStr::new(name)) else {
            return Ok(Vec::new());
        };
        let text = value.to_str();
        let text = text.ok_or_else(|| {
            let problem = Words::new(
                "the value is not UTF-8; write it in UTF-8",
                "值不是 UTF-8；请用 UTF-8 书写",
            );
            Complaint::new(name, problem)
        })?;
        let given = |text: &str| Given {
            source: name,
            text: text.to_owned(),
        };
        Ok(match kind {
            Kind::Repeatable => {
                let lines = text.lines().map(str::trim);
                lines.filter(|line| !line.is_empty()).map(given).collect()
            }
            _ => vec![given(text)],
        })
    }

    /// The first variable that sets a proxy for other programs but not for this one, and what
    /// to set instead. None if a proxy or `--direct` is set.
    pub(crate) fn proxy_not_read(&self, settings: &Settings) -> Option<(String, Words)> {
        let route_is_set = settings.direct
            || settings.socks_proxy.is_some()
            || settings.http_proxy.is_some()
            || settings.https_proxy.is_some();
        let names = ["ALL_PROXY", "all_proxy", "https_proxy", "http_proxy"];
        let is_set = |name: &&str| self.0.contains_key(OsStr::new(name));
        let name = names.into_iter().find(is_set).filter(|_| !route_is_set)?;
        let problem = Words::new(
            "simple-proxy does not read it; set SOCKS_PROXY, HTTP_PROXY or HTTPS_PROXY, or use --direct",
            "本程序不读取此变量；请设置 SOCKS_PROXY、HTTP_PROXY 或 HTTPS_PROXY，或用 --direct",
        );
        Some((name.to_owned(), problem))
    }

    /// Variables with our prefix that belong to no flag but are spelled almost like one that
    /// does, each with the name that was probably meant.
    pub(crate) fn near_misses(&self) -> Vec<(String, Words)> {
        let misses = self.0.iter().filter_map(|(name, value)| {
            let name = name.to_str()?;
            let rest = name.strip_prefix(PREFIX)?;
            if is_of_kubernetes(rest, value) {
                return None;
            }
            let known = flags().filter_map(Flag::prefixed_variable);
            let known: Vec<&str> = known.map(|name| &name[PREFIX.len()..]).collect();
            if known.contains(&rest) {
                return None;
            }
            let meant = nearest(rest, known)?;
            let problem = both!(
                "did you mean {PREFIX}{meant}?",
                "是否应为 {PREFIX}{meant}？"
            );
            Some((name.to_owned(), problem))
        });
        misses.collect()
    }
}

/// Whether the variable, given without our prefix, is one that Kubernetes sets in every pod for
/// a Service whose name is or begins with `simple-proxy`: `SERVICE_HOST`, `SERVICE_PORT_HTTP`,
/// `PORT` and `PORT_80_TCP` with the value `tcp://10.0.0.1:80`, `PORT_80_TCP_ADDR`.
fn is_of_kubernetes(rest: &str, value: &OsStr) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| {
        let bytes = value.as_encoded_bytes();
        bytes.starts_with(scheme.as_bytes())
    });
    let has = |word: &str| rest.starts_with(&word[1..]) || rest.contains(word);
    is_address || has("_SERVICE_") || has("_PORT_") || rest == "PORT"
}

/// The values of each flag, in the order of the table: from the command line, else from its
/// variable with our prefix, else from the one without. A route flag on the command line
/// overrides the variables of all route flags, and a route variable with our prefix overrides
/// those without.
pub(crate) fn merge(args: Args, environment: &Environment) -> Result<Vec<Vec<Given>>, Complaint> {
    let given = args.values().into_iter().zip(TABLE).map(|(values, flag)| {
        let source = flag.long;
        let given = values.into_iter().map(|text| Given { source, text });
        given.collect()
    });
    let mut given: Vec<Vec<Given>> = given.collect();
    let answered: Vec<&str> = TOGETHER
        .into_iter()
        .filter(|flags| flags.iter().any(|flag| source_of(&given, flag).is_some()))
        .flatten()
        .copied()
        .collect();
    let is_open = |values: &[Given], flag: &Flag| {
        let is_answered = answered.contains(&flag.long);
        values.is_empty() && !is_answered
    };
    for (values, flag) in given.iter_mut().zip(TABLE) {
        if let (Some(name), true) = (flag.prefixed_variable(), is_open(values, flag)) {
            *values = environment.values(name, flag.kind)?;
        }
    }
    let has_route = names_a_route(&given);
    for (values, flag) in given.iter_mut().zip(TABLE) {
        let Some(name) = flag.variable.filter(|_| is_open(values, flag)) else {
            continue;
        };
        if !(has_route && ROUTE.contains(&flag.long)) {
            *values = environment.values(name, flag.kind)?;
        }
    }
    Ok(given)
}

/// Whether a route flag has a value other than one that turns it off.
fn names_a_route(given: &[Vec<Given>]) -> bool {
    let mut rows = TABLE.iter().zip(given);
    rows.any(|(flag, values)| match (flag.kind, values.last()) {
        (_, None) => false,
        _ if !ROUTE.contains(&flag.long) => false,
        (Kind::Switch, Some(value)) => switch(&value.text).unwrap_or(true),
        (_, Some(_)) => true,
    })
}

/// The flag or variable that set `long`, if any.
pub(crate) fn source_of(given: &[Vec<Given>], long: &str) -> Option<&'static str> {
    let found = TABLE.iter().zip(given).find(|(flag, _)| flag.long == long);
    found.and_then(|(_, values)| values.last().map(|value| value.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Language;

    #[test]
    fn misspelled_variables_are_reported() {
        for (name, value, meant) in [
            ("CONECT_TIMEOUT", "5", Some("CONNECT_TIMEOUT")),
            ("LOGLANG", "en", Some("LOG_LANG")),
            ("TLS_VERFIY", "1", Some("TLS_VERIFY")),
            ("TSL", "on", Some("TLS")),
            ("LISTN_PORT", "80", Some("LISTEN_PORT")),
            ("SOCK_PROXY", "socks5://a", Some("SOCKS_PROXY")),
            ("CONECT_TIMEOUT", "", None),
            ("TLS", "on", None),
            ("CHECK", "1", None),
            ("PORT", "tcp://10.0.0.1:80", None),
            ("PORT_80_TCP", "tcp://10.0.0.1:80", None),
            ("PORT_80_TCP_ADDR", "10.0.0.1", None),
            ("SERVICE_HOST", "10.0.0.1", None),
            ("SERVICE_PORT", "80", None),
            // These belong to a Service called simple-proxy-tls.
            ("TLS_PORT", "tcp://10.0.0.1:80", None),
            ("TLS_SERVICE_PORT", "80", None),
            ("REQUIRE_PEERS", "1", None),
            ("WRITE_COMPLETIONS", "1", None),
        ] {
            let name = format!("{PREFIX}{name}");
            let set = [
                (OsString::from(&name), OsString::from(value)),
                (OsString::from("CONECT_TIMEOUT"), OsString::from("5")),
            ];
            let told: Vec<(String, String)> = Environment::new(set)
                .near_misses()
                .into_iter()
                .map(|(name, words)| (name, words.say(Language::English).to_owned()))
                .collect();
            let expected = meant.map(|meant| (name, format!("did you mean {PREFIX}{meant}?")));
            assert_eq!(told, Vec::from_iter(expected));
        }
    }
}
