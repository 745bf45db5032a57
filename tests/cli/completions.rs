//! The completions for bash, zsh and fish, generated here from the program's table of flags.
//! The files must match; with SIMPLE_PROXY_WRITE_COMPLETIONS set they are written instead.
//! Each installed shell is then run with its file.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use simple_proxy::cli::flags::{self, Kind, Offer};
use simple_proxy::cli::resolve::resolve;
use simple_proxy::language::Language;

use crate::support::Folder;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    let mut all = trials![match_the_flags, offer_words_that_are_accepted];
    all.extend(shells());
    all
}

/// Generates the file for one shell.
type Generator = fn(&[Flag]) -> String;

const FILES: [(&str, Generator); 3] = [
    ("simple-proxy.bash", bash),
    ("_simple-proxy", zsh),
    ("simple-proxy.fish", fish),
];

/// The note at the top of each file, after a first line that its shell may require.
const NOTE: &str = "# Made by `make completions` from the table of flags in src/cli/flags.rs.\n";

/// What a shell offers for an option's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// None: the flag is a switch.
    Switch,
    Any,
    Files,
    Words(&'static [&'static str]),
}

/// One flag of the table, as the shells need it.
struct Flag {
    short: Option<char>,
    /// With its hyphens.
    long: String,
    /// The value's name, in capitals as in the documents.
    metavar: String,
    values: Values,
    about: String,
    repeatable: bool,
}

impl Flag {
    /// Its names with their hyphens, the short one first.
    fn names(&self) -> Vec<String> {
        let short = self.short.map(|letter| format!("-{letter}"));
        short.into_iter().chain([self.long.clone()]).collect()
    }
}

fn flags() -> Vec<Flag> {
    let flags = flags::flags().map(|flag| Flag {
        short: flag.short,
        long: flag.long.to_owned(),
        metavar: flag.metavar.to_owned(),
        values: match (flag.kind, flag.values) {
            // Such a flag takes no value from the next word.
            (Kind::Switch | Kind::Optional, _) => Values::Switch,
            (_, Offer::Nothing) => Values::Any,
            (_, Offer::Files) => Values::Files,
            (_, Offer::Words(words)) => Values::Words(words),
        },
        // The first clause; only --help has the rest.
        about: flag
            .help
            .say(Language::English)
            .split("; ")
            .next()
            .unwrap_or_default()
            .to_owned(),
        repeatable: flag.kind == Kind::Repeatable,
    });
    flags.collect()
}

pub fn match_the_flags() {
    let flags = flags();
    let folder = folder();
    let write = is_set("SIMPLE_PROXY_WRITE_COMPLETIONS");
    if write {
        fs::create_dir_all(&folder).unwrap();
    }
    for (name, make) in FILES {
        let (path, text) = (folder.join(name), make(&flags));
        if write {
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        } else {
            let found = fs::read_to_string(&path).unwrap_or_default();
            assert!(found == text, "{name} is not up to date: make completions");
        }
    }
}

/// The program accepts each word that is offered as a value, and refuses any other.
pub fn offer_words_that_are_accepted() {
    for flag in flags() {
        let Values::Words(words) = flag.values else {
            continue;
        };
        let accepts = |word: &str| {
            let args = ["-u", "a:80", &flag.long, word].map(OsString::from);
            resolve(args, []).is_ok()
        };
        for word in words {
            assert!(accepts(word), "{} {word} is offered but refused", flag.long);
        }
        assert!(!accepts("other"), "{} accepts any word", flag.long);
    }
}

// The generator.

fn bash(flags: &[Flag]) -> String {
    let names = |wanted: &dyn Fn(Values) -> bool| -> Vec<String> {
        let chosen = flags.iter().filter(|flag| wanted(flag.values));
        chosen.flat_map(Flag::names).collect()
    };
    let mut cases = String::new();
    for flag in flags {
        if let Values::Words(words) = flag.values {
            let (names, words) = (flag.names().join(" | "), words.join(" "));
            _ = writeln!(cases, "        {names}) words='{words}' ;;");
        }
    }
    format!(
        r#"# bash completion for simple-proxy
{NOTE}
_simple_proxy() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} words
    # Bash makes three words of --name=value.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    COMPREPLY=()
    case $before in
{cases}        {files})
            compopt -o default
            return
            ;;
        {any})
            return
            ;;
        *)
            [[ $word == -* ]] || return
            words='{all}'
            ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -F _simple_proxy simple-proxy
"#,
        files = wrap(
            &names(&|values| values == Values::Files),
            " | ",
            " | \\\n            "
        ),
        any = wrap(
            &names(&|values| values == Values::Any),
            " | ",
            " | \\\n            "
        ),
        all = wrap(&names(&|_| true), " ", "\n                "),
    )
}

/// Joins words into lines of at most 70 columns, not counting what is added around them.
fn wrap(words: &[String], separator: &str, line_end: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + separator.len() + word.len() <= 70 => {
                line.push_str(separator);
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines.join(line_end)
}

fn zsh(flags: &[Flag]) -> String {
    let mut specs = String::new();
    for flag in flags {
        let about = escape(&flag.about, r"\[]");
        let message = escape(&flag.metavar, r"\:");
        let action = match flag.values {
            Values::Switch => String::new(),
            // A blank action shows the message and offers nothing.
            Values::Any => format!(":{message}: "),
            Values::Files => format!(":{message}:_files"),
            Values::Words(words) => format!(":{message}:({})", words.join(" ")),
        };
        // `+` and `=`: the value is the next word or follows the name directly.
        let takes_value = flag.values != Values::Switch;
        let [plus, equals] = if takes_value { ["+", "="] } else { ["", ""] };
        // A flag is offered only once, unless it may be repeated.
        let names = match (flag.short, flag.repeatable) {
            (None, false) => format!("'{}{equals}", flag.long),
            (None, true) => format!("'*{}{equals}", flag.long),
            (Some(short), false) => {
                let names = flag.names().join(" ");
                format!("'({names})'{{-{short}{plus},{}{equals}}}'", flag.long)
            }
            (Some(short), true) => format!("'*'{{-{short}{plus},{}{equals}}}'", flag.long),
        };
        let rest = format!("[{about}]{action}").replace('\'', r"'\''");
        _ = write!(specs, " \\\n    {names}{rest}'");
    }
    format!("#compdef simple-proxy\n{NOTE}\n_arguments -s -S{specs}\n")
}

fn fish(flags: &[Flag]) -> String {
    let mut lines = format!("# fish completion for simple-proxy\n{NOTE}\n");
    lines.push_str("complete -c simple-proxy -f\n");
    for flag in flags {
        lines.push_str("complete -c simple-proxy");
        if let Some(short) = flag.short {
            _ = write!(lines, " -s {short}");
        }
        _ = write!(lines, " -l {}", flag.long.trim_start_matches('-'));
        match flag.values {
            Values::Switch => {}
            Values::Any => lines.push_str(" -x"),
            Values::Files => lines.push_str(" -r -F"),
            Values::Words(words) => _ = write!(lines, " -x -a '{}'", words.join(" ")),
        }
        _ = writeln!(lines, " -d '{}'", escape(&flag.about, r"\'"));
    }
    lines
}

fn escape(text: &str, special: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if special.contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

// The shells.

/// What is typed, tabs included, and the command line that it becomes. The working directory
/// contains only the file `roots of mine.pem`.
const TYPED: [(&str, &str); 8] = [
    ("--upstream-h\t", "--upstream-host"),
    ("--log-lang z\t", "--log-lang zh"),
    ("--tls au\t", "--tls auto"),
    ("--tls of\t-d", "--tls off -d"),
    ("-vq --tls-ca ro\t", "-vq --tls-ca roots of mine.pem"),
    ("-V --tls-verif\t", "-V --tls-verify"),
    // Nothing is offered for a free value, and above all no file names.
    ("-p ro\t", "-p ro"),
    ("ro\t", "ro"),
];

/// A trial for each shell. As with the peers, the trial of a missing shell is ignored and says
/// so in its name; with SIMPLE_PROXY_REQUIRE_PEERS set it fails instead.
fn shells() -> Vec<Trial> {
    let shells: [(&str, fn()); 3] = [
        ("bash", bash_completes),
        ("zsh", zsh_completes),
        ("fish", fish_completes),
    ];
    let trials = shells.into_iter().map(|(shell, body)| {
        let name = format!("cli::completions::{shell}_completes");
        let found = Command::new(shell)
            .args(["-c", "exit"])
            .stdin(Stdio::null())
            .status();
        if found.is_ok_and(|status| status.success()) {
            return Trial::test(name, move || {
                body();
                Ok(())
            });
        }
        let required = is_set("SIMPLE_PROXY_REQUIRE_PEERS");
        let reason = format!("{shell} is not installed");
        let name = if required {
            name
        } else {
            format!("{name} [{reason}]")
        };
        Trial::test(name, move || Err(reason.into())).with_ignored_flag(!required)
    });
    trials.collect()
}

fn bash_completes() {
    let script = folder().join("simple-proxy.bash");
    let registered = r#"source "$0" && complete -p simple-proxy"#;
    let registered = run("bash", &["-c", registered, &text(&script)], "");
    assert_eq!(registered, "complete -F _simple_proxy simple-proxy\n");

    // The line editor of bash also works on a pipe, where job control does not interfere.
    let mut input = format!("source '{}'\n{REPORT}", text(&script));
    let mut typed = TYPED.to_vec();
    typed.push(("--log-lang=e\t", "--log-lang=en"));
    typed.push(("--tls-ca=ro\t", "--tls-ca=roots of mine.pem"));
    for (keys, _) in &typed {
        _ = writeln!(input, "simple-proxy {keys}");
    }
    let output = run("setsid", &["-w", "bash", "--norc", "-i"], &input);
    assert_reports(&output, &typed);
}

fn zsh_completes() {
    run("zsh", &["-n", &text(&folder().join("_simple-proxy"))], "");
    // The line editor of zsh needs a terminal, which zpty provides. Each line is typed after
    // the output for the one before.
    let mut typed = TYPED.to_vec();
    typed.push(("--log-lang=e\t", "--log-lang=en"));
    // Joined switches are understood, and none is offered again.
    typed.push(("-qp80 --qui\t", "-qp80 --qui"));
    let mut script = format!(
        "zmodload zsh/zpty\n\
         zpty shell zsh -f -i\n\
         tell() {{ zpty -w -n shell \"$1\"$'\\n'; zpty -r shell REPLY \"*$2*\"; print -rn -- $REPLY }}\n\
         tell 'fpath=({} $fpath); PS1=; autoload -U compinit; compinit -u -D; print rea\"\"dy' ready\n",
        text(&folder()),
    );
    for line in REPORT.lines() {
        _ = writeln!(script, "tell '{line}; print rea\"\"dy' ready");
    }
    script.push_str("tell 'print comp=$_comps[simple-proxy]' 'comp=_simple-proxy'\n");
    for (keys, _) in &typed {
        let keys = keys.replace('\t', r"\t");
        _ = writeln!(script, "tell $'simple-proxy {keys}' '<end>'");
    }
    let output = run("zsh", &["-f"], &script);
    assert_reports(&output, &typed);
}

fn fish_completes() {
    let script = text(&folder().join("simple-proxy.fish"));
    run("fish", &["--no-config", "--no-execute", &script], "");
    for (line, expected) in [
        ("simple-proxy --upstream-h", &["--upstream-host"][..]),
        ("simple-proxy --log-lang ", &["en", "zh"]),
        ("simple-proxy --log-lang=z", &["--log-lang=zh"]),
        ("simple-proxy --tls ", &["auto", "off", "on"]),
        ("simple-proxy --tls-ca r", &["roots of mine.pem"]),
        ("simple-proxy -p r", &[]),
        ("simple-proxy r", &[]),
    ] {
        let command = "source $argv[1]; complete -C $argv[2]";
        let output = run("fish", &["--no-config", "-c", command, &script, line], "");
        // A description follows after a tab.
        let offered = output.lines().filter_map(|line| line.split('\t').next());
        assert_eq!(offered.collect::<Vec<_>>(), expected, "{line}");
    }
}

/// A function that replaces the program and prints its arguments, for bash and zsh.
const REPORT: &str = "simple-proxy() { echo \"got: $* <end>\"; }\n";

fn assert_reports(output: &str, typed: &[(&str, &str)]) {
    let expected: Vec<&str> = typed.iter().map(|(_, line)| *line).collect();
    let found = output.lines().filter_map(|line| {
        // The line may begin with what the line editor echoes.
        let (_, line) = line.split_once("got: ")?;
        line.trim_end_matches('\r').strip_suffix(" <end>")
    });
    let found: Vec<&str> = found.filter(|line| *line != "$*").collect();
    assert_eq!(found, expected, "the shell wrote:\n{output}");
}

/// Runs a shell without any user's settings, in a folder that contains one file, and returns
/// its standard output.
fn run(name: &str, args: &[&str], input: &str) -> String {
    let home = Folder::new(&format!("completions-of-{name}"));
    home.write("roots of mine.pem", "");
    // An unanswered prompt must not hang the test.
    let mut command = Command::new("timeout");
    command.args(["60", name]).args(args).current_dir(&home.0);
    command.env("HOME", &home.0).env_remove("ZDOTDIR");
    // In HOME, fish would create folders.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.env("XDG_DATA_HOME", "/nonexistent");
    command.env("TERM", "dumb").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("timeout is part of coreutils");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(input.as_bytes()).expect("the shell reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the shell ends");
    let [out, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(
        output.status.success(),
        "{name}: {}\n{out}\n{errors}",
        output.status
    );
    out
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/completions")
}

fn text(path: &Path) -> String {
    path.to_str()
        .expect("the repository's path is UTF-8")
        .to_owned()
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}
