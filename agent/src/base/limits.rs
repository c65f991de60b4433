//! How much is accepted from outside. Each limit is the last value that is still accepted; one more is refused.
//!
//! A device must survive any server: without these, a wrong or hostile answer fills the memory of a small board. The
//! numbers are part of the documented interface; publishers may rely on them.

use std::fmt::Display;
use std::time::Duration;

use crate::base::error::{Error, Reason};

/// Image index or Docker manifest list, in bytes.
pub const INDEX_BYTES: u64 = 256 * KIB;
/// Entries (platforms) in an index.
pub const INDEX_ENTRIES: usize = 64;
/// Manifest, in bytes; also of a signature.
pub const MANIFEST_BYTES: u64 = 256 * KIB;
/// Layers in a manifest.
pub const MANIFEST_LAYERS: usize = 16;
/// Annotations in a manifest.
pub const ANNOTATIONS: usize = 64;
/// Key or value of an annotation, in bytes.
pub const ANNOTATION_BYTES: usize = 4 * KIB as usize;
/// A version, in bytes; it ends up in names, messages and metrics.
pub const VERSION_BYTES: usize = 128;
/// Release notes, in bytes.
pub const RELEASE_NOTES_BYTES: usize = 16 * KIB as usize;
/// `latest.json`, in bytes.
pub const LATEST_JSON_BYTES: u64 = 64 * KIB;
/// A `.sig` file, in bytes.
pub const SIGNATURE_FILE_BYTES: u64 = 2 * KIB;
/// List of referrers, in bytes, all its pages together.
pub const REFERRERS_BYTES: u64 = 256 * KIB;
/// Entries in a list of referrers that the publisher writes, and in the index of a bundle. Agent 0.1 reads no longer list.
pub const REFERRERS: usize = 256;
/// Documents that are read to find the signatures of one manifest, in bytes: lists, manifests and signatures.
pub const ATTACHED_BYTES: u64 = 1024 * KIB;
/// The least that such a document counts for, in bytes. It bounds the number of requests.
pub const ATTACHED_BYTES_LEAST: u64 = KIB;
/// Signatures of one manifest that count; those by known keys come first.
pub const SIGNATURES: usize = 16;
/// Documents that cosign signed in the place of one manifest, in bytes, all together.
pub const PAYLOADS_BYTES: usize = SIGNATURES * COSIGN_PAYLOAD_BYTES as usize;
/// Keys times signatures for one image, where each pair has to hash all of it.
pub const STREAMED_PAIRS: usize = 16;
/// Payload of a cosign signature, in bytes.
pub const COSIGN_PAYLOAD_BYTES: u64 = 4 * KIB;
/// Sigstore bundle of a signature by cosign 3, in bytes.
pub const SIGSTORE_BUNDLE_BYTES: u64 = 16 * KIB;
/// Entries in the tar archive of a bundle, folders and records among them.
pub const BUNDLE_ENTRIES: usize = 1024;
/// A bundle whose files are all hashed by an examination, in bytes. It bounds the time for an archive of holes.
pub const BUNDLE_BYTES: u64 = 64 * GIB;
/// Removable volumes that are looked at in one run.
pub const STICKS: usize = 8;
/// Entries in the root folder of a removable volume that are looked at. Bundles are found among them.
pub const STICK_ENTRIES: usize = 1024;
/// Bundles on one removable volume that are opened, in the order of their names.
pub const STICK_BUNDLES: usize = 16;
/// The time over which the rate of reading a bundle is measured.
pub const MEDIUM_WINDOW: Duration = Duration::from_secs(60);
/// The slowest medium of a bundle, in bytes per second over [`MEDIUM_WINDOW`] and more.
pub const MEDIUM_RATE_MIN: u64 = 16 * KIB;
/// Receipts that a device keeps; the oldest is forgotten for one more.
pub const RECEIPTS: usize = 64;
/// A file with receipts, in bytes.
pub const RECEIPTS_BYTES: u64 = 256 * KIB;
/// Records of bundles that were examined; the oldest is forgotten for one more.
pub const INTAKES: usize = 32;
/// Findings in such a record.
pub const INTAKE_FINDINGS: usize = 64;
/// Records of attempts, and attempts in the history; the oldest is forgotten for one more.
pub const RECORDS: usize = 64;
/// The record of one attempt, in bytes.
pub const RECORD_BYTES: usize = 96 * KIB as usize;
/// Steps in such a record; the latest are kept.
pub const RECORD_STEPS: usize = 64;
/// Findings in such a record; the latest are kept.
pub const RECORD_FINDINGS: usize = 16;
/// Records that keep the evidence of their trial.
pub const EVIDENCES: usize = 8;
/// Events that wait for their receiver; the oldest is deleted for one more.
pub const EVENTS: usize = 128;
/// An event, in bytes: what every intermediary of CloudEvents forwards.
pub const EVENT_BYTES: usize = 64 * KIB as usize;
/// Answer of a token server, in bytes.
pub const TOKEN_BYTES: u64 = 64 * KIB;
/// A file of tokens between runs, in bytes: 16 of them as large as a token server may send.
pub const TOKEN_CACHE_BYTES: u64 = 16 * TOKEN_BYTES;
/// A file of logins to registries, in bytes.
pub const LOGINS_BYTES: u64 = 1024 * KIB;
/// How much of an error's body is read, in bytes.
pub const ERROR_BODY_BYTES: u64 = 8 * KIB;
/// A kernel or initramfs, in bytes. Larger than any that a boot loader can load; it keeps sums of sizes far from overflow.
pub const IMAGE_BYTES: u64 = 16 * GIB;
/// Pieces of an initramfs in its index, and pieces of the booted one that a device knows at a time.
pub const PIECES: usize = 65_536;
/// A piece of an initramfs, in bytes.
pub const PIECE_BYTES: usize = 512 * KIB as usize;
/// An index of pieces, in bytes: 20, and 19 for each.
pub const PIECES_BYTES: u64 = 20 + 19 * PIECES as u64;
/// Earlier releases for which a release has patches.
pub const PATCHES: usize = 8;
/// The table at the start of patches, in bytes.
pub const PATCH_TABLE_BYTES: u64 = 2048 * KIB;
/// Pieces of the earlier image that one patch refers to.
pub const PATCH_SOURCES: usize = 8;
/// The content of these pieces together, in bytes.
pub const SOURCE_BYTES: usize = 512 * KIB as usize;
/// The content of a piece that takes part in a patch, in bytes.
pub const PIECE_RAW_BYTES: usize = 256 * KIB as usize;
/// The content of the sources of all patches, in bytes for each byte of the unpacked initramfs. It bounds the time for them.
pub const SOURCES_PER_BYTE: u64 = 8;
/// Kernel arguments of a release, in bytes. A slot keeps them in a block of 1024.
pub const KERNEL_ARGS_BYTES: usize = 960;
/// A device tree, in bytes.
pub const DEVICETREE_BYTES: u64 = 512 * KIB;
/// Nested nodes of a device tree. The kernel reads 64 (`FDT_MAX_DEPTH` of `drivers/of/fdt.c`).
pub const DEVICETREE_DEPTH: usize = 64;
/// Needs that a release names.
pub const REQUIREMENTS: usize = 16;
/// The key of a setting, in bytes.
pub const KEY_BYTES: usize = 64;
/// Requests for parts of one image.
pub const RANGES: usize = 256;
/// A statement of freshness, in bytes.
pub const FRESHNESS_BYTES: u64 = 4 * KIB;
/// Architectures in a statement of freshness.
pub const FRESHNESS_DIGESTS: usize = 16;
/// Keys that one release revokes.
pub const REVOKED_KEYS: usize = 32;
/// Revoked keys that a device remembers. None is ever forgotten, so a release with one more is not committed.
pub const REVOKED_KEYS_KEPT: usize = 1024;
/// A public key file, in bytes.
pub const KEY_FILE_BYTES: u64 = 4 * KIB;
/// A file of certificate authorities, in bytes: five times what browsers know.
pub const AUTHORITIES_BYTES: u64 = 1024 * KIB;
/// Files of a folder with certificate authorities that are read: Debian has 280, each under two names.
pub const AUTHORITY_FILES: usize = 4096;
/// A client certificate with its chain, or its key, in bytes.
pub const CLIENT_CERTIFICATE_BYTES: u64 = 64 * KIB;
/// A file with the running version, in bytes.
pub const VERSION_FILE_BYTES: u64 = 4 * KIB;
/// Keys in a set.
pub const KEYS: usize = 16;
/// `/etc/machine-id`, in bytes: 32 hexadecimal digits and a line feed, see machine-id(5).
pub const MACHINE_ID_BYTES: u64 = 256;
/// `update.conf` or one of its drop-ins, in bytes.
pub const CONF_BYTES: u64 = 64 * KIB;
/// Files in `update.conf.d`.
pub const DROP_INS: usize = 64;
/// Parts of a maintenance window.
pub const WINDOW_SPANS: usize = 64;
/// Folders in `state_paths=`.
pub const STATE_PATHS: usize = 16;
/// Time for a checkpoint of the data, in seconds, unless `ks.data_limit=` says otherwise.
pub const DATA_SECONDS: u64 = 300;
/// Log of one try of a trial, in bytes.
pub const EVIDENCE_LOG_BYTES: usize = 256 * KIB as usize;
/// Space on the data partition without which no room is made for logs, in bytes.
pub const EVIDENCE_FREE_BYTES: u64 = 8 * 1024 * KIB;
/// Lines of the kernel that are added to it in one second, in bytes.
pub const EVIDENCE_RATE_BYTES: usize = 64 * KIB as usize;
/// A line of a health run in it, in bytes. A pipe passes such a line on whole (`PIPE_BUF`, pipe(7)).
pub const EVIDENCE_LINE_BYTES: usize = 4000;
/// Output of a check that is kept for the evidence of a trial, in bytes: the beginning of it.
pub const EVIDENCE_OUTPUT_BYTES: usize = 3 * KIB as usize;
/// Checks whose last result is known to the log, so that it is not repeated.
pub const EVIDENCE_CHECKS: usize = 64;
/// The announcement of evidence, in bytes.
pub const EVIDENCE_ABOUT_BYTES: u64 = 4 * KIB;
/// Last words of the kernel in one try, in bytes: the end of them.
pub const PANIC_BYTES: usize = 64 * KIB as usize;
/// Waves of a phased rollout.
pub const WAVES: usize = 16;
/// How far the security epoch of a release may be above the highest that a device knows. A larger step would let one wrong or
/// stolen signature keep the device from every later release.
pub const EPOCH_STEP: u64 = 1000;
/// The last wave of a phased rollout, in hours after the date of the release: a year.
pub const ROLLOUT_HOURS: u16 = 8760;
/// A file of a time zone, in bytes.
pub const ZONE_BYTES: u64 = 64 * KIB;
/// A kubeconfig, in bytes.
pub const KUBECONFIG_BYTES: u64 = 64 * KIB;
/// Runs of hooks in the evidence of a trial; the oldest is forgotten for one more.
pub const RECORD_HOOKS: usize = 32;
/// The status on KubeSolo's socket, or the file of its upgrade, in bytes.
pub const KUBESOLO_STATUS_BYTES: usize = 256 * KIB as usize;
/// Pods that the API server is asked for at a time.
pub const PODS_PAGE: usize = 100;
/// Pods of kube-system that a health check reads.
pub const PODS: usize = 5000;
/// One answer of the API server to a health check, in bytes.
pub const KUBERNETES_PAGE_BYTES: usize = 4096 * KIB as usize;
/// A list of one node, in bytes.
pub const NODES_BYTES: usize = 256 * KIB as usize;
/// User-data after unpacking, in bytes.
pub const USER_DATA_BYTES: u64 = 1024 * KIB;
/// Nested arrays and objects in JSON.
pub const JSON_DEPTH: usize = 16;
/// Redirects from one request.
pub const REDIRECTS: usize = 5;
/// Mirrors of a source.
pub const MIRRORS: usize = 8;
/// Attempts to begin a download at a mirror, or to continue it there without progress.
pub const MIRROR_ATTEMPTS: u32 = 2;
/// All documents of one check together: index, manifest, tokens, referrers, signatures; with waits and retries.
pub const DOCUMENTS_TIME: Duration = Duration::from_secs(60);
/// Bounds of `registry_timeout=`, which replaces [`DOCUMENTS_TIME`], in seconds.
pub const DOCUMENTS_SECONDS: std::ops::RangeInclusive<u32> = 15..=600;
/// The lowest limit of `max_rate=`, in bytes per second: servers end a connection that takes nothing for a minute.
pub const MAX_RATE_MIN: u64 = 4 * KIB;
/// The window over which the rate of a download is measured.
pub const RATE_WINDOW: Duration = Duration::from_secs(600);
/// The slowest download, in bytes per second over [`RATE_WINDOW`].
pub const RATE_MIN: u64 = 256;
/// Bytes that one run accepts to get an image of this size, in all its attempts: what comes twice is bounded, too, where a
/// server does not resume.
#[must_use]
pub fn fetch_budget(size: u64) -> u64 {
    size.saturating_mul(2).saturating_add(1024 * KIB)
}
/// Text from outside in one message, in characters.
pub const SHOWN_CHARS: usize = 256;

const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * KIB;

/// The error of a limit: `what` exceeds `limit`, which carries its unit.
pub fn exceeded(what: impl Display, limit: impl Display) -> Error {
    Error::new(Reason::LimitExceeded, format!("{what}: more than the limit of {limit}"))
}
