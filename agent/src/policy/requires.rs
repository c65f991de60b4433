//! The gate for what a release needs of a device: its agent, its loader file, and room for its kernel arguments.

use bootenv::extras::LINE_BYTES;

use crate::base::error::{Error, Reason, Result};
use crate::device::cmdline::Origins;
use crate::policy::gate::Gate;
use crate::release::extras::Requirement;
use crate::release::release::Release;

/// The first loader file that passes on kernel arguments and a device tree of a release.
const LOADER_WITH_EXTRAS: u32 = 1;

/// Open if this agent and the loader file that started this boot do what the release needs. `booted` has the words of this
/// boot; `None`: nothing boots these slots, and no loader is missing.
#[must_use]
pub fn gate(release: &Release, booted: Option<&Origins>) -> Gate {
    let needs: Vec<&Requirement> = release.requires.iter().collect();
    // An unknown need comes first: only an agent that knows it can say more.
    let (unknown, known): (Vec<_>, Vec<_>) = needs.iter().partition(|need| matches!(need, Requirement::Unknown(_)));
    let met = unknown.into_iter().chain(known).try_for_each(|need| meets(need, booted));
    let words = match needs.is_empty() {
        true => "nothing but the images".to_owned(),
        false => needs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    Gate::unless("requires", met.and_then(|()| fits(release, booted)).map(|()| words))
}

fn meets(need: &Requirement, booted: Option<&Origins>) -> Result<()> {
    let number = match need {
        Requirement::Unknown(_) => {
            let message = format!("the release needs \"{need}\", which this agent does not know");
            return Err(Error::new(Reason::RequiresUnknown, message)
                .remedy("Install a release with a newer agent first; this one does not know how to look for it."));
        }
        Requirement::Agent(major, minor) => return agent(*major, *minor),
        Requirement::KernelArgs | Requirement::DeviceTree => LOADER_WITH_EXTRAS,
        Requirement::Loader(number) => *number,
    };
    match booted {
        Some(booted) if booted.loader_file < number => {
            let here = match booted.loader_file {
                0 => "one without a number started this boot".to_owned(),
                here => format!("number {here} started this boot"),
            };
            let message = format!("the release needs {need}: loader file {number} or later, and {here}");
            Err(Error::new(Reason::LoaderTooOld, message)
                .remedy("Bring the loader file of this device up to date, see docs/operating.md, and reboot once."))
        }
        _ => Ok(()),
    }
}

fn agent(major: u32, minor: u32) -> Result<()> {
    let here = env!("CARGO_PKG_VERSION");
    let own: semver::Version =
        here.parse().map_err(|_| Error::new(Reason::Internal, "the version of this agent is not SemVer"))?;
    if (own.major, own.minor) >= (major.into(), minor.into()) {
        return Ok(());
    }
    let message = format!("the release needs agent {major}.{minor} or later, and this is {here}");
    Err(Error::new(Reason::AgentTooOld, message).remedy("Install a release with a newer agent first."))
}

/// The kernel cuts off the end of a longer command line, which has the words of the device.
fn fits(release: &Release, booted: Option<&Origins>) -> Result<()> {
    let Some((booted, arguments)) = booted.zip(release.kernel_args.as_ref()) else { return Ok(()) };
    let length = booted.length_with(arguments.as_str());
    if length <= LINE_BYTES {
        return Ok(());
    }
    let message = format!(
        "with the arguments of the release the kernel command line has {length} bytes, and the kernel takes {LINE_BYTES}"
    );
    Err(Error::new(Reason::KernelArgs, message)
        .remedy("Shorten the arguments of this device in kernel-args.cfg (U-Boot: kernel-args.txt), and reboot once."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::extras;
    use crate::release::latest::Latest;

    fn release(requires: &str, arguments: Option<&str>) -> Release {
        let hex = "11".repeat(32);
        let document = serde_json::json!({
            "version": "1.0.0", "architecture": "amd64", "vmlinuz_url": "k", "vmlinuz_sha256": hex,
            "initramfs_url": "i", "initramfs_sha256": "22".repeat(32), "kernel_args": arguments,
        });
        let release = Latest::parse(document.to_string().as_bytes()).unwrap().release().unwrap();
        Release { requires: extras::requires(requires).unwrap(), ..release }
    }

    fn booted(loader: &str) -> Origins {
        Origins::of(&format!("kubesolo.slot=A ks.trial=00000000 ks.proto=1{loader} panic=5 quiet\n"), None)
    }

    fn asked(requires: &str, loader: &str) -> Option<Reason> {
        gate(&release(requires, None), Some(&booted(loader))).reason
    }

    #[test]
    fn a_release_waits_for_the_agent_and_the_loader_file_that_it_needs() {
        for (requires, loader, closed) in [
            ("", "", None),
            ("kernel-args", "", Some(Reason::LoaderTooOld)),
            ("devicetree", "", Some(Reason::LoaderTooOld)),
            ("loader-1", " ks.loader=x", Some(Reason::LoaderTooOld)),
            ("loader-2", " ks.loader=1", Some(Reason::LoaderTooOld)),
            ("kernel-args devicetree loader-2 agent-0.2", " ks.loader=2", None),
            ("loader-2 agent-0.1", " ks.loader=10", None),
            ("agent-0.2", "", None),
            ("agent-0.3", " ks.loader=1", Some(Reason::AgentTooOld)),
            ("agent-1.0", " ks.loader=1", Some(Reason::AgentTooOld)),
            ("loader-9 tpm", " ks.loader=1", Some(Reason::RequiresUnknown)),
        ] {
            assert_eq!(asked(requires, loader), closed, "{requires} with{loader}");
        }
        // Slots in folders have no loader that could be too old.
        assert!(gate(&release("loader-9 kernel-args", None), None).open);
        assert!(!gate(&release("tpm", None), None).open);
    }

    #[test]
    fn a_command_line_that_the_kernel_would_cut_off_is_refused() {
        let arguments = "a".repeat(900);
        let wanted = release("", Some(&arguments));
        let device = |bytes: usize| {
            let mut origins = booted(" ks.loader=1");
            origins.device = "b".repeat(bytes);
            origins
        };
        let fixed = device(0).length_with(&arguments);
        assert!(gate(&wanted, Some(&device(LINE_BYTES - fixed))).open);
        let closed = gate(&wanted, Some(&device(LINE_BYTES - fixed + 1)));
        assert_eq!(closed.reason, Some(Reason::KernelArgs), "{}", closed.message);
    }
}
