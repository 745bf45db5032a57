//! Splits the command line as typed into the separate words that argh accepts. No error
//! repeats a credential.

use std::collections::VecDeque;
use std::ffi::OsString;

use crate::both;
use crate::cli::flags::{flags, Flag, Kind};
use crate::cli::nearest::nearest;
use crate::cli::refused::{with_value, SECRET};
use crate::complaint::Complaint;
use crate::language::Words;

fn of_the_command_line(problem: Words) -> Complaint {
    Complaint::about(Words::new("command line", "命令行"), problem)
}

/// The words for argh, or a request for help.
#[derive(Debug)]
pub(crate) enum Separated {
    /// Each flag by its long name, followed by its value as a word of its own.
    Words(Vec<String>),
    /// `-h` or `--help` is among the arguments.
    Help,
}

/// Rewrites `--name=value`, `-p80` and `-vq` into the separate words that argh accepts, and
/// refuses whatever argh would refuse, because argh's messages repeat values.
pub(crate) fn separate(args: impl IntoIterator<Item = OsString>) -> Result<Separated, Complaint> {
    let mut words = Vec::new();
    let mut args = args.into_iter().collect::<VecDeque<_>>();
    while let Some(word) = args.pop_front() {
        let word = text(word)?;
        if word == "--" {
            match args.pop_front() {
                Some(extra) => return Err(unexpected(&text(extra)?, &words)),
                None => break,
            }
        } else if word.starts_with("--") {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*word, None),
            };
            let flag = flags().find(|flag| flag.long == name);
            let flag = flag.ok_or_else(|| no_such_option(name))?;
            if flag.long == "--help" {
                return Ok(Separated::Help);
            }
            let value = match (flag.kind, value) {
                (Kind::Switch, Some(value)) => {
                    let problem = Words::new(
                        "this option takes no value; leave out the = and what follows it",
                        "此选项不带值；请去掉 = 及其后的部分",
                    );
                    return Err(Complaint::new(name, with_value(&problem, flag, &value)));
                }
                (_, Some(value)) => value,
                (Kind::Switch | Kind::Optional, None) => "on".to_owned(),
                (_, None) => value_for(name, flag, &mut args)?,
            };
            words.extend([name.to_owned(), value]);
        } else if let Some(cluster) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            let mut letters = cluster.chars();
            while let Some(letter) = letters.next() {
                let name = format!("-{letter}");
                let flag = flags().find(|flag| flag.short == Some(letter));
                let flag = flag.ok_or_else(|| no_such_option(&name))?;
                if flag.long == "--help" {
                    return Ok(Separated::Help);
                }
                let value = match (flag.takes_value(), letters.as_str()) {
                    (false, _) => "on".to_owned(),
                    (true, "") => value_for(&name, flag, &mut args)?,
                    (true, rest) => rest.to_owned(),
                };
                words.extend([flag.long.to_owned(), value]);
                if flag.takes_value() {
                    break;
                }
            }
        } else {
            return Err(unexpected(&word, &words));
        }
    }
    Ok(Separated::Words(words))
}

fn value_for(name: &str, flag: &Flag, args: &mut VecDeque<OsString>) -> Result<String, Complaint> {
    let missing = || {
        let metavar = flag.metavar;
        let problem = both!(
            "a value is missing: write {name} {metavar}",
            "缺少值：请写成 {name} {metavar}"
        );
        Complaint::new(name, problem)
    };
    text(args.pop_front().ok_or_else(missing)?)
}

fn text(word: OsString) -> Result<String, Complaint> {
    word.into_string().map_err(|_| {
        of_the_command_line(Words::new(
            "an argument is not UTF-8; write it in UTF-8",
            "有参数不是 UTF-8；请用 UTF-8 书写",
        ))
    })
}

fn no_such_option(name: &str) -> Complaint {
    let long = flags().map(|flag| flag.long);
    let problem = match nearest(name, long).filter(|_| name.starts_with("--")) {
        Some(meant) => both!(
            "no such option; did you mean {meant}?",
            "没有此选项；是否应为 {meant}？"
        ),
        None => Words::new("no such option", "没有此选项"),
    };
    // A proxy URL joined to its flag without `=` may contain a password.
    if name.contains(['@', ':']) {
        of_the_command_line(problem)
    } else {
        Complaint::new(printable(name), problem)
    }
}

fn unexpected(word: &str, before: &[String]) -> Complaint {
    let problem = Words::new(
        "unexpected argument; a value must follow its option, and be quoted if it contains spaces",
        "多余的参数；值须紧跟在其选项之后，含空格时须加引号",
    );
    // A proxy URL typed without its flag may contain a password, and so may the part after
    // the blank in a field line or a URL that was not quoted.
    let may_be_a_part = before.iter().any(|word| SECRET.contains(&word.as_str()));
    if word.contains('@') || may_be_a_part {
        of_the_command_line(problem)
    } else {
        Complaint::new(printable(word), problem)
    }
}

fn printable(text: &str) -> String {
    text.escape_debug().take(80).collect()
}
