//! The command line of `kubesolo-release`; `super::commands` runs it.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use super::factory::Boot;
use super::registry::Access;
use kubesolo_update::Result;
use kubesolo_update::cli::explain;
use kubesolo_update::fetch::options::ClientCertificate;
use kubesolo_update::release::release::{self, Architecture};
use kubesolo_update::schedule::rollout::Waves;

const AFTER_HELP: &str = "\
Examples:
  kubesolo-release keygen keys
  kubesolo-release publish registry.example.com/os --version 1.2.0 --channel stable \\
      --amd64 vmlinuz kubesolo-os.gz --key keys/private.pem
  kubesolo-release inspect registry.example.com/os:stable --pubkey keys/public.pem

Credentials: KUBESOLO_RELEASE_USER and KUBESOLO_RELEASE_PASSWORD for the registry
KUBESOLO_RELEASE_HOST [default: the first registry of the command],
else $REGISTRY_AUTH_FILE, docker's config.json or podman's auth.json.
Proxies: https_proxy, http_proxy, all_proxy and no_proxy of the environment.

Exit codes:
   0  done
  64  the command line is wrong
  65  bytes are wrong: kernel, initramfs, manifest, signature
  69  a file or the registry is missing, or the registry refuses the request
  70  internal
  73  a file cannot be written
  75  verify: not now, the freshness statement is missing or old
  77  a signature is missing, or not by the given key; publish: the version is published with
      other images, or a higher one is; the registry names a token server
      that must not get the password; verify: such a device refuses the release
  78  a key or the configuration is not usable";

const PUBLISH_HELP: &str = "\
Examples:
  kubesolo-release publish registry.example.com/os --version 1.2.0 --channel stable \\
      --amd64 vmlinuz kubesolo-os.gz --arm64 vmlinuz-arm64 kubesolo-os-arm64.gz \\
      --key keys/private.pem --release-notes @NEWS --also-tag v1.2.0";

const PUBLISH_HTTP: &str = "  kubesolo-release publish --http www --url https://updates.example.com/os --version 1.2.0 \\
      --channel stable --amd64 vmlinuz kubesolo-os.gz --key keys/private.pem";

const PAYLOAD_HELP: &str = "\
Examples:
  kubesolo-release payload registry.example.com/os:candidate --output unsigned
  openssl pkeyutl -sign -rawin -inkey private.pem -in unsigned/amd64.json -out amd64.sig
  kubesolo-release attach registry.example.com/os:candidate --signature amd64.sig \\
      --pubkey keys/public.pem";

const VERIFY_HELP: &str = "\
Examples:
  kubesolo-release verify registry.example.com/os:stable --pubkey keys/public.pem
  kubesolo-release verify https://updates.example.com/os/amd64 --pubkey keys --threshold 2
  kubesolo-release verify --bundle stable.tar --pubkey keys/public.pem --channel stable";

const FRESHNESS_HELP: &str = "\
Examples:
  kubesolo-release freshness registry.example.com/os:stable --key keys/freshness.pem
  kubesolo-release freshness registry.example.com/os:stable --output statement.json
  openssl pkeyutl -sign -rawin -inkey freshness.pem -in statement.json -out statement.sig
  kubesolo-release freshness registry.example.com/os:stable --statement statement.json \\
      --signature statement.sig --pubkey keys/freshness.pub.pem";

const COPY_HELP: &str = "\
Examples:
  kubesolo-release copy registry.example.com/os:stable registry.example.com/os:beta /media/stick/os
  kubesolo-release copy /media/stick/os registry.site.local:5000/os";

const FACTORY_HELP: &str = "\
Examples:
  kubesolo-release factory factory registry.example.com/os:stable --architecture amd64 \\
      --boot grub --pubkey keys/public.pem --kernel-args console=ttyS0,115200n8
  factory/make-disk.sh disk.img";

#[derive(Parser)]
#[command(name = "kubesolo-release", version = kubesolo_update::version(), about = "Make keys, publish, sign and inspect releases", after_help = AFTER_HELP)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Messages")]
    pub(super) quiet: bool,
    /// Increase verbosity
    #[arg(short, long, global = true, help_heading = "Messages")]
    pub(super) verbose: bool,
    /// Print the result, or the error, as one JSON object
    #[arg(long, global = true, help_heading = "Messages")]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(super) enum Command {
    Keygen(Keygen),
    Publish(Box<Publish>),
    Sign(Sign),
    Payload(Payload),
    Attach(Attach),
    Freshness(Freshness),
    Verify(Verify),
    Inspect(Inspect),
    List(List),
    Receipts(Receipts),
    Tag(Tag),
    Bundle(Bundle),
    Copy(Copy),
    Repack(Repack),
    Factory(Box<Factory>),
    Explain(Explain),
}

/// Explain a reason or an exit code: its meaning and the next step
#[derive(Args)]
pub(super) struct Explain {
    /// A reason, such as no-key, or an exit code from 64
    #[arg(value_name = "REASON|CODE", value_parser = explain::Word, hide_possible_values = true)]
    pub(super) word: Option<String>,
}

/// Make an Ed25519 key pair: the private key for the publisher, the public key for every device
///
/// Never overwrites a file. The private key is PKCS#8 PEM, as in OpenSSL, and only you can read it.
#[derive(Args)]
#[command(group = ArgGroup::new("place").required(true).args(["dir", "private"]))]
pub(super) struct Keygen {
    /// Folder for private.pem and public.pem (or public.hex)
    #[arg(conflicts_with_all = ["private", "public"])]
    pub(super) dir: Option<PathBuf>,
    /// File for the private key
    #[arg(long, requires = "public", value_name = "FILE")]
    pub(super) private: Option<PathBuf>,
    /// File for the public key
    #[arg(long, requires = "private", value_name = "FILE")]
    pub(super) public: Option<PathBuf>,
    /// Format of the public key
    #[arg(long, value_enum, default_value_t = Format::Pem)]
    pub(super) public_format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// PEM, as OpenSSL writes it
    Pem,
    /// 64 hex digits, which agents of KubeSolo OS up to 0.3 need
    Hex,
}

#[derive(Args)]
#[command(next_help_heading = "Network")]
pub(super) struct Network {
    /// Unsafe: contact this registry without TLS. Repeatable
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) plain_http: Vec<String>,
    /// Certificate authorities to trust beside those of the system, in PEM
    #[arg(long, value_name = "FILE")]
    pub(super) registry_ca: Option<PathBuf>,
    /// Client certificate for a registry that asks for one, in PEM, with its chain
    #[arg(long, value_name = "FILE", requires = "registry_key")]
    pub(super) registry_cert: Option<PathBuf>,
    /// Private key of the client certificate, in PEM; only its owner can read it
    #[arg(long, value_name = "FILE", requires = "registry_cert")]
    pub(super) registry_key: Option<PathBuf>,
    /// Host of a token server that may get the password, beside the registry's own host. Repeatable
    #[arg(long, value_name = "HOST")]
    pub(super) registry_auth_host: Vec<String>,
}

impl From<Network> for Access {
    fn from(network: Network) -> Self {
        let Network { plain_http, registry_ca, registry_cert, registry_key, registry_auth_host } = network;
        let pair = registry_cert.zip(registry_key);
        let client_certificate = pair.map(|(certificate, key)| ClientCertificate { certificate, key });
        Self { plain_http, registry_ca, client_certificate, auth_hosts: registry_auth_host, no_fallback_tag: false }
    }
}

/// Check, upload and sign a release, then move its tag
///
/// The tag moves last, so no device sees it on an unsigned or incomplete release. It is safe to run this again.
#[derive(Args)]
#[command(after_help = format!("{PUBLISH_HELP}\n{PUBLISH_HTTP}"))]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
#[command(group = ArgGroup::new("images").required(true).multiple(true).args(["amd64", "arm64"]))]
#[command(group = ArgGroup::new("signing").required(true).multiple(true).args(["key", "unsigned"]))]
pub(super) struct Publish {
    /// Repository for the release; without a tag, the tag is the channel
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG]")]
    pub(super) reference: Option<String>,
    /// Write a tree of files for an HTTP server instead, with a folder for each architecture below DIR
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Future URL of DIR; agents of KubeSolo OS up to 0.3 need it
    #[arg(long, requires = "http")]
    pub(super) url: Option<String>,
    /// Version of the release (SemVer)
    #[arg(long, value_parser = version)]
    pub(super) version: semver::Version,
    /// Channel of the release
    #[arg(long)]
    pub(super) channel: String,
    /// Kernel and initramfs for amd64
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    pub(super) amd64: Option<Vec<PathBuf>>,
    /// Kernel and initramfs for arm64
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    pub(super) arm64: Option<Vec<PathBuf>>,
    /// Private key file to sign with. Repeatable
    #[arg(long, value_name = "FILE")]
    pub(super) key: Vec<PathBuf>,
    /// Publish without a signature; devices refuse the release until it is signed
    #[arg(long, conflicts_with = "key")]
    pub(super) unsigned: bool,
    /// Oldest version that can update to this one directly
    #[arg(long, value_parser = version, value_name = "VERSION")]
    pub(super) min_compatible_version: Option<semver::Version>,
    /// Layout of the checkpoints of data that the agent in the images writes; 0: it writes none [default: 1 if the initramfs has an agent that saves data]
    #[arg(long, value_name = "N")]
    pub(super) data_layout: Option<u64>,
    /// Description of the changes: a text, or @FILE
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(super) release_notes: Option<String>,
    /// Date of the release in the form of RFC 3339 [default: SOURCE_DATE_EPOCH, else now]
    #[arg(long, value_name = "DATE")]
    pub(super) release_date: Option<String>,
    /// End of the support of the release: a day (2030-01-31, all of it in UTC) or a time of RFC 3339. Devices show it
    #[arg(long, value_parser = super::date::day_or_time, value_name = "DATE")]
    pub(super) supported_until: Option<DateTime<Utc>>,
    /// Security epoch: devices that committed it refuse every lower one, and every one that is more than 1000 higher
    #[arg(long, value_name = "N")]
    pub(super) security_epoch: Option<u64>,
    /// Board of the images; other devices refuse the release
    #[arg(long)]
    pub(super) board: Option<String>,
    /// Key to revoke on each device that commits this release: its public key file, or the SHA-256 of the raw key. Repeatable
    #[arg(long, value_name = "FILE|HEX")]
    pub(super) revoke_key: Vec<PathBuf>,
    /// Earlier release whose devices fetch patches instead of the initramfs: a reference, a bundle, or a tree of --http. Repeatable, at most 8
    #[arg(long, value_name = "REF|FILE")]
    pub(super) delta_from: Vec<String>,
    /// Waves: each share of the devices may install the release from that many hours after its date
    #[arg(long, value_name = "5%@0h,25%@24h,100%@72h")]
    pub(super) rollout: Option<Waves>,
    #[command(flatten)]
    pub(super) extras: ExtrasArgs,
    /// Bill of materials to attach to each architecture: SPDX or CycloneDX, in JSON. Repeatable
    #[arg(long, value_name = "FILE", conflicts_with = "http")]
    pub(super) sbom: Vec<PathBuf>,
    /// Record of the build to attach to each architecture: an in-toto statement (SLSA), or its DSSE envelope. Repeatable
    #[arg(long, value_name = "FILE", conflicts_with = "http")]
    pub(super) provenance: Vec<PathBuf>,
    /// Another tag to move to the release. Repeatable
    #[arg(long, value_name = "TAG", conflicts_with = "http")]
    pub(super) also_tag: Vec<String>,
    /// Replace a higher version, or other images of the same version. Devices that installed those refuse this release
    #[arg(long)]
    pub(super) replace: bool,
    /// Check everything, also against the published release, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Unsafe: publish a kernel that is not a known kind of Linux boot image
    #[arg(long)]
    pub(super) unsafe_unchecked_kernel: bool,
    /// Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures
    #[arg(long, conflicts_with = "http")]
    pub(super) no_fallback_tag: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Everything that boots beside the images
#[derive(Args)]
pub(super) struct ExtrasArgs {
    /// Kernel arguments of the release, beside those of the loader and of the device; at most 960 bytes
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) kernel_args: Option<String>,
    /// Further kernel arguments for amd64, which follow those of --kernel-args
    #[arg(long, value_name = "TEXT", requires = "amd64", allow_hyphen_values = true)]
    pub(super) amd64_kernel_args: Option<String>,
    /// Further kernel arguments for arm64, which follow those of --kernel-args
    #[arg(long, value_name = "TEXT", requires = "arm64", allow_hyphen_values = true)]
    pub(super) arm64_kernel_args: Option<String>,
    /// Device tree for arm64, flattened and without overlays, at most 512 KiB: the kernel gets it instead of that of the firmware
    #[arg(long, value_name = "FILE", requires = "arm64")]
    pub(super) arm64_dtb: Option<PathBuf>,
    /// Needs of the release: kernel-args, devicetree, loader-N, agent-X.Y. Agents before 0.2 ignore them, so it also wants a version that such a device does not run
    #[arg(long, value_name = "WORDS", requires = "min_compatible_version")]
    pub(super) requires: Option<String>,
}

/// Sign a published release: all architectures of a tag or digest
///
/// If the key is on another machine or in a module, use payload and attach.
#[derive(Args)]
pub(super) struct Sign {
    /// Release to sign
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// Private key file. Repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) key: Vec<PathBuf>,
    /// Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures
    #[arg(long)]
    pub(super) no_fallback_tag: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Write the bytes to sign, one file for each architecture, for any signing tool
#[derive(Args)]
#[command(after_help = PAYLOAD_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
pub(super) struct Payload {
    /// Release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: Option<String>,
    /// Tree of files of `publish --http` with the release
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Folder for amd64.json and arm64.json
    #[arg(long, value_name = "DIR")]
    pub(super) output: PathBuf,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Add signatures from another machine, if the given keys made them for this release
///
/// Each file has 64 raw bytes, or lines of 128 hex digits. The command finds the architecture of each signature. Several
/// signers can do this one after the other.
#[derive(Args)]
#[command(after_help = PAYLOAD_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
pub(super) struct Attach {
    /// Release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: Option<String>,
    /// Tree of files of `publish --http` with the release
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Signature file. Repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) signature: Vec<PathBuf>,
    /// Public key, or folder of keys, of the signers
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: PathBuf,
    /// Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures
    #[arg(long, conflicts_with = "http")]
    pub(super) no_fallback_tag: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Publish a freshness statement: the release of this tag is the latest, so that devices detect hidden newer ones
///
/// Repeat this after each release, and before the statement expires.
#[derive(Args)]
#[command(after_help = FRESHNESS_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
#[command(group = ArgGroup::new("how").required(true).args(["key", "output", "statement"]))]
pub(super) struct Freshness {
    /// Releases, by their tag
    #[arg(value_name = "HOST[:PORT]/PATH:TAG")]
    pub(super) reference: Option<String>,
    /// Tree of files of `publish --http` with the releases
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Private key file to sign with. Repeatable
    #[arg(long, value_name = "FILE")]
    pub(super) key: Vec<PathBuf>,
    /// Write the statement into this file instead, to sign it on another machine
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Publish this statement, which was signed on another machine
    #[arg(long, value_name = "FILE", requires_all = ["signature", "pubkey"], conflicts_with_all = ["days", "serial"])]
    pub(super) statement: Option<PathBuf>,
    /// Signature of the statement. Repeatable
    #[arg(long, value_name = "FILE", requires = "statement")]
    pub(super) signature: Vec<PathBuf>,
    /// Public key, or folder of keys, of the signers
    #[arg(long, value_name = "FILE|DIR", requires = "statement")]
    pub(super) pubkey: Option<PathBuf>,
    /// Days until the statement expires
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(super) days: u32,
    /// Serial, higher than the last one [default: seconds since 1970]
    #[arg(long, value_name = "N")]
    pub(super) serial: Option<u64>,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Verify a release as a device does: with the device's code and exit codes, without credentials
///
/// Checks signatures, channel, board, freshness and both images, for each architecture. Ignores everything that differs
/// between devices: running version, epoch, windows.
#[derive(Args)]
#[command(after_help = VERIFY_HELP)]
#[command(group = ArgGroup::new("source").required(true).args(["from", "bundle"]))]
pub(super) struct Verify {
    /// Source of the devices: an OCI reference, or the URL of a folder with latest.json
    #[arg(value_name = "REF|URL")]
    pub(super) from: Option<String>,
    /// Bundle, as written by `bundle`
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,
    /// Tag, as on the device
    #[arg(long)]
    pub(super) tag: Option<String>,
    /// Public key, or folder of keys, as on the device
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: PathBuf,
    /// Number of keys that must sign, as signature_threshold= on the device
    #[arg(long, value_name = "N")]
    pub(super) threshold: Option<String>,
    /// Channel, as channel= on the device
    #[arg(long)]
    pub(super) channel: Option<String>,
    /// Board, as board= on the device
    #[arg(long)]
    pub(super) board: Option<String>,
    /// Keys of freshness statements, as freshness_pubkey= on the device
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) freshness_pubkey: Option<String>,
    /// Require a valid freshness statement, as require_fresh=yes on the device
    #[arg(long)]
    pub(super) require_fresh: bool,
    /// Use only this architecture: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    pub(super) architecture: Option<Architecture>,
    /// Do not fetch the images
    #[arg(long)]
    pub(super) metadata_only: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Show a published release, and check its signatures
#[derive(Args)]
pub(super) struct Inspect {
    /// Release to show
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// Public key, or folder of keys, as on the device; exits 77 if an architecture has no signature by one of them
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: Option<PathBuf>,
    #[command(flatten)]
    pub(super) network: Network,
}

/// List the releases of a repository: tags, versions, dates and signers
///
/// Tags with signatures or freshness statements are left out. Reads at most 1000 other tags.
#[derive(Args)]
pub(super) struct List {
    /// Repository
    #[arg(value_name = "HOST[:PORT]/PATH")]
    pub(super) reference: String,
    /// Public key, or folder of keys, as on the device; without it, signers are as the signatures name them, unchecked
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: Option<PathBuf>,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Verify receipts that were collected from devices, and show which device has which release
///
/// A receipt counts if the key of its device signed it. Reads files whose names end in .json, as a device writes them to a stick or
/// prints them with `kubesolo-update receipt --json`.
#[derive(Args)]
pub(super) struct Receipts {
    /// Folder with receipts, and with folders of receipts
    pub(super) dir: PathBuf,
    /// Folder with the public key of each device, in files with the names of the devices
    #[arg(long, value_name = "DIR")]
    pub(super) devices: PathBuf,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(super) csv: bool,
}

/// Move tags to a published release, if all its architectures are signed
///
/// Use this after signing on another machine, and for a release that was tested under another tag.
#[derive(Args)]
pub(super) struct Tag {
    /// Release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// Tags to move
    #[arg(required = true)]
    pub(super) tag: Vec<String>,
    /// Public key, or folder of keys: each architecture must have a signature by one of them
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: PathBuf,
    /// Number of these keys that must sign each architecture
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) threshold: usize,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Write a published release into one file, for `kubesolo-update apply --bundle FILE` without a network
///
/// The bundle is an OCI image layout in a tar archive, with the freshness statement and everything that is attached to the release:
/// signatures, bills of materials, and types that this program does not know.
#[derive(Args)]
pub(super) struct Bundle {
    /// Release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// File to write; an existing one is replaced
    pub(super) file: PathBuf,
    /// Use only this architecture: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    pub(super) architecture: Option<Architecture>,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Copy releases into a folder, or from such a folder into another registry
///
/// The folder is an OCI image layout with everything that belongs to the releases: signatures, freshness statements, bills of
/// materials, and types that this program does not know. Run it again to refresh the folder: it fetches only new files, keeps
/// releases with other tags, and deletes files that no release needs any more.
#[derive(Args)]
#[command(after_help = COPY_HELP)]
pub(super) struct Copy {
    /// Releases and the folder to fill, or the folder and a repository. A tag of the repository selects one release
    #[arg(value_name = "REF... DIR|DIR REF", num_args = 2.., required = true)]
    pub(super) places: Vec<String>,
    /// Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures
    #[arg(long)]
    pub(super) no_fallback_tag: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Rewrite an initramfs with restart points, so that unchanged files are the same bytes in the next release
///
/// Run it before `publish`. The result is one gzip member that every kernel and tool reads as before, at most 2 % larger. An
/// early archive (CPU microcode) stays as it is. The same input gives the same bytes on every machine.
#[derive(Args)]
pub(super) struct Repack {
    /// Initramfs: newc cpio, compressed with gzip
    pub(super) input: PathBuf,
    /// File to write; an existing one is replaced, also the input itself
    pub(super) output: PathBuf,
}

/// Make the start of a device from a published release: slot A, boot partition, and the scripts that make a disk
///
/// Verifies the release as a device does. DIR gets slot-a, boot (the files of the boot partition), disk.sfdisk (the
/// partitions) and make-disk.sh, which makes a disk image of them.
#[derive(Args)]
#[command(after_help = FACTORY_HELP)]
#[command(group = ArgGroup::new("content").required(true).args(["reference", "bundle", "unsafe_unpublished"]))]
pub(super) struct Factory {
    /// Folder to fill: new or empty
    pub(super) dir: PathBuf,
    /// Release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: Option<String>,
    /// Bundle, as written by `bundle`
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,
    /// Unsafe: use a kernel and an initramfs that nobody signed; the slot has no manifest
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    pub(super) unsafe_unpublished: Option<Vec<PathBuf>>,
    /// Architecture of the device: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    pub(super) architecture: Architecture,
    /// Bootloader of the device
    #[arg(long, value_enum)]
    pub(super) boot: Boot,
    /// Public key, or folder of keys, that must have signed the release
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "unsafe_unpublished")]
    pub(super) pubkey: Option<PathBuf>,
    /// Number of these keys that must sign
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) threshold: u32,
    /// Kernel arguments of the device, such as its console
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) kernel_args: Option<String>,
    /// Size of the boot partition in MiB, at least 34
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) efi_mib: u64,
    /// Size of each slot in MiB [default: 2.5 times the images, at least 256]
    #[arg(long, value_name = "N")]
    pub(super) slot_mib: Option<u64>,
    /// Size of the data partition in MiB
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(2..))]
    pub(super) data_mib: u64,
    #[command(flatten)]
    pub(super) network: Network,
}

fn architecture(text: &str) -> Result<Architecture> {
    text.parse()
}

fn version(text: &str) -> Result<semver::Version> {
    release::version(text)
}

/// The command line as clap's definition, the source of man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
