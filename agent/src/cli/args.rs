//! The command line of `kubesolo-update`.

use std::path::PathBuf;

use bootenv::SlotId;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ColorChoice, Parser, Subcommand};

use crate::base::console::{Terminal, progress};
use crate::cli::explain;
use crate::config::rows::{self, checked, help};
use crate::config::{CONF_FILE, Overrides};
use crate::device::disk::Role;
use crate::policy::gate::Lifted;
use crate::state::state::STATE_FILE;

const EXIT_CODES: &str = "\
Exit codes:
   0  done, or nothing to do
   1  healthcheck: the system is not healthy
  64  the command line is wrong
  65  bytes are wrong: digest, size, format
  69  the source is not reachable, or lacks the requested document
  70  internal error
  73  a slot or the boot environment cannot be written
  75  not now: window, node block, trial, clock, rollout, failed before, hook, another run
  77  not allowed: signature, revoked key, channel, architecture, minimum version, downgrade, security epoch
  78  settings, key or boot environment not usable";

const EXAMPLES: &str = "\
Examples:
  kubesolo-update check
      Show the offer and the state of each gate.
  kubesolo-update apply --activate --reboot
      Do the whole update: fetch, verify, write, then boot it on trial.
  kubesolo-update apply --force
      Stage outside the maintenance window.
  kubesolo-update --conf /dev/null --state S/state.json apply \\
      --registry 127.0.0.1:5000/os --tag stable --plain-http 127.0.0.1:5000 \\
      --slot-a A --slot-b B --bootenv grub:FILE --pubkey KEY
      Work on folders, without root.";

const SEE_HELP: &str = "Exit codes and examples: kubesolo-update --help";

/// Update the kernel and initramfs of this device: write a release into the free slot, boot it on trial, and keep it only
/// if that boot is healthy.
#[derive(Debug, Parser)]
#[command(name = "kubesolo-update", version = crate::version(), after_help = EXIT_CODES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// Settings file; FILE.d/*.conf is read after it.
    #[arg(long, value_name = "FILE", default_value = CONF_FILE, global = true)]
    pub conf: PathBuf,
    /// State file; trust.json and the lock are beside it.
    #[arg(long, value_name = "FILE", default_value = STATE_FILE, global = true)]
    pub state: PathBuf,
    /// Print JSON on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// Increase verbosity (repeat for debug output).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Print only errors.
    #[arg(short, long, conflicts_with = "verbose", global = true)]
    pub quiet: bool,
    /// Colours on standard output; auto: on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: ColorChoice,
    /// Progress on standard error; json: one line each second, for programs.
    #[arg(long, value_name = "FORM", default_value = "auto", global = true)]
    pub(super) progress: progress::Mode,
    #[command(flatten)]
    pub(crate) places: Places,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Places of slots and boot environment.
#[derive(Args, Debug)]
pub(crate) struct Places {
    #[arg(long, value_name = "PLACE", global = true, help_heading = "Places", help = help("slot_a"), value_parser = checked("slot_a"))]
    slot_a: Option<String>,
    #[arg(long, value_name = "PLACE", global = true, help_heading = "Places", help = help("slot_b"), value_parser = checked("slot_b"))]
    slot_b: Option<String>,
    #[arg(long, value_name = "KIND:PATH", global = true, help_heading = "Places", help = help("bootenv"), value_parser = checked("bootenv"))]
    bootenv: Option<String>,
    /// Booted slot, if the slots are folders.
    #[arg(long, value_name = "A|B", global = true, help_heading = "Places", value_parser = PossibleValuesParser::new(["A", "B"]).try_map(|name| slot(&name)))]
    pub(crate) booted: Option<SlotId>,
    /// File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the
    /// slots are folders].
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "booted", help_heading = "Places")]
    pub(crate) cmdline: Option<PathBuf>,
    #[arg(long, value_name = "PATH", global = true, help_heading = "Places", help = help("pubkey"), value_parser = checked("pubkey"))]
    pubkey: Option<String>,
}

/// Source of releases.
#[derive(Args, Debug, Default)]
pub(crate) struct From {
    #[arg(long, value_name = "URL|REF", conflicts_with = "registry", help_heading = "Source", help = help("server"), value_parser = checked("server"))]
    server: Option<String>,
    #[arg(long, value_name = "REF", help_heading = "Source", help = help("registry"), value_parser = checked("registry"))]
    registry: Option<String>,
    /// Bundle with a release (kubesolo-release bundle, oras cp --to-oci-layout); uses no network.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "registry"], help_heading = "Source")]
    bundle: Option<PathBuf>,
    #[arg(long, value_name = "TAG", help_heading = "Source", help = help("tag"), value_parser = checked("tag"))]
    tag: Option<String>,
    #[arg(long, value_name = "NAME", help_heading = "Source", help = help("channel"), value_parser = checked("channel"))]
    channel: Option<String>,
    #[arg(long, value_name = "FILE", help_heading = "Source", help = help("registry_ca"), value_parser = checked("registry_ca"))]
    registry_ca: Option<String>,
    /// Unsafe: reach this host without TLS. Repeatable.
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Source", value_parser = checked("plain_http"))]
    plain_http: Vec<String>,
    /// Times at which an update may start, such as 'Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00'; empty: always.
    #[arg(long, value_name = "WINDOW", help_heading = "Source", value_parser = checked("maintenance_window"))]
    maintenance_window: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the offer and the state of each gate. Changes nothing.
    #[command(after_help = SEE_HELP)]
    Check {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        lifted: Lifted,
        /// Exit 0 if there is nothing new, 100 if an update is available, else with the code of the first closed gate.
        #[arg(long)]
        exit_code: bool,
    },
    /// Fetch the offer, verify it and write it into the free slot.
    #[command(after_help = SEE_HELP)]
    Apply {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        lifted: Lifted,
        /// Print the planned update, and write nothing.
        #[arg(long)]
        dry_run: bool,
        /// Also activate it: it boots next, on trial.
        #[arg(long)]
        activate: bool,
        /// Reboot afterwards.
        #[arg(long, requires = "activate")]
        reboot: bool,
    },
    /// Update unattended, for timers: check, stage or activate, as auto= says. Never bypasses a gate.
    ///
    /// Exits 75 if a gate is closed for now, which is not a failure: for example outside the maintenance window, during a
    /// trial, or while a server's Retry-After is in effect.
    #[command(after_help = SEE_HELP)]
    Run {
        #[command(flatten)]
        from: From,
    },
    /// Examine bundles before anything is touched, and show the records.
    #[command(subcommand)]
    Intake(IntakeCommand),
    /// Activate the staged release: it boots next, on trial.
    #[command(after_help = SEE_HELP)]
    Activate {
        #[command(flatten)]
        lifted: Lifted,
        /// Reboot afterwards.
        #[arg(long)]
        reboot: bool,
    },
    /// Judge this boot: commit or revert a trial, and settle earlier boots. Run this after each boot.
    #[command(after_help = SEE_HELP)]
    Healthcheck {
        #[arg(long, value_name = "N", help = help("auto_rollback_after"), value_parser = checked("auto_rollback_after"))]
        auto_rollback_after: Option<String>,
        #[arg(long, value_name = "DIR", help = help("health_dir"), value_parser = checked("health_dir"))]
        health_dir: Option<String>,
        #[arg(long, value_name = "DIR", help = help("data_dir"), value_parser = checked("data_dir"))]
        data_dir: Option<String>,
        /// Do not reboot after a revert.
        #[arg(long)]
        no_reboot: bool,
    },
    /// End a trial, cancel an activation, or return to the previous release.
    #[command(after_help = SEE_HELP)]
    Rollback {
        /// Reboot afterwards if necessary.
        #[arg(long)]
        reboot: bool,
        /// Return to the data that the previous release left, too. Later writes are lost if that trial is committed.
        #[arg(long)]
        with_data: bool,
        /// Confirm the plan that --with-data prints.
        #[arg(long, requires = "with_data")]
        yes: bool,
        /// Unsafe: return to a release that may not save the data before it changes them.
        #[arg(long)]
        allow_unprotected_data: bool,
    },
    /// Save or restore the data of a trial: the step of each boot before any service. Repeatable.
    ///
    /// Exits 75 if the trial was withdrawn and the device is to reboot, and 73 if data are not whole: no service may start.
    #[command(after_help = SEE_HELP)]
    Data {
        #[command(subcommand)]
        action: Option<DataCommand>,
    },
    /// Switch a KubeSolo OS device to the loader file of this agent. Safe at every power cut, and repeatable.
    #[command(after_help = SEE_HELP)]
    Adopt {
        /// Kernel arguments of this device [default: those of the running system].
        #[arg(long, value_name = "TEXT")]
        kernel_args: Option<String>,
        /// Loader file to use instead of the built-in one.
        #[arg(long, value_name = "FILE")]
        loader_file: Option<PathBuf>,
        /// Unsafe: replace a grub.cfg that is not the one of KubeSolo OS. Its other functions are lost.
        #[arg(long)]
        any_grub_cfg: bool,
        /// Reboot afterwards.
        #[arg(long)]
        reboot: bool,
    },
    /// Show slots, boot environment and the last update. Needs neither root nor settings.
    Status,
    /// Show past attempts and their outcomes.
    History {
        /// Show the last attempt in full: its steps, its findings and the evidence of its trial.
        #[arg(long)]
        last: bool,
    },
    /// Print the receipts of trials that this device signed, the oldest first; with --json for `kubesolo-release receipts`.
    Receipt,
    /// Print metrics in the text format of Prometheus; with --json as a list of series.
    Metrics {
        /// Replace this file instead, for node_exporter's textfile collector (*.prom).
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check that this device is ready for updates. Prints one line per check; exits 78 if any fails.
    ///
    /// Changes nothing and sends no requests.
    #[command(after_help = SEE_HELP)]
    Doctor,
    /// Verify both slots: compare them with their digests and signatures.
    #[command(after_help = SEE_HELP)]
    Verify,
    /// Make the locks of U-Boot's tools, if U-Boot is the bootloader. For units: their sandbox has no access to the folders.
    #[command(hide = true)]
    EnvLock,
    /// Explain a reason or an exit code: its meaning and the next step. Without a word it lists the exit codes.
    Explain {
        /// A reason, such as no-key, or an exit code from 64.
        #[arg(value_name = "REASON|CODE", value_parser = explain::Word, hide_possible_values = true)]
        word: Option<String>,
    },
    /// Print the device of a partition, looked for on the disk that was booted. For the init stage and units. Ends with 75
    /// while the disk is not there yet.
    #[command(hide = true)]
    Disk {
        /// The partition; without it the booted disk is described.
        role: Option<Role>,
        /// Only check that /var/lib/kubesolo, if something is mounted there, is on the booted disk
        #[arg(long, conflicts_with = "role")]
        check: bool,
    },
    /// Look at removable media for releases, as removable_bundles= says. For udev, mdev and the init stage, when a device
    /// comes. Never bypasses a gate.
    #[command(hide = true)]
    Stick {
        /// Device node of a volume, or its name; without it each volume is looked at.
        device: Option<PathBuf>,
    },
    /// Keep what a trial left before a reset. For the init stage and units, behind `data`. Does nothing in an ordinary boot.
    #[command(hide = true)]
    Evidence {
        #[command(subcommand)]
        action: Option<EvidenceCommand>,
    },
    /// Show or check the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Change what this device trusts.
    #[command(subcommand)]
    Trust(TrustCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum IntakeCommand {
    /// Examine a bundle: layout, limits, signatures, every digest, and all gates. Touches no slot.
    ///
    /// Does not stop at the first fault. Keeps a record with all findings, and exits with the code of the first one that rejects
    /// the bundle. Findings with 75 only hold it back for now.
    #[command(after_help = SEE_HELP)]
    Add {
        /// Bundle with a release.
        file: PathBuf,
        #[arg(long, value_name = "TAG", help = help("tag"), value_parser = checked("tag"))]
        tag: Option<String>,
        #[arg(long, value_name = "NAME", help = help("channel"), value_parser = checked("channel"))]
        channel: Option<String>,
    },
    /// List the records, the oldest first.
    List,
    /// Show a record with all findings.
    Show {
        /// Id of the record.
        #[arg(value_parser = record_id)]
        id: String,
    },
    /// Delete a record.
    Drop {
        /// Id of the record.
        #[arg(value_parser = record_id)]
        id: String,
    },
}

/// It becomes the name of a file.
fn record_id(text: &str) -> Result<String, &'static str> {
    let is_id = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| text.to_owned()).ok_or("an id has 8 hex digits")
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Accept the time of the clock, although this device knew a later one. Correct the clock first.
    ///
    /// A freshness statement that expired between the two times counts as valid again.
    #[command(after_help = SEE_HELP)]
    ResetTime,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Show the checkpoints of the data.
    Status,
    /// Show the space and time that a checkpoint would need, and what would prevent it. Changes nothing.
    Check,
    /// Delete the data that are kept for rollback --with-data.
    Drop {
        /// Unsafe: also drop data that wait for a restore, and continue with what the trial left.
        #[arg(long)]
        accept_newer: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Copy the kernel log of a trial until a health run decides about it.
    Follow,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each setting in effect and where it comes from: the command line, a line of a file, or its default.
    ///
    /// Passwords are masked. With -v each setting is explained.
    #[command(after_help = SEE_HELP)]
    Show {
        #[command(flatten)]
        from: From,
        /// Show only settings that a file or the command line makes.
        #[arg(long)]
        set: bool,
        /// Show only these settings.
        #[arg(value_name = "KEY", value_parser = PossibleValuesParser::new(rows::all().map(|setting| setting.key)), hide_possible_values = true)]
        keys: Vec<String>,
    },
    /// Check every line of the settings file and its drop-ins. Prints one line per problem; exits 78 if there is any.
    ///
    /// An unknown key is a problem here; other commands only warn.
    #[command(after_help = SEE_HELP)]
    Check {
        /// Check this file alone.
        file: Option<PathBuf>,
    },
}

fn slot(name: &str) -> Result<SlotId, &'static str> {
    name.parse().map_err(|_| "it is neither A nor B")
}

impl Cli {
    /// Standard output, with the colours that the command line wants.
    pub(super) fn terminal(&self) -> Terminal {
        Terminal::of_output(match self.color {
            ColorChoice::Auto => None,
            ColorChoice::Always => Some(true),
            ColorChoice::Never => Some(false),
        })
    }

    /// True if the command line itself names a source of releases.
    pub(super) fn names_source(&self) -> bool {
        match &self.command {
            Command::Check { from, .. } => from.server.is_some() || from.registry.is_some() || from.bundle.is_some(),
            _ => false,
        }
    }

    /// The settings that the command line makes.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let places = &self.places;
        let mut over = Overrides::default();
        over.set("slot_a", places.slot_a.as_ref());
        over.set("slot_b", places.slot_b.as_ref());
        over.set("bootenv", places.bootenv.as_ref());
        over.set("pubkey", places.pubkey.as_ref());
        match &self.command {
            Command::Check { from, .. }
            | Command::Apply { from, .. }
            | Command::Run { from }
            | Command::Config(ConfigCommand::Show { from, .. }) => from.fill(&mut over),
            Command::Intake(IntakeCommand::Add { file, tag, channel }) => {
                over.bundle = Some(file.clone());
                over.set("tag", tag.as_ref());
                over.set("channel", channel.as_ref());
            }
            Command::Healthcheck { auto_rollback_after, health_dir, data_dir, .. } => {
                over.set("auto_rollback_after", auto_rollback_after.as_ref());
                over.set("health_dir", health_dir.as_ref());
                over.set("data_dir", data_dir.as_ref());
            }
            _ => {}
        }
        over
    }
}

impl From {
    fn fill(&self, over: &mut Overrides) {
        over.bundle.clone_from(&self.bundle);
        over.set("server", self.server.as_ref());
        over.set("registry", self.registry.as_ref());
        over.set("tag", self.tag.as_ref());
        over.set("channel", self.channel.as_ref());
        over.set("registry_ca", self.registry_ca.as_ref());
        over.set("plain_http", (!self.plain_http.is_empty()).then(|| self.plain_http.join(" ")));
        over.set("maintenance_window", self.maintenance_window.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
