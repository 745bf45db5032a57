//! The report of `--check`, as text for people and as JSON.

use std::fmt::{self, Write as _};

use crate::both;
use crate::check::certificate::Inspection;
use crate::check::walk::{Line, Walk};
use crate::cli::settings::Setting;
use crate::config::Language;
use crate::error::{Error, Stage};
use crate::identity::Summary;
use crate::report::json::{self, Value};
use crate::report::log::millis;
use crate::text::wrap;

/// What a check found, and why it failed if it did.
pub struct Report<'a> {
    /// The settings in effect.
    pub settings: &'a [Setting],
    /// The way that was walked.
    pub walk: &'a Walk,
    /// What went wrong, if anything did.
    pub failure: Option<&'a Error>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "settings")?;
        for Setting {
            name,
            value,
            source,
        } in self.settings
        {
            let value = value.say(Language::English);
            writeln!(f, "  {name:<18} {value:<28} {source}")?;
        }
        for ignored in self.ignored() {
            wrap(f, &ignored, 0, 2)?;
        }
        let Walk {
            config,
            lines,
            inspection,
            ..
        } = self.walk;
        let shown: Vec<Summary> = self.shown_to_clients().collect();
        if !shown.is_empty() {
            writeln!(f, "certificates shown to clients")?;
        }
        for certificate in &shown {
            writeln!(f, "  {certificate}")?;
        }
        writeln!(f, "route {} to {}", config.route, config.upstream)?;
        for Line { name, took, detail } in lines {
            let line = format!("  {name:<9} {:>8} ms  {detail}", millis(*took).to_string());
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(inspection) = inspection {
            let Inspection {
                version,
                cipher,
                certificate,
                ..
            } = inspection;
            writeln!(f, "certificate, by {version} with {cipher}")?;
            writeln!(f, "  subject   {}", certificate.subject)?;
            writeln!(f, "  issuer    {}", certificate.issuer)?;
            let days = certificate.days_left;
            writeln!(f, "  expires   {} (in {days} days)", certificate.expires)?;
            match &inspection.objection {
                None => writeln!(f, "  verified  yes")?,
                Some(why) => writeln!(f, "  verified  no: {why}")?,
            }
            if self.walk.lacks_certificate {
                writeln!(
                    f,
                    "  asks for a client certificate, and --tls-cert is not set"
                )?;
            }
        }
        let (outer, inner) = (&self.walk.origins.outer, &self.walk.origins.inner);
        if self.walk.origins.translated {
            let words = both!(
                "origins: {outer} in a browser here is {inner} to the upstream",
                "源：本机浏览器中的 {outer} 对上游是 {inner}"
            );
            wrap(f, words.say(Language::English), 0, 2)?;
        } else if outer != inner {
            let words = both!(
                "origins: {outer} in a browser here, {inner} to the upstream, not translated",
                "源：本机浏览器中是 {outer}，对上游是 {inner}，不转换"
            );
            wrap(f, words.say(Language::English), 0, 2)?;
        }
        for remark in &self.walk.remarks {
            wrap(f, &format!("note: {}", remark.say(Language::English)), 0, 2)?;
        }
        match self.failure {
            None => writeln!(f, "all is well"),
            Some(error) => {
                let (stage, address, cause) = (error.stage.name(), &error.address, error.in_full());
                wrap(f, &format!("failed: [{stage}] {address}: {cause}"), 0, 2)?;
                wrap(f, &format!("try: {}", self.advice(error)), 0, 2)
            }
        }
    }
}

impl Report<'_> {
    /// The variables that have no effect, and why.
    fn ignored(&self) -> impl Iterator<Item = String> + '_ {
        let ignored = self.walk.config.ignored.iter();
        ignored.map(|(source, problem)| {
            let problem = problem.say(Language::English);
            format!("{source} is ignored: {problem}")
        })
    }

    /// The certificate that clients are shown, and those that vouch for it.
    fn shown_to_clients(&self) -> impl Iterator<Item = Summary> + '_ {
        let tls = self.walk.config.listen.tls.iter();
        tls.flat_map(|tls| tls.identity.chain.iter().map(Summary::of))
    }

    /// What to try, given all that was seen.
    fn advice(&self, error: &Error) -> &'static str {
        match error.stage {
            Stage::Tls | Stage::Response if self.walk.lacks_certificate => {
                "the upstream asks for a client certificate: --tls-cert and --tls-key"
            }
            _ => error.advice(&self.walk.config),
        }
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        let members: Vec<_> = self
            .settings
            .iter()
            .map(
                |Setting {
                     name,
                     value,
                     source,
                 }| {
                    [
                        ("name", Value::Text(name)),
                        ("value", Value::Text(value.say(Language::English))),
                        ("source", Value::Text(source)),
                    ]
                },
            )
            .collect();
        let settings: Vec<_> = members.iter().map(|m| Value::Object(m)).collect();
        let members: Vec<_> = self
            .walk
            .lines
            .iter()
            .map(|Line { name, took, detail }| {
                [
                    ("name", Value::Text(name)),
                    ("seconds", Value::Seconds(*took)),
                    ("detail", Value::Text(detail)),
                ]
            })
            .collect();
        let steps: Vec<_> = members.iter().map(|m| Value::Object(m)).collect();
        let inspected;
        let certificate = match &self.walk.inspection {
            None => Value::Null,
            Some(inspection) => {
                let text = |text| Value::Text(text);
                let certificate = &inspection.certificate;
                inspected = [
                    ("version", text(inspection.version.as_str())),
                    ("cipher", text(&inspection.cipher)),
                    ("subject", text(&certificate.subject)),
                    ("issuer", text(&certificate.issuer)),
                    ("expires", text(&certificate.expires)),
                    ("days_left", Value::Signed(certificate.days_left.into())),
                    ("verified", Value::Flag(inspection.objection.is_none())),
                    (
                        "objection",
                        inspection.objection.as_deref().map_or(Value::Null, text),
                    ),
                ];
                Value::Object(&inspected)
            }
        };
        let (failed, cause);
        let failure = match self.failure {
            None => Value::Null,
            Some(error) => {
                cause = error.in_full();
                failed = [
                    ("stage", Value::Text(error.stage.name())),
                    ("address", Value::Text(&error.address)),
                    ("cause", Value::Text(&cause)),
                    ("try", Value::Text(self.advice(error))),
                ];
                Value::Object(&failed)
            }
        };
        let ignored: Vec<String> = self.ignored().collect();
        let remarks = self.walk.remarks.iter();
        let remarks = remarks.map(|remark| remark.say(Language::English));
        let remarks: Vec<_> = ignored
            .iter()
            .map(String::as_str)
            .chain(remarks)
            .map(Value::Text)
            .collect();
        let shown: Vec<Summary> = self.shown_to_clients().collect();
        let members: Vec<_> = shown
            .iter()
            .map(|shown| {
                [
                    ("subject", Value::Text(&shown.subject)),
                    ("issuer", Value::Text(&shown.issuer)),
                    ("expires", Value::Text(&shown.expires)),
                    ("days_left", Value::Signed(shown.days_left.into())),
                ]
            })
            .collect();
        let listen_certificates: Vec<_> = members.iter().map(|m| Value::Object(m)).collect();
        let origins = [
            ("outer", Value::Text(&self.walk.origins.outer)),
            ("inner", Value::Text(&self.walk.origins.inner)),
            ("translated", Value::Flag(self.walk.origins.translated)),
        ];
        let mut out = String::new();
        json::write(
            &mut out,
            Value::Object(&[
                ("ok", Value::Flag(self.failure.is_none())),
                ("settings", Value::List(&settings)),
                ("listen_certificates", Value::List(&listen_certificates)),
                ("route", Value::Shown(&self.walk.config.route)),
                ("steps", Value::List(&steps)),
                ("certificate", certificate),
                ("origins", Value::Object(&origins)),
                ("remarks", Value::List(&remarks)),
                ("failure", failure),
            ]),
        );
        let _ = writeln!(out);
        out
    }
}
