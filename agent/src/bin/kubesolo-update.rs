//! `kubesolo-update`: the update agent on the device.
fn main() {}
