//! Writes what packages carry beside the programs, from the sources of those: man pages, completions for shells, and the
//! licences of all that is linked in.
//!
//! It is a program of its own so that none of this is in a program of the device.

mod licences;
mod man;

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
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
        completions(program, &into.join("completions"))?;
    }
    fs::write(into.join("third-party-licences"), licences::texts()?)?;
    Ok(())
}

/// Under the names that the packages of the shells look for.
fn completions(mut program: Command, into: &Path) -> Result<(), Box<dyn Error>> {
    let name = program.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let file = into.join(file);
        fs::create_dir_all(file.parent().unwrap_or(into))?;
        clap_complete::generate(shell, &mut program, &name, &mut fs::File::create(file)?);
    }
    Ok(())
}
