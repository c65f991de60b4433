//! `kubesolo-release repack`, with cpio, gzip and a decoder that knows nothing of it as oracles.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use flate2::bufread::DeflateDecoder;
use kubesolo_update::base::limits;
use kubesolo_update::delta::index::Index;
use tempfile::TempDir;

use crate::common::images;
use crate::common::registry::find;
use crate::tools::tool;

const MARK: &[u8] = &[0, 0, 0xff, 0xff];

fn sh(folder: &TempDir, script: &str) -> String {
    let cpio = find("cpio").expect("cpio is needed: build/scripts/setup.sh test");
    let script = format!("set -eu; cpio() {{ {} --quiet \"$@\"; }}; {script}", cpio.display());
    String::from_utf8(tool("sh", folder.path(), &["-c", &script]).unwrap()).unwrap()
}

fn repack(folder: &TempDir, input: &str, output: &str) -> (i32, String) {
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let output = crate::run(&["repack", &at(input), &at(output)], &[]);
    (output.status.code().unwrap(), crate::text(&output.stderr) + &crate::text(&output.stdout))
}

fn read(folder: &TempDir, name: &str) -> Vec<u8> {
    fs::read(folder.path().join(name)).unwrap()
}

fn unzipped(folder: &TempDir, name: &str) -> Vec<u8> {
    tool("zcat", folder.path(), &[name]).unwrap()
}

/// A tree of everything that an initramfs has, as `in.gz`.
fn initramfs(folder: &TempDir) {
    fs::create_dir_all(folder.path().join("tree/etc/many")).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join("tree").join(name), bytes).unwrap();
    let noise: Vec<u8> = (0..700_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    put("init", b"#!/bin/sh\n");
    put("empty", b"");
    put("large", &noise);
    put("middle", &noise[..200_000]);
    put("zeros", &vec![0; 1 << 20]);
    for n in 0..300 {
        put(&format!("etc/many/file-{n}"), format!("{n}\n").repeat(n).as_bytes());
    }
    sh(
        folder,
        "ln tree/init tree/etc/hard; ln tree/large tree/etc/hard-large; ln -s init tree/soft; chmod 4755 tree/init; \
         find tree -exec touch -h -d @1700000000 {} +; cd tree; find . | LC_ALL=C sort | cpio -o -H newc | gzip -n >../in.gz",
    );
}

/// The pieces of the deflate stream of a file with one gzip member and nothing before it.
fn pieces(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut pieces) = (&file[10..file.len() - 10], vec![]);
    while let Some(at) = rest.windows(4).position(|window| window == MARK) {
        pieces.push(&rest[..at + 4]);
        rest = &rest[at + 4..];
    }
    assert_eq!(
        (rest, &file[file.len() - 10..file.len() - 8]),
        (&[][..], &[3, 0][..]),
        "the last block follows the last piece"
    );
    pieces
}

#[test]
fn cpio_and_gzip_find_every_file_as_it_was() {
    let folder = TempDir::new().unwrap();
    initramfs(&folder);
    let (code, said) = repack(&folder, "in.gz", "out.gz");
    assert_eq!(code, 0, "{said}");
    for (archive, to) in [("in.gz", "before"), ("out.gz", "after")] {
        sh(&folder, &format!("mkdir {to}; zcat {archive} | (cd {to} && cpio -idm)"));
    }
    let listed = |archive: &str| sh(&folder, &format!("zcat {archive} | cpio -tv"));
    assert_eq!(listed("out.gz"), listed("in.gz"));
    sh(&folder, "diff -r before after && diff -r tree after");
    let inode = |name: &str| fs::metadata(folder.path().join("after").join(name)).unwrap().ino();
    assert_eq!((inode("init"), inode("large")), (inode("etc/hard"), inode("etc/hard-large")), "hard links stay");
    sh(&folder, "gzip -t out.gz");
}

#[test]
fn every_piece_is_read_without_those_before_it() {
    let folder = TempDir::new().unwrap();
    initramfs(&folder);
    let (code, said) = repack(&folder, "in.gz", "out.gz");
    let file = read(&folder, "out.gz");
    let pieces = pieces(&file);
    assert_eq!((code, said.contains(&format!("{} bytes in {} pieces", file.len(), pieces.len()))), (0, true), "{said}");
    let (count, mut all) = (pieces.len() as u64, vec![]);
    for piece in pieces {
        let mut raw = vec![];
        DeflateDecoder::new(&[piece, &[3, 0]].concat()[..]).read_to_end(&mut raw).unwrap();
        assert!((1..=192 << 10).contains(&raw.len()), "{}", raw.len());
        all.extend(raw);
    }
    assert!(all == unzipped(&folder, "out.gz"));
    assert_eq!(kubesolo_release::repack::restart_points(&folder.path().join("out.gz")).unwrap(), count);
}

/// As many small entries, each of which starts a piece by its name, as an image of 5 GiB has pieces.
#[test]
fn pieces_are_twice_as_long_where_an_index_has_no_room_for_them() {
    let folder = TempDir::new().unwrap();
    let entry = |name: &str, content: &[u8]| {
        let mut entry = format!("070701{:08X}{:08X}{:032X}", 0, 0o100_644, 1).into_bytes();
        entry.extend(format!("{:08X}{:032X}{:08X}{:08X}{name}\0", content.len(), 0, name.len() + 1, 0).bytes());
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    };
    let noise: Vec<u8> = (0..700_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let names = (0..).map(|n| format!("{n:x}")).filter(|name| crc32fast::hash(name.as_bytes()) % 16 == 8);
    let mut archive = entry("init", b"");
    archive.extend(entry("large", &noise));
    names.take(limits::PIECES).for_each(|name| archive.extend(entry(&name, b"")));
    archive.extend(entry("TRAILER!!!", b""));
    fs::write(folder.path().join("in.gz"), images::gzip(&archive)).unwrap();
    let (code, said) = repack(&folder, "in.gz", "out.gz");
    assert_eq!(code, 0, "{said}");
    let file = read(&folder, "out.gz");
    let (mut longest, mut all) = (0, vec![]);
    for piece in pieces(&file) {
        let mut raw = vec![];
        DeflateDecoder::new(&[piece, &[3, 0]].concat()[..]).read_to_end(&mut raw).unwrap();
        longest = longest.max(raw.len());
        all.extend(raw);
    }
    assert!(all == archive && longest == limits::PIECE_RAW_BYTES, "{longest}");
    let index = Index::of(&file[..]).unwrap().expect("an index");
    assert!(index.pieces().len() < 100, "{}", index.pieces().len());
}

#[test]
fn a_changed_file_changes_only_its_own_pieces() {
    let folder = TempDir::new().unwrap();
    initramfs(&folder);
    assert_eq!(repack(&folder, "in.gz", "old.gz").0, 0);
    sh(
        &folder,
        "echo new >tree/etc/many/file-7; printf x | dd of=tree/large bs=1 seek=400000 conv=notrunc status=none; echo >tree/added; \
         find tree -exec touch -h -d @1700000000 {} +; \
         cd tree; find . | LC_ALL=C sort | cpio -o -H newc | gzip -n >../in.gz",
    );
    assert_eq!(repack(&folder, "in.gz", "new.gz").0, 0);
    let (old, new) = (read(&folder, "old.gz"), read(&folder, "new.gz"));
    let (old, new) = (pieces(&old), pieces(&new));
    let changed = new.iter().filter(|piece| !old.contains(piece)).count();
    // Three files, and the folders whose times and links they are in.
    assert!(new.len() > 20 && (3..=6).contains(&changed), "{changed} of {} pieces", new.len());
}

#[test]
fn the_same_input_gives_the_same_bytes_and_a_second_time_changes_nothing() {
    let folder = TempDir::new().unwrap();
    initramfs(&folder);
    for (input, output) in [("in.gz", "a.gz"), ("in.gz", "b.gz"), ("a.gz", "c.gz"), ("b.gz", "b.gz")] {
        assert_eq!(repack(&folder, input, output).0, 0);
    }
    let first = read(&folder, "a.gz");
    assert!(["b.gz", "c.gz"].iter().all(|name| read(&folder, name) == first));
    sh(&folder, "zcat in.gz | gzip -9 >other.gz; mv other.gz in.gz");
    assert_eq!(repack(&folder, "in.gz", "d.gz").0, 0);
    assert!(read(&folder, "d.gz") == first, "whatever compressed it");
}

#[test]
fn inode_numbers_of_the_build_machine_have_no_influence() {
    let folder = TempDir::new().unwrap();
    initramfs(&folder);
    sh(
        &folder,
        "cp -a tree copy
         for tree in tree copy; do
             (cd $tree; find . -type f -links 1 | LC_ALL=C sort | cpio -o -H newc | gzip >../$tree.gz)
         done",
    );
    for name in ["tree", "copy"] {
        assert_eq!(repack(&folder, &format!("{name}.gz"), &format!("{name}.out")).0, 0);
    }
    assert!(unzipped(&folder, "tree.gz") != unzipped(&folder, "copy.gz"));
    assert!(read(&folder, "tree.out") == read(&folder, "copy.out"));
}

#[test]
fn an_early_archive_stays_and_all_members_after_it_become_one() {
    let folder = TempDir::new().unwrap();
    let early = [images::archive(&[7; 5000]), vec![0; 512]].concat();
    let (one, two) = (images::archive(&[1; 300]), images::archive(&[2; 70_000]));
    // The second archive is aligned in its own member alone.
    let file =
        [&early[..], &images::gzip(&one), &[0; 8], &images::gzip(&[&two[..], &[0; 3]].concat()), &images::gzip(&one)];
    fs::write(folder.path().join("in.gz"), file.concat()).unwrap();
    let (code, said) = repack(&folder, "in.gz", "out.gz");
    assert_eq!(code, 0, "{said}");
    let out = read(&folder, "out.gz");
    assert!(out.starts_with(&early));
    fs::write(folder.path().join("member.gz"), &out[early.len()..]).unwrap();
    let whole = [&one[..], &[0; 8], &two, &[0; 4], &one].concat();
    assert!(unzipped(&folder, "member.gz") == whole);
    assert!(!pieces(&out[early.len()..]).is_empty());
}

#[test]
fn a_broken_initramfs_leaves_the_output_as_it_was() {
    let folder = TempDir::new().unwrap();
    initramfs(&folder);
    let good = read(&folder, "in.gz");
    fs::write(folder.path().join("out.gz"), "kept").unwrap();
    let plain = images::archive(b"x");
    for (bytes, words) in [
        (&good[..good.len() / 2], "does not unpack"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (&plain, "no part that is compressed with gzip"),
    ] {
        fs::write(folder.path().join("bad"), bytes).unwrap();
        let (code, said) = repack(&folder, "bad", "out.gz");
        assert!(code == 65 && said.contains(words), "{code} {said}");
        assert_eq!((read(&folder, "out.gz"), folder.path().join("out.gz.new").exists()), (b"kept".to_vec(), false));
    }
    let (code, said) = repack(&folder, "absent", "out.gz");
    assert!(code == 69 && said.contains("absent"), "{code} {said}");
    let (code, said) = repack(&folder, "in.gz", "nowhere/out.gz");
    assert!(code == 73 && said.contains("nowhere/out.gz"), "{code} {said}");
}

/// Programs and libraries of this machine, as in a real image.
#[test]
fn it_is_at_most_two_percent_larger_than_gzip() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("tree")).unwrap();
    for (n, file) in ["/bin/bash", "/usr/bin/openssl", "/usr/bin/strace", "/usr/bin/perl"].iter().enumerate() {
        if Path::new(file).exists() {
            fs::copy(file, folder.path().join(format!("tree/{n}"))).unwrap();
        }
    }
    sh(&folder, "cd tree; find . | cpio -o -H newc | gzip -6n >../in.gz");
    assert_eq!(repack(&folder, "in.gz", "out.gz").0, 0);
    let (before, after) = (read(&folder, "in.gz").len(), read(&folder, "out.gz").len());
    assert!(before > 1 << 20 && after * 100 <= before * 102, "{before} {after}");
}

#[test]
fn publish_warns_of_an_initramfs_that_was_not_repacked() {
    let folder = TempDir::new().unwrap();
    let files = images::files(folder.path(), crate::Amd64, 1);
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    let noise: Vec<u8> = (0..3 << 20).map(|_| random()).collect();
    fs::write(folder.path().join("in.gz"), images::gzip(&images::archive(&noise))).unwrap();
    let publish = |initramfs: &str| {
        let www = folder.path().join(format!("www-{initramfs}"));
        let initramfs = folder.path().join(initramfs);
        let release = ["--version", "1.0.0", "--channel", "stable", "--unsigned"];
        let place =
            ["publish", "--http", crate::path(&www), "--amd64", crate::path(&files.kernel), crate::path(&initramfs)];
        let output = crate::run(&[&place[..], &release].concat(), &[]);
        assert!(output.status.success(), "{output:?}");
        crate::text(&output.stderr)
    };
    assert!(publish("in.gz").contains("kubesolo-release repack"));
    assert_eq!(repack(&folder, "in.gz", "out.gz").0, 0);
    assert!(!publish("out.gz").contains("repack"));
}
