//! What a trial needs of the machine: a trial whose needs are not met is ignored and says so
//! in its name; with SIMPLE_PROXY_REQUIRE_PEERS set it fails instead. The report of a failed
//! trial includes the output of its processes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use libtest_mimic::{Failed, Trial};

use super::process::{address_of_our_own, PYTHON};
use crate::serve::drain::NEW_PID_NAMESPACE;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    Command(&'static str),
    /// A module for Debian's Python.
    Python(&'static str),
    /// wscat from npm, with a version of node that can run it.
    Wscat,
    /// A package from npm, in a folder listed in NODE_PATH.
    Node(&'static str),
    /// A file or folder that comes with a peer.
    Path(&'static str),
    /// Permission to listen on port 443.
    Port443,
    /// Permission to listen on UDP port 53.
    Port53,
    /// Permission to replace files in a private mount namespace.
    MountNamespace,
    /// Permission to create a PID namespace.
    PidNamespace,
    /// Permission to create a network namespace.
    NetworkNamespace,
    /// Permission to drop packets in a network namespace.
    PacketFilter,
}

/// Why a need is not met; None if it is. Each need is checked only once.
fn unmet(need: Need) -> Option<String> {
    static KNOWN: Mutex<Option<HashMap<Need, Option<String>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.entry(need).or_insert_with(|| look_for(need)).clone()
}

fn look_for(need: Need) -> Option<String> {
    let (met, reason) = match need {
        Need::Command(name) => (find(name).is_some(), format!("{name} is not installed")),
        Need::Python(module) => {
            let import = format!("import {module}");
            let met = succeeds(Command::new(PYTHON).args(["-c", &import]));
            (met, format!("the Python module {module} is not installed"))
        }
        Need::Wscat => match find("wscat") {
            None => (false, "wscat is not installed".to_owned()),
            Some(path) => {
                let met = succeeds(Command::new(path).arg("--version"));
                (met, "wscat does not run".to_owned())
            }
        },
        Need::Node(package) => {
            let require = format!("require('{package}')");
            let met = succeeds(Command::new("node").args(["-e", &require]));
            (met, format!("{package} from npm is not in NODE_PATH"))
        }
        Need::Path(path) => (Path::new(path).exists(), format!("{path} is missing")),
        Need::Port443 => match TcpListener::bind((address_of_our_own(), 443)) {
            Ok(_) => return None,
            Err(error) => (
                false,
                format!("port 443 cannot be listened on: {}", error.kind()),
            ),
        },
        Need::Port53 => match UdpSocket::bind((address_of_our_own(), 53)) {
            Ok(_) => return None,
            Err(error) => (
                false,
                format!("port 53 cannot be answered on: {}", error.kind()),
            ),
        },
        Need::MountNamespace => {
            let mut command = Command::new("unshare");
            command.args(["-m", "mount", "--bind", "/etc/shadow", "/etc/shadow"]);
            let met = succeeds(&mut command) && File::open("/etc/shadow").is_ok();
            (met, "a private mount namespace needs root".to_owned())
        }
        Need::NetworkNamespace => {
            let mut command = Command::new("unshare");
            command.args(["-n", "true"]);
            let reason = "a network namespace needs root";
            (succeeds(&mut command), reason.to_owned())
        }
        Need::PacketFilter => {
            let mut command = Command::new("unshare");
            command.args(["-n", "iptables", "-A", "OUTPUT", "-p", "tcp", "-j", "DROP"]);
            let reason = "packets cannot be dropped by iptables in a network namespace";
            (succeeds(&mut command), reason.to_owned())
        }
        Need::PidNamespace => {
            let mut command = Command::new("unshare");
            command.args(NEW_PID_NAMESPACE).arg("true");
            let reason = "a PID namespace needs root";
            (succeeds(&mut command), reason.to_owned())
        }
    };
    (!met).then_some(reason)
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The path of a command in PATH or in /usr/sbin.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| {
            let metadata = fs::metadata(file);
            metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

pub fn trial(name: &str, needs: &[Need], body: impl FnOnce() + Send + 'static) -> Trial {
    let name = format!("peers::{name}");
    let Some(reason) = needs.iter().find_map(|&need| unmet(need)) else {
        return Trial::test(name, move || reported(body));
    };
    let required = std::env::var_os("SIMPLE_PROXY_REQUIRE_PEERS").is_some_and(|v| !v.is_empty());
    let name = if required {
        name
    } else {
        format!("{name} [{reason}]")
    };
    Trial::test(name, move || Err(reason.into())).with_ignored_flag(!required)
}

thread_local! {
    /// The output of a failing trial's processes.
    static OUTPUTS: RefCell<Vec<String>> = RefCell::default();
}

/// Runs a trial. If it panics, the failure includes the output of its processes.
fn reported(body: impl FnOnce()) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let message = match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => panic
                .downcast::<&str>()
                .map_or("panicked".to_owned(), |m| m.to_string()),
        };
        let mut report = vec![message];
        report.extend(OUTPUTS.take());
        report.join("\n").into()
    })
}

/// Adds the last 60 lines of a process's output to the report if the trial is failing.
pub fn report_if_failing(name: &str, said: impl FnOnce() -> String) {
    if thread::panicking() {
        let said = said();
        let last: Vec<&str> = said.lines().rev().take(60).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let words = format!("---- output of {name}:\n{}", last.join("\n"));
        OUTPUTS.with_borrow_mut(|all| all.push(words));
    }
}
