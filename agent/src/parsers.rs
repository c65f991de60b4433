//! Every parser of bytes from outside, by name: one list for the fuzz targets and for the replay of what they found.
//!
//! Each function reads any bytes, and panics if what must hold of every document does not.

use bootenv::grub::Block;
use bootenv::protocol::View;
use bootenv::rpi;
use bootenv::uboot::{Environment, Format, config as fw_env};
use chrono::{DateTime, TimeDelta};

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::{json, limits};
use crate::config::{Conf, Config, Overrides};
use crate::delta::index::Index as Pieces;
use crate::delta::pack::Table as Patches;
use crate::delta::patch::apply as apply_patch;
use crate::device::data::About;
use crate::device::slot::SlotManifest;
use crate::device::table::{PartId, Table};
use crate::fetch::certificate;
use crate::fetch::challenge::{self, Challenge};
use crate::fetch::login::{Login, Logins};
use crate::fetch::{realm, tokens};
use crate::policy::kubeconfig;
use crate::release::devicetree;
use crate::release::latest::Latest;
use crate::release::release::{Architecture, Descriptor, Release};
use crate::release::statement::Statement;
use crate::schedule::rollout::{Rollout, Waves};
use crate::schedule::zone::Zone;
use crate::source::artifact::Index;
use crate::source::signatures::{Attachments, Referrers, Search};
use crate::source::{bundle, cosign as signed_by_cosign, statement};
use crate::state::memory::{Memory, Unjudged};
use crate::state::receipt::SignedReceipt;
use crate::state::state::State;
use crate::state::trust::Trust;
use crate::trust::signature::Signature;
use crate::trust::{cosign as cosign_payload, keys, sigstore};

/// Reads any bytes; true if it accepts them.
pub type Parser = fn(&[u8]) -> bool;

/// Name and parser. A name is that of a fuzz target and of its folder of seeds.
pub const ALL: &[(&str, Parser)] = &[
    ("autoboot", autoboot),
    ("bundle", bundled),
    ("challenge", challenge),
    ("certificate-times", certificate_times),
    ("checkpoint", checkpoint),
    ("conf", conf),
    ("cosign", cosign),
    ("devicetree", devicetree),
    ("freshness", freshness),
    ("fw-env-config", fw_env_config),
    ("grub-block", grub_block),
    ("json", any_json),
    ("key", key),
    ("kubeconfig", kubeconfig),
    ("latest-json", latest_json),
    ("logins", logins),
    ("manifest", manifest),
    ("memory", memory),
    ("partition-table", partition_table),
    ("patch", patch),
    ("patches", patches),
    ("pieces", pieces),
    ("receipt", receipt),
    ("registry", registry),
    ("signature", signature),
    ("sigstore", sigstore),
    ("slot-manifest", slot_manifest),
    ("state", state),
    ("token", token),
    ("trust", failures),
    ("uboot-env", uboot_env),
    ("waves", waves),
    ("zone", zone),
];

/// The parser of that name.
#[must_use]
pub fn named(name: &str) -> Option<Parser> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, parser)| *parser)
}

/// Drops a refusal, whose text goes to terminals and logs as it is.
fn told<T>(result: Result<T>) -> Option<T> {
    let printable = |e: &Error| e.message.bytes().all(|b| matches!(b, b' '..=b'~'));
    result.inspect_err(|e| assert!(printable(e), "{:?}", e.message)).ok()
}

/// Read twice, once strictly: whatever is accepted is what every other parser of JSON reads too.
fn any_json(bytes: &[u8]) -> bool {
    let strict = told(json::parse::<serde_json::Value>(bytes, "document"));
    let plain: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    assert!(strict.is_none() || strict == plain);
    strict.is_some()
}

/// A refusal goes to terminals as it is.
fn kubeconfig(bytes: &[u8]) -> bool {
    let read = kubeconfig::parse(bytes);
    read.inspect_err(|why| assert!(why.bytes().all(|b| matches!(b, b' '..=b'~')), "{why:?}")).is_ok()
}

/// A manifest, and never `latest.json` at the same time.
fn manifest(bytes: &[u8]) -> bool {
    let read = told(Release::from_oci_manifest(bytes)).is_some();
    assert!(!read || Latest::parse(bytes).is_err(), "both a manifest and latest.json");
    read
}

/// A device tree, whole and of its size.
fn devicetree(bytes: &[u8]) -> bool {
    told(devicetree::check(bytes)).is_some()
}

/// The start of a disk: what names a partition is in the table, and is written as it is read.
fn partition_table(bytes: &[u8]) -> bool {
    let Ok(Some(table)) = Table::read(&mut std::io::Cursor::new(bytes), 512) else { return false };
    let ids: Vec<PartId> = match &table {
        Table::Gpt(entries) => entries.iter().map(|(guid, _)| PartId::Gpt(*guid)).collect(),
        Table::Mbr(signature, _) => vec![PartId::Mbr(*signature, 1)],
    };
    for id in &ids {
        assert_eq!(id.to_string().parse(), Ok(*id));
        assert!(table.named(id).iter().all(|entry| entry.number > 0));
    }
    true
}

/// An index of pieces, of the size that it says. It is written as it was read, and covers every byte of the image.
fn pieces(bytes: &[u8]) -> bool {
    let said = bytes.get(8..16).and_then(|size| size.try_into().ok());
    let Some(index) = told(Pieces::parse(bytes, said.map_or(0, u64::from_le_bytes))) else { return false };
    assert_eq!(index.encode(), bytes);
    let mut end = 0;
    for piece in index.pieces() {
        assert!(piece.offset == end && (1..=limits::PIECE_BYTES).contains(&piece.len));
        end = piece.end();
    }
    assert_eq!(end, index.size());
    true
}

/// One patch for a piece of at most 64 KiB, whose length comes first. The result has this length.
fn patch(bytes: &[u8]) -> bool {
    let Some((raw, bytes)) = bytes.split_first_chunk() else { return false };
    let raw = usize::from(u16::from_le_bytes(*raw));
    let sources: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut out = vec![];
    let applied = apply_patch(bytes, &sources, raw, &mut out).is_ok();
    assert!(if applied { out.len() == raw } else { out.len() <= raw });
    applied
}

/// The table of patches for an image of 64 pieces. The size of all patches comes first. It is written as it was read.
fn patches(bytes: &[u8]) -> bool {
    let pieces: Vec<u8> = (0..64).flat_map(|n| [&[n; 16][..], &[0, n, 1]].concat()).collect();
    let size = (0..64u64).map(|n| 65_536 + n * 256).sum::<u64>();
    let index = [b"KSPIECE1", &size.to_le_bytes()[..], &64u32.to_le_bytes(), &pieces].concat();
    let (Ok(index), Some((size, table))) = (Pieces::parse(&index, size), bytes.split_first_chunk()) else {
        return false;
    };
    let read = told(Patches::parse(table.to_vec(), &index, u64::from_le_bytes(*size)));
    let Some(read) = read else { return false };
    let mut again = vec![];
    read.entries().for_each(|entry| entry.write(&mut again));
    assert_eq!(again, table);
    true
}

/// The challenge of a registry, as the value of one header.
fn challenge(bytes: &[u8]) -> bool {
    let mut found = Challenge::default();
    challenge::read(&String::from_utf8_lossy(bytes), &mut found);
    found != Challenge::default()
}

/// A file of logins: each that it has can be sent, and none is in a debug output.
fn logins(bytes: &[u8]) -> bool {
    let Some(logins) = told(Logins::parse(bytes, "file")) else { return false };
    let place = reqwest::Url::parse("https://registry.example/").ok();
    if let Some(found) = place.and_then(|place| logins.find(&place, "ns/os")) {
        let header = found.login.header();
        assert!(header.is_some() || matches!(found.login, Login::Identity(_)));
        assert!(header.is_none_or(|header| header.is_sensitive()));
    }
    true
}

/// The answer of a token server.
fn token(bytes: &[u8]) -> bool {
    realm::answer(bytes).inspect(|answer| assert!(tokens::header(&answer.token).is_some())).is_some()
}

/// An index, a list of referrers, the manifest of a signature.
fn registry(bytes: &[u8]) -> bool {
    let index = Index::parse(bytes, "index", limits::INDEX_ENTRIES).map(|index| {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            let _ = index.choose(architecture);
        }
        let _ = index.platforms();
    });
    let mut search = Search::new(Digest([0; 32]));
    assert!(search.next(&Everywhere(bytes)).is_none(), "bytes that name their own digest");
    let _ = search.hindrance().map(Err::<(), _>).and_then(told);
    let all = [
        index,
        signed_by_cosign::layers(bytes, "cosign signatures").map(drop),
        statement::layers(bytes, "freshness statement").map(drop),
    ];
    all.into_iter().filter_map(told).count() > 0
}

/// A registry that answers every request with the same bytes.
struct Everywhere<'a>(&'a [u8]);

impl Attachments for Everywhere<'_> {
    fn referrers(&self, _: Digest, kind: Option<&str>, _: u64) -> Result<Option<Referrers>> {
        let entries = Index::parse(self.0, "list of referrers", usize::MAX)?.manifests;
        Ok(Some(Referrers { entries, filtered: kind.is_some(), ..Referrers::default() }))
    }

    fn tagged(&self, _: &str, _: u64, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.0.to_vec()))
    }

    fn manifest(&self, _: &Descriptor, _: &str) -> Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn blob(&self, _: Digest, _: u64, _: &str) -> Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }
}

/// A sigstore bundle, and the statement in it. The statement is nothing else that is signed.
fn sigstore(bytes: &[u8]) -> bool {
    let statement = told(sigstore::subject(bytes)).is_some();
    assert!(!statement || Release::from_oci_manifest(bytes).is_err(), "both a statement and a manifest");
    assert!(!statement || cosign_payload::subject(bytes).is_err(), "both a statement and a payload of cosign");
    told(sigstore::approval(bytes)).is_some() || statement
}

/// A document of cosign, and no other signed document.
fn cosign(bytes: &[u8]) -> bool {
    let read = told(cosign_payload::subject(bytes)).is_some();
    assert!(!read || Release::from_oci_manifest(bytes).is_err(), "both a payload and a manifest");
    assert!(!read || Latest::parse(bytes).is_ok_and(|l| l.release().is_err()), "both a payload and latest.json");
    read
}

fn latest_json(bytes: &[u8]) -> bool {
    let Some(latest) = told(Latest::parse(bytes)) else { return false };
    let (signed, claimed) = (told(latest.release()), told(latest.claimed(Architecture::Amd64)));
    assert!(signed.is_none() || claimed.is_some_and(|claimed| claimed.security_epoch == 0));
    told(latest.image_urls());
    assert!(Release::from_oci_manifest(bytes).is_err(), "both a manifest and latest.json");
    signed.is_some()
}

/// A tar archive, and the list of what it is about.
fn bundled(bytes: &[u8]) -> bool {
    told(bundle::read(std::io::Cursor::new(bytes), bytes.len() as u64)).is_some()
}

fn signature(bytes: &[u8]) -> bool {
    let read = told(Signature::parse_file(bytes));
    assert!(read.as_ref().is_none_or(|all| (1..=limits::SIGNATURES).contains(&all.len())));
    read.is_some()
}

fn key(bytes: &[u8]) -> bool {
    let read = keys::parse(bytes);
    assert!(read.as_ref().is_ok_and(|key| !key.is_weak()) || read.is_err());
    read.is_ok()
}

/// A statement, and never a release at the same time. It is written as it was read.
fn freshness(bytes: &[u8]) -> bool {
    let Some(statement) = told(Statement::parse(bytes)) else { return false };
    assert_eq!(told(Statement::parse(&statement.encode())), Some(statement));
    assert!(Release::from_oci_manifest(bytes).is_err(), "both a statement and a manifest");
    assert!(cosign_payload::subject(bytes).is_err(), "both a statement and what cosign signs");
    assert!(Latest::parse(bytes).and_then(|latest| latest.release()).is_err(), "both a statement and latest.json");
    true
}

fn certificate_times(bytes: &[u8]) -> bool {
    certificate::validity(bytes).is_some()
}

/// The settings, as a device reads them.
fn conf(bytes: &[u8]) -> bool {
    let Some(conf) = told(Conf::parse(bytes, "update.conf")) else { return false };
    for warning in &conf.warnings {
        assert!(warning.message.bytes().all(|b| matches!(b, b' '..=b'~')), "{warning:?}");
    }
    told(Config::resolve(&conf, &Overrides::default())).is_some()
}

/// A block that was read is stored as it was, but for what a store changes.
fn grub_block(bytes: &[u8]) -> bool {
    let Ok(block) = Block::parse(bytes) else { return false };
    assert_eq!(block.bytes(), bytes);
    let _ = (block.view(), block.as_second(), block.get("active_slot"));
    if let Ok(stored) = block.with(&[("boot_success", "1".into())]) {
        let again = Block::parse(stored.bytes()).ok();
        assert_eq!(again.as_ref().and_then(|block| block.get("boot_success")), Some("1"));
    }
    // Repairs change nothing of what GRUB reads of our variables, and leave nothing to repair.
    if let Ok(steps) = block.repairs() {
        assert!(steps.iter().all(|step| step.view() == block.view()));
        assert_eq!(steps.last().unwrap_or(&block).repairs(), Ok(vec![]));
    }
    true
}

/// U-Boot's environment in either format: what was read is stored as it was, but for what a store changes.
fn uboot_env(bytes: &[u8]) -> bool {
    let mut read = false;
    for format in [Format::Single, Format::Redundant] {
        let Ok((environment, flags)) = Environment::parse(bytes, format) else { continue };
        read = true;
        let again = environment.encode(bytes.len(), format, flags).map(|again| Environment::parse(&again, format));
        assert_eq!(again, Ok(Ok((environment.clone(), flags))));
        let _ = (environment.view(), environment.variables());
        let next = environment.with(&[("boot_success", "1".into())]);
        assert_eq!(next.get("boot_success").as_deref(), Some("1"));
        if let Ok(stored) = next.encode(bytes.len(), format, flags.wrapping_add(1)) {
            assert_eq!(Environment::parse(&stored, format).map(|(stored, _)| stored), Ok(next));
        }
    }
    read
}

/// A Raspberry Pi's `autoboot.txt`: what is ours is written as it was read.
fn autoboot(bytes: &[u8]) -> bool {
    let view = rpi::view(bytes);
    if let View::Ours(state) = view {
        assert_eq!(rpi::view(&rpi::render(&state)), view);
    }
    view != View::Invalid
}

/// `fw_env.config`: what is accepted has one place, or two of one size.
fn fw_env_config(bytes: &[u8]) -> bool {
    let printable = |e: &fw_env::Error| e.to_string().bytes().all(|b| matches!(b, b' '..=b'~'));
    let read = fw_env::parse(bytes).inspect_err(|e| assert!(printable(e), "{e}"));
    assert!(read.as_ref().is_ok_and(|places| (1..=2).contains(&places.len())) || read.is_err());
    read.is_ok()
}

/// It is written as it was read.
fn slot_manifest(bytes: &[u8]) -> bool {
    let Some(manifest) = told(SlotManifest::parse(bytes)) else { return false };
    let again = told(SlotManifest::parse(&manifest.encode()));
    assert_eq!(again.map(|again| (again.digest, again.kernel)), Some((manifest.digest, manifest.kernel)));
    told(manifest.offer("server".into())).is_some()
}

fn state(bytes: &[u8]) -> bool {
    let Some(state) = told(State::parse(bytes)).flatten() else { return false };
    let written = serde_json::to_vec(&state).unwrap_or_default();
    assert_eq!(told(State::parse(&written)).flatten(), Some(state));
    true
}

fn memory(bytes: &[u8]) -> bool {
    let memory = told(Memory::parse(bytes)).flatten();
    if let Some(memory) = &memory {
        let written = serde_json::to_vec(memory).unwrap_or_default();
        assert_eq!(told(Memory::parse(&written)).flatten().as_ref(), Some(memory));
    }
    memory.is_some() || told(Unjudged::parse(bytes)).flatten().is_some()
}

fn receipt(bytes: &[u8]) -> bool {
    let Some(all) = told(SignedReceipt::parse(bytes, "receipt")) else { return false };
    all.iter().all(|one| told(one.claimed("receipt")).is_some())
}

fn checkpoint(bytes: &[u8]) -> bool {
    let Some(about) = told(About::parse(bytes)) else { return false };
    let written = serde_json::to_vec(&about).unwrap_or_default();
    assert_eq!(told(About::parse(&written)), Some(about));
    true
}

fn failures(bytes: &[u8]) -> bool {
    let Some(trust) = told(Trust::parse(bytes)).flatten() else { return false };
    let written = serde_json::to_vec(&trust).unwrap_or_default();
    assert_eq!(told(Trust::parse(&written)).flatten(), Some(trust));
    true
}

/// A plan is read as it is shown, and a share only grows.
fn waves(bytes: &[u8]) -> bool {
    let Some(waves) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Waves>().ok()) else { return false };
    assert_eq!(waves.to_string().as_bytes(), bytes);
    let rollout = Rollout { start: DateTime::UNIX_EPOCH, waves };
    let shares = (0..9000).step_by(7).map(|hours| rollout.share(DateTime::UNIX_EPOCH + TimeDelta::hours(hours)));
    assert!(shares.is_sorted_by(|a, b| a <= b && *b <= 100));
    true
}

/// A zone has an offset at any time.
fn zone(bytes: &[u8]) -> bool {
    let Some(zone) = told(Zone::parse("zone", bytes)) else { return false };
    for seconds in [0, 1_000_000_000, 1_800_000_000, 4_000_000_000, 200_000_000_000] {
        let (_, minute) = zone.wall_clock(DateTime::from_timestamp(seconds, 0).unwrap_or_default());
        assert!(minute < 24 * 60);
    }
    true
}
