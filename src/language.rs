//! Texts for people in both languages of the program. A text cannot be created in only one of
//! them, and `tests/words.rs` checks every place that creates one.

use std::borrow::Cow;

/// A language of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `zh`
    Chinese,
    /// `en`
    English,
}

/// The same text in English and in Chinese, known at compile time: for tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    english: &'static str,
    chinese: &'static str,
}

impl Text {
    /// English, then Chinese.
    pub(crate) const fn new(english: &'static str, chinese: &'static str) -> Text {
        Text { english, chinese }
    }

    /// The text in one language.
    pub fn say(self, language: Language) -> &'static str {
        match language {
            Language::Chinese => self.chinese,
            Language::English => self.english,
        }
    }

    /// The same text as `Words`, to be combined with others.
    pub(crate) const fn words(self) -> Words {
        Words::new(self.english, self.chinese)
    }
}

/// The same text in English and in Chinese, which may be composed at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    english: Cow<'static, str>,
    chinese: Cow<'static, str>,
}

impl Words {
    /// A text that is known at compile time: English, then Chinese.
    pub const fn new(english: &'static str, chinese: &'static str) -> Words {
        Words {
            english: Cow::Borrowed(english),
            chinese: Cow::Borrowed(chinese),
        }
    }

    /// A text that was composed at run time: English, then Chinese. `both!` is shorter.
    pub fn made(english: String, chinese: String) -> Words {
        Words {
            english: Cow::Owned(english),
            chinese: Cow::Owned(chinese),
        }
    }

    /// A value or a technical phrase, which reads the same in both languages.
    pub(crate) fn same(text: impl Into<String>) -> Words {
        let text = text.into();
        Words::made(text.clone(), text)
    }

    /// The text followed by `more`.
    pub(crate) fn followed_by(&self, more: &Words) -> Words {
        Words::made(
            format!("{}{}", self.english, more.english),
            format!("{}{}", self.chinese, more.chinese),
        )
    }

    /// The text in one language.
    pub fn say(&self, language: Language) -> &str {
        match language {
            Language::Chinese => &self.chinese,
            Language::English => &self.english,
        }
    }
}

/// Makes [`Words`] of two format strings, English and Chinese, with the same variables
/// captured in both: `both!("not a number up to {most}", "应为不大于 {most} 的整数")`.
#[macro_export]
macro_rules! both {
    ($english:literal, $chinese:literal $(,)?) => {
        $crate::language::Words::made(format!($english), format!($chinese))
    };
}
