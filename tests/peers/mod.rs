//! Real peers: installed proxies, upstreams and clients, one file for each kind. `needs` decides
//! what happens to a trial whose peers are missing; `process` runs the peers.

mod apache;
mod cgi;
mod ends;
mod exec;
mod nat;
mod needs;
mod nginx;
mod other_rooms;
mod prerequisites;
mod process;
mod proxies;
mod secured;
mod ssh;
mod tab;
mod tls_upstreams;
mod under_another_name;
mod uwsgi;
mod ways;
mod websockets;

use libtest_mimic::Trial;

/// The tests of this folder.
pub fn trials() -> Vec<Trial> {
    [
        websockets::trials(),
        proxies::trials(),
        ssh::trials(),
        nat::trials(),
        nginx::trials(),
        tls_upstreams::trials(),
        apache::trials(),
        cgi::trials(),
        uwsgi::trials(),
        ways::trials(),
        secured::trials(),
        ends::trials(),
        exec::trials(),
        under_another_name::trials(),
        other_rooms::trials(),
        prerequisites::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
