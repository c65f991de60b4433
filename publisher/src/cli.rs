//! The command line of `kubesolo-release`; `super::commands` does what it asks for.

use std::path::PathBuf;

use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use super::registry::Access;
use kubesolo_update::Result;
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
else the auths in docker's config.json.

Exit codes:
   0  done
  64  the command line is wrong
  65  bytes are wrong: kernel, initramfs, manifest, signature
  69  a file or the registry is not there, or the registry refuses
  70  internal
  73  a file cannot be written
  75  verify: not now, for want of freshness
  77  a signature is missing, or not by the given key; the registry's token server may not
      get the password; verify: not allowed on such a device
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

#[derive(Parser)]
#[command(name = "kubesolo-release", version, about = "Makes keys, publishes and signs releases, and shows what a registry offers", after_help = AFTER_HELP)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Messages")]
    pub(super) quiet: bool,
    /// Show more
    #[arg(short, long, global = true, help_heading = "Messages")]
    pub(super) verbose: bool,
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
    Tag(Tag),
    Bundle(Bundle),
}

/// Make an Ed25519 key: the private half for the release engineer, the public half for every device
///
/// Nothing is ever overwritten. The private key is PKCS#8 PEM, as OpenSSL has it, and only you can read it.
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
    /// How the public key is written
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
    /// Speak to this registry without TLS
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) plain_http: Vec<String>,
    /// PEM certificates to trust beside those of the system
    #[arg(long, value_name = "FILE")]
    pub(super) registry_ca: Option<PathBuf>,
    /// Host of a token server that may get the password, beside the registry's own host. Repeatable
    #[arg(long, value_name = "HOST")]
    pub(super) registry_auth_host: Vec<String>,
}

impl From<Network> for Access {
    fn from(network: Network) -> Self {
        let Network { plain_http, registry_ca, registry_auth_host } = network;
        Self { plain_http, registry_ca, auth_hosts: registry_auth_host }
    }
}

/// Check, upload and sign a release, then move its tag
///
/// The tag moves last: no device sees it on something unsigned or incomplete. Running it again is safe.
#[derive(Args)]
#[command(after_help = format!("{PUBLISH_HELP}\n{PUBLISH_HTTP}"))]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
#[command(group = ArgGroup::new("images").required(true).multiple(true).args(["amd64", "arm64"]))]
#[command(group = ArgGroup::new("signing").required(true).multiple(true).args(["key", "unsigned"]))]
pub(super) struct Publish {
    /// Where to; without a tag, the tag is the channel
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG]")]
    pub(super) reference: Option<String>,
    /// Write a tree of files for an HTTP server instead: below DIR, a folder for each architecture
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// The URL that DIR will have; agents of KubeSolo OS up to 0.3 need it
    #[arg(long, requires = "http")]
    pub(super) url: Option<String>,
    /// Version of the release (SemVer)
    #[arg(long, value_parser = version)]
    pub(super) version: semver::Version,
    /// Channel that devices follow
    #[arg(long)]
    pub(super) channel: String,
    /// Kernel and initramfs for amd64
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    pub(super) amd64: Option<Vec<PathBuf>>,
    /// Kernel and initramfs for arm64
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    pub(super) arm64: Option<Vec<PathBuf>>,
    /// Private key file to sign with; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub(super) key: Vec<PathBuf>,
    /// Publish without a signature; devices with a key refuse it until `sign` was run
    #[arg(long, conflicts_with = "key")]
    pub(super) unsigned: bool,
    /// Oldest version that can be updated to this one directly
    #[arg(long, value_parser = version, value_name = "VERSION")]
    pub(super) min_compatible_version: Option<semver::Version>,
    /// What changed: a text, or @FILE
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(super) release_notes: Option<String>,
    /// RFC 3339; otherwise SOURCE_DATE_EPOCH, otherwise now
    #[arg(long, value_name = "DATE")]
    pub(super) release_date: Option<String>,
    /// Devices never go back to a lower one
    #[arg(long, value_name = "N")]
    pub(super) security_epoch: Option<u64>,
    /// The board that the images are made for
    #[arg(long)]
    pub(super) board: Option<String>,
    /// A key that devices shall not accept any more once they committed this release: its public key file, or the SHA-256 of
    /// the raw key; may be given more than once
    #[arg(long, value_name = "FILE|HEX")]
    pub(super) revoke_key: Vec<PathBuf>,
    /// In waves: which share of the devices may take it how many hours after its date
    #[arg(long, value_name = "5%@0h,25%@24h,100%@72h")]
    pub(super) rollout: Option<Waves>,
    /// Another tag to move to the release; may be given more than once
    #[arg(long, value_name = "TAG", conflicts_with = "http")]
    pub(super) also_tag: Vec<String>,
    /// Publish the kernel even if it is not a known kind of Linux boot image
    #[arg(long)]
    pub(super) unsafe_unchecked_kernel: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Sign what is published already: all architectures of a tag or digest
///
/// Where the key is on another machine, or in a module: payload, then attach.
#[derive(Args)]
pub(super) struct Sign {
    /// What to sign
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// Private key file; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) key: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Write what is to be signed: for each architecture a file, byte for byte, to be signed by any tool
#[derive(Args)]
#[command(after_help = PAYLOAD_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
pub(super) struct Payload {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: Option<String>,
    /// The release in a tree of files, as `publish --http` wrote it
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Folder for amd64.json and arm64.json
    #[arg(long, value_name = "DIR")]
    pub(super) output: PathBuf,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Add signatures that were made elsewhere, if they are by the given keys and of this release
///
/// Each file has 64 raw bytes, or lines of 128 hex digits. Which architecture a signature is of is found out. Several signers can
/// do this one after the other.
#[derive(Args)]
#[command(after_help = PAYLOAD_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
pub(super) struct Attach {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: Option<String>,
    /// The release in a tree of files, as `publish --http` wrote it
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Signature; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) signature: Vec<PathBuf>,
    /// Public key, or folder of keys, that made them
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: PathBuf,
    #[command(flatten)]
    pub(super) network: Network,
}

/// State that what a tag stands for is the latest release, so that devices notice when newer ones are kept from them
///
/// To be done again before the time is over, and after each release.
#[derive(Args)]
#[command(after_help = FRESHNESS_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
#[command(group = ArgGroup::new("how").required(true).args(["key", "output", "statement"]))]
pub(super) struct Freshness {
    /// The releases, by their tag
    #[arg(value_name = "HOST[:PORT]/PATH:TAG")]
    pub(super) reference: Option<String>,
    /// The releases in a tree of files, as `publish --http` wrote it
    #[arg(long, value_name = "DIR")]
    pub(super) http: Option<PathBuf>,
    /// Private key file to sign with; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub(super) key: Vec<PathBuf>,
    /// Write the statement into this file instead, to be signed elsewhere
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Publish this statement, which was signed elsewhere
    #[arg(long, value_name = "FILE", requires_all = ["signature", "pubkey"], conflicts_with_all = ["days", "serial"])]
    pub(super) statement: Option<PathBuf>,
    /// Signature of the statement; may be given more than once
    #[arg(long, value_name = "FILE", requires = "statement")]
    pub(super) signature: Vec<PathBuf>,
    /// Public key, or folder of keys, that made the signatures
    #[arg(long, value_name = "FILE|DIR", requires = "statement")]
    pub(super) pubkey: Option<PathBuf>,
    /// How many days it holds
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(super) days: u32,
    /// Its number, which must grow [default: seconds since 1970]
    #[arg(long, value_name = "N")]
    pub(super) serial: Option<u64>,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Judge a release as a device would: with the device's own code, without credentials, and with its exit codes
///
/// Signatures, channel, board, freshness and both images, for each architecture. What depends on one device is left out: what
/// runs there, its epoch, its windows.
#[derive(Args)]
#[command(after_help = VERIFY_HELP)]
#[command(group = ArgGroup::new("source").required(true).args(["from", "bundle"]))]
pub(super) struct Verify {
    /// Where devices look: an OCI reference, or the URL of a folder with latest.json
    #[arg(value_name = "REF|URL")]
    pub(super) from: Option<String>,
    /// A file that `bundle` wrote
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,
    /// The tag, as on the device
    #[arg(long)]
    pub(super) tag: Option<String>,
    /// Public key, or folder of keys, as on the device
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: PathBuf,
    /// How many keys must have signed, as signature_threshold= on the device
    #[arg(long, value_name = "N")]
    pub(super) threshold: Option<String>,
    /// As channel= on the device
    #[arg(long)]
    pub(super) channel: Option<String>,
    /// As board= on the device
    #[arg(long)]
    pub(super) board: Option<String>,
    /// As freshness_pubkey= on the device
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) freshness_pubkey: Option<String>,
    /// As require_fresh=yes on the device
    #[arg(long)]
    pub(super) require_fresh: bool,
    /// Only this architecture: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    pub(super) architecture: Option<Architecture>,
    /// Do not fetch the images
    #[arg(long)]
    pub(super) metadata_only: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Show what a registry offers, and whether its signatures are right
#[derive(Args)]
pub(super) struct Inspect {
    /// What to show
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// Public key, or folder of keys, as on the device; ends with 77 if an architecture has no signature by one of them
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Move tags to a published release, if all of it is signed
///
/// For what is signed after it was published, and for a release that proved itself under another tag.
#[derive(Args)]
pub(super) struct Tag {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// The tags to move
    #[arg(required = true)]
    pub(super) tag: Vec<String>,
    /// Public key, or folder of keys: each architecture must have a signature by one of them
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) pubkey: PathBuf,
    /// How many of them must have signed each architecture
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) threshold: usize,
    #[command(flatten)]
    pub(super) network: Network,
}

/// Write a published release into one file, for `kubesolo-update apply --bundle FILE` where there is no network
///
/// An OCI image layout in a tar archive, with all signatures and the statement of freshness.
#[derive(Args)]
pub(super) struct Bundle {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    pub(super) reference: String,
    /// The file; one that is there is replaced
    pub(super) file: PathBuf,
    /// Only this architecture: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    pub(super) architecture: Option<Architecture>,
    #[command(flatten)]
    pub(super) network: Network,
}

fn architecture(text: &str) -> Result<Architecture> {
    text.parse()
}

fn version(text: &str) -> Result<semver::Version> {
    release::version(text)
}

/// The command line as clap knows it: what man pages and completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
