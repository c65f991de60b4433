//! Completions for shells, under the names that the packages of the shells look for.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use clap::builder::PossibleValue;
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;

/// Writes the completions of `program` for bash, zsh and fish.
pub fn write(program: Command, into: &Path) -> io::Result<()> {
    let mut program = hinted(program);
    let name = program.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut program, &name, &mut script);
        let mut script = String::from_utf8(script).map_err(io::Error::other)?;
        match shell {
            Shell::Bash => script = one_name_for_states(&script, &name),
            Shell::Fish => values_of_arguments(&program, &name, &mut script),
            _ => {}
        }
        let file = into.join(file);
        fs::create_dir_all(file.parent().unwrap_or(into))?;
        fs::write(file, script)?;
    }
    Ok(())
}

/// The names of the values decide what a shell offers for them: files, folders, or nothing.
fn hinted(command: Command) -> Command {
    let hint = |arg: Arg| {
        let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
        match &*name {
            "FILE" | "KERNEL" => arg.value_hint(ValueHint::FilePath),
            "DIR" => arg.value_hint(ValueHint::DirPath),
            "PATH" | "PLACE" => arg.value_hint(ValueHint::AnyPath),
            "URL" | "URL|REF" => arg.value_hint(ValueHint::Url),
            "HOST[:PORT]" => arg.value_hint(ValueHint::Hostname),
            _ if !arg.get_action().takes_values() || name.is_empty() => arg,
            // zsh offers no option where an argument without any values comes first.
            _ if arg.is_positional() => arg,
            _ => arg.value_hint(ValueHint::Other),
        }
    };
    command.mut_args(hint).mut_subcommands(hinted)
}

/// The generator gives a state of a program with a hyphen in its name one name where it is entered, and another one where
/// its words are listed, so that nothing is offered after the first word (clap_complete 4.6).
fn one_name_for_states(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}

/// The generator for fish leaves out the values that a command takes without an option.
fn values_of_arguments(program: &Command, name: &str, script: &mut String) {
    let using = format!("__fish_{}_using_subcommand", name.replace('-', "_"));
    for command in program.get_subcommands() {
        let mut add = |condition: &str, command: &Command| {
            for arg in command.get_positionals() {
                let values = arg.get_possible_values();
                let values: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
                if !values.is_empty() {
                    let _ = writeln!(script, "complete -c {name} -n \"{condition}\" -f -a \"{}\"", values.join(" "));
                }
            }
        };
        let condition = format!("{using} {}", command.get_name());
        add(&condition, command);
        for sub in command.get_subcommands() {
            add(&format!("{condition}; and __fish_seen_subcommand_from {}", sub.get_name()), sub);
        }
    }
}
