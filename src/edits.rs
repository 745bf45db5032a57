//! Fields that the settings set, empty or remove in every head (`--header`,
//! `--response-header`). Values may be secrets, so Display and Debug never show one.

use std::fmt;

/// A change to the fields of one name.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldEdit {
    /// The name of the field, as it is sent.
    pub name: String,
    /// What the field is set to, possibly empty; none removes it.
    pub value: Option<Vec<u8>>,
}

/// Every change to the fields of a head, in the order in which they were given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FieldEdits(pub Vec<FieldEdit>);

/// Response fields that are added to those of the upstream instead of replacing them.
const ADDED: [&str; 3] = ["set-cookie", "link", "vary"];

impl FieldEdits {
    /// Joins the edits of several sources, in order.
    pub fn all(sources: Vec<FieldEdits>) -> FieldEdits {
        FieldEdits(sources.into_iter().flat_map(|edits| edits.0).collect())
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether request fields of this name are removed or replaced. CGI and WSGI do not
    /// distinguish `_` from `-`, so a client's `X_Remote_User` is removed if X-Remote-User is
    /// set.
    pub fn replaces(&self, name: &str) -> bool {
        self.0.iter().any(|edit| is_twin(&edit.name, name))
    }

    /// The same for response fields. Set-Cookie, Link and Vary of the upstream are kept unless an
    /// edit removes them.
    pub fn replaces_in_response(&self, name: &str) -> bool {
        self.0.iter().any(|edit| {
            is_twin(&edit.name, name)
                && (edit.value.is_none() || !ADDED.iter().any(|added| is_twin(added, name)))
        })
    }

    /// The fields to send, with their values.
    pub fn written(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .filter_map(|edit| Some((edit.name.as_str(), edit.value.as_deref()?)))
    }

    /// What the fields of this name are set to: None if no edit names them, Some(None) if they
    /// are removed.
    pub fn outcome(&self, name: &str) -> Option<Option<&[u8]>> {
        let value = self.written().find(|(written, _)| is_twin(written, name));
        let value = value.map(|(_, value)| value);
        self.replaces(name).then_some(value)
    }

    /// Whether some field is given a value, which may be a credential.
    pub fn sets_a_value(&self) -> bool {
        self.written().any(|(_, value)| !value.is_empty())
    }
}

/// Whether two field names are equal when letter case and the difference between `_` and `-` are
/// ignored.
pub fn is_twin(one: &str, other: &str) -> bool {
    let fold = |byte: u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

/// Shows the names without their values, in the notation of `--header`.
impl fmt::Display for FieldEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, FieldEdit { name, value }) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            let rest = match value.as_deref() {
                None => ":",
                Some([]) => ";",
                Some(_) => ": ***",
            };
            write!(f, "{separator}{name}{rest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for FieldEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldEdits({self})")
    }
}

impl fmt::Debug for FieldEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.value.as_ref().map(|_| "***");
        write!(f, "FieldEdit({}, {shown:?})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(name: &str, value: Option<&str>) -> FieldEdit {
        FieldEdit {
            name: name.to_owned(),
            value: value.map(|value| value.as_bytes().to_vec()),
        }
    }

    #[test]
    fn twins_are_replaced_and_values_are_not_shown() {
        let edits = FieldEdits(vec![
            edit("X-Token", Some("s3cret")),
            edit("X-Empty", Some("")),
            edit("X-Gone", None),
            edit("Set-Cookie", Some("s3cret=1")),
            edit("Link", None),
            edit("link", Some("</a>")),
        ]);
        for (name, request, response) in [
            ("x_token", true, true),
            ("X-Token", true, true),
            ("X-Tokens", false, false),
            ("X_EMPTY", true, true),
            ("x-gone", true, true),
            ("set-cookie", true, false),
            ("Set_Cookie", true, false),
            ("Link", true, true),
        ] {
            assert_eq!(edits.replaces(name), request, "{name}");
            assert_eq!(edits.replaces_in_response(name), response, "{name}");
        }
        let shown = format!("{edits} {edits:?} {:?}", edits.0);
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.starts_with("X-Token: ***, X-Empty;, X-Gone:, "));
        assert!(edits.sets_a_value());
        assert_eq!(edits.outcome("x-token"), Some(Some(&b"s3cret"[..])));
        assert_eq!(edits.outcome("x-gone"), Some(None));
        assert_eq!(edits.outcome("x-other"), None);
        let harmless = FieldEdits(vec![edit("X-Empty", Some("")), edit("X-Gone", None)]);
        assert!(!harmless.sets_a_value());
    }
}
