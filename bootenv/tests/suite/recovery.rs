//! The page for a person at the console, against the scripts that print there.

use std::fs;
use std::path::Path;

/// The beginning of each message of a script, up to its first variable or placeholder.
fn messages(script: &str) -> Vec<String> {
    let after_mark = script.split("echo ").skip(1);
    let quoted = after_mark.filter_map(|rest| rest.trim_start_matches("-n ").strip_prefix('"')?.split('"').next());
    quoted
        .filter(|text| text.starts_with("ks: "))
        .map(|text| text.split('$').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_recovery_page_explains_each_line_of_a_bootloader() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/recovery.md")).unwrap();
    let scripts = ["bootenv/loader/grub.cfg", "bootenv/loader/boot.cmd", "publisher/factory/make-loader.sh"];
    let all: Vec<_> = scripts.iter().flat_map(|name| messages(&fs::read_to_string(root.join(name)).unwrap())).collect();
    assert!(all.len() > 20, "{all:#?}");
    for message in all {
        assert!(page.contains(message.trim_end()), "docs/recovery.md does not explain \"{message}\"");
    }
}
