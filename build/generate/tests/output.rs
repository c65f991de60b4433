//! Generated files, compared with their sources.

use std::path::Path;
use std::process::{Command, Stdio};

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
    assert!(lists("ring") && lists("webpki-roots") && lists("serde-saphyr") && lists("oci-client"));
    assert!(
        !lists("proptest") && !lists("clap_mangen") && !lists("serde_derive"),
        "not linked into a device's program"
    );
    assert!(licences.contains("Permission is hereby granted"));
}

#[test]
fn every_schema_is_named_in_the_page_of_documents() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = TempDir::new().expect("a temporary folder");
    let mut generate = Command::new(env!("CARGO_BIN_EXE_generate"));
    assert!(generate.arg("schemas").arg(folder.path()).current_dir(&sources).status().expect("it runs").success());
    let page = std::fs::read_to_string(sources.join("docs/json.md")).expect("a page");
    let mut schemas = 0;
    for program in ["kubesolo-update", "kubesolo-release"] {
        for entry in std::fs::read_dir(folder.path().join(program)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            let stem = name.trim_end_matches(".json");
            assert!(page.contains(&format!("[{stem}](schema/{program}/{name}) |")), "{program}/{name}");
            schemas += 1;
        }
    }
    assert_eq!(schemas, page.matches("](schema/").count() - 1, "docs/json.md names a schema that is not there");
}

/// The titles of a page, as man prints them: man-pages(7) has the order.
fn titles(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(|title| title.trim_matches('"')).collect()
}

#[test]
fn each_page_of_a_command_has_the_sections_of_a_manual_in_their_order() {
    let folder = generated();
    let pages = std::fs::read_dir(folder.path().join("man")).expect("pages");
    let (mut commands, order) =
        (0, ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]);
    for file in pages {
        let file = file.expect("a page").path();
        let page = std::fs::read_to_string(&file).expect("text");
        let titles = titles(&page);
        assert_eq!(titles.last(), Some(&"SEE ALSO"), "{}", file.display());
        if file.extension().is_some_and(|section| section == "1" || section == "8") {
            commands += 1;
            let found: Vec<&str> = titles.iter().copied().filter(|title| order.contains(title)).collect();
            assert_eq!(found, order, "{}", file.display());
        }
        // Options of each heading by name, and help at the end.
        for part in page.split(".SH ") {
            let names: Vec<&str> = part
                .lines()
                .filter(|line| line.contains("\\-\\-") && line.starts_with("\\fB\\-"))
                .filter_map(|line| line.split("\\fB\\-\\-").nth(1)?.split("\\fR").next())
                .filter(|name| !matches!(*name, "help" | "version"))
                .collect();
            assert!(names.is_sorted() || file.ends_with("kubesolo-cloudinit.8"), "{}: {names:?}", file.display());
        }
        let checked = Command::new("man").args(["--warnings=w", "-l", "-Tutf8"]).arg(&file).output().expect("man");
        let words = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && words.is_empty(), "{}: {words}", file.display());
    }
    assert!(commands > 30, "{commands}");
}

#[test]
fn the_page_of_formats_has_every_name_of_the_formats() {
    let folder = generated();
    let page = read(&folder, "man/kubesolo-release.7");
    let source = |file: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/src/release").join(file))
            .expect("source")
    };
    let text = source("release.rs") + &source("statement.rs");
    let names: Vec<&str> = text
        .split('"')
        .filter(|name| name.starts_with("io.kubesolo.os.") || name.starts_with("application/vnd.kubesolo.os."))
        .filter(|name| !name.starts_with("io.kubesolo.os.patches.") && !name.ends_with("latest.v1+json"))
        .collect();
    assert!(names.len() > 14, "{names:?}");
    for name in names {
        assert!(page.contains(name), "{name}");
    }
}

/// Completions of each line by a shell; the end of a line has only one.
fn completed(shell: &mut Command, lines: &[&str]) -> Vec<String> {
    let ran = shell.args(lines).stdin(Stdio::null()).output();
    let ran = ran.unwrap_or_else(|error| panic!("{shell:?}: {error}: build/scripts/setup.sh test installs it"));
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{shell:?}: {said}{}", String::from_utf8_lossy(&ran.stderr));
    said.lines().map(|line| line.trim().to_owned()).collect()
}

/// Calls the function that bash would call, with the variables that it would set.
const BASH: &str = r#"
source "$0" || exit
program=$1 && shift
function=$(complete -p "$program" | sed 's/.* -F \([^ ]*\).*/\1/')
for line; do
    COMP_WORDS=($program $line) COMPREPLY=()
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    "$function" "$program" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
    echo "${COMP_WORDS[@]:1:COMP_CWORD-1} ${COMPREPLY[@]}"
done
"#;

/// Types each line into a zsh, presses the key, and prints the words that a function of the program's name gets then.
const ZSH: &str = r#"
zmodload zsh/zpty
program=$2
zpty shell zsh -f -i
zpty -w shell "fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; $program() { print -r -- GOT:\$*:END }; print READ''Y"
zpty -r -m shell out '*READY*'
for line in "${@[3,-1]}"; do
    zpty -n -w shell "$program $line"$'\t\n'
    zpty -r -m shell out '*GOT:*:END*'
    print -r -- "${${out##*GOT:}%%:END*}"
done
"#;

const FISH: &str = r#"
source $argv[1]
for line in $argv[3..]
    set -l found (complete -C "$argv[2] $line" | string split -f1 \t)
    echo (string replace -r '[^ ]*$' '' -- "$line")"$found"
end
"#;

#[test]
fn each_shell_completes_commands_options_and_values() {
    let folder = generated();
    std::fs::write(folder.path().join("release.tar"), "").expect("a file to complete");
    for (program, cases) in [
        (
            "kubesolo-update",
            &[
                ("appl", "apply"),
                ("apply --allow-d", "apply --allow-downgrade"),
                ("apply --bundle rel", "apply --bundle release.tar"),
                ("healthcheck --auto-roll", "healthcheck --auto-rollback-after"),
                ("config che", "config check"),
                ("config show warin", "config show wariness"),
                ("explain failed-b", "explain failed-before"),
            ][..],
        ),
        (
            "kubesolo-release",
            &[
                ("insp", "inspect"),
                ("publish --also", "publish --also-tag"),
                ("keygen --public-format h", "keygen --public-format hex"),
                ("explain key-unr", "explain key-unreadable"),
            ],
        ),
    ] {
        let (lines, expected): (Vec<_>, Vec<_>) = cases.iter().copied().unzip();
        let script = |file: String| folder.path().join("completions").join(file);
        let mut bash = Command::new("bash");
        bash.args(["-c", BASH]).arg(script(format!("bash/{program}"))).arg(program);
        let mut zsh = Command::new("zsh");
        zsh.args(["-f", "-c", ZSH, "zsh"]).arg(script("zsh".into())).arg(program);
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", FISH]).arg(script(format!("fish/{program}.fish"))).arg(program);
        for shell in [&mut bash, &mut zsh, &mut fish] {
            shell.current_dir(folder.path()).env("HOME", folder.path());
            assert_eq!(completed(shell, &lines), expected, "{shell:?}");
        }
    }
}
