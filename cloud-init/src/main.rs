//! `kubesolo-cloudinit`: the settings of the update agent from NoCloud user-data.

use std::process::ExitCode;

use kubesolo_cloudinit::run::{Done, Options, USAGE, place, run};
use kubesolo_update::base::console;
use kubesolo_update::base::error::{Error, Reason};
use kubesolo_update::device::blocks::System;
use log::LevelFilter;
use simple_logger::SimpleLogger;

fn main() -> ExitCode {
    console::log_to_stderr(SimpleLogger::new().with_level(LevelFilter::Info));
    let done = match asked(std::env::args_os().skip(1)) {
        Ok(Asked::Text(text)) => Ok(Done::Checked(text)),
        Ok(Asked::Run(options)) => {
            let done = run(&options, &System::default());
            // Settings from before count also where this seed does not.
            let placed = options.place.as_deref().map_or(Ok(()), |to| place(&options.conf, to));
            done.and_then(|done| placed.map(|()| done))
        }
        Err(error) => Err(error),
    };
    let done = done.and_then(|done| {
        if let Done::Checked(text) = &done {
            console::print(text);
        }
        console::all_printed()
    });
    match done {
        Ok(()) => {}
        Err(error) => {
            let mut said = format!("kubesolo-cloudinit: {error}\n");
            if !error.remedy.is_empty() {
                said += &format!("  {}\n", error.remedy);
            }
            console::print_error(&said);
            return ExitCode::from(error.exit().code());
        }
    }
    ExitCode::SUCCESS
}

enum Asked {
    Text(String),
    Run(Options),
}

fn asked(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Asked, Error> {
    let wrong = |what: String| Error::new(Reason::Usage, what).remedy("See kubesolo-cloudinit --help.");
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or_else(|| wrong(format!("{name} needs a value")));
        match name.as_str() {
            "--seed" => options.seed = Some(value()?.into()),
            "--conf" => options.conf = value()?.into(),
            "--record" => options.record = value()?.into(),
            "--place" => options.place = Some(value()?.into()),
            "--check" => options.check = true,
            "-h" | "--help" => return Ok(Asked::Text(USAGE.to_owned())),
            "-V" | "--version" => {
                return Ok(Asked::Text(format!("kubesolo-cloudinit {}\n", kubesolo_update::version())));
            }
            _ => return Err(wrong(format!("unknown argument: {}", kubesolo_update::base::text::escape(&name)))),
        }
    }
    Ok(Asked::Run(options))
}
