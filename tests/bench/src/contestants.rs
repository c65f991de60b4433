//! The contestants, and the command of each. Each ends with both images in `target/bench/run/slot`, verified.

use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::{Result, run, tool};

use crate::release::{self, Release};

/// Which server it fetches from: the floor it is compared with fetches from the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The OCI registry.
    Registry,
    /// The web server.
    Web,
}

/// One row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// The floor program.
    Floor(Server),
    /// This agent.
    Agent(Server),
    /// An older agent, whose path is in `BEFORE`.
    Before(Server),
    /// curl, sha256sum, openssl, cp and sync in a shell script.
    Script,
    /// skopeo, then cp.
    Skopeo,
    /// SWUpdate.
    SwUpdate,
    /// The Mender client.
    Mender,
}

pub use Contestant::Agent;
use Contestant::{Before, Floor, Mender, Script, Skopeo, SwUpdate};

/// All, in the order of the tables.
pub const ALL: [Contestant; 10] = [
    Floor(Server::Registry),
    Agent(Server::Registry),
    Before(Server::Registry),
    Skopeo,
    Floor(Server::Web),
    Agent(Server::Web),
    Before(Server::Web),
    SwUpdate,
    Mender,
    Script,
];

/// The values that the commands need.
pub struct Course<'a> {
    /// The release to install.
    pub release: &'a Release,
    /// Ports of the registry and of the web server, or of relays before them.
    pub ports: [u16; 2],
}

/// The older agent that is measured in the same run, if there is one.
fn before() -> Option<PathBuf> {
    std::env::var_os("BEFORE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl Contestant {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Floor(Server::Registry) => "floor, registry",
            Floor(Server::Web) => "floor, HTTP",
            Agent(Server::Registry) => "kubesolo-update, registry",
            Agent(Server::Web) => "kubesolo-update, HTTP",
            Before(Server::Registry) => "older kubesolo-update, registry",
            Before(Server::Web) => "older kubesolo-update, HTTP",
            Script => "curl, sha256sum, openssl, cp, sync",
            Skopeo => "skopeo to dir, cp, sync",
            SwUpdate => "SWUpdate, HTTP",
            Mender => "Mender client, HTTP",
        }
    }

    /// The server it fetches from.
    pub fn server(self) -> Server {
        match self {
            Floor(server) | Agent(server) | Before(server) => server,
            Skopeo => Server::Registry,
            Script | SwUpdate | Mender => Server::Web,
        }
    }

    /// Why it cannot take part here, if so.
    pub fn missing(self) -> Option<String> {
        let lacks =
            |names: &[&str]| names.iter().find_map(|name| tool(name).err().map(|_| format!("{name} is not installed")));
        match self {
            Floor(_) | Agent(_) => None,
            Before(_) => before().is_none().then(|| "BEFORE= names no older agent".to_owned()),
            Script => lacks(&["curl", "sha256sum", "openssl"]),
            Skopeo => lacks(&["skopeo"]),
            SwUpdate => lacks(&["swupdate", "cpio"]),
            Mender if !nix::unistd::geteuid().is_root() => Some("needs root, for a mount of its own".to_owned()),
            Mender => lacks(&["mender", "mender-artifact"]),
        }
    }

    /// Makes what it fetches in a format of its own, beside the release on the web server.
    ///
    /// # Errors
    /// A tool fails.
    pub fn package(self, release: &Release, keys: &Path, slot: &Path) -> Result<()> {
        let script = match self {
            SwUpdate => include_str!("package-swupdate.sh"),
            Mender => include_str!("package-mender.sh"),
            _ => return Ok(()),
        };
        run(Command::new("sh").arg("-euc").arg(script).arg("package").arg(&release.dir).arg(keys).arg(slot)).map(drop)
    }

    /// The agent's command that looks whether anything is new, once a run has filled slot B: that one is said to run.
    ///
    /// # Errors
    /// As [`Contestant::command`].
    pub fn idle_check(self, course: &Course) -> Result<Vec<String>> {
        let idle = |word: String| match word.as_str() {
            "apply" => "check".to_owned(),
            "A" => "B".to_owned(),
            _ => word,
        };
        Ok(self.command(course)?.into_iter().map(idle).collect())
    }

    /// Its command. The working directory `run` is empty but for the folders `slot`, `other` and `stage`, and `grubenv`.
    ///
    /// # Errors
    /// A program is missing.
    pub fn command(self, course: &Course) -> Result<Vec<String>> {
        let place = release::place();
        let (run, keys) = (place.join("run"), place.join("keys"));
        let [slot, stage, other] = ["slot", "stage", "other"].map(|name| run.join(name).display().to_string());
        let tag = course.release.tag();
        let dir = course.release.dir.display();
        let [registry, web] = course.ports.map(|port| format!("127.0.0.1:{port}"));
        let public = keys.join("public.pem").display().to_string();
        let script = |text: &str, arguments: &[&str]| {
            let mut command: Vec<_> = ["sh", "-euc", text, "sh"].map(str::to_owned).into();
            command.extend(arguments.iter().map(|&argument| argument.to_owned()));
            command
        };
        Ok(match self {
            Floor(server) => {
                let floor = std::env::current_exe()?.with_file_name("floor");
                let (host, [kernel, initramfs]) = match server {
                    Server::Registry => {
                        (&registry, course.release.digests.each_ref().map(|hex| format!("/v2/os/blobs/sha256:{hex}")))
                    }
                    Server::Web => (&web, ["vmlinuz", "kubesolo-os.gz"].map(|name| format!("/{tag}/{name}"))),
                };
                let key = keys.join("public.hex").display().to_string();
                let (sums, signature) = (format!("{dir}/SHA256SUMS"), format!("{dir}/SHA256SUMS.sig"));
                let floor = floor.display().to_string();
                [&floor, host, &slot, &key, &sums, &signature, &kernel, "vmlinuz", &initramfs, "kubesolo-os.gz"]
                    .map(|word: &str| word.to_owned())
                    .into()
            }
            Agent(server) | Before(server) => {
                let older = before().filter(|_| matches!(self, Before(_)));
                let agent = older.map_or_else(release::agent, Ok)?.display().to_string();
                let from = match server {
                    Server::Registry => {
                        ["--registry".to_owned(), format!("{registry}/os:{tag}"), "--plain-http".into(), registry]
                    }
                    Server::Web => {
                        ["--server".to_owned(), format!("http://{web}/{tag}/amd64"), "--plain-http".into(), web]
                    }
                };
                let state = run.join("state.json").display().to_string();
                let env = format!("grub:{}", run.join("grubenv").display());
                let mut command: Vec<_> = [
                    &agent,
                    "-vv",
                    "--conf",
                    "/dev/null",
                    "--state",
                    &state,
                    "--slot-a",
                    &other,
                    "--slot-b",
                    &slot,
                    "--bootenv",
                    &env,
                    "--booted",
                    "A",
                    "--pubkey",
                    &public,
                    "apply",
                ]
                .map(|word: &str| word.to_owned())
                .into();
                command.extend(from);
                command
            }
            Script => script(include_str!("script.sh"), &[&format!("http://{web}/{tag}"), &public, &stage, &slot]),
            Skopeo => script(
                "skopeo copy --quiet --insecure-policy --src-tls-verify=false --override-os linux --override-arch amd64 \
                 \"docker://$1\" \"dir:$2\"; cp \"$2/$3\" \"$5/vmlinuz\"; cp \"$2/$4\" \"$5/kubesolo-os.gz\"; \
                 sync \"$5/vmlinuz\" \"$5/kubesolo-os.gz\" \"$5\"",
                &[
                    &format!("{registry}/os:{tag}"),
                    &stage,
                    &course.release.digests[0],
                    &course.release.digests[1],
                    &slot,
                ],
            ),
            SwUpdate => {
                let url = format!("-u http://{web}/{tag}/update.swu");
                let certificate = keys.join("swupdate.crt").display().to_string();
                let swupdate = tool("swupdate")?.display().to_string();
                [&swupdate, "-k", &certificate, "-H", "bench:1.0", "-l", "2", "-d", &url]
                    .map(|word: &str| word.to_owned())
                    .into()
            }
            Mender => script(
                include_str!("mender.sh"),
                &[&format!("http://{web}/{tag}/update.mender"), &stage, &keys.join("mender.pub").display().to_string()],
            ),
        })
    }
}
