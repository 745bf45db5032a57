//! The report of `--check`, as text for people and as JSON.

use std::fmt::{self, Write as _};

use crate::both;
use crate::check::certificate::Inspection;
use crate::check::walk::{Line, Walk};
use crate::cli::settings::Setting;
use crate::error::{Error, Stage};
use crate::identity::Summary;
use crate::language::{Language, Text, Words};
use crate::report::json::{self, Value};
use crate::report::line::millis;
use crate::text::{width, wrap};

/// The result of a check, for display.
pub struct Report<'a> {
    /// The settings in effect.
    pub settings: &'a [Setting],
    /// The steps that were done, and what they found.
    pub walk: &'a Walk,
    /// The error, if the check failed.
    pub failure: Option<&'a Error>,
    /// The language of the text, and of texts for people in the JSON.
    pub language: Language,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            settings, language, ..
        } = *self;
        let Walk {
            config,
            lines,
            inspection,
            ..
        } = self.walk;
        let say = |english, chinese| Text::new(english, chinese).say(language);
        writeln!(f, "{}", say("settings", "设置"))?;
        for setting in settings {
            let (name, value) = (setting.name, setting.value.say(language));
            let gap = " ".repeat(28_usize.saturating_sub(width(value)));
            let source = setting.source(language);
            writeln!(f, "  {name:<18} {value}{gap} {source}")?;
        }
        for ignored in self.ignored() {
            wrap(f, &ignored, 0, 2)?;
        }
        let shown: Vec<Summary> = self.shown_to_clients().collect();
        if !shown.is_empty() {
            let heading = say("certificates shown to clients", "出示给客户端的证书");
            writeln!(f, "{heading}")?;
        }
        for certificate in &shown {
            writeln!(f, "  {}", certificate.words().say(language))?;
        }
        let (route, upstream) = (config.route.words(), &config.upstream);
        let route = route.say(language);
        let heading = both!(
            "route {route} to {upstream}",
            "路由 {route}，上游 {upstream}"
        );
        writeln!(f, "{}", heading.say(language))?;
        for Line { name, took, detail } in lines {
            let (took, detail) = (millis(*took).to_string(), detail.say(language));
            let line = format!("  {name:<9} {took:>8} ms  {detail}");
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(inspection) = inspection {
            let Inspection {
                version,
                cipher,
                certificate,
                ..
            } = inspection;
            let Summary {
                subject,
                issuer,
                expires,
                ..
            } = certificate;
            let heading = both!(
                "certificate, by {version} with {cipher}",
                "证书（{version}，{cipher}）"
            );
            writeln!(f, "{}", heading.say(language))?;
            writeln!(f, "  {} {subject}", say("subject  ", "主体     "))?;
            writeln!(f, "  {} {issuer}", say("issuer   ", "颁发者   "))?;
            let left = certificate.left();
            let left = left.say(language);
            writeln!(f, "  {} {expires} {left}", say("expires  ", "到期     "))?;
            let verified = match &inspection.objection {
                None => Words::new("yes", "通过"),
                Some(why) => both!("no: {why}", "未通过：{why}"),
            };
            let verified = verified.say(language);
            writeln!(f, "  {} {verified}", say("verified ", "校验     "))?;
            if self.walk.lacks_certificate {
                let lacking = say(
                    "asks for a client certificate, and --tls-cert is not set",
                    "要求客户端证书，而未设置 --tls-cert",
                );
                writeln!(f, "  {lacking}")?;
            }
        }
        let (outer, inner) = (&self.walk.origins.outer, &self.walk.origins.inner);
        if self.walk.origins.translated {
            let words = both!(
                "origin: a local browser uses {outer}, which the upstream sees as {inner}",
                "源: 本机浏览器用 {outer} 访问，上游看到的是 {inner}"
            );
            wrap(f, words.say(language), 0, 2)?;
        } else if outer != inner {
            let words = both!(
                "origin: {outer} for a local browser, {inner} for the upstream, not translated",
                "源: 本机浏览器用 {outer} 访问，上游自身是 {inner}，不作转换"
            );
            wrap(f, words.say(language), 0, 2)?;
        }
        for remark in &self.walk.remarks {
            let remark = remark.say(language);
            let note = both!("note: {remark}", "注意: {remark}");
            wrap(f, note.say(language), 0, 2)?;
        }
        match self.failure {
            None => writeln!(f, "{}", say("the upstream can be reached", "可以到达上游")),
            Some(error) => {
                let (stage, address, cause) = (error.stage.name(), &error.address, error.in_full());
                let failed = both!(
                    "failed: [{stage}] {address}: {cause}",
                    "失败: [{stage}] {address}: {cause}"
                );
                wrap(f, failed.say(language), 0, 2)?;
                let advice = self.advice(error).say(language);
                let advice = both!("try: {advice}", "建议: {advice}");
                wrap(f, advice.say(language), 0, 2)
            }
        }
    }
}

impl Report<'_> {
    /// The variables that have no effect, and why.
    fn ignored(&self) -> impl Iterator<Item = String> + '_ {
        let ignored = self.walk.config.ignored.iter();
        ignored.map(|(source, problem)| {
            let problem = problem.say(self.language);
            let words = both!(
                "{source} is ignored: {problem}",
                "已忽略 {source}: {problem}"
            );
            words.say(self.language).to_owned()
        })
    }

    /// The certificate that is presented to clients, and the rest of its chain.
    fn shown_to_clients(&self) -> impl Iterator<Item = Summary> + '_ {
        let tls = self.walk.config.listen.tls.iter();
        tls.flat_map(|tls| tls.identity.chain.iter().map(Summary::of))
    }

    /// What to try next, given what the check has found.
    fn advice(&self, error: &Error) -> Text {
        match error.stage {
            Stage::Tls | Stage::Response if self.walk.lacks_certificate => Text::new(
                "the upstream asks for a client certificate; set --tls-cert and --tls-key",
                "上游要求客户端证书：请用 --tls-cert 和 --tls-key 指定",
            ),
            _ => error.advice(&self.walk.config),
        }
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        let members: Vec<_> = self
            .settings
            .iter()
            .map(|setting| {
                [
                    ("name", Value::Text(setting.name)),
                    ("value", Value::Text(setting.value.say(Language::English))),
                    ("source", Value::Text(setting.source(Language::English))),
                ]
            })
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
                    ("detail", Value::Text(detail.say(self.language))),
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
                    ("try", Value::Text(self.advice(error).say(self.language))),
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
