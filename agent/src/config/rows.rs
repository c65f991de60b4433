//! The settings, one row per key: the only place that declares one.
//!
//! A new setting is a row here, a field of [`Config`], and the code that uses it. The reader, `config show` and
//! `config check`, `docs/update.conf`, the man page, the help of its option and the check of user-data follow from the row.

use super::config::Config;
use super::proxy::{NoProxy, ProxySetting};
use super::values::{Auto, AutoSwitch, BootEnv, DeltaSetting, Origin, RemovableBundles, Threshold};
use super::values::{
    automatic, hosts, http_url, number, number_within, path, rate, registry, registry_mirrors, seconds, seconds_within,
    server_mirrors, state_paths, switch, word,
};
use crate::base::limits;
use crate::schedule::rollout::Wariness;
use crate::schedule::window::Window;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in `update.conf`.
    pub key: &'static str,
    /// Form of its value, for people.
    pub form: &'static str,
    /// The value that counts without the setting, as text of `update.conf`; empty where there is none.
    pub default: &'static str,
    /// The effect of an empty default, in words.
    pub unset: &'static str,
    /// A typical value; empty where the default is one.
    pub example: &'static str,
    /// Its purpose, in one sentence: also the help of its option.
    pub help: &'static str,
    /// Further sentences for the documentation; empty if the first one says all.
    pub more: &'static str,
    /// Each word that it takes, with its meaning; empty where the form says all.
    pub choices: &'static [(&'static str, &'static str)],
    /// The value may contain a password, and is masked wherever it is shown.
    pub secret: bool,
    /// The agent cannot do without it. A device that lacks it does not take a release whose agent has this row.
    pub required: bool,
    /// Reads the text of a value, which is never empty in a file, into its field.
    pub(super) read: fn(&mut Config, &str) -> Result<(), String>,
}

/// Settings on one subject, in the order of the documentation.
#[derive(Debug)]
pub struct Section {
    /// The subject.
    pub title: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

/// All settings.
pub const SECTIONS: &[Section] = &[
    Section { title: "Source of releases", settings: SOURCE },
    Section { title: "Trust", settings: TRUST },
    Section { title: "Unattended updates", settings: UNATTENDED },
    Section { title: "Reasons to wait", settings: WAIT },
    Section { title: "Health of a boot", settings: HEALTH },
    Section { title: "Locations", settings: LOCATIONS },
];

/// The members that most rows share.
const ROW: Setting = Setting {
    key: "",
    form: "",
    default: "",
    unset: "",
    example: "",
    help: "",
    more: "",
    choices: &[],
    secret: false,
    required: false,
    read: |_, _| Ok(()),
};

const SOURCE: &[Setting] = &[
    Setting {
        key: "server",
        form: "URL|REF",
        unset: "none",
        example: "https://updates.example.com/os",
        help: "HTTP(S) server with a latest.json, or an OCI reference.",
        more: "A device has either server or registry: one of them in a later file or on the command line replaces the other.",
        secret: true,
        read: |c, v| put(&mut c.source, v.parse::<Origin>()),
        ..ROW
    },
    Setting {
        key: "registry",
        form: "REF",
        unset: "none",
        example: "registry.example.com/os",
        help: "OCI reference: host/path, host/path:tag or host/path@digest.",
        secret: true,
        read: |c, v| put(&mut c.source, registry(v)),
        ..ROW
    },
    Setting {
        key: "channel",
        form: "NAME",
        unset: "any channel",
        example: "stable",
        help: "Channel that this device follows; it refuses releases of other channels.",
        more: "The channel is also the tag, unless tag or the reference names one.",
        read: |c, v| put(&mut c.channel, word(v)),
        ..ROW
    },
    Setting {
        key: "board",
        form: "NAME",
        unset: "none",
        example: "rpi5",
        help: "Board of this device; it refuses releases that are made for another board.",
        more: "A device without this setting refuses every release that is made for a board.",
        read: |c, v| put(&mut c.board, word(v)),
        ..ROW
    },
    Setting {
        key: "tag",
        form: "TAG",
        unset: "the channel, else stable",
        example: "v1",
        help: "Tag of the release.",
        read: |c, v| put(&mut c.tag, word(v)),
        ..ROW
    },
    Setting {
        key: "registry_ca",
        form: "FILE",
        unset: "none",
        example: "/etc/kubesolo/registry-ca.pem",
        help: "File with further certificate authorities for the source, in PEM.",
        read: |c, v| put(&mut c.registry_ca, path(v)),
        ..ROW
    },
    Setting {
        key: "registry_auth",
        form: "FILE",
        unset: "registry-auth among the credentials of systemd, else /etc/kubesolo/registry-auth.json, else no login",
        example: "/etc/kubesolo/registry-auth.json",
        help: "File of logins to registries: docker's config.json, auth.json, .dockerconfigjson or .dockercfg.",
        more: "Only root may read it. The agent reads it again at each run, and never runs a credential helper.",
        read: |c, v| put(&mut c.registry_auth, path(v)),
        ..ROW
    },
    Setting {
        key: "registry_auth_hosts",
        form: "HOST[:PORT]...",
        unset: "the registry's own host, and auth.docker.io for docker.io",
        example: "auth.example.com",
        help: "Further hosts whose token servers may get a login.",
        more: "Blanks or commas separate several hosts.",
        read: |c, v| put(&mut c.registry_auth_hosts, hosts(v)),
        ..ROW
    },
    Setting {
        key: "registry_token_cache",
        form: "FILE",
        unset: "each run asks for its own tokens",
        example: "/run/kubesolo-update/tokens.json",
        help: "File that keeps the tokens of token servers between runs, within one boot.",
        more: "It saves two requests of a run while a token is valid. Only root can read the file.",
        read: |c, v| put(&mut c.registry_token_cache, path(v)),
        ..ROW
    },
    Setting {
        key: "registry_mirror",
        form: "HOST[:PORT]/PATH [resolve] [ns]; ...",
        unset: "none",
        example: "cache.example.com/os; mirror.example.org/hub/os ns",
        help: "Mirrors of the registry, each with the path of the repository there; they are asked before the registry.",
        more: "Semicolons separate several. A mirror serves manifests, signatures and images; only the registry, or a mirror \
               with resolve, says what a tag stands for. With ns, a proxy gets the name of the registry in the query.",
        read: |c, v| put(&mut c.registry_mirror, registry_mirrors(v)),
        ..ROW
    },
    Setting {
        key: "server_mirror",
        form: "URL...",
        unset: "none",
        example: "https://mirror.example.com/os",
        help: "Mirrors of the HTTP server, for images: folders with the same files, asked before the server.",
        more: "Blanks separate several. Other documents come from the server itself.",
        secret: true,
        read: |c, v| put(&mut c.server_mirror, server_mirrors(v)),
        ..ROW
    },
    Setting {
        key: "registry_cert",
        form: "FILE",
        unset: "none",
        example: "/etc/kubesolo/registry-client.pem",
        help: "File with the client certificate for the source, in PEM, with its chain.",
        more: "For registries and HTTP servers. The agent shows it to the host and port of the source only, and reads both \
               files at each run. It needs registry_key.",
        read: |c, v| put(&mut c.registry_cert, path(v)),
        ..ROW
    },
    Setting {
        key: "registry_key",
        form: "FILE",
        unset: "none",
        example: "/etc/kubesolo/registry-client.key",
        help: "File with the private key of registry_cert, in PEM; only its owner can read it (mode 0600).",
        read: |c, v| put(&mut c.registry_key, path(v)),
        ..ROW
    },
    Setting {
        key: "registry_timeout",
        form: "15..600",
        default: "60",
        help: "Time limit for all documents of one look at the source together, in seconds.",
        more: "Images have no time limit; a download ends below 256 bytes per second over 10 minutes.",
        read: |c, v| put(&mut c.registry_timeout, seconds_within(v, limits::DOCUMENTS_SECONDS)),
        ..ROW
    },
    Setting {
        key: "max_rate",
        form: "BYTES[K|M]",
        unset: "no limit",
        example: "500K",
        help: "Limit for the download of images, in bytes per second; K is 1024, M is 1024 K.",
        more: "At least 4K. The pauses that it makes do not count as a slow download.",
        read: |c, v| put(&mut c.max_rate, rate(v)),
        ..ROW
    },
    Setting {
        key: "delta",
        form: "yes|no|only",
        default: "yes",
        help: "How an initramfs of pieces is fetched.",
        choices: &[
            ("yes", "the pieces that the booted slot lacks, or the whole image where that saves little"),
            ("no", "always the whole image"),
            (
                "only",
                "never the whole image: a release without a delta waits (exit code 75), for a link that costs money",
            ),
        ],
        read: |c, v| put(&mut c.delta, v.parse::<DeltaSetting>()),
        ..ROW
    },
    Setting {
        key: "proxy",
        form: "URL|none",
        unset: "https_proxy, http_proxy or all_proxy of the environment",
        example: "http://proxy.example.com:3128",
        help: "HTTP(S) proxy for the source, with a login in the URL if it wants one.",
        more: "With none, there is no proxy, whatever the environment says. The device itself (localhost, 127.0.0.0/8, ::1) is \
               always reached directly.",
        secret: true,
        read: |c, v| put(&mut c.proxy, v.parse::<ProxySetting>()),
        ..ROW
    },
    Setting {
        key: "no_proxy",
        form: "HOST...",
        unset: "no_proxy of the environment",
        example: "registry.lan:5000, .example.com, 10.0.0.0/8",
        help: "Hosts to reach without a proxy.",
        more: "An entry is a host (with its subdomains), .HOST or *.HOST (subdomains only), an address, a network like \
               10.0.0.0/8, or * for all; :PORT may follow a host or an address. Blanks or commas separate several.",
        read: |c, v| put(&mut c.no_proxy, v.parse::<NoProxy>()),
        ..ROW
    },
    Setting {
        key: "plain_http",
        form: "HOST[:PORT]...",
        unset: "none",
        example: "10.0.0.5:5000",
        help: "Unsafe: hosts to reach without TLS.",
        more: "Blanks or commas separate several hosts.",
        read: |c, v| put(&mut c.plain_http, hosts(v)),
        ..ROW
    },
];

const TRUST: &[Setting] = &[
    Setting {
        key: "pubkey",
        form: "PATH",
        unset: "the keys in /usr/share/kubesolo/keys",
        example: "/etc/kubesolo/release.pem",
        help: "Public key file, or a folder of them: the complete set.",
        more: "A file has one key: PEM, or 64 hex digits.",
        read: |c, v| put(&mut c.pubkey, path(v)),
        ..ROW
    },
    Setting {
        key: "signature_threshold",
        form: "N",
        default: "1",
        example: "2",
        help: "Number of different keys that must sign a release, at most 16.",
        read: |c, v| put(&mut c.signature_threshold, v.parse::<Threshold>()),
        ..ROW
    },
    Setting {
        key: "freshness",
        form: "auto|yes|no",
        default: "auto",
        help: "When to ask for freshness statements, which name the latest release (docs/trust.md).",
        choices: &[
            (
                "auto",
                "with each new release; at every look once one was seen, or freshness_pubkey or require_fresh is set",
            ),
            ("yes", "at every look"),
            ("no", "never"),
        ],
        read: |c, v| put(&mut c.freshness, v.parse::<AutoSwitch>()),
        ..ROW
    },
    Setting {
        key: "freshness_pubkey",
        form: "PATH",
        unset: "the keys of releases",
        example: "/etc/kubesolo/freshness.pem",
        help: "Public key file, or a folder of them, for freshness statements and nothing else.",
        more: "One of these keys is enough. Without the setting, a statement needs as many signatures as a release.",
        read: |c, v| put(&mut c.freshness_pubkey, path(v)),
        ..ROW
    },
    Setting {
        key: "require_fresh",
        form: "yes|no",
        default: "no",
        help: "Install a release only if a freshness statement names it as the latest.",
        more: "Other releases wait (exit code 75). With no, they only cause a warning.",
        read: |c, v| put(&mut c.require_fresh, switch(v)),
        ..ROW
    },
    Setting {
        key: "allow_unsigned",
        form: "yes|no",
        default: "no",
        help: "Unsafe: install releases without a signature.",
        more: "This has an effect only on a device without any key.",
        read: |c, v| put(&mut c.allow_unsigned, switch(v)),
        ..ROW
    },
    Setting {
        key: "legacy_file_signatures",
        form: "yes|no",
        default: "no",
        help: "Accept old servers that sign the image files, but not their metadata.",
        read: |c, v| put(&mut c.legacy_file_signatures, switch(v)),
        ..ROW
    },
];

const UNATTENDED: &[Setting] = &[
    Setting {
        key: "auto",
        form: "check|stage|activate",
        default: "stage",
        help: "How far an unattended update goes (kubesolo-update run, which the timer calls).",
        choices: &[
            ("check", "ask the source, and keep the answer for status and metrics"),
            ("stage", "fetch the release, verify it and write it into the free slot; a person activates it"),
            ("activate", "activate it too, and reboot into its trial"),
        ],
        read: |c, v| put(&mut c.auto, v.parse::<Auto>()),
        ..ROW
    },
    Setting {
        key: "auto_reboot",
        form: "yes|no",
        default: "yes",
        help: "Reboot after auto=activate.",
        more: "With no, the trial starts with the next reboot, for any cause.",
        read: |c, v| put(&mut c.auto_reboot, switch(v)),
        ..ROW
    },
    Setting {
        key: "removable_bundles",
        form: "no|stage|activate",
        default: "no",
        help: "How far an unattended update goes with releases on removable media with the volume label KSOLOUPDATE.",
        more: "Window, auto and all gates hold as for any source. Without server and registry, they are the only source.",
        choices: &[
            ("no", "removable media are not looked at"),
            ("stage", "at most stage the release, also with auto=activate"),
            ("activate", "go as far as auto says"),
        ],
        read: |c, v| put(&mut c.removable_bundles, v.parse::<RemovableBundles>()),
        ..ROW
    },
    Setting {
        key: "receipts",
        form: "yes|no",
        default: "no",
        help: "Write a signed receipt of each trial to the removable medium that its release came from.",
        more: "It is written when that medium is seen next after the trial. The device keeps its receipts in any case.",
        read: |c, v| put(&mut c.receipts, switch(v)),
        ..ROW
    },
    Setting {
        key: "maintenance_window",
        form: "[DAYS] HH:MM-HH:MM[;...]",
        unset: "always",
        example: "Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00",
        help: "Times at which an update may start.",
        more: "HH:MM-HH:MM, with days before it if needed; semicolons separate several. A time may pass midnight; it belongs to \
               the day on which it starts. 03:00-03:00 never opens.",
        read: |c, v| put(&mut c.maintenance_window, v.parse::<Window>()),
        ..ROW
    },
    Setting {
        key: "maintenance_zone",
        form: "ZONE",
        unset: "UTC",
        example: "Europe/Berlin",
        help: "Time zone of maintenance_window.",
        more: "The name of a zone in /usr/share/zoneinfo of the image, or a POSIX TZ string, which needs no file \
               (CET-1CEST,M3.5.0,M10.5.0/3).",
        read: |c, v| put(&mut c.maintenance_zone, word(v)),
        ..ROW
    },
    Setting {
        key: "wariness",
        form: "0..100",
        default: "50",
        help: "Place of this device in the order of all waves: 0 is first, 100 is last.",
        more: "Between these, the device comes earlier or later than its draw, which is new for each release. With 50, the \
               draw alone decides.",
        read: |c, v| put(&mut c.wariness, v.parse::<Wariness>()),
        ..ROW
    },
    Setting {
        key: "machine_id_file",
        form: "FILE",
        default: "/etc/machine-id",
        help: "File with the id of this machine, from which its draw follows.",
        more: "Devices must not share an id, so an image must not contain one. Without the file, the agent makes an id and \
               keeps it in its state.",
        read: |c, v| put(&mut c.machine_id_file, path(v)),
        ..ROW
    },
];

const WAIT: &[Setting] = &[
    Setting {
        key: "hooks_dir",
        form: "DIR",
        default: "/etc/kubesolo",
        help: "Folder with the folders of hooks: pre-update.d, pre-reboot.d, post-commit.d, post-revert.d.",
        more: "Hooks are executables. Each gets the facts in its environment and as JSON on its standard input.",
        read: |c, v| put(&mut c.hooks_dir, path(v)),
        ..ROW
    },
    Setting {
        key: "hook_timeout",
        form: "SECONDS",
        default: "300",
        help: "Time limit for all hooks of one folder together, in seconds.",
        read: |c, v| put(&mut c.hook_timeout, seconds(v)),
        ..ROW
    },
    Setting {
        key: "pre_update_dir",
        form: "DIR",
        unset: "pre-update.d in hooks_dir",
        example: "/etc/kubesolo/pre-update.d",
        help: "Another folder of the hooks that can postpone or refuse an update.",
        more: "They run before the agent writes a slot, and again before it activates a release. A hook permits the update \
               with exit code 0, postpones it with 75, and refuses it with any other.",
        read: |c, v| put(&mut c.pre_update_dir, path(v)),
        ..ROW
    },
    Setting {
        key: "pre_update_timeout",
        form: "SECONDS",
        unset: "hook_timeout",
        example: "300",
        help: "Another time limit for these hooks, in seconds; a longer run refuses the update.",
        read: |c, v| put(&mut c.pre_update_timeout, seconds(v)),
        ..ROW
    },
    Setting {
        key: "kubeconfig",
        form: "FILE",
        default: "/var/lib/kubesolo/pki/admin/admin.kubeconfig",
        help: "Credentials for the Kubernetes API server, as KubeSolo writes them.",
        more: "The agent looks for the label updates.kubesolo.io/block=true on the node. Without the file, or without an \
               answer, the node blocks no update.",
        read: |c, v| put(&mut c.kubeconfig, path(v)),
        ..ROW
    },
    Setting {
        key: "node_name",
        form: "NAME",
        unset: "any node of the cluster can block the update",
        example: "node-7",
        help: "Node of this device, in a cluster with several nodes.",
        read: |c, v| put(&mut c.node_name, word(v)),
        ..ROW
    },
    Setting {
        key: "fleetlock_url",
        form: "URL",
        unset: "none",
        example: "https://fleetlock.example",
        help: "FleetLock server that permits a reboot into a new release.",
        more: "The lock is taken before the activation, and released after the trial.",
        secret: true,
        read: |c, v| put(&mut c.fleetlock_url, http_url(v)),
        ..ROW
    },
    Setting {
        key: "fleetlock_group",
        form: "NAME",
        unset: "default",
        example: "workers",
        help: "Group of devices that share the locks of the FleetLock server.",
        read: |c, v| put(&mut c.fleetlock_group, word(v)),
        ..ROW
    },
    Setting {
        key: "node_report",
        form: "yes|no",
        default: "no",
        help: "Show the running version, the phase of the update and its trial as annotations of the node.",
        more: "Set by run and by a healthy health run; the account of the kubeconfig must be allowed to patch nodes.",
        read: |c, v| put(&mut c.node_report, switch(v)),
        ..ROW
    },
    Setting {
        key: "event_url",
        form: "URL",
        unset: "none",
        example: "https://events.example/kubesolo",
        help: "Receiver of each step of an update, as a CloudEvent over HTTP.",
        more: "Sent by run and by a healthy health run; an event waits in outbox/ until the receiver takes it.",
        secret: true,
        read: |c, v| put(&mut c.event_url, http_url(v)),
        ..ROW
    },
];

const HEALTH: &[Setting] = &[
    Setting {
        key: "health_dir",
        form: "DIR",
        default: "/etc/kubesolo/health.d",
        help: "Folder of health checks: executables that exit with 0 on a healthy device.",
        more: "The checks in its folder wanted are optional: they run last, and a failed one only warns.",
        read: |c, v| put(&mut c.health_dir, path(v)),
        ..ROW
    },
    Setting {
        key: "health_timeout",
        form: "SECONDS",
        default: "300",
        help: "Time limit for all health checks of one run together, in seconds.",
        more: "A check without any time left fails.",
        read: |c, v| put(&mut c.health_timeout, seconds(v)),
        ..ROW
    },
    Setting {
        key: "healthcheck_url",
        form: "URL",
        unset: "none",
        example: "http://127.0.0.1:8080/healthz",
        help: "HTTP(S) URL that answers 200 within 10 s on a healthy device.",
        more: "The agent asks it directly, not through a proxy.",
        secret: true,
        read: |c, v| put(&mut c.healthcheck_url, http_url(v)),
        ..ROW
    },
    Setting {
        key: "health_kubernetes",
        form: "auto|yes|no",
        default: "auto",
        help: "Health check of Kubernetes, which must be well for 30 s in a row.",
        more: "KubeSolo says so on its socket (config.sock in data_dir). Without an answer the API server of kubeconfig is \
               asked: /readyz, the node of this device, and the pods of kube-system that are on it or on none.",
        choices: &[
            (
                "auto",
                "if the socket or the kubeconfig is there; a kubeconfig that cannot be used, or may not read pods, only warns",
            ),
            ("yes", "always: a device without an answer is unhealthy"),
            ("no", "never"),
        ],
        read: |c, v| put(&mut c.health_kubernetes, v.parse::<AutoSwitch>()),
        ..ROW
    },
    Setting {
        key: "data_dir",
        form: "DIR",
        default: "/var/lib/kubesolo",
        help: "Folder on the data partition that accepts a write on a healthy device.",
        read: |c, v| put(&mut c.data_dir, path(v)),
        ..ROW
    },
    Setting {
        key: "state_paths",
        form: "DIR ...|none",
        unset: "kine, if it is a folder",
        example: "kine",
        help: "Folders below the data partition that go back with the slot when a trial fails; none turns this off.",
        more: "At most 16, relative to the data partition. The first boot of a trial copies them before any service starts. \
               A boot that goes back to the last good slot puts them back, and drops what the trial wrote.",
        read: |c, v| put(&mut c.state_paths, state_paths(v)),
        ..ROW
    },
    Setting {
        key: "checkpoint_keep",
        form: "DAYS",
        default: "7",
        help: "Days that the data before a committed trial are kept for rollback --with-data, 0 to 30; 0 is not at all.",
        more: "The data go earlier if an update needs the space, or if the previous release leaves its slot.",
        read: |c, v| put(&mut c.checkpoint_keep, number_within(v, 0..=30)),
        ..ROW
    },
    Setting {
        key: "scrub_days",
        form: "DAYS",
        default: "30",
        help: "Days after which run reads both slots again and repairs the one that is not booted, 0 to 365; 0 is never.",
        more: "Inside the maintenance window, after the update. A damaged fallback slot is filled again with its release, if the \
               source still has it, else with a copy of the running one; nothing is activated. With auto=check, damage is only \
               reported.",
        read: |c, v| put(&mut c.scrub_days, number_within(v, 0..=365)),
        ..ROW
    },
    Setting {
        key: "loader_update",
        form: "auto|no",
        default: "no",
        help: "Replace the loader file of GRUB, after a healthy boot, by a later one that the agent carries.",
        more: "The new file is tried once, at the next boot, and the old one boots after a failure. But no bootloader ends a \
               loader file that hangs: such a device comes back only when the power is cut.",
        choices: &[
            ("auto", "a later loader file is tried at the next boot after a healthy run, beside no other trial"),
            ("no", "the loader file stays as it is; `kubesolo-update adopt` replaces it"),
        ],
        read: |c, v| put(&mut c.loader_update, automatic(v)),
        ..ROW
    },
    Setting {
        key: "auto_rollback_after",
        form: "N",
        default: "3",
        help: "Number of failed health runs in a row within one boot that revert a trial; 0 is never.",
        more: "With 0, only the tries and the deadline end a trial. The init stage and the units run the health checks every \
               10 s. Without this setting, they count no failed run before the end of the health window (900 s, or \
               ks.health_window= on the kernel command line); a failed run after it reverts the trial in any case.",
        read: |c, v| put(&mut c.auto_rollback_after, number(v)),
        ..ROW
    },
];

const LOCATIONS: &[Setting] = &[
    Setting {
        key: "slot_a",
        form: "PLACE",
        unset: "LABEL=KSOLOA",
        example: "LABEL=KSOLOA",
        help: "Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID.",
        read: |c, v| put(&mut c.slot_a, word(v)),
        ..ROW
    },
    Setting {
        key: "slot_b",
        form: "PLACE",
        unset: "LABEL=KSOLOB",
        example: "LABEL=KSOLOB",
        help: "Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID.",
        read: |c, v| put(&mut c.slot_b, word(v)),
        ..ROW
    },
    Setting {
        key: "bootenv",
        form: "KIND:PATH",
        unset: "grub/grubenv on the partition with the label KSOLOEFI",
        example: "grub:/boot/efi/grub/grubenv",
        help: "Boot environment: grub:FILE, uboot:FILE with U-Boot's fw_env.config, or rpi:DIR with a Raspberry Pi's \
               autoboot.txt.",
        read: |c, v| put(&mut c.bootenv, v.parse::<BootEnv>()),
        ..ROW
    },
    Setting {
        key: "version_file",
        form: "FILE",
        unset: "none",
        example: "/etc/kubesolo/version",
        help: "File whose first line is the running version, for a booted slot without a manifest.",
        more: "A factory fills such a slot. A release of that version is not new.",
        read: |c, v| put(&mut c.version_file, path(v)),
        ..ROW
    },
];

/// All settings, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings)
}

/// The setting of this name.
#[must_use]
pub fn named(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

/// The key that was probably meant, by the measure that also suggests options: Jaro's, above 0.7.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    let closeness = |setting: &Setting| strsim::jaro(key, setting.key);
    let nearest = all().max_by(|a, b| closeness(a).total_cmp(&closeness(b)))?;
    (closeness(nearest) > 0.7).then_some(nearest.key)
}

/// The help of the option for a setting; empty for a name that is none.
#[must_use]
pub fn help(key: &str) -> &'static str {
    named(key).map_or("", |setting| setting.help.trim_end_matches('.'))
}

/// Checks the value of an option by the reader of its setting. The value stays text. One that may contain a password is only
/// checked with all settings: an error of the command line would show it.
pub fn checked(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |value| {
        let setting = named(key).ok_or("no setting has this name")?;
        if setting.secret {
            return Ok(word(value)?);
        }
        setting.check(value).map(|()| value.to_owned())
    }
}

impl Setting {
    /// Checks the value.
    ///
    /// # Errors
    /// The form that was expected.
    pub fn check(&self, value: &str) -> Result<(), String> {
        (self.read)(&mut Config::default(), value)
    }
}

/// Sets a field to what was read.
fn put<T, V: Into<T>>(field: &mut T, value: Result<V, impl ToString>) -> Result<(), String> {
    *field = value.map_err(|why| why.to_string())?.into();
    Ok(())
}
