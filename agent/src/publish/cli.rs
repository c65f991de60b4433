//! The command line of `kubesolo-release`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use log::LevelFilter;

use super::key::{PrivateKey, PublicFormat};
use super::registry::Access;
use super::{Images, Metadata, Options, authorities, date, http};
use crate::release::Architecture;
use crate::trust::KeySet;
use crate::{Error, Exit, Result, publish, release};

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
  77  a signature is missing, or not by the given key
  78  a key or the configuration is not usable";

const PUBLISH_HELP: &str = "\
Examples:
  kubesolo-release publish registry.example.com/os --version 1.2.0 --channel stable \\
      --amd64 vmlinuz kubesolo-os.gz --arm64 vmlinuz-arm64 kubesolo-os-arm64.gz \\
      --key keys/private.pem --release-notes @NEWS --also-tag v1.2.0";

const PUBLISH_HTTP: &str = "\
  kubesolo-release publish --http www --url https://updates.example.com/os --version 1.2.0 \\
      --channel stable --amd64 vmlinuz kubesolo-os.gz --key keys/private.pem";

const SIGN_HELP: &str = "\
Examples:
  kubesolo-release sign registry.example.com/os:stable --key keys/private.pem
  kubesolo-release sign registry.example.com/os@sha256:DIGEST \\
      --signature manifest.sig --pubkey keys/public.pem";

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
/// Or attach a signature made elsewhere: 64 raw bytes over the exact bytes of the manifest of one architecture.
#[derive(Args)]
#[command(after_help = SIGN_HELP)]
#[command(group = ArgGroup::new("by").required(true).args(["key", "signature"]))]
struct Sign {
    /// What to sign
    #[arg(value_name = "HOST[:PORT]/PATH[:TAG|@DIGEST]")]
    reference: String,
    /// Private key file; may be given more than once
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Signature to attach, of the one manifest that the reference names
    #[arg(long, value_name = "FILE", requires = "pubkey")]
    signature: Option<PathBuf>,
    /// Public key that the signature must fit
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pubkey: Option<PathBuf>,
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

/// The command line as clap knows it: what man pages and completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `kubesolo-release` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
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
    let _ = simple_logger::SimpleLogger::new()
        .with_level(LevelFilter::Off)
        .with_module_level("kubesolo_update", level)
        .init();
    let result = with_authorities(&cli.command).and_then(|()| match cli.command {
        Command::Keygen(args) => keygen(args),
        Command::Publish(args) => publish(*args),
        Command::Sign(args) => sign(args),
        Command::Inspect(args) => inspect(args),
        Command::Tag(args) => tag(args),
        Command::Bundle(args) => bundle(args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kubesolo-release: {e}");
            if !e.remedy.is_empty() {
                eprintln!("{}", e.remedy);
            }
            ExitCode::from(e.exit.code())
        }
    }
}

/// Where the system has no certificate authorities, starts this program again with built-in ones.
fn with_authorities(command: &Command) -> Result<()> {
    if matches!(command, Command::Keygen(_)) {
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
    println!("key id       {}", key.id());
    println!("private key  {} (keep it off devices and out of backups that others can read)", private.display());
    println!("public key   {} (goes onto devices: pubkey= in update.conf)", public.display());
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
            println!("{architecture}      {digest} {}/{architecture}/latest.json", folder.display());
        }
        return Ok(());
    }
    let Some(reference) = args.reference else {
        return Err(Error::new(Exit::Usage, "no-place", "give a reference, or --http"));
    };
    let options = Options { access: args.network.into(), unchecked_kernel, also_tags: args.also_tag };
    let published = publish::release(&reference, &metadata, &images, &keys, &options)?;
    println!("published  {}", published.reference);
    println!("index      {}", published.index);
    for (architecture, digest) in &published.manifests {
        println!("{architecture}      {digest}");
    }
    Ok(())
}

fn sign(args: Sign) -> Result<()> {
    let access = args.network.into();
    let signed = match (&args.signature, &args.pubkey) {
        (Some(signature), Some(pubkey)) => {
            publish::sign::attach_file(&args.reference, signature, &KeySet::load(pubkey)?, &access)?
        }
        _ => publish::sign::sign(&args.reference, &keys(&args.key)?, &access)?,
    };
    for (architecture, digest) in signed {
        println!("signed {architecture} {digest}");
    }
    Ok(())
}

fn inspect(args: Inspect) -> Result<()> {
    let keys = args.pubkey.as_deref().map(KeySet::load).transpose()?;
    let found = publish::inspect::inspect(&args.reference, keys.as_ref(), &args.network.into())?;
    if args.json {
        println!("{}", found.json()?);
    } else {
        print!("{found}");
    }
    found.trusted()
}

fn tag(args: Tag) -> Result<()> {
    let digest = publish::retag(&args.reference, &args.tag, &KeySet::load(&args.pubkey)?, &args.network.into())?;
    for tag in &args.tag {
        println!("{tag} is {digest}");
    }
    Ok(())
}

fn bundle(args: Bundle) -> Result<()> {
    let bundled = publish::bundle::bundle(&args.reference, &args.file, args.architecture, &args.network.into())?;
    for (architecture, digest) in bundled {
        println!("{architecture}      {digest} {}", args.file.display());
    }
    Ok(())
}
