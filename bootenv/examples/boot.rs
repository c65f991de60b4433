//! Which slot would the bootloader boot, and why?
//!
//! `cargo run -p bootenv --example boot -- [--store] GRUBENV [KSENV2] SLOT_A SLOT_B`, where a slot is a folder. With
//! `--store`, what the bootloader would store is stored.

use std::path::Path;
use std::process::{Command, ExitCode};

use bootenv::SlotId;
use bootenv::boot::{Files, PowerOn, decide};
use bootenv::medium::Medium;
use bootenv::protocol::View;

fn main() -> ExitCode {
    let (options, args): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let store = options.iter().any(|option| option == "--store");
    let (env, second, a, b) = match args.as_slice() {
        [env, a, b] => (env, None, a, b),
        [env, second, a, b] => (env, Some(second), a, b),
        _ => {
            eprintln!("usage: boot [--store] GRUBENV [KSENV2] SLOT_A SLOT_B");
            return ExitCode::from(64);
        }
    };
    let medium = Medium::File(env.into());
    let block = medium.load().inspect_err(|error| println!("{env}: {error}")).ok();
    let main = block.as_ref().map_or(View::Invalid, bootenv::grub::Block::view);
    let second = second.and_then(|path| Medium::File(path.into()).load().ok()?.as_second());
    let files = [files(Path::new(a)), files(Path::new(b))];
    for (slot, files) in SlotId::BOTH.into_iter().zip(files) {
        println!("slot {slot}: {}", describe(files));
    }
    let decision = decide(&PowerOn { main, second, files, can_save: true });
    println!("why: {}", decision.reason);
    for (name, value) in &decision.stored {
        println!("stores: {name}={value}");
    }
    if let (true, Some(block)) = (store, block)
        && let Err(error) =
            block.with(&decision.stored).map_err(Into::into).and_then(|next| medium.store(&block, &next))
    {
        eprintln!("{env}: {error}");
        return ExitCode::from(73);
    }
    match decision.start {
        Some(start) => {
            let fallback = start.fallback.map_or(String::new(), |f| format!(" ks.fallback={}", f.as_str()));
            println!("boots: kubesolo.slot={} ks.trial={}{fallback} ks.proto=1", start.slot, start.trial);
            ExitCode::SUCCESS
        }
        None => {
            println!("boots: nothing, retries after a delay");
            ExitCode::FAILURE
        }
    }
}

fn describe(files: Files) -> &'static str {
    match files {
        Files::Hold => "complete, hashes hold",
        Files::Load => "can be loaded, hashes missing or wrong",
        Files::Broken => "cannot be loaded",
    }
}

/// As GRUB does it: a hash file that is there and not empty, for both files; `sha256sum` stands for `hashsum`.
fn files(slot: &Path) -> Files {
    let there = |name: &str| slot.join(name).metadata().is_ok_and(|m| m.is_file() && m.len() > 0);
    if !["vmlinuz", "kubesolo-os.gz"].into_iter().all(there) {
        return Files::Broken;
    }
    let holds = |list: &str| {
        let mut check = Command::new("sha256sum");
        there(list)
            && check
                .current_dir(slot)
                .args(["--check", "--status", "--strict", list])
                .status()
                .is_ok_and(|s| s.success())
    };
    if holds("vmlinuz.sha256") && holds("kubesolo-os.gz.sha256") { Files::Hold } else { Files::Load }
}
