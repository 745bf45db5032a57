//! make on a machine without the build dependencies: it reports them before it builds.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use super::needs::{find, trial, Need};
use super::process::*;

pub fn trials() -> Vec<Trial> {
    vec![trial(
        "make_names_what_is_missing",
        &[Need::Command("make"), Need::Command("sh")],
        make_names_what_is_missing,
    )]
}

/// A perl without most of its modules, such as Debian's perl-base, used to fail the build only
/// after half a minute.
fn make_names_what_is_missing() {
    let folder = open_folder("machine");
    let program = |name: &str, script: &str| {
        let path = folder.write(name, script);
        open_to_all(path.as_ref(), 0o755);
    };
    for name in ["cargo", "cc", "pkg-config"] {
        program(name, "#!/bin/sh\nexit 0\n");
    }
    program(
        "perl",
        "#!/bin/sh\necho \"Can't locate IPC/Cmd.pm in @INC\" >&2\nexit 2\n",
    );
    let shell = find("sh").expect("it is needed");
    let prerequisites = |more: &[&str]| {
        let mut make = command("make");
        make.args(["-C", env!("CARGO_MANIFEST_DIR"), "prerequisites"]);
        make.arg(format!("SHELL={}", shell.display())).args(more);
        make.env_clear().env("PATH", &folder.0).stdin(Stdio::null());
        let output = Command::output(&mut make).expect("make is there");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), errors)
    };
    let (is_fine, errors) = prerequisites(&[]);
    assert!(is_fine, "{errors}");
    for (more, lost, missing) in [
        (
            &["VENDORED=1"][..],
            None,
            "perl, or one of its modules, is missing",
        ),
        (&[], Some("cc"), "A C compiler (cc) is missing"),
        (&[], Some("cargo"), "cargo is missing"),
    ] {
        if let Some(name) = lost {
            std::fs::remove_file(folder.path(name)).expect("it is there");
        }
        let (is_fine, errors) = prerequisites(more);
        assert!(!is_fine && errors.contains(missing), "{more:?}: {errors}");
    }
}
