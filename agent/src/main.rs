//! `kubesolo-update`: the update agent on the device.

use std::process::ExitCode;

fn main() -> ExitCode {
    kubesolo_update::cli::run::main()
}
