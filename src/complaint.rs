//! The error that keeps the program from starting, for people and log collectors.

use std::fmt;

use crate::error::describe;
use crate::language::{Language, Words};

/// A flag, variable or resource, and what is wrong with it. Displays in English and contains no
/// credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The flag, the variable, or the resource.
    pub source: Words,
    /// What is wrong, and what to do about it.
    pub problem: Words,
}

impl Complaint {
    /// A complaint about a source that is written the same in both languages, such as a flag.
    pub fn new(source: impl Into<String>, problem: Words) -> Complaint {
        Complaint::about(Words::same(source), problem)
    }

    /// A complaint about a source that has a name in each language.
    pub(crate) fn about(source: Words, problem: Words) -> Complaint {
        Complaint { source, problem }
    }

    /// A complaint about a resource that the operating system refused. The cause is a technical
    /// phrase in English.
    pub fn io(source: Words, error: &std::io::Error) -> Complaint {
        Complaint::about(source, Words::same(describe(error)))
    }

    /// `SOURCE: problem`
    pub(crate) fn say(&self, language: Language) -> String {
        let [source, problem] = [&self.source, &self.problem].map(|words| words.say(language));
        format!("{source}: {problem}")
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.say(Language::English))
    }
}

impl std::error::Error for Complaint {}
