//! The reasons of errors and of closed gates: each has one stable word, one exit code and one line of help.
//!
//! `docs/troubleshooting.md` lists all of them by exit code, and a test keeps the page and this list in step.

use super::Exit;
use crate::base::words::words;

/// Declares the reasons by exit code, each with its word and its line of help.
macro_rules! reasons {
    ($($exit:ident { $($reason:ident = $word:literal: $help:literal,)* })*) => {
        words! {
            /// A reason, as `--json` shows it in `reason`. The words never change their meaning.
            pub enum Reason { $($(#[doc = $help] $reason = $word,)*)* }
        }

        impl Reason {
            /// The exit code of a command that ends for this reason.
            #[must_use]
            pub const fn exit(self) -> Exit {
                match self { $($(Self::$reason => Exit::$exit,)*)* }
            }

            /// The meaning of the reason and the next step, in one line.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $($(Self::$reason => $help,)*)* }
            }
        }
    };
}

reasons! {
    Usage {
        AdoptWithFolders = "adopt-with-folders":
            "adopt is for a device, and these slots are folders. Name a kernel command line with --cmdline to try it out.",
        BootedWithDevices = "booted-with-devices":
            "--booted is for slots in folders. On a device the kernel command line names the booted slot: leave it out.",
        DoubledImages = "doubled-images":
            "Two images of one kind were given for one architecture. Name each image once.",
        MalformedDate = "malformed-date":
            "The date is not in the form of RFC 3339. Write it as 2026-01-31T12:00:00Z.",
        NoImages = "no-images":
            "No architecture has images to publish. Name a kernel and an initramfs for at least one architecture.",
        NoPlace = "no-place":
            "The command line names no place to write to or read from. Name a reference, a folder or --http.",
        RebootWithFolders = "reboot-with-folders":
            "--reboot is for a device, and slots in folders boot nothing. Leave it out.",
        Usage = "usage":
            "The command line is wrong. See --help of the command.",
    }
    Data {
        BadInitramfs = "bad-initramfs":
            "The initramfs is empty, or has no /init that the kernel can start. Build it again, with an executable /init.",
        BadRedirect = "bad-redirect":
            "The server redirects to a place that cannot be fetched. Fix the server.",
        BadUrl = "bad-url":
            "The release names an image by a URL that cannot be used. Publish the release again with correct URLs.",
        DigestMismatch = "digest-mismatch":
            "The bytes differ from the signed or announced digest. Check for a proxy or cache in between; else publish the release again.",
        FileChanged = "file-changed":
            "An input file changed while the publisher copied it. Publish again.",
        FileReplaced = "file-replaced":
            "The server replaced the file during the download. Try again.",
        InitramfsBroken = "initramfs-broken":
            "The initramfs does not unpack, so no device could boot it. Build it again: cpio archives in newc format, compressed with gzip.",
        KernelUnusable = "kernel-unusable":
            "The file is not a kernel that this architecture's bootloader can load. Name the boot image (bzImage, Image or EFI zboot).",
        LimitExceeded = "limit-exceeded":
            "A document, image or file is larger than its documented limit. Make it smaller; docs/releasing.md lists the limits.",
        MalformedAttachment = "malformed-attachment":
            "A document to attach to a release is of an unknown kind. Name an SPDX or CycloneDX document, or an in-toto statement, in JSON.",
        MalformedBundle = "malformed-bundle":
            "The file is not a complete bundle, or the folder not a complete OCI image layout. Copy it again, or make it again with `kubesolo-release`.",
        MalformedCosignPayload = "malformed-cosign-payload":
            "The payload of a cosign signature is not a valid document. Sign the release again.",
        MalformedDevicetree = "malformed-devicetree":
            "The device tree of the release cannot be used by a kernel. Publish the release with a flattened tree, as dtc makes it.",
        MalformedDigest = "malformed-digest":
            "A digest is not of the form sha256: and 64 lower-case hex digits. Correct it where it was written.",
        MalformedFingerprint = "malformed-fingerprint":
            "A revoked key is not given as the SHA-256 of a public key: 64 lower-case hex digits. Publish the release again.",
        MalformedFreshness = "malformed-freshness":
            "The freshness statement is not valid. Make it again with `kubesolo-release freshness`.",
        MalformedIndex = "malformed-index":
            "The image index of the release is not valid. Publish the release again.",
        MalformedJson = "malformed-json":
            "A document is not strict JSON. Check that the server sends the document and not an error page; else publish it again.",
        MalformedKernelArgs = "malformed-kernel-args":
            "The kernel arguments of the release have a wrong character, a reserved word, or more than 960 bytes. Publish it with other arguments.",
        MalformedLatestJson = "malformed-latest-json":
            "latest.json lacks a required member or has a wrong value. Publish the release again.",
        MalformedManifest = "malformed-manifest":
            "The manifest of the release lacks a required part or has a wrong value. Publish the release again.",
        MalformedPatches = "malformed-patches":
            "The table of the patches of an initramfs is not valid. Publish the release again.",
        MalformedPieces = "malformed-pieces":
            "The index of the pieces of an initramfs is not valid. Publish the release again.",
        MalformedReceipt = "malformed-receipt":
            "A file is no receipt of a device, or that of another one. Collect the receipt again.",
        MalformedReferrers = "malformed-referrers":
            "The registry's list of signatures is not valid. Find out who wrote that tag, delete it and sign again.",
        MalformedSignature = "malformed-signature":
            "A signature is not 64 bytes, or lines of 128 hex digits. Sign the release again.",
        MalformedSlotManifest = "malformed-slot-manifest":
            "manifest.json of a slot is not valid. Run `kubesolo-update apply`, unless the slot is the booted one.",
        MalformedUserData = "malformed-user-data":
            "The user-data cannot be unpacked. Write it as plain text or as one gzip member.",
        MalformedVersion = "malformed-version":
            "The version is not of the form 1.2.3, with an optional pre-release and build. Publish the release again.",
        NoChannel = "no-channel":
            "The releases do not all have the same channel, and a freshness statement is about one. Publish them with --channel.",
        SerialTooLow = "serial-too-low":
            "A statement with the same or a higher serial is published already. Make the statement again.",
        SizeMismatch = "size-mismatch":
            "The number of bytes differs from the announced size. Try again; if it stays so, publish the release again.",
        SizeUnknown = "size-unknown":
            "The server does not report the size of a file. Fix the server so that it sends Content-Length.",
        SlotDamaged = "slot-damaged":
            "The files of a slot differ from their digests. Run `kubesolo-update apply`, unless the slot is the booted one.",
        SlotIncomplete = "slot-incomplete":
            "A file of the slot is missing or empty. Run `kubesolo-update apply`, unless the slot is the booted one.",
        SlotNewerSchema = "slot-newer-schema":
            "A newer version of the agent wrote the slot. Run `kubesolo-update apply` to write it again.",
        SlotUnreadable = "slot-unreadable":
            "A file of a slot cannot be read. Run `kubesolo-update apply`, and check the medium with dmesg if that fails.",
    }
    Unavailable {
        AccessDenied = "access-denied":
            "The server refuses access: without a login, or with one that lacks the right. Give a login (registry_auth=) or allow anonymous pulls.",
        BundleUnreadable = "bundle-unreadable":
            "The bundle cannot be read: there is no such file, or its medium fails. Check the path and the medium.",
        ByteBudget = "byte-budget":
            "A run took twice the size of the image and did not get all of it. Fix the server, which cuts downloads and does not resume them.",
        CaptivePortal = "captive-portal":
            "A web page came instead of the document: the network asks for a login, or a proxy answers. Sign in to the network, or have it let this device through.",
        CertificateTime = "certificate-time":
            "The certificate of the server expired or is not valid yet. Check the clock of the device; if it is right, renew the certificate.",
        CertificateUntrusted = "certificate-untrusted":
            "The certificate of the server is by an unknown authority, for another name or unusable. Name its authority in registry_ca=; the message has the cause.",
        ClientCertificateWanted = "client-certificate-wanted":
            "The server wants a client certificate, or refuses the one of this device. Set registry_cert= and registry_key=, or renew the certificate.",
        ImageUnreadable = "image-unreadable":
            "A kernel or initramfs cannot be read from its file. Name a file that this user can read.",
        InsecureRedirect = "insecure-redirect":
            "The server redirects from https to http. Fix the server: the agent never leaves TLS.",
        LoginRefused = "login-refused":
            "The registry or its token server refuses the login. Check user name and password, and that they have not expired.",
        NotFound = "not-found":
            "The source does not have the document or image. Check the setting against what was published.",
        NotHttps = "not-https":
            "The host has no TLS and plain_http= does not list it. Use https, or add the host to plain_http=.",
        NotReadable = "not-readable":
            "A published file cannot be read. Name a file that this user can read.",
        NotesUnreadable = "notes-unreadable":
            "The file with the release notes cannot be read. Name a text file in UTF-8 that this user can read.",
        ProxyRefused = "proxy-refused":
            "The proxy refuses the request, or cannot connect to the server. Check its login in proxy=, and that it permits the host; else list the host in no_proxy=.",
        RateLimited = "rate-limited":
            "The server asks for fewer requests. Wait; `run` waits for as long as the server asks.",
        RegistryDenied = "registry-denied":
            "The registry refuses the login or the write. Check the credentials and their rights for this repository.",
        RegistryFailed = "registry-failed":
            "The registry cannot be reached or answers with an error. Check its address, and name a host without TLS with --plain-http.",
        RegistryTooSlow = "registry-too-slow":
            "The registry takes the bytes too slowly. Try again on a faster line.",
        ServerError = "server-error":
            "The server answers with an error. Look at the log of the server, and try again later.",
        SignatureNotListed = "signature-not-listed":
            "The registry does not list the new signature. Another signer may be at work: wait for it, then sign again.",
        SignatureUnreadable = "signature-unreadable":
            "A signature file cannot be read. Name a file that this user can read.",
        TagNotFound = "tag-not-found":
            "The registry or the bundle does not have this tag. Check channel= or --tag against the published tags.",
        Timeout = "timeout":
            "The server did not answer within the time limit. Check the network, and try again.",
        TooSlow = "too-slow":
            "The download was slower than the least accepted rate. Check the network, and try again.",
        Unreachable = "unreachable":
            "The server cannot be reached: network, DNS, firewall or certificate. The message has the cause.",
    }
    Internal {
        DocumentDiffers = "document-differs":
            "The publisher read back another latest.json than it meant to write. This is a fault of the program: report it.",
        Header = "header":
            "A request header cannot be sent. This is a fault of the program: report it.",
        IllegalPhase = "illegal-phase":
            "The update tried to enter a phase that cannot follow the current one. This is a fault of the program: report it.",
        Internal = "internal":
            "The program reached a state that it should not reach. Run the command again with -vv and report the output.",
        Json = "json":
            "The program cannot write its own JSON. This is a fault of the program: report it.",
        KeyEncoding = "key-encoding":
            "The program cannot encode the key that it made. This is a fault of the program: report it.",
        NoRandom = "no-random":
            "The system has no random numbers for a new key. Try again later.",
        NoRandomNumbers = "no-random-numbers":
            "The system has no random numbers. Check that /dev/urandom is there.",
        NoSuchImage = "no-such-image":
            "The program asked for an image that is not on offer. This is a fault of the program: report it.",
        NothingToSign = "nothing-to-sign":
            "The release has no document to sign. This is a fault of the program: report it.",
        Reboot = "reboot":
            "The system refuses to reboot. Reboot it by hand; the boot environment is stored.",
        Runtime = "runtime":
            "The network runtime of the agent cannot start. Check the limits of this process.",
        Tls = "tls":
            "TLS cannot be set up. This is a fault of the program: report it.",
    }
    CannotWrite {
        CannotMount = "cannot-mount":
            "A partition cannot be mounted. Check that the kernel has the filesystem and that the command runs as root.",
        CannotOpenDevice = "cannot-open-device":
            "A block device cannot be opened. Check that the command runs as root, and see dmesg.",
        CannotUnmount = "cannot-unmount":
            "A partition cannot be unmounted. Find the process that uses it with `fuser -m`, and try again.",
        CannotWrite = "cannot-write":
            "A file cannot be written. The message has the file and the cause.",
        DamagedFilesystem = "damaged-filesystem":
            "The filesystem is damaged and cannot be recreated: mke2fs is missing, or the label is not that of a slot. Run mke2fs by hand.",
        DataIncomplete = "data-incomplete":
            "The data of a trial that failed cannot be put back, and no service starts. Repair the data partition, then run `kubesolo-update data`.",
        DataSpace = "data-space":
            "The data partition has no room for a checkpoint before a trial. Free some space on it, or name fewer folders in state_paths=.",
        DataTime = "data-time":
            "A checkpoint of the data would take longer than a boot may. Raise ks.data_limit=, or name fewer folders in state_paths=.",
        DeviceBusy = "device-busy":
            "Another process has the partition mounted or open. Find it with `findmnt` or `fuser -m`, and try again.",
        EnvFull = "env-full":
            "Other variables fill the boot environment. Remove those that the message names: `grub-editenv FILE unset NAME`, with U-Boot `fw_setenv NAME`.",
        EnvWrite = "env-write":
            "The boot environment cannot be written. Check the bootloader's partition: full, read-only or damaged.",
        FilesystemFeatures = "filesystem-features":
            "The slot's filesystem has features that bootloaders cannot read. Create it again with the mke2fs line of the message.",
        IoError = "io-error":
            "The medium fails to write. See dmesg, and replace the medium.",
        KeyNotWritten = "key-not-written":
            "The key file cannot be created. Name a folder that this user can write and that has no file of that name.",
        LoaderWrite = "loader-write":
            "The loader file cannot be written. Check the bootloader's partition, then run `adopt` again.",
        NoSpace = "no-space":
            "The release is larger than the slot; nothing was erased. Use a larger slot or a smaller release.",
        NotPermitted = "not-permitted":
            "This user may not write there. Run the command as root, or as the owner of the folder.",
        NotWritten = "not-written":
            "An output file cannot be written. Name a folder that this user can write and that has room.",
        Output = "output":
            "Standard output or the file of `metrics --output` cannot be written. Make room, or name a place that this user can write.",
        ReadBackFailed = "read-back-failed":
            "The medium returns other bytes than were written. See dmesg, and replace the medium.",
        ReadOnly = "read-only":
            "The partition or its medium is write-protected. See dmesg: a filesystem turns read-only when its medium fails.",
        StateIoError = "state-io-error":
            "The medium of the data partition fails. See dmesg, and replace the medium.",
        StateNoSpace = "state-no-space":
            "The data partition is full. Free some space on it.",
        StateNotPermitted = "state-not-permitted":
            "This user may not write the state. Run the command as root, or name another place with --state.",
        StateNotWritable = "state-not-writable":
            "The state cannot be written. The message has the file and the cause.",
        StateReadOnly = "state-read-only":
            "The data partition is mounted read-only. Mount it for writing; if it turned read-only by itself, see dmesg.",
    }
    NotNow {
        BytesFailedBefore = "bytes-failed-before":
            "An image of this release came with wrong bytes before, and is not fetched again for some hours. Wait, or run `apply --retry-failed`.",
        Clock = "clock":
            "The clock cannot be right, and the decision depends on the time. Set the clock, or let NTP set it.",
        DataCheckpoint = "data-checkpoint":
            "The data cannot be saved before a trial. `kubesolo-update data check` shows the cause; the next attempt follows by itself.",
        DataUnsettled = "data-unsettled":
            "An earlier trial left data that are not settled. Reboot, or run `kubesolo-update healthcheck`; see `kubesolo-update data status`.",
        DeltaOnly = "delta-only":
            "delta=only, and this release would be fetched whole. Wait for a release with a delta, or set delta=yes.",
        DiskNotReady = "disk-not-ready":
            "The disk that was booted, or a partition of it, is not there yet. Disks have 10 s to show up; try again.",
        EnvBusy = "env-busy":
            "Another program holds or has just changed the boot environment. Try again; the next run continues by itself.",
        Expired = "expired":
            "The last freshness statement is over. Publish a new one.",
        FailedBefore = "failed-before":
            "This release failed on this device before. Publish a fixed release, or run `apply --retry-failed`.",
        Fleetlock = "fleetlock":
            "The FleetLock server gives no lock now. The next run asks again; `activate --force` continues without one.",
        ForeignEnvironment = "foreign-environment":
            "Another program changed the boot environment. Run `kubesolo-update healthcheck` after a healthy boot: it repairs this.",
        HookLater = "hook-later":
            "A hook in pre-update.d or pre-reboot.d postponed the update or the reboot. The next run asks it again.",
        KubesoloUpgrade = "kubesolo-upgrade":
            "KubeSolo changes its own version, or the new one is not proven. Wait; the next run asks again.",
        Interrupted = "interrupted":
            "The program was asked to end during a download (SIGTERM). Run it again: it continues where it stopped.",
        Locked = "locked":
            "Another kubesolo-update is running. Wait until it ends; the message has its process id.",
        NoCheckpoint = "no-checkpoint":
            "There are no data of the previous release to go back to. Run `kubesolo-update rollback` without --with-data.",
        NoFreeSlot = "no-free-slot":
            "No slot is free: one is booted and the other on trial. Run `kubesolo-update healthcheck` to end the trial.",
        NoStatement = "no-statement":
            "The source has no freshness statement. Publish one, or set freshness=no.",
        NodeBlocked = "node-blocked":
            "The node has the label updates.kubesolo.io/block=true. Remove the label, or run `apply --force`.",
        NotBefore = "not-before":
            "The server asked to wait. Wait until that time, or run `kubesolo-update apply`, which does not wait.",
        NotConfirmed = "not-confirmed":
            "This boot is not confirmed as healthy. Run `kubesolo-update healthcheck` first.",
        NotFresh = "not-fresh":
            "require_fresh=yes, and no valid freshness statement names this release. Publish a new statement, or set require_fresh=no.",
        NotTheLatest = "not-the-latest":
            "The freshness statement names another release as the latest. Check that the source offers the latest release.",
        NothingStaged = "nothing-staged":
            "The free slot has no complete release. Run `kubesolo-update apply` first.",
        NothingToRollBack = "nothing-to-roll-back":
            "There is no trial to end and no earlier release to return to. See `kubesolo-update status`.",
        OtherArchitecture = "other-architecture":
            "The freshness statement does not name this architecture. Publish a statement for all architectures.",
        Rollout = "rollout":
            "The wave of this device has not come. Wait for it, or run `apply --ignore-rollout`.",
        SingleCopy = "single-copy":
            "U-Boot's environment has only one copy, and a power cut could destroy it. Add a second copy, or use --allow-single-copy.",
        StatementNotProven = "statement-not-proven":
            "The signatures of the freshness statement do not hold. Sign it with the key of freshness_pubkey= or of releases.",
        StickBusy = "stick-busy":
            "A removable medium is in use elsewhere, or answers too slowly. Unmount it there, or use another stick; the next run tries again.",
        Trial = "trial":
            "The trial in the boot environment does not allow this step. See `kubesolo-update status`.",
        VersionUnknown = "version-unknown":
            "The running version is not known: the booted slot has no manifest. Set version_file=, or run `apply --allow-downgrade`.",
        Window = "window":
            "The maintenance window is closed. Wait until it opens, or run `apply --force`.",
    }
    NotAllowed {
        AgentTooOld = "agent-too-old":
            "The release needs a newer agent than this one. Install a release in between first.",
        DataUnprotected = "data-unprotected":
            "The release does not say that its agent saves the data before a trial. Publish it with --data-layout, or use --allow-unprotected-data.",
        Downgrade = "downgrade":
            "The release is older than the running one. To install it, run `apply --allow-downgrade`.",
        EpochJump = "epoch-jump":
            "The security epoch is more than 1000 above the highest known here. Publish releases in between, each at most 1000 higher.",
        ForeignTokenServer = "foreign-token-server":
            "The registry names a token server that must not get the login. Fix the registry, or list the host in registry_auth_hosts= if you trust it.",
        HookRefused = "hook-refused":
            "A hook in pre-update.d refused the update or failed. The message has its output.",
        KeysRevoked = "keys-revoked":
            "Too many keys of this device are revoked. Install the public keys that replaced them.",
        LoaderTooOld = "loader-too-old":
            "The loader file that started this boot is too old for the release. Bring it up to date, and reboot once.",
        Memory = "memory":
            "The unpacked initramfs does not fit into the memory of this machine. Publish a smaller initramfs.",
        NoKey = "no-key":
            "The device has no public key to verify a release with. Name it with pubkey=, or put it into the OS image.",
        NoSuchArchitecture = "no-such-architecture":
            "The release has nothing for this architecture. Publish it for this architecture too, or choose another tag.",
        OtherBoard = "other-board":
            "The release is for another board. Publish a release for this board, or correct board=.",
        OtherChannel = "other-channel":
            "The release or the freshness statement is for another channel. Set channel= if this device should follow that channel.",
        RequiresUnknown = "requires-unknown":
            "The release needs something that this agent does not know. Install a release with a newer agent first.",
        SameVersion = "same-version":
            "This is another release of the running version. Publish it with a new version, or run `apply --allow-downgrade`.",
        SecurityEpoch = "security-epoch":
            "The security epoch is lower than one that this device committed. Publish a release of that epoch: no option bypasses this rule.",
        SerialWentBack = "serial-went-back":
            "The source offers an older freshness statement than before. Find out who replays it; a new key counts from the start.",
        SignatureForm = "signature-form":
            "A signature is in a form that devices do not verify: made with a certificate, or by another kind of key. Sign with an Ed25519 key.",
        SignatureInvalid = "signature-invalid":
            "A signature by a known key does not match the release. Publish release and signature again; if you did not change them, find out who did.",
        SignatureMissing = "signature-missing":
            "The release is not signed. Sign it with a key of this device.",
        SignatureOfIndex = "signature-of-index":
            "cosign signed only the index, not the manifest of this architecture. Sign with `cosign sign --recursive`.",
        SignatureRevokedKey = "signature-revoked-key":
            "Only revoked keys signed the release. Sign it with a valid key.",
        SignatureUnknownKey = "signature-unknown-key":
            "No key of this device signed the release. Sign it with a known key, or install the public key if you trust it.",
        SignaturesTooFew = "signatures-too-few":
            "Fewer keys signed the release than signature_threshold= requires. Add signatures by other keys; each key counts once.",
        TooOld = "too-old":
            "The release requires a newer version than the running one. Install a release in between first.",
        TrialFailed = "trial-failed":
            "The trial of the release ended, and no health run committed it. Read `kubesolo-update history --last`, then publish a fixed release.",
        Unhealthy = "unhealthy":
            "A required health check failed in the trial of the release. Read `kubesolo-update history --last`, then publish a fixed release.",
        VersionLower = "version-lower":
            "The tag or tree has a higher version, and devices refuse to go back. Publish a higher version, or move the tag back with `kubesolo-release tag`.",
        VersionPublished = "version-published":
            "The tag or tree has this version with other images. Publish the images under a new version.",
        WrongArchitecture = "wrong-architecture":
            "The release is for another architecture. Publish it for this architecture too.",
    }
    Config {
        BadCa = "bad-ca":
            "The file of certificate authorities cannot be used. Name a PEM file with the certificate of the authority.",
        BadConfig = "bad-config":
            "A setting is wrong. Correct it; the message has the file and the line.",
        BadCredentials = "bad-credentials":
            "A file with credentials cannot be used: a login, a client certificate or its key. The message has the file and the cause.",
        BadHost = "bad-host":
            "A host name in the settings is wrong. Write it as host.name or host.name:port.",
        BadKey = "bad-key":
            "A key file cannot be used. Write an Ed25519 public key as PEM or 64 hex digits into a file that only root can write.",
        BadLoaderFile = "bad-loader-file":
            "The file of --loader-file does not follow the slot protocol. Leave the option out: the agent carries a loader file.",
        BadRecord = "bad-record":
            "The record of the first boot cannot be read. Check the file that the message names.",
        BadMirror = "bad-mirror":
            "A mirror in the settings has a wrong form. Correct registry_mirror= or server_mirror=.",
        BadProxy = "bad-proxy":
            "A proxy in the environment is not of the form http://host:port. Correct the variable, or set proxy= in the settings.",
        BadReference = "bad-reference":
            "registry= is not a reference to a repository. Write it as host.name[:port]/path.",
        BadSeed = "bad-seed":
            "The seed cannot be read. A seed has the files user-data and meta-data.",
        BadServer = "bad-server":
            "server= is not a URL of a folder. Write it as https://host.name/folder, the folder with latest.json.",
        BadTag = "bad-tag":
            "channel= cannot be a tag of a registry. Use letters, digits, points, dashes and underscores, at most 128.",
        BadUserData = "bad-user-data":
            "The user-data of the first boot has a mistake. Correct it; the message has the line.",
        BadZone = "bad-zone":
            "maintenance_zone= names no usable time zone. Use a name such as Europe/Berlin, and put its zone file into the OS image.",
        BootedSlotUnknown = "booted-slot-unknown":
            "The kernel command line does not name the booted slot. Install the loader file of the agent, or name the slot with --booted.",
        BootenvKind = "bootenv-kind":
            "adopt is for GRUB only. A device with U-Boot or a Raspberry Pi is set up with its OS image.",
        DeviceAmbiguous = "device-ambiguous":
            "Two partitions have one label, or two disks can be the booted one. Remove the other disk; `sgdisk -G` gives a copy identities of its own.",
        DeviceNotFound = "device-not-found":
            "No partition of the booted disk has the label. Give the partition its label, or name it in the settings.",
        EnvElsewhere = "env-elsewhere":
            "GRUB keeps this environment block elsewhere. Name the file that GRUB reads with --bootenv grub:FILE, on FAT.",
        EnvInvalid = "env-invalid":
            "The boot environment is damaged or names no active slot. With GRUB a healthy boot repairs it; with U-Boot write it again.",
        EnvLink = "env-link":
            "The bootloader started a trial and did not count it in this boot environment. Check bootenv= and remove other disks; the bootloader ends the trial.",
        EnvUnreadable = "env-unreadable":
            "The boot environment cannot be read. Check bootenv= and the bootloader's partition.",
        ForeignData = "foreign-data":
            "/var/lib/kubesolo is on a disk that was not booted. Mount the partition of the booted disk, or name another one with kubesolo.data=PARTUUID=...",
        FwEnvConfig = "fw-env-config":
            "fw_env.config cannot be used. Each line names a device, an offset, a size and optionally sector size and sector count.",
        HistoryDamaged = "history-damaged":
            "history.json is damaged. The next attempt sets it aside and starts a new one.",
        HooksUnreadable = "hooks-unreadable":
            "The folder of pre_update_dir= or hooks_dir= cannot be read. Name a folder that root can read.",
        HttpClient = "http-client":
            "The HTTP client cannot start with these settings. The message has the cause.",
        KernelArgs = "kernel-args":
            "The loader file cannot pass on a kernel argument. Name all arguments with --kernel-args, without quotes.",
        KeyExposed = "key-exposed":
            "Other users can read the private key. Run `chmod 600` on it; replace the key if somebody may have read it.",
        KeyMalformed = "key-malformed":
            "The file is not a private key. Name the PEM file of an Ed25519 private key (PKCS #8).",
        KeyUnreadable = "key-unreadable":
            "The private key cannot be read. Name a regular file that this user can read.",
        LoaderCannotHash = "loader-cannot-hash":
            "The bootloader cannot check the hashes of a slot, so a new release would not start as a trial. Install it with the command that the message names.",
        LoaderNotInUse = "loader-not-in-use":
            "grub.cfg follows the slot protocol, but another loader file started this boot. Reboot; else name GRUB's folder with --bootenv.",
        LoaderUnreadable = "loader-unreadable":
            "The loader file cannot be read. Check the bootloader's partition.",
        NewerSchema = "newer-schema":
            "A newer version of the agent wrote the file, which is unchanged. Use that version, or move the file away.",
        NoCommandLine = "no-command-line":
            "The kernel command line cannot be read. Mount /proc, or name a readable file with --cmdline.",
        NoGrubCfg = "no-grub-cfg":
            "grub.cfg is missing beside the boot environment. Name the folder that GRUB reads with --bootenv grub:FOLDER/grubenv.",
        NoPanicTimeout = "no-panic-timeout":
            "The kernel would not reboot after a panic. Start kernels with panic=5 (grub/kernel-args.cfg), and reboot once.",
        NoSource = "no-source":
            "The settings name no source of releases. Set registry= or server=, or use --bundle.",
        NoSysfs = "no-sysfs":
            "/sys is not readable, so partitions cannot be found. Mount sysfs on /sys.",
        NoVerificationKey = "no-verification-key":
            "There is no key to verify a release with. Name one with --pubkey.",
        OldLoader = "old-loader":
            "The loader file of KubeSolo OS started this boot. Run `kubesolo-update adopt`, then reboot.",
        SettingMissing = "setting-missing":
            "The agent of the release cannot do without a setting that this device lacks. Set it in update.conf before the update; the message names it.",
        SlotMismatch = "slot-mismatch":
            "The booted slot is not the partition that the bootloader started. Correct slot_a= and slot_b=, or the labels of the slots.",
        SlotUnusable = "slot-unusable":
            "A slot cannot be used: it is missing, or others can write it. Name two folders or block devices that only root can write.",
        StateUnusable = "state-unusable":
            "A file of the state is a link, or other users can write it. Fix its owner and mode; the message has the command.",
        TooFewKeys = "too-few-keys":
            "signature_threshold= is higher than the number of keys. Lower it, or add the missing public keys.",
        UnknownGrubCfg = "unknown-grub-cfg":
            "grub.cfg is not the one of KubeSolo OS. Read it; if the slots boot without it, run `adopt --any-grub-cfg`.",
        UnsafeFile = "unsafe-file":
            "Other users can write a file or program that decides something. Fix its owner and mode; the message has the command.",
        UnsafePlace = "unsafe-place":
            "The settings of the first boot cannot be written safely there. Fix the folder, or name another file with --conf.",
        VersionFile = "version-file":
            "version_file= has no usable version. Its first line must be the running version, such as 1.2.3.",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use super::*;

    /// The table of one exit code in `docs/troubleshooting.md`.
    fn table(code: Exit) -> String {
        let mut rows: Vec<_> = Reason::ALL.into_iter().filter(|reason| reason.exit() == code).collect();
        rows.sort_by_key(|reason| reason.as_str());
        rows.iter().fold("| reason | meaning and next step |\n|---|---|\n".to_owned(), |mut table, reason| {
            let _ = writeln!(table, "| `{reason}` | {} |", reason.help());
            table
        })
    }

    #[test]
    fn every_reason_is_documented() {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md")).unwrap();
        let mut listed = 0;
        for code in Exit::ALL {
            let heading = format!("\n### {}: {}\n", code.code(), code.meaning());
            let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("no section{heading}"));
            let section = section.split("\n#").next().unwrap_or_default();
            let found: String =
                section.lines().filter(|line| line.starts_with('|')).map(|l| format!("{l}\n")).collect();
            assert_eq!(found, table(code), "section {} should have these rows:\n{}", code.code(), table(code));
            listed += found.lines().count() - 2;
        }
        assert_eq!(listed, Reason::ALL.len());
    }

    #[test]
    fn a_reason_has_one_word_made_of_its_name_and_one_line_of_help() {
        for reason in Reason::ALL {
            let name = format!("{reason:?}");
            let kebab = name.chars().enumerate().fold(String::new(), |mut word, (at, letter)| {
                word.extend((at > 0 && letter.is_ascii_uppercase()).then_some('-'));
                word.push(letter.to_ascii_lowercase());
                word
            });
            assert_eq!(reason.as_str(), kebab);
            assert_eq!(kebab.parse(), Ok(reason));
            let help = reason.help();
            assert!(help.ends_with('.') && help.len() <= 160, "{reason}: {help}");
            assert!(help.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !help.contains('|'), "{reason}: {help}");
        }
    }
}
