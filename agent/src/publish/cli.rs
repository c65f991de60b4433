//! The command line of `kubesolo-release`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use log::LevelFilter;
use simple_logger::SimpleLogger;

use super::freshness::{Place, Terms};
use super::key::{PrivateKey, PublicFormat};
use super::registry::Access;
use super::{Images, Metadata, Options, authorities, date, http};
use crate::config::{Conf, Config, Overrides};
use crate::release::Architecture;
use crate::rollout::Waves;
use crate::trust::KeySet;
use crate::{Error, Exit, Result, console, publish, release};

/// A line to standard output.
macro_rules! say {
    ($($words:tt)*) => { console::say(&format!("{}\n", format_args!($($words)*))) };
}

const AFTER_HELP: &str = "\
Examples:
  kubesolo-release keygen keys
  kubesolo-release publish registry.example.com/os --version 1.2.0 --channel stable \\
      --amd64 vmlinuz kubesolo-os.gz --key keys/private.pem
  kubesolo-release inspect registry.example.com/os:stable --pubkey keys/public.pem

Credentials: KUBESOLO_RELEASE_USER and KUBESOLO_RELEASE_PASSWORD,
else the auths in docker's config.json.

Exit codes:
   0  done
  64  the command line is wrong
  65  bytes are wrong: kernel, initramfs, manifest, signature
  69  a file or the registry is not there, or the registry refuses
  70  internal
  73  a file cannot be written
  75  verify: not now, for want of freshness
  77  a signature is missing, or not by the given key; verify: not allowed on such a device
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
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Messages")]
    quiet: bool,
    /// Show more
    #[arg(short, long, global = true, help_heading = "Messages")]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
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
struct Keygen {
    /// Folder for private.pem and public.pem (or public.hex)
    #[arg(conflicts_with_all = ["private", "public"])]
    dir: Option<PathBuf>,
    /// File for the private key
    #[arg(long, requires = "public", value_name = "FILE")]
    private: Option<PathBuf>,
    /// File for the public key
    #[arg(long, requires = "private", value_name = "FILE")]
    public: Option<PathBuf>,
    /// How the public key is written
    #[arg(long, value_enum, default_value_t = Format::Pem)]
    public_format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// PEM, as OpenSSL writes it
    Pem,
    /// 64 hex digits, which agents of KubeSolo OS up to 0.3 need
    Hex,
}

#[derive(Args)]
#[command(next_help_heading = "Network")]
struct Network {
    /// Speak to this registry without TLS
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http: Vec<String>,
    /// PEM certificates to trust beside those of the system
    #[arg(long, value_name = "FILE")]
    registry_ca: Option<PathBuf>,
}

impl From<Network> for Access {
    fn from(network: Network) -> Self {
        Self { plain_http: network.plain_http, registry_ca: network.registry_ca }
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
struct Publish {
    /// Where to; without a tag, the tag is the channel
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG]")]
    reference: Option<String>,
    /// Write a tree of files for an HTTP server instead: below DIR, a folder for each architecture
    #[arg(long, value_name = "DIR")]
    http: Option<PathBuf>,
    /// The URL that DIR will have; agents of KubeSolo OS up to 0.3 need it
    #[arg(long, requires = "http")]
    url: Option<String>,
    /// Version of the release (SemVer)
    #[arg(long, value_parser = version)]
    version: semver::Version,
    /// Channel that devices follow
    #[arg(long)]
    channel: String,
    /// Kernel and initramfs for amd64
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    amd64: Option<Vec<PathBuf>>,
    /// Kernel and initramfs for arm64
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRAMFS"])]
    arm64: Option<Vec<PathBuf>>,
    /// Private key file to sign with; may be given more than once
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Publish without a signature; devices with a key refuse it until `sign` was run
    #[arg(long, conflicts_with = "key")]
    unsigned: bool,
    /// Oldest version that can be updated to this one directly
    #[arg(long, value_parser = version, value_name = "VERSION")]
    min_compatible_version: Option<semver::Version>,
    /// What changed: a text, or @FILE
    #[arg(long, value_name = "TEXT|@FILE")]
    release_notes: Option<String>,
    /// RFC 3339; otherwise SOURCE_DATE_EPOCH, otherwise now
    #[arg(long, value_name = "DATE")]
    release_date: Option<String>,
    /// Devices never go back to a lower one
    #[arg(long, value_name = "N")]
    security_epoch: Option<u64>,
    /// The board that the images are made for
    #[arg(long)]
    board: Option<String>,
    /// A key that devices shall not accept any more once they committed this release: its public key file, or the SHA-256 of
    /// the raw key; may be given more than once
    #[arg(long, value_name = "FILE|HEX")]
    revoke_key: Vec<PathBuf>,
    /// In waves: which share of the devices may take it how many hours after its date
    #[arg(long, value_name = "5%@0h,25%@24h,100%@72h")]
    rollout: Option<Waves>,
    /// Another tag to move to the release; may be given more than once
    #[arg(long, value_name = "TAG", conflicts_with = "http")]
    also_tag: Vec<String>,
    /// Publish the kernel even if it is not a known kind of Linux boot image
    #[arg(long)]
    unsafe_unchecked_kernel: bool,
    #[command(flatten)]
    network: Network,
}

/// Sign what is published already: all architectures of a tag or digest
///
/// Where the key is on another machine, or in a module: payload, then attach.
#[derive(Args)]
struct Sign {
    /// What to sign
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: String,
    /// Private key file; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    #[command(flatten)]
    network: Network,
}

/// Write what is to be signed: for each architecture a file, byte for byte, to be signed by any tool
#[derive(Args)]
#[command(after_help = PAYLOAD_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
struct Payload {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: Option<String>,
    /// The release in a tree of files, as `publish --http` wrote it
    #[arg(long, value_name = "DIR")]
    http: Option<PathBuf>,
    /// Folder for amd64.json and arm64.json
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    network: Network,
}

/// Add signatures that were made elsewhere, if they are by the given keys and of this release
///
/// Each file has 64 raw bytes, or lines of 128 hex digits. Which architecture a signature is of is found out. Several signers can
/// do this one after the other.
#[derive(Args)]
#[command(after_help = PAYLOAD_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
struct Attach {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: Option<String>,
    /// The release in a tree of files, as `publish --http` wrote it
    #[arg(long, value_name = "DIR")]
    http: Option<PathBuf>,
    /// Signature; may be given more than once
    #[arg(long, value_name = "FILE", required = true)]
    signature: Vec<PathBuf>,
    /// Public key, or folder of keys, that made them
    #[arg(long, value_name = "FILE|DIR")]
    pubkey: PathBuf,
    #[command(flatten)]
    network: Network,
}

/// State that what a tag stands for is the latest release, so that devices notice when newer ones are kept from them
///
/// To be done again before the time is over, and after each release.
#[derive(Args)]
#[command(after_help = FRESHNESS_HELP)]
#[command(group = ArgGroup::new("place").required(true).args(["reference", "http"]))]
#[command(group = ArgGroup::new("how").required(true).args(["key", "output", "statement"]))]
struct Freshness {
    /// The releases, by their tag
    #[arg(value_name = "HOST[:PORT]/PATH:TAG")]
    reference: Option<String>,
    /// The releases in a tree of files, as `publish --http` wrote it
    #[arg(long, value_name = "DIR")]
    http: Option<PathBuf>,
    /// Private key file to sign with; may be given more than once
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Write the statement into this file instead, to be signed elsewhere
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Publish this statement, which was signed elsewhere
    #[arg(long, value_name = "FILE", requires_all = ["signature", "pubkey"], conflicts_with_all = ["days", "serial"])]
    statement: Option<PathBuf>,
    /// Signature of the statement; may be given more than once
    #[arg(long, value_name = "FILE", requires = "statement")]
    signature: Vec<PathBuf>,
    /// Public key, or folder of keys, that made the signatures
    #[arg(long, value_name = "FILE|DIR", requires = "statement")]
    pubkey: Option<PathBuf>,
    /// How many days it holds
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Its number, which must grow [default: seconds since 1970]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
    #[command(flatten)]
    network: Network,
}

/// Judge a release as a device would: with the device's own code, without credentials, and with its exit codes
///
/// Signatures, channel, board, freshness and both images, for each architecture. What depends on one device is left out: what
/// runs there, its epoch, its windows.
#[derive(Args)]
#[command(after_help = VERIFY_HELP)]
#[command(group = ArgGroup::new("source").required(true).args(["from", "bundle"]))]
struct Verify {
    /// Where devices look: an OCI reference, or the URL of a folder with latest.json
    #[arg(value_name = "REF|URL")]
    from: Option<String>,
    /// A file that `bundle` wrote
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// The tag, as on the device
    #[arg(long)]
    tag: Option<String>,
    /// Public key, or folder of keys, as on the device
    #[arg(long, value_name = "FILE|DIR")]
    pubkey: PathBuf,
    /// How many keys must have signed, as signature_threshold= on the device
    #[arg(long, value_name = "N")]
    threshold: Option<String>,
    /// As channel= on the device
    #[arg(long)]
    channel: Option<String>,
    /// As board= on the device
    #[arg(long)]
    board: Option<String>,
    /// As freshness_pubkey= on the device
    #[arg(long, value_name = "FILE|DIR")]
    freshness_pubkey: Option<String>,
    /// As require_fresh=yes on the device
    #[arg(long)]
    require_fresh: bool,
    /// Only this architecture: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    architecture: Option<Architecture>,
    /// Do not fetch the images
    #[arg(long)]
    metadata_only: bool,
    #[command(flatten)]
    network: Network,
}

/// Show what a registry offers, and whether its signatures are right
#[derive(Args)]
struct Inspect {
    /// What to show
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: String,
    /// Public key, or folder of keys, as on the device; ends with 77 if an architecture has no signature by one of them
    #[arg(long, value_name = "FILE|DIR")]
    pubkey: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: Network,
}

/// Move tags to a published release, if all of it is signed
///
/// For what is signed after it was published, and for a release that proved itself under another tag.
#[derive(Args)]
struct Tag {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: String,
    /// The tags to move
    #[arg(required = true)]
    tag: Vec<String>,
    /// Public key, or folder of keys: each architecture must have a signature by one of them
    #[arg(long, value_name = "FILE|DIR")]
    pubkey: PathBuf,
    /// How many of them must have signed each architecture
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
    #[command(flatten)]
    network: Network,
}

/// Write a published release into one file, for `kubesolo-update apply --bundle FILE` where there is no network
///
/// An OCI image layout in a tar archive, with all signatures and the statement of freshness.
#[derive(Args)]
struct Bundle {
    /// The release
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: String,
    /// The file; one that is there is replaced
    file: PathBuf,
    /// Only this architecture: amd64 or arm64
    #[arg(long, value_parser = architecture)]
    architecture: Option<Architecture>,
    #[command(flatten)]
    network: Network,
}

fn architecture(text: &str) -> Result<Architecture> {
    text.parse()
}

fn version(text: &str) -> Result<semver::Version> {
    release::version(text)
}

/// Whether somebody gave a private key itself: no message may repeat it.
fn has_key(arguments: impl Iterator<Item = OsString>) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    arguments.into_iter().any(|one| one.as_encoded_bytes().windows(MARK.len()).any(|part| part == MARK))
}

/// The command line as clap knows it: what man pages and completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `kubesolo-release` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    if has_key(std::env::args_os()) {
        console::tell(
            "kubesolo-release: a private key was given on the command line, where every process can read it\n\
             Replace the key, and give the name of a file that holds the new one.\n",
        );
        return ExitCode::from(Exit::Usage.code());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // help and version go to stdout and are no error
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { Exit::Usage.code() } else { 0 });
        }
    };
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => LevelFilter::Error,
        (_, true) => LevelFilter::Debug,
        _ => LevelFilter::Info,
    };
    // Only our own messages: the debug output of an HTTP library may hold tokens.
    let levels = SimpleLogger::new().with_level(LevelFilter::Off).with_module_level("kubesolo_update", level);
    console::log_to_stderr(levels);
    let result = with_authorities(&cli.command).and_then(|()| match cli.command {
        Command::Keygen(args) => keygen(args),
        Command::Publish(args) => publish(*args),
        Command::Sign(args) => sign(args),
        Command::Payload(args) => payload(args),
        Command::Attach(args) => attach(args),
        Command::Freshness(args) => freshness(args),
        Command::Verify(args) => verify(args),
        Command::Inspect(args) => inspect(args),
        Command::Tag(args) => tag(args),
        Command::Bundle(args) => bundle(args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let remedy = if e.remedy.is_empty() { String::new() } else { format!("{}\n", e.remedy) };
            console::tell(&format!("kubesolo-release: {e}\n{remedy}"));
            ExitCode::from(e.exit.code())
        }
    }
}

/// Where the system has no certificate authorities, starts this program again with built-in ones.
fn with_authorities(command: &Command) -> Result<()> {
    if matches!(command, Command::Keygen(_) | Command::Verify(_)) {
        return Ok(());
    }
    let Some((path, _open)) = authorities::missing()? else { return Ok(()) };
    let failed = std::process::Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env("SSL_CERT_FILE", path)
        .exec();
    Err(Error::new(Exit::Internal, "no-authorities", format!("cannot start again with certificates: {failed}")))
}

fn keygen(args: Keygen) -> Result<()> {
    let (format, name) = match args.public_format {
        Format::Pem => (PublicFormat::Pem, "public.pem"),
        Format::Hex => (PublicFormat::Hex, "public.hex"),
    };
    let (private, public) = match (args.dir, args.private, args.public) {
        (Some(dir), ..) => {
            std::fs::create_dir_all(&dir).map_err(|e| {
                Error::new(Exit::CannotWrite, "key-not-written", format!("cannot create {}: {e}", dir.display()))
            })?;
            (dir.join("private.pem"), dir.join(name))
        }
        (None, Some(private), Some(public)) => (private, public),
        _ => return Err(Error::new(Exit::Usage, "no-place", "give a folder, or --private and --public")),
    };
    let key = PrivateKey::generate()?;
    key.save(&private, &public, format)?;
    say!("key id       {}", key.id());
    say!("private key  {} (keep it off devices and out of backups that others can read)", private.display());
    say!("public key   {} (goes onto devices: pubkey= in update.conf)", public.display());
    Ok(())
}

fn keys(files: &[PathBuf]) -> Result<Vec<PrivateKey>> {
    files.iter().map(|file| PrivateKey::load(file)).collect()
}

fn publish(args: Publish) -> Result<()> {
    let keys = keys(&args.key)?;
    let metadata = Metadata {
        version: args.version,
        channel: args.channel,
        release_date: date::release_date(args.release_date.as_deref())?,
        min_compatible_version: args.min_compatible_version,
        release_notes: args.release_notes.map(publish::notes).transpose()?,
        security_epoch: args.security_epoch,
        board: args.board,
        revoked_keys: args.revoke_key.iter().map(|key| publish::key::fingerprint(key)).collect::<Result<_>>()?,
        rollout: args.rollout,
    };
    let images: Vec<Images> = [(Architecture::Amd64, args.amd64), (Architecture::Arm64, args.arm64)]
        .into_iter()
        .filter_map(|(architecture, files)| {
            let [kernel, initramfs] = files?.try_into().ok()?;
            Some(Images { architecture, kernel, initramfs })
        })
        .collect();
    let unchecked_kernel = args.unsafe_unchecked_kernel;
    if let Some(folder) = &args.http {
        let options = http::Options { url: args.url, unchecked_kernel };
        for (architecture, digest) in http::publish(folder, &metadata, &images, &keys, &options)? {
            say!("{architecture}      {digest} {}/{architecture}/latest.json", folder.display());
        }
        return Ok(());
    }
    let Some(reference) = args.reference else {
        return Err(Error::new(Exit::Usage, "no-place", "give a reference, or --http"));
    };
    let options = Options { access: args.network.into(), unchecked_kernel, also_tags: args.also_tag };
    let published = publish::release(&reference, &metadata, &images, &keys, &options)?;
    say!("published  {}", published.reference);
    say!("index      {}", published.index);
    for (architecture, digest) in &published.manifests {
        say!("{architecture}      {digest}");
    }
    Ok(())
}

fn sign(args: Sign) -> Result<()> {
    for (architecture, digest) in publish::sign::sign(&args.reference, &keys(&args.key)?, &args.network.into())? {
        say!("signed {architecture} {digest}");
    }
    Ok(())
}

fn no_place() -> Error {
    Error::new(Exit::Usage, "no-place", "give a reference, or --http")
}

fn payload(args: Payload) -> Result<()> {
    let payloads = match (&args.reference, &args.http) {
        (Some(reference), None) => publish::sign::payload(reference, &args.output, &args.network.into())?,
        (None, Some(folder)) => http::payload(folder, &args.output)?,
        _ => return Err(no_place()),
    };
    for publish::sign::Payload { release, digest, file } in payloads {
        say!("{}      {digest} {}", release.architecture, file.display());
        for (name, image) in [("kernel", release.kernel), ("initramfs", release.initramfs)] {
            say!("  {name:<9} {}", image.digest);
        }
    }
    Ok(())
}

fn attach(args: Attach) -> Result<()> {
    let keys = KeySet::load(&args.pubkey)?;
    let attached = match (&args.reference, &args.http) {
        (Some(reference), None) => {
            publish::sign::attach_files(reference, &args.signature, &keys, &args.network.into())?
        }
        (None, Some(folder)) => http::attach_files(folder, &args.signature, &keys)?,
        _ => return Err(no_place()),
    };
    for (architecture, digest, id) in attached {
        say!("signed {architecture} {digest} by {id}");
    }
    Ok(())
}

fn verify(args: Verify) -> Result<()> {
    let mut conf = Conf::named("the command line");
    let settings = [
        ("signature_threshold", args.threshold),
        ("board", args.board),
        ("freshness_pubkey", args.freshness_pubkey),
        ("require_fresh", args.require_fresh.then(|| "yes".to_owned())),
    ];
    for (key, value) in settings {
        if let Some(value) = value {
            conf.add(key, &value, 1)?;
        }
    }
    let access: Access = args.network.into();
    let over = Overrides {
        server: args.from,
        bundle: args.bundle,
        tag: args.tag,
        channel: args.channel,
        pubkey: Some(args.pubkey),
        registry_ca: access.registry_ca,
        plain_http: access.plain_http,
        ..Overrides::default()
    };
    let config = Config::resolve(&conf, &over)?;
    for release in publish::verify::verify(&config, args.architecture, !args.metadata_only, chrono::Utc::now())? {
        say!("{}", release.architecture);
        say!("  digest     {}", release.digest);
        say!("  version    {}", release.version);
        for key in release.keys {
            say!("  signed by  {key}");
        }
        if let Some(freshness) = release.freshness {
            say!("  freshness  {freshness}");
        }
        match release.bytes {
            Some(bytes) => say!("  images     {bytes} bytes, as signed"),
            None => say!("  images     not fetched"),
        }
    }
    Ok(())
}

fn freshness(args: Freshness) -> Result<()> {
    let keys = keys(&args.key)?;
    let place = match (args.reference, args.http) {
        (Some(reference), None) => Place::Registry(reference, args.network.into()),
        (None, Some(folder)) => Place::Tree(folder),
        _ => return Err(no_place()),
    };
    let (statement, by) = match (&args.statement, &args.pubkey) {
        (Some(file), Some(pubkey)) => place.attach(file, &args.signature, &KeySet::load(pubkey)?)?,
        _ => {
            let terms = Terms { days: args.days, serial: args.serial };
            let statement = place.statement(&terms, chrono::Utc::now())?;
            match &args.output {
                Some(file) => publish::freshness::write(&statement, file)?,
                None => place.publish(&statement, &keys)?,
            }
            (statement, keys.iter().map(PrivateKey::id).collect())
        }
    };
    say!("channel    {}", crate::text::shown(&statement.channel));
    say!("serial     {}", statement.serial);
    say!("not after  {}", statement.not_after.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    for (architecture, digest) in &statement.digests {
        say!("{architecture}      {digest}");
    }
    for id in by {
        say!("signed by  {id}");
    }
    Ok(())
}

fn inspect(args: Inspect) -> Result<()> {
    let keys = args.pubkey.as_deref().map(KeySet::load).transpose()?;
    let found = publish::inspect::inspect(&args.reference, keys.as_ref(), &args.network.into())?;
    if args.json {
        say!("{}", found.json()?);
    } else {
        console::say(&found.to_string());
    }
    found.trusted()
}

fn tag(args: Tag) -> Result<()> {
    let keys = KeySet::load(&args.pubkey)?.needing(args.threshold.max(1), &BTreeSet::new())?;
    let digest = publish::retag(&args.reference, &args.tag, &keys, &args.network.into())?;
    for tag in &args.tag {
        say!("{tag} is {digest}");
    }
    Ok(())
}

fn bundle(args: Bundle) -> Result<()> {
    let bundled = publish::bundle::bundle(&args.reference, &args.file, args.architecture, &args.network.into())?;
    for (architecture, digest) in bundled {
        say!("{architecture}      {digest} {}", args.file.display());
    }
    Ok(())
}
