#![no_main]
use libfuzzer_sys::fuzz_target;
fuzz_target!(|data: &[u8]| {
    let mut fields = simple_proxy::head::no_fields();
    let _ = simple_proxy::request::RequestHead::parse(data, &mut fields, &[]);
});
