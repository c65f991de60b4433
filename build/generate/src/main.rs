//! Writes what packages carry beside the programs, from the sources of those: man pages, completions for shells, and the
//! licences of all that is linked in.
//!
//! It is a program of its own so that none of this is in a program of the device.

mod completions;
mod licences;
mod man;
mod schema;

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use kubesolo_update::cli::args;

/// Proxies of the environment: `fetch::proxy`.
const PROXY: (&str, &str) =
    ("https_proxy, http_proxy, all_proxy, no_proxy", "Proxies, in lower or upper case, where the settings name none.");

/// The pages of each program.
fn programs() -> [man::Program; 2] {
    let device = man::Program {
        command: args::Cli::command(),
        section: "8",
        environment: &[
            PROXY,
            (
                "CREDENTIALS_DIRECTORY",
                "Folder with registry-auth, the login of the registry (systemd LoadCredential=).",
            ),
            ("PATH", "Hooks and health checks get it."),
        ],
        files: &[
            ("/etc/kubesolo/update.conf", "Settings, see update.conf(5)."),
            ("/etc/kubesolo/health.d", "Health checks of the OS image."),
            ("/etc/kubesolo/{pre-update,pre-reboot,post-commit,post-revert}.d", "Hooks of the OS image."),
            ("/usr/share/kubesolo/keys", "Public keys of the OS image."),
            (
                "/var/lib/kubesolo/update",
                "state.json, trust.json, history.json, the lock, records, the steps and the evidence of attempts, outbox, the events that wait for their receiver, intake, the records of examined bundles, receipts, and device.key, which signs them.",
            ),
            ("/run/kubesolo/degraded", "Reason why the system runs and is not healthy."),
        ],
        see_also: "update.conf(5), kubesolo-release(1), kubesolo-release(7), kubesolo-cloudinit(8)",
    };
    let publisher = man::Program {
        command: kubesolo_release::cli::command(),
        section: "1",
        environment: &[
            ("KUBESOLO_RELEASE_USER, KUBESOLO_RELEASE_PASSWORD", "Login of the registry."),
            ("KUBESOLO_RELEASE_HOST", "The registry of that login. Default: the first registry of the command."),
            ("REGISTRY_AUTH_FILE", "File of logins. Default: the files below."),
            ("SOURCE_DATE_EPOCH", "Date of a release, in seconds since 1970. Default: now."),
            ("SSL_CERT_FILE", "Certificate authorities in place of those of the system."),
            PROXY,
        ],
        files: &[
            ("~/.docker/config.json", "Logins of docker. DOCKER_CONFIG names another folder."),
            ("$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json", "Logins of podman."),
        ],
        see_also: "kubesolo-release(7), kubesolo-update(8)",
    };
    [device, publisher]
}

const CLOUDINIT_FILES: &[(&str, &str)] = &[
    ("/var/lib/cloud/seed/nocloud", "User-data and meta-data."),
    ("/etc/kubesolo/update.conf", "Settings that it writes."),
    ("/var/lib/kubesolo/cloud-init/instance", "The instance that was set up."),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, word, into] = &arguments[..]
        && word == "schemas"
    {
        return schema::write(Path::new("."), Path::new(into));
    }
    let [_, into] = &arguments[..] else {
        return Err("usage: generate DIR: writes DIR/man, DIR/completions, DIR/third-party-licences\n\
                    usage: generate schemas DIR, at the top of the sources"
            .into());
    };
    let into = Path::new(into);
    let pages = into.join("man");
    fs::create_dir_all(&pages)?;
    for program in programs() {
        program.pages(&pages)?;
        completions::write(program.command, &into.join("completions"))?;
    }
    let usage = kubesolo_cloudinit::run::USAGE;
    fs::write(
        pages.join("kubesolo-cloudinit.8"),
        man::page_of_usage("kubesolo-cloudinit", "8", usage, CLOUDINIT_FILES),
    )?;

    fs::write(pages.join("update.conf.5"), man::page_of_settings())?;
    fs::write(pages.join("kubesolo-release.7"), man::page_of_formats())?;
    fs::write(into.join("third-party-licences"), licences::texts()?)?;
    Ok(())
}
