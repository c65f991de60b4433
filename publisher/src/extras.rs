//! Everything that boots beside the images: kernel arguments and a device tree; and the needs of the release, with the settings
//! that its agent knows. The device's own code checks each of them before anything is published.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_client::manifest::OciDescriptor;
use serde_json::{Map, Value};

use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::error::{Context as _, Error, Reason, Result};
use kubesolo_update::base::{files, limits};
use kubesolo_update::release::devicetree;
use kubesolo_update::release::extras::{self, AgentSettings, KernelArgs, Requirement};
use kubesolo_update::release::release::{self, Architecture, Blob};

use crate::http::file_name;

/// The version of the agent whose settings this program knows.
const OWN_AGENT: &str = env!("CARGO_PKG_VERSION");
/// The name of a device tree as a file.
const TREE_TITLE: &str = "board.dtb";

/// Everything that boots beside the images, for all architectures.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Kernel arguments for each architecture.
    pub kernel_args: Option<KernelArgs>,
    /// Further ones for amd64, which follow.
    pub amd64_kernel_args: Option<KernelArgs>,
    /// Further ones for arm64, which follow.
    pub arm64_kernel_args: Option<KernelArgs>,
    /// File of the device tree for arm64.
    pub arm64_dtb: Option<PathBuf>,
    /// Needs of the release.
    pub requires: BTreeSet<Requirement>,
    /// The settings that the agent in the images knows; absent: as this program knows them.
    pub agent_settings: Option<AgentSettings>,
}

/// The same for one architecture, checked.
#[derive(Debug)]
pub(crate) struct Additions {
    pub(crate) kernel_args: Option<KernelArgs>,
    pub(crate) tree: Option<Vec<u8>>,
    requires: BTreeSet<Requirement>,
    agent_settings: Option<AgentSettings>,
}

/// Reads the needs of a release from a command line.
///
/// # Errors
/// 64 for a word that no device knows: each would refuse the release.
pub(crate) fn requires(words: &str) -> Result<BTreeSet<Requirement>> {
    let needs = extras::requires(words)?;
    match needs.iter().find(|need| matches!(need, Requirement::Unknown(_))) {
        None => Ok(needs),
        Some(word) => Err(Error::new(Reason::Usage, format!("--requires: no device knows the need \"{word}\""))
            .remedy("Name kernel-args, devicetree, loader-N or agent-X.Y, with blanks between them.")),
    }
}

impl Extras {
    /// Those for `architecture`, with images whose agent has the version `agent`.
    ///
    /// # Errors
    /// 65 for kernel arguments that are too long together and for a file that is no device tree; 69 if it cannot be read.
    pub(crate) fn of(&self, architecture: Architecture, agent: Option<&str>) -> Result<Additions> {
        let (more, dtb) = match architecture {
            Architecture::Amd64 => (&self.amd64_kernel_args, None),
            Architecture::Arm64 => (&self.arm64_kernel_args, self.arm64_dtb.as_deref()),
        };
        let lines: Vec<&str> = [&self.kernel_args, more].into_iter().flatten().map(KernelArgs::as_str).collect();
        let kernel_args = (!lines.is_empty()).then(|| lines.join(" ").parse()).transpose()?;
        let tree = dtb.map(tree).transpose()?;
        let agent_settings = self.agent_settings.clone().or_else(|| settings(agent));
        Ok(Additions { kernel_args, tree, requires: self.requires.clone(), agent_settings })
    }
}

fn tree(path: &Path) -> Result<Vec<u8>> {
    let at = path.display();
    let bytes = files::read_data(path, limits::DEVICETREE_BYTES + 1)
        .context(Reason::ImageUnreadable, format!("read the device tree {at}"))?;
    devicetree::check(&bytes).map_err(|e| e.context(at))?;
    Ok(bytes)
}

/// The settings of the agent in the images, if it is the one of this version.
fn settings(agent: Option<&str>) -> Option<AgentSettings> {
    let agent = agent?;
    if agent == OWN_AGENT {
        return Some(AgentSettings::own());
    }
    log::warn!(
        "the agent in the initramfs has version {agent}, and this program knows the settings of {OWN_AGENT}: the release does \
         not say which settings its agent knows. Publish with kubesolo-release {agent}"
    );
    None
}

impl Additions {
    /// The annotations for them.
    pub(crate) fn annotations(&self) -> [(&'static str, Option<String>); 3] {
        [
            (release::KERNEL_ARGS, self.kernel_args.as_ref().map(ToString::to_string)),
            (release::REQUIRES, self.requires()),
            (release::AGENT_SETTINGS, self.agent_settings.as_ref().map(ToString::to_string)),
        ]
    }

    fn requires(&self) -> Option<String> {
        let words: Vec<String> = self.requires.iter().map(ToString::to_string).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    /// The device tree by its content.
    pub(crate) fn tree_blob(&self) -> Option<Blob> {
        self.tree.as_deref().map(Blob::of)
    }

    /// The layer with the device tree.
    pub(crate) fn layer(&self) -> Option<OciDescriptor> {
        self.tree_blob().map(|tree| crate::descriptor(release::DEVICETREE_TYPE, &tree, TREE_TITLE))
    }

    /// The name of the device tree in a tree of files.
    pub(crate) fn file_name(tree: &[u8]) -> String {
        file_name(TREE_TITLE, Digest::of(tree))
    }

    /// The members of `latest.json` for them.
    pub(crate) fn members(&self, url: &dyn Fn(&str) -> String) -> Map<String, Value> {
        let named = ["kernel_args", "requires", "agent_settings"].into_iter().zip(self.annotations());
        let mut members: Map<String, Value> =
            named.filter_map(|(name, (_, text))| Some((name.to_owned(), text?.into()))).collect();
        if let (Some(bytes), Some(Blob { digest, size })) = (&self.tree, self.tree_blob()) {
            members.insert("devicetree_url".into(), url(&Self::file_name(bytes)).into());
            members.insert("devicetree_sha256".into(), digest.hex().into());
            members.insert("devicetree_size".into(), size.into());
        }
        members
    }
}
