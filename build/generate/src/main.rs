//! Writes what packages carry beside the programs, from the sources of those: man pages, completions for shells, and the
//! licences of all that is linked in.
//!
//! It is a program of its own so that none of this is in a program of the device.

mod completions;
mod licences;
mod man;

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use kubesolo_update::cli::args;

fn main() -> Result<(), Box<dyn Error>> {
    let [_, into] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: generate DIR: writes DIR/man, DIR/completions, DIR/third-party-licences".into());
    };
    let into = Path::new(into);
    let programs = [(args::Cli::command(), "8"), (kubesolo_release::cli::command(), "1")];

    let pages = into.join("man");
    fs::create_dir_all(&pages)?;
    for (program, section) in &programs {
        man::pages(program, section, &pages)?;
    }
    let usage = kubesolo_cloudinit::run::USAGE;
    fs::write(pages.join("kubesolo-cloudinit.8"), man::page_of_usage("kubesolo-cloudinit", "8", usage))?;

    fs::write(pages.join("update.conf.5"), man::page_of_settings())?;

    for (program, _) in programs {
        completions::write(program, &into.join("completions"))?;
    }
    fs::write(into.join("third-party-licences"), licences::texts()?)?;
    Ok(())
}
