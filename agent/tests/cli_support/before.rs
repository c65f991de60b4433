//! The state that a refusal must leave unchanged: both slots and the boot environment.

use std::fs;

use bootenv::SlotId;
use bootenv::protocol::SlotState;

use super::{Device, Ran, Tree, publish};
use crate::common::registry::Registry;

/// The traces of a run that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Both slots and the environment are as they were, to the byte.
    Untouched,
    /// The free slot was being written: it is void, and nothing in it can be taken for a release.
    Void,
}

/// The parts that must not change.
pub struct Before {
    active: Tree,
    free: Option<Tree>,
    env: Option<Vec<u8>>,
}

impl Before {
    pub fn of(device: &Device) -> Self {
        let free = device.path("B").exists().then(|| device.tree("B"));
        Self { active: device.tree("A"), free, env: fs::read(device.path("grubenv")).ok() }
    }

    /// Checks one refusal: code and reason, the words, what is left, and what `state.json` says.
    #[track_caller]
    pub fn holds(self, device: &Device, ran: Ran, (code, reason): (i32, &str), words: &[&str], left: Left) {
        let error = ran.refused(code, reason);
        let (message, remedy) = (error["message"].as_str().unwrap(), error["remedy"].as_str().unwrap());
        let advice = ["No slot was changed.", "Slot B is void; slot A is unchanged and boots."]
            .into_iter()
            .fold(remedy.to_owned(), |rest, known| rest.replace(known, ""));
        assert!(!advice.trim().is_empty(), "what to do next: {error:#}");
        for word in words {
            assert!(message.contains(word), "no \"{word}\" in {error:#}");
        }
        assert_eq!(device.tree("A"), self.active, "the active slot: {error:#}");
        match left {
            Left::Untouched => {
                assert!(remedy.contains("No slot was changed."), "{error:#}");
                assert_eq!(fs::read(device.path("grubenv")).ok(), self.env, "the environment: {error:#}");
                assert_eq!(device.path("B").exists().then(|| device.tree("B")), self.free, "the free slot: {error:#}");
            }
            Left::Void => {
                assert!(remedy.contains("Slot B is void; slot A is unchanged and boots."), "{error:#}");
                assert!(!remedy.contains("No slot was changed."), "{error:#}");
                let env = device.env();
                assert_eq!((env.active, env.success, env.good, env.b), (SlotId::A, true, SlotId::A, SlotState::Void));
                let names = device.names("B");
                assert!(names.iter().all(|name| name == "vmlinuz"), "left in the free slot: {names:?}");
                assert_eq!(device.power_on().start.unwrap().slot, SlotId::A);
                fs::remove_file(device.path("cmdline")).unwrap();
            }
        }
        let state = device.state();
        let told = match code {
            75 => &state["last_skip"]["message"],
            _ => &state["last_error"],
        };
        assert_eq!(state["phase"] == "failed", code != 75, "{state:#}");
        assert!(told.as_str().unwrap().starts_with(message) && told.as_str().unwrap().ends_with(remedy), "{state:#}");
    }
}

/// Runs `apply`, which must be refused like this.
#[track_caller]
pub fn refused(device: &Device, server: &impl AsRef<str>, expected: (i32, &str), words: &[&str], left: Left) {
    let before = Before::of(device);
    let ran = device.from(server, &["apply", "--json"]);
    before.holds(device, ran, expected, words, left);
}

/// A device whose free slot holds a release that is worth keeping.
pub fn with_staged(registry: &Registry) -> Device {
    let device = Device::new();
    publish(registry, "0.1.0", 9);
    device.from(registry, &["apply"]).code(0);
    device
}
