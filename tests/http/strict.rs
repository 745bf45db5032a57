//! Strictness at byte level: tables of inputs, each with what the client must get, what the
//! upstream must have received, and whether the client's connection persists. Requests and
//! responses are sent in one piece, one byte at a time, and cut off after every prefix.
//! `every_class_ran` prints a summary of the tables.

use libtest_mimic::Trial;
mod exchanges;
mod message;
mod recorder;
mod requests;
mod responses;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::OnceLock;

use exchanges::{accepted_switch, early, forged, leaving, refused_switch};
use requests::{
    blank_lines, both_framings, chunks, coding_values, controls, fields, foreign, host_values,
    large_heads, length_values, options, options_against_forwarded, pipelines, start_lines,
    target_forms, trailers, upgrades,
};
use responses::{
    answer_fields, answer_framing, answer_lines, answers_cut, answers_without_content,
    idle_surplus, interim, surplus,
};

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        content_length_with_transfer_encoding,
        content_lengths,
        transfer_encodings,
        chunk_framing,
        request_trailers,
        field_lines,
        control_bytes,
        hosts,
        targets,
        connection_options,
        connection_options_against_forwarded_fields,
        request_lines,
        other_protocols,
        empty_lines,
        sizes,
        pipelined_requests,
        upgrade_requests,
        status_lines,
        response_fields,
        response_framing,
        responses_cut_short,
        responses_without_content,
        interim_responses,
        surplus_bytes,
        surplus_bytes_while_idle,
        early_answers,
        refused_upgrades,
        accepted_upgrades,
        clients_that_leave_before_the_101,
        forged_log_lines,
        every_class_ran,
    ]
}

/// Declares the tests of this topic: the name, the title of the class in the printed table, and
/// the function that checks it.
macro_rules! classes {
    ($($name:ident, $title:literal, $check:expr;)+) => {
        static CLASSES: [Class; [$($title),+].len()] = [$(Class::new($title, $check)),+];
        $(pub fn $name() {
            let class = CLASSES.iter().find(|class| class.title == $title);
            class.unwrap().tally();
        })+
    };
}

classes! {
    content_length_with_transfer_encoding,
        "Content-Length with Transfer-Encoding", both_framings;
    content_lengths, "Content-Length values", length_values;
    transfer_encodings, "Transfer-Encoding values", coding_values;
    chunk_framing, "chunk sizes, extensions and ends", chunks;
    request_trailers, "request trailers", trailers;
    field_lines, "field lines", fields;
    control_bytes, "control bytes anywhere in a head", controls;
    hosts, "Host", host_values;
    targets, "request targets", target_forms;
    connection_options, "Connection options", options;
    connection_options_against_forwarded_fields,
        "Connection options against --forwarded", options_against_forwarded;
    request_lines, "request lines", start_lines;
    other_protocols, "other protocols", foreign;
    empty_lines, "empty lines before a request", blank_lines;
    sizes, "sizes of a head", large_heads;
    pipelined_requests, "pipelined requests", pipelines;
    upgrade_requests, "upgrade requests", upgrades;
    status_lines, "status lines", answer_lines;
    response_fields, "response field lines", answer_fields;
    response_framing, "response framing", answer_framing;
    responses_cut_short, "responses cut short or broken", answers_cut;
    responses_without_content, "responses without content", answers_without_content;
    interim_responses, "interim responses and unasked switches", interim;
    surplus_bytes, "surplus bytes with a response", surplus;
    surplus_bytes_while_idle, "surplus bytes while idle", idle_surplus;
    early_answers, "answers before the request's body", early;
    refused_upgrades, "answers that refuse an upgrade", refused_switch;
    accepted_upgrades, "requests after an accepted upgrade", accepted_switch;
    clients_that_leave_before_the_101, "clients that leave before the 101", leaving;
    forged_log_lines, "log lines that a client forges", forged;
}

/// Prints a table of all classes. A class that has not run yet runs here, so that the table is
/// complete whichever tests are selected.
pub fn every_class_ran() {
    let mut table = format!(
        "\n{:<42} {:>5} {:>6}  outcome\n",
        "class of input", "cases", "runs"
    );
    let (mut cases, mut runs) = (0, 0);
    for class in &CLASSES {
        let tally = class.tally();
        let here: usize = tally.outcomes.values().sum();
        assert!(
            here > 0 && tally.runs >= here,
            "{} did not run",
            class.title
        );
        let outcomes = tally.outcomes.iter();
        let outcomes: Vec<_> = outcomes.map(|(o, n)| format!("{o}: {n}")).collect();
        let _ = writeln!(
            table,
            "{:<42} {here:>5} {:>6}  {}",
            class.title,
            tally.runs,
            outcomes.join("; ")
        );
        cases += here;
        runs += tally.runs;
    }
    let _ = writeln!(table, "{:<42} {cases:>5} {runs:>6}", "all");
    println!("{table}");
}

/// One class of input, checked once in a process.
struct Class {
    title: &'static str,
    check: fn(&mut Tally),
    done: OnceLock<Tally>,
}

impl Class {
    const fn new(title: &'static str, check: fn(&mut Tally)) -> Class {
        Class {
            title,
            check,
            done: OnceLock::new(),
        }
    }

    fn tally(&self) -> &Tally {
        self.done.get_or_init(|| {
            let mut tally = Tally::default();
            (self.check)(&mut tally);
            tally
        })
    }
}

/// The result of a class.
#[derive(Default)]
struct Tally {
    /// The number of cases with each outcome.
    outcomes: BTreeMap<String, usize>,
    /// The number of exchanges: every case in every way of sending it.
    runs: usize,
}

impl Tally {
    fn case(&mut self, outcome: impl Into<String>, runs: usize) {
        *self.outcomes.entry(outcome.into()).or_default() += 1;
        self.runs += runs;
    }
}

/// A request that is sent after every input that ends the connection, and must never be served.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: smuggled\r\n\r\n";

/// A request that is sent after every input that lets the connection persist, and must be served
/// as a request of its own.
const FOLLOWING: &[u8] = b"GET /following HTTP/1.1\r\nHost: following\r\n\r\n";

/// A placeholder for the address of the recorder, which is known only when the test runs.
const UPSTREAM: &[u8] = b"UPSTREAM";

/// Inputs up to this length are also sent one byte at a time.
const SHORT: usize = 1500;

/// The most prefixes of one input that are tried.
const PREFIXES: usize = 400;

/// From this length on, only a twentieth of these are tried.
const LONG: usize = 100_000;

/// How many connections are open at once while prefixes are tried.
const AT_ONCE: usize = 32;

/// The prefixes that a class has already tried, since most inputs begin alike.
#[derive(Default)]
struct Prefixes(HashSet<Vec<u8>>);

impl Prefixes {
    /// The lengths of the prefixes that are new.
    fn of(&mut self, bytes: &[u8]) -> Vec<usize> {
        let most = match bytes.len() {
            0..LONG => PREFIXES,
            _ => PREFIXES / 20,
        };
        let step = bytes.len().div_ceil(most).max(1);
        (1..=bytes.len())
            .step_by(step)
            .filter(|&length| self.0.insert(bytes[..length].to_vec()))
            .collect()
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

fn replace(bytes: &[u8], needle: &[u8], with: &[u8]) -> Vec<u8> {
    match find(bytes, needle) {
        Some(at) => [&bytes[..at], with, &bytes[at + needle.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// Bytes as text, for the message of a failed test.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(300)];
    let rest = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{rest}", cut.escape_ascii())
}
