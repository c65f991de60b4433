//! One parser under libFuzzer: the one that this program is called after.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    kubesolo_update::parsers::named(env!("CARGO_BIN_NAME")).expect("a parser of this name")(bytes);
});
