//! The differences between two releases, in lines for people: each only if there is one.

use chrono::Utc;

use super::count;
use super::screen::{Screen, Tone};
use crate::base::console::progress::size;
use crate::base::text;
use crate::release::extras::AgentSetting;
use crate::schedule::clock;
use crate::update::changes::{Changes, ImageChange, SettingsChange};

/// Adds the lines. `with_support`: also the end of the support.
pub(super) fn changes(screen: &mut Screen, changes: &Changes, with_support: bool) {
    let (kernel, initramfs) = (image("kernel", &changes.kernel), image("initramfs", &changes.initramfs));
    screen.line("changes:", &format!("{kernel}; {initramfs}"));
    if let Some(change) = &changes.kernel_args {
        let signed =
            |sign: char, words: &[String]| words.iter().map(|word| format!("{sign} {word}")).collect::<Vec<_>>();
        let words = [signed('+', &change.added), signed('-', &change.removed)].concat();
        let line = if words.is_empty() { "in another order".into() } else { words.join("  ") };
        screen.line("arguments:", &line);
    }
    if let Some(change) = &changes.devicetree {
        let tree = change.offered.map_or("that of the firmware".into(), |tree| format!("another, {}", size(tree.size)));
        screen.line("devicetree:", &tree);
    }
    if let Some(change) = &changes.security_epoch {
        screen.line("epoch:", &format!("{} to {}, for good", change.committed, change.offered));
    }
    if !changes.revoked_keys.is_empty() {
        let keys: Vec<String> = changes.revoked_keys.iter().map(|key| key.to_string()[..16].to_owned()).collect();
        screen.line("revokes:", &format!("{}: {}", count(keys.len(), "key"), keys.join(", ")));
    }
    if let Some(waves) = &changes.rollout {
        screen.line("waves:", waves);
    }
    if !changes.requires.is_empty() {
        screen.line("needs:", &changes.requires.join(" "));
    }
    if let Some(settings) = &changes.settings {
        drift(screen, settings);
    }
    if let Some(ends) = changes.supported_until.filter(|_| with_support) {
        let over = if ends < Utc::now() { screen.paint(Tone::Bad, ", which is over") } else { String::new() };
        screen.line("support:", &format!("until {}{over}", clock::shown(ends)));
    }
}

fn image(name: &str, change: &ImageChange) -> String {
    let unpacked = |size: Option<u64>| size.map_or(String::new(), |bytes| format!(", {} unpacked", self::size(bytes)));
    let sized = |bytes: Option<u64>, raw: Option<u64>| {
        bytes.map_or("of unknown size".into(), |bytes| format!("{}{}", size(bytes), unpacked(raw)))
    };
    let offered = sized(change.size, change.unpacked_size);
    match change.same {
        Some(true) => format!("{name} the same"),
        Some(false) => format!("{name} {offered} (was {})", sized(change.running_size, change.running_unpacked_size)),
        None => format!("{name} {offered}"),
    }
}

fn drift(screen: &mut Screen, SettingsChange { unknown, new, missing }: &SettingsChange) {
    let keys = |keys: &[String]| keys.iter().map(|key| text::escape(key)).collect::<Vec<_>>().join(", ");
    if !unknown.is_empty() {
        screen.line("settings:", &format!("no effect after the update: {}", keys(unknown)));
    }
    if !new.is_empty() {
        let shown = |default: &String| format!("={}", text::escape(default));
        let one = |new: &AgentSetting| format!("{}{}", new.key, new.default.as_ref().map_or(String::new(), shown));
        let new: Vec<String> = new.iter().map(one).collect();
        screen.line("settings:", &format!("new: {}", new.join(", ")));
    }
    if !missing.is_empty() {
        screen.toned("settings:", Tone::Bad, &format!("required, and not set: {}", keys(missing)));
    }
}
