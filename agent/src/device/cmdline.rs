//! The kernel command line of this boot, by the origin of its words: loader, release, device.

use serde::Serialize;

use crate::device::blocks::CommandLine;
use crate::device::boot::Boot;
use crate::device::slot::SlotManifest;
use crate::release::extras::KernelArgs;

/// Names of the words that the loader file adds; `panic=5` is one too, once.
const LOADER: [&str; 7] =
    ["BOOT_IMAGE", "kubesolo.slot", "ks.trial", "ks.proto", "ks.part", "ks.loader", "ks.fallback"];
/// The word of the loader file that the release and the device may override.
const PANIC: &str = "panic=5";

/// The words of a kernel command line by their origin. A later word overrides an earlier one of its name, so the device overrides
/// the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origins {
    /// Number of the loader file; 0 for one that does not say, which passes on nothing of a release.
    pub loader_file: u32,
    /// Words of the loader file.
    pub loader: String,
    /// Words of the running release; absent where it has none, or the loader file did not pass them on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Words of the device, from `kernel-args.cfg` or `kernel-args.txt`, or the defaults of the loader file.
    pub device: String,
}

impl Origins {
    /// Of this boot; `None` where nothing boots the slots.
    #[must_use]
    pub fn find(boot: &Boot, running: Option<&SlotManifest>) -> Option<Self> {
        let line = boot.line.as_ref()?;
        let release = running.filter(|content| content.extras).and_then(|content| content.release().ok());
        let arguments = release.and_then(|release| release.kernel_args);
        Some(Self::of(line, arguments.as_ref().map(KernelArgs::as_str)))
    }

    /// Of a command line; `arguments` are those of the running release.
    #[must_use]
    pub fn of(line: &str, arguments: Option<&str>) -> Self {
        let is_loader = |word: &&str| LOADER.contains(&word.split_once('=').map_or(*word, |(name, _)| name));
        let (mut loader, mut others): (Vec<&str>, Vec<&str>) = line.split_ascii_whitespace().partition(is_loader);
        if let Some(at) = others.iter().position(|word| *word == PANIC) {
            loader.push(others.remove(at));
        }
        let arguments: Vec<&str> = arguments.unwrap_or_default().split_ascii_whitespace().collect();
        let at = others.windows(arguments.len().max(1)).position(|words| words == arguments);
        let release = at.map(|at| others.drain(at..at + arguments.len()).collect::<Vec<_>>().join(" "));
        Self {
            loader_file: CommandLine::parse(line).loader.unwrap_or_default(),
            loader: loader.join(" "),
            release,
            device: others.join(" "),
        }
    }

    /// Bytes of the command line with other words of a release.
    #[must_use]
    pub fn length_with(&self, release: &str) -> usize {
        [&self.loader, release, &self.device].map(|words| words.len() + 1).iter().sum::<usize>() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_a_command_line_has_its_origin() {
        let line = "BOOT_IMAGE=(hd0,gpt2)/vmlinuz kubesolo.slot=A ks.trial=00000000 ks.proto=1 ks.loader=3 panic=5 quiet x=1 \
                    panic=5 console=ttyS0 quiet\n";
        let origins = Origins::of(line, Some("quiet x=1 panic=5"));
        assert_eq!(origins.loader_file, 3);
        let loader = "BOOT_IMAGE=(hd0,gpt2)/vmlinuz kubesolo.slot=A ks.trial=00000000 ks.proto=1 ks.loader=3 panic=5";
        assert_eq!(origins.loader, loader);
        assert_eq!(origins.release.as_deref(), Some("quiet x=1 panic=5"));
        assert_eq!(origins.device, "console=ttyS0 quiet");
        assert_eq!(origins.length_with("quiet x=1 panic=5"), line.len() - 1);
    }

    #[test]
    fn arguments_that_an_old_loader_file_left_out_have_no_origin() {
        let line = "panic=5 quiet kubesolo.slot=A ks.trial=00000000 ks.proto=1\n";
        let origins = Origins::of(line, Some("quiet x=1"));
        assert_eq!((origins.loader_file, origins.release, origins.device.as_str()), (0, None, "quiet"));
        assert_eq!(Origins::of(line, None).release, None);
        assert_eq!(Origins::of("", None).device, "");
    }
}
