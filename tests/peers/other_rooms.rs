//! Trials of other rooms that need software or permissions that not every machine has.

use std::net::IpAddr;

use libtest_mimic::Trial;

use super::needs::{trial, Need};
use super::process::*;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.push(trial(
        "goaccess_counts_right",
        &[Need::Command("goaccess")],
        crate::report::access::goaccess_counts_right,
    ));
    let needs = [Need::Command("chromium"), Need::Command("node")];
    trials.push(trial("chromium_shows_the_status_page", &needs, || {
        let _turn = one_browser();
        let profile = open_folder("profile");
        crate::report::status::the_page_in_a_browser_shows_what_happens(|url| {
            let mut command = command("node");
            command.arg(script_path("status.mjs")).arg(url);
            command.arg(&profile.0);
            command
        });
    }));
    trials.push(trial(
        "promtool_has_no_complaint",
        &[Need::Command("promtool")],
        crate::report::watch::promtool_has_no_complaint,
    ));
    trials.push(trial(
        "works_as_pid_1",
        &[Need::PidNamespace],
        crate::serve::drain::works_as_pid_1,
    ));
    let needs = ["unshare", "ip", "sh"].map(Need::Command);
    trials.push(trial(
        "a_link_local_upstream_is_dialled_on_its_link",
        &[&needs[..], &[Need::NetworkNamespace]].concat(),
        crate::route::unix::a_link_local_upstream_is_dialled_on_its_link,
    ));
    let needs = ["unshare", "setpriv"].map(Need::Command);
    trials.push(trial(
        "a_port_that_needs_a_privilege_is_exit_1_with_a_remedy",
        &[&needs[..], &[Need::NetworkNamespace]].concat(),
        crate::cli::settings::a_port_that_needs_a_privilege_is_exit_1_with_a_remedy,
    ));
    let needs = ["unshare", "mount", "sh"].map(Need::Command);
    let needs = [&needs[..], &[Need::MountNamespace, Need::Port53]].concat();
    for (name, body) in [
        (
            "a_lost_answer_and_a_dead_name_server_cost_little",
            crate::route::names::a_lost_answer_and_a_dead_name_server_cost_little as fn(IpAddr),
        ),
        (
            "hundreds_of_clients_and_a_dead_name_server_leave_no_threads",
            crate::route::names::hundreds_of_clients_and_a_dead_name_server_leave_no_threads,
        ),
    ] {
        trials.push(trial(name, &needs, move || body(address_of_our_own())));
    }
    trials
}
