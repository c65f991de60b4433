//! What is generated, compared with what it is generated from.

use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use tempfile::TempDir;

fn generated() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let done = Command::new(env!("CARGO_BIN_EXE_generate")).arg(folder.path()).status().expect("it runs");
    assert!(done.success());
    folder
}

fn read(folder: &TempDir, path: impl AsRef<Path>) -> String {
    let path = folder.path().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_command_has_a_page_and_is_completed_and_each_linked_crate_is_listed() {
    let folder = generated();
    let programs = [(kubesolo_update::cli::args::Cli::command(), "8"), (kubesolo_release::cli::command(), "1")];
    for (program, section) in programs {
        let name = program.get_name();
        let (bash, zsh, fish) = (
            read(&folder, format!("completions/bash/{name}")),
            read(&folder, format!("completions/zsh/_{name}")),
            read(&folder, format!("completions/fish/{name}.fish")),
        );
        let page = read(&folder, format!("man/{name}.{section}"));
        assert!(page.contains("EXIT STATUS"), "{page}");
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let command = command.get_name();
            read(&folder, format!("man/{name}-{command}.{section}"));
            assert!([&bash, &zsh, &fish].iter().all(|shell| shell.contains(command)), "{name} {command}");
        }
    }
    assert!(read(&folder, "man/kubesolo-cloudinit.8").contains("OPTIONS"));
    let settings = read(&folder, "man/update.conf.5");
    for setting in kubesolo_update::config::rows::all() {
        let entry =
            format!("\\fB{}=\\fR\\fI{}\\fR\n", setting.key.replace('-', "\\-"), setting.form.replace('-', "\\-"));
        assert!(settings.contains(&entry), "{entry}");
    }

    let licences = read(&folder, "third-party-licences");
    let lists = |name: &str| licences.lines().any(|line| line.starts_with(&format!("{name} ")));
    assert!(lists("ring") && lists("webpki-root-certs") && lists("serde-saphyr") && lists("oci-client"));
    assert!(
        !lists("proptest") && !lists("clap_mangen") && !lists("serde_derive"),
        "not linked into a device's program"
    );
    assert!(licences.contains("Permission is hereby granted"));
}
