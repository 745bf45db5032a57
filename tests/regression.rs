//! Bugs that were there once, each named after its symptom.

use crate::support::*;

/// A proxy that reads a message with one `read`, as microsocks does, answered "general
/// failure" because the request came field by field.
pub fn a_socks_proxy_that_takes_one_segment_for_one_message() {
    use std::io::Read;
    let socks = origin(|mut client| {
        let mut message = [0; 512];
        let n = client.stream.read(&mut message).unwrap();
        assert_eq!(message[..n], [5, 1, 0]);
        client.send_bytes(&[5, 0]);
        let n = client.stream.read(&mut message).unwrap();
        let whole = message[..n] == *b"\x05\x01\x00\x03\x0fno-such.invalid\x00\x50";
        let reply = if whole { 0 } else { 1 };
        client.send_bytes(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]);
        client.head();
        client.send(&ok("one segment"));
    });
    let proxy = Proxy::start(&["-u", "no-such.invalid:80", "-s", &socks.to_string()]);
    assert_eq!(proxy.get("/").text(), "one segment");
}
