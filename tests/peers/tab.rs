//! A tab of a real browser.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout, Stdio};

use super::process::*;
use crate::support::*;

/// A tab of Chromium. The browser exits when the standard input of its script is closed.
pub struct Tab {
    _browser: Guard,
    _input: ChildStdin,
    lines: BufReader<ChildStdout>,
    profile: Folder,
}

impl Tab {
    /// Opens `url` in a tab and evaluates an expression there; a promise is awaited.
    pub fn open(url: &str, expression: &str) -> Tab {
        let profile = open_folder("profile");
        let mut command = command("node");
        command.arg(script_path("tab.mjs")).args([url, expression]);
        command.arg(&profile.0);
        let errors = File::create(profile.path("errors")).expect("a file");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut browser = Guard::spawn(&mut command);
        let input = browser.0.stdin.take().expect("a pipe");
        let lines = BufReader::new(browser.0.stdout.take().expect("a pipe"));
        Tab {
            _browser: browser,
            _input: input,
            lines,
            profile,
        }
    }

    /// The value of the expression.
    pub fn said(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line of text");
        if line.is_empty() {
            let errors = fs::read_to_string(self.profile.path("errors"));
            panic!("no output from the browser: {errors:?}");
        }
        line.trim_end().to_owned()
    }
}
