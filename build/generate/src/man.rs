//! Man pages.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use kubesolo_update::config::{CONF_FILE, manual, rows};

/// Writes the page of `program`, and one for each of its commands.
pub fn pages(program: &Command, section: &str, into: &Path) -> io::Result<()> {
    // Completes names, and gives each command the options that hold for all.
    let mut program = program.clone().disable_help_subcommand(true);
    program.build();
    let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
    write(&program, section, &source, into)
}

fn write(command: &Command, section: &str, source: &str, into: &Path) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write(sub, section, source, into)?;
    }
    let man = Man::new(command.clone()).section(section).source(source);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        end(&after.to_string(), &mut page)?;
    }
    fs::write(into.join(man.get_filename()), page)
}

/// Text after the options in the help: parts that begin with a line like `Examples:`.
fn end(help: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    for part in help.split("\n\n") {
        match part.split_once(":\n") {
            Some((title, lines)) if !title.contains('\n') => {
                let title = if title == "Exit codes" { "EXIT STATUS" } else { title };
                roff.control("SH", [&*title.to_uppercase()]);
                verbatim(lines, &mut roff);
            }
            _ => {
                roff.control("SH", ["NOTES"]);
                roff.text([roman(part)]);
            }
        }
    }
    page.write_all(roff.to_roff().as_bytes())
}

/// With its lines and spaces as they are.
fn verbatim(lines: &str, roff: &mut Roff) {
    roff.control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

/// The page of a program whose whole help is one text: what it does, a line that begins with `Usage:`, options, the rest.
pub fn page_of_usage(name: &str, section: &str, usage: &str) -> String {
    let mut parts = usage.trim().split("\n\n");
    let does = parts.next().unwrap_or_default();
    let synopsis = parts.next().unwrap_or_default();
    let options = parts.next().unwrap_or_default();
    let mut roff = Roff::new();
    roff.control("TH", [name, section, "", &format!("{name} {}", env!("CARGO_PKG_VERSION"))]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {}", does.split('.').next().unwrap_or_default()))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman(synopsis.trim_start_matches("Usage: "))]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(does)]);
    roff.control("SH", ["OPTIONS"]);
    verbatim(options, &mut roff);
    for part in parts {
        roff.control("PP", []);
        roff.text([roman(part)]);
    }
    roff.to_roff()
}

/// The page of the settings file, from the same rows as its reader.
pub fn page_of_settings() -> String {
    let mut roff = Roff::new();
    roff.control("TH", ["update.conf", "5", "", &format!("kubesolo-update {}", env!("CARGO_PKG_VERSION"))]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("update.conf - settings of kubesolo-update")]);
    roff.control("SH", ["SYNOPSIS"]);
    for file in [CONF_FILE.to_owned(), format!("{CONF_FILE}.d/*.conf")] {
        roff.text([italic(file)]);
        roff.control("br", []);
    }
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in manual::format() {
        roff.control("PP", []);
        roff.text([roman(paragraph)]);
    }
    for section in rows::SECTIONS {
        roff.control("SH", [&*section.title.to_uppercase()]);
        for setting in section.settings {
            roff.control("TP", []);
            roff.text([bold(format!("{}=", setting.key)), italic(setting.form)]);
            roff.text([roman(setting.text())]);
            for (word, meaning) in setting.choices {
                roff.control("RS", []);
                roff.control("TP", []);
                roff.text([bold(*word)]);
                roff.text([roman(*meaning)]);
                roff.control("RE", []);
            }
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("kubesolo-update(8), kubesolo-update-config(8), kubesolo-cloudinit(8)")]);
    roff.to_roff()
}
