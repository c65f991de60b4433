//! `kubesolo-release`: keys, signatures and publishing, on the release engineer's machine.
fn main() {}
