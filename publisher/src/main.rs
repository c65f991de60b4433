//! `kubesolo-release`: makes keys, publishes and signs releases, and shows what a registry offers.

use std::process::ExitCode;

fn main() -> ExitCode {
    kubesolo_release::commands::main()
}
