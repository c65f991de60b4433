//! Man pages.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use kubesolo_update::config::{CONF_FILE, manual, rows};

/// A program of which each command has a page. The sections of a page have the order of man-pages(7).
pub struct Program {
    /// Its definition.
    pub command: Command,
    /// Section of the manual.
    pub section: &'static str,
    /// Variables and files with their meaning, for the page of each command.
    pub environment: &'static [(&'static str, &'static str)],
    /// As `environment`.
    pub files: &'static [(&'static str, &'static str)],
    /// Pages to read next.
    pub see_also: &'static str,
}

impl Program {
    /// Writes the page of the program, and one for each of its commands.
    pub fn pages(&self, into: &Path) -> io::Result<()> {
        // Completes names, and gives each command the options that hold for all.
        let mut program = self.command.clone().disable_help_subcommand(true);
        program.build();
        self.write(&program, into)
    }

    fn write(&self, command: &Command, into: &Path) -> io::Result<()> {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            self.write(sub, into)?;
        }
        let source = format!("{} {}", self.command.get_name(), self.command.get_version().unwrap_or_default());
        let command = ordered(command.clone());
        let man = Man::new(command.clone()).section(self.section).source(source);
        let mut page = Vec::new();
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        page.write_all(synopsis(command.clone()).to_roff().as_bytes())?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
            man.render_subcommands_section(&mut page)?;
        }
        page.write_all(self.end(&command).to_roff().as_bytes())?;
        fs::write(into.join(man.get_filename()), page)
    }

    /// The sections behind the options. The help has exit codes and examples, in parts that begin with a line like
    /// `Examples:`.
    fn end(&self, command: &Command) -> Roff {
        let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
        let help = help.unwrap_or_default();
        let part = |title: &str| help.split("\n\n").find_map(|part| part.strip_prefix(title)?.strip_prefix(":\n"));
        let own = self.command.get_name();
        let mut roff = Roff::new();
        roff.control("SH", ["EXIT STATUS"]);
        match part("Exit codes") {
            Some(lines) => verbatim(lines, &mut roff),
            None => {
                roff.text([roman(format!("The list of exit codes is in {own}({}).", self.section))]);
            }
        }
        list("ENVIRONMENT", self.environment, &mut roff);
        list("FILES", self.files, &mut roff);
        if let Some(lines) = part("Examples") {
            roff.control("SH", ["EXAMPLES"]);
            verbatim(lines, &mut roff);
        }
        see_also(&format!("{own}({}), {}", self.section, self.see_also), command, &mut roff);
        roff
    }
}

/// Each command has its own options first, and each heading has them by name, so that a new one moves no other.
fn ordered(command: Command) -> Command {
    // Of the same order, clap_mangen sorts them by name. Help and version come last.
    command.mut_args(|arg| {
        let last = matches!(arg.get_id().as_str(), "help" | "version");
        arg.display_order(usize::from(last))
    })
}

/// The usage of the help. clap_mangen lists every option there, in an order that no reader can follow.
fn synopsis(mut command: Command) -> Roff {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let rest = usage.strip_prefix(&name).unwrap_or(&usage).to_owned();
    roff.text([bold(name), roman(rest)]);
    roff
}

/// A section of names with their meaning.
fn list(title: &str, entries: &[(&str, &str)], roff: &mut Roff) {
    roff.control("SH", [title]);
    for (name, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*meaning)]);
    }
}

fn see_also(pages: &str, command: &Command, roff: &mut Roff) {
    let own = format!("{}(", command.get_display_name().unwrap_or_else(|| command.get_name()));
    let others: Vec<&str> = pages.split(", ").filter(|page| !page.starts_with(&own)).collect();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(others.join(", "))]);
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
pub fn page_of_usage(name: &str, section: &str, usage: &str, files: &[(&str, &str)]) -> String {
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
        match part.strip_prefix("Exit codes:") {
            Some(codes) => {
                roff.control("SH", ["EXIT STATUS"]);
                verbatim(&codes.replace('\n', " ").replace("; ", "\n").replace(". But", "\nBut"), &mut roff);
            }
            None => {
                roff.control("PP", []);
                roff.text([roman(part)]);
            }
        }
    }
    list("ENVIRONMENT", &[("none", "The program reads no variable.")], &mut roff);
    list("FILES", files, &mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("kubesolo-update(8), update.conf(5)")]);
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
    let drop_ins = format!("{CONF_FILE}.d/*.conf");
    let files = [
        (CONF_FILE, "Settings. Missing settings have their default."),
        (&*drop_ins, "Drop-ins, read after it in order of their names. A later value replaces an earlier one."),
    ];
    list("FILES", &files, &mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("kubesolo-update(8), kubesolo-update-config(8), kubesolo-cloudinit(8), kubesolo-release(7)")]);
    roff.to_roff()
}

/// The page of the formats and of the rules of trust. A test compares it with the names in the sources.
pub fn page_of_formats() -> String {
    include_str!("kubesolo-release.7").replace("@VERSION@", env!("CARGO_PKG_VERSION"))
}
