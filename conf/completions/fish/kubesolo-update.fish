# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kubesolo_update_global_optspecs
    string join \n conf= state= json v/verbose q/quiet color= progress= slot-a= slot-b= bootenv= booted= cmdline= pubkey= h/help V/version
end

function __fish_kubesolo_update_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kubesolo_update_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kubesolo_update_using_subcommand
    set -l cmd (__fish_kubesolo_update_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -s V -l version -d 'Print version'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "check" -d 'Show the offer and the state of each gate. Changes nothing'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "apply" -d 'Fetch the offer, verify it and write it into the free slot'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "run" -d 'Update unattended, for timers: check, stage or activate, as auto= says. Never bypasses a gate'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "activate" -d 'Activate the staged release: it boots next, on trial'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "healthcheck" -d 'Judge this boot: commit or revert a trial, and settle earlier boots. Run this after each boot'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "rollback" -d 'End a trial, cancel an activation, or return to the previous release'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "data" -d 'Save or restore the data of a trial: the step of each boot before any service. Repeatable'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "adopt" -d 'Switch a KubeSolo OS device to the loader file of this agent. Safe at every power cut, and repeatable'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "status" -d 'Show slots, boot environment and the last update. Needs neither root nor settings'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "history" -d 'Show past attempts and their outcomes'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "metrics" -d 'Print metrics in the text format of Prometheus; with --json as a list of series'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "doctor" -d 'Check that this device is ready for updates. Prints one line per check; exits 78 if any fails'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "verify" -d 'Verify both slots: compare them with their digests and signatures'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "env-lock" -d 'Make the locks of U-Boot\'s tools, if U-Boot is the bootloader. For units: their sandbox has no access to the folders'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "explain" -d 'Explain a reason or an exit code: its meaning and the next step. Without a word it lists the exit codes'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "disk" -d 'Print the device of a partition, looked for on the disk that was booted. For the init stage and units. Ends with 75 while the disk is not there yet'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "config" -d 'Show or check the settings'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "trust" -d 'Change what this device trusts'
complete -c kubesolo-update -n "__fish_kubesolo_update_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l server -d 'HTTP(S) server with a latest.json, or an OCI reference' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l registry -d 'OCI reference: host/path, host/path:tag or host/path@digest' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l bundle -d 'Bundle with a release (kubesolo-release bundle, oras cp --to-oci-layout); uses no network' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l tag -d 'Tag of the release' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l channel -d 'Channel that this device follows; it refuses releases of other channels' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l registry-ca -d 'File with further certificate authorities for the source, in PEM' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l plain-http -d 'Unsafe: reach this host without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l maintenance-window -d 'Times at which an update may start, such as \'Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00\'; empty: always' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l force -d 'Bypass the maintenance window and the block label of the node, and nothing else'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l retry-failed -d 'Try a release that failed on this device again'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l allow-downgrade -d 'Accept an older version, or another release of the running version'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l ignore-rollout -d 'Do not wait for the wave of this device'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l allow-single-copy -d 'Unsafe: continue with a single copy of U-Boot\'s environment, which a power cut may damage'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l exit-code -d 'Exit 0 if there is nothing new, 100 if an update is available, else with the code of the first closed gate'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l server -d 'HTTP(S) server with a latest.json, or an OCI reference' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l registry -d 'OCI reference: host/path, host/path:tag or host/path@digest' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l bundle -d 'Bundle with a release (kubesolo-release bundle, oras cp --to-oci-layout); uses no network' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l tag -d 'Tag of the release' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l channel -d 'Channel that this device follows; it refuses releases of other channels' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l registry-ca -d 'File with further certificate authorities for the source, in PEM' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l plain-http -d 'Unsafe: reach this host without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l maintenance-window -d 'Times at which an update may start, such as \'Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00\'; empty: always' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l force -d 'Bypass the maintenance window and the block label of the node, and nothing else'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l retry-failed -d 'Try a release that failed on this device again'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l allow-downgrade -d 'Accept an older version, or another release of the running version'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l ignore-rollout -d 'Do not wait for the wave of this device'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l allow-single-copy -d 'Unsafe: continue with a single copy of U-Boot\'s environment, which a power cut may damage'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l dry-run -d 'Print the planned update, and write nothing'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l activate -d 'Also activate it: it boots next, on trial'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l reboot -d 'Reboot afterwards'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l server -d 'HTTP(S) server with a latest.json, or an OCI reference' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l registry -d 'OCI reference: host/path, host/path:tag or host/path@digest' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l bundle -d 'Bundle with a release (kubesolo-release bundle, oras cp --to-oci-layout); uses no network' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l tag -d 'Tag of the release' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l channel -d 'Channel that this device follows; it refuses releases of other channels' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l registry-ca -d 'File with further certificate authorities for the source, in PEM' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l plain-http -d 'Unsafe: reach this host without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l maintenance-window -d 'Times at which an update may start, such as \'Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00\'; empty: always' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l force -d 'Bypass the maintenance window and the block label of the node, and nothing else'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l retry-failed -d 'Try a release that failed on this device again'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l allow-downgrade -d 'Accept an older version, or another release of the running version'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l ignore-rollout -d 'Do not wait for the wave of this device'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l allow-single-copy -d 'Unsafe: continue with a single copy of U-Boot\'s environment, which a power cut may damage'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l reboot -d 'Reboot afterwards'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand activate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l auto-rollback-after -d 'Number of failed health runs in a row within one boot that revert a trial; 0 is never' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l health-dir -d 'Folder of health checks: executables that exit with 0 on a healthy device' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l data-dir -d 'Folder on the data partition that accepts a write on a healthy device' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l no-reboot -d 'Do not reboot after a revert'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand healthcheck" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l reboot -d 'Reboot afterwards if necessary'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l with-data -d 'Return to the data that the previous release left, too. Later writes are lost if that trial is committed'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l yes -d 'Confirm the plan that --with-data prints'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand rollback" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -f -a "status" -d 'Show the checkpoints of the data'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -f -a "check" -d 'Show the space and time that a checkpoint would need, and what would prevent it. Changes nothing'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -f -a "drop" -d 'Delete the data that are kept for rollback --with-data'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and not __fish_seen_subcommand_from status check drop help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l accept-newer -d 'Unsafe: also drop data that wait for a restore, and continue with what the trial left'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from drop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from help" -f -a "status" -d 'Show the checkpoints of the data'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from help" -f -a "check" -d 'Show the space and time that a checkpoint would need, and what would prevent it. Changes nothing'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from help" -f -a "drop" -d 'Delete the data that are kept for rollback --with-data'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand data; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l kernel-args -d 'Kernel arguments of this device [default: those of the running system]' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l loader-file -d 'Loader file to use instead of the built-in one' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l any-grub-cfg -d 'Unsafe: replace a grub.cfg that is not the one of KubeSolo OS. Its other functions are lost'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l reboot -d 'Reboot afterwards'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand adopt" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand history" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l output -d 'Replace this file instead, for node_exporter\'s textfile collector (*.prom)' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand env-lock" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l check -d 'Only check that /var/lib/kubesolo, if something is mounted there, is on the booted disk'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -f -a "show" -d 'Show each setting in effect and where it comes from: the command line, a line of a file, or its default'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -f -a "check" -d 'Check every line of the settings file and its drop-ins. Prints one line per problem; exits 78 if there is any'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and not __fish_seen_subcommand_from show check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l server -d 'HTTP(S) server with a latest.json, or an OCI reference' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l registry -d 'OCI reference: host/path, host/path:tag or host/path@digest' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l bundle -d 'Bundle with a release (kubesolo-release bundle, oras cp --to-oci-layout); uses no network' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l tag -d 'Tag of the release' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l channel -d 'Channel that this device follows; it refuses releases of other channels' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l registry-ca -d 'File with further certificate authorities for the source, in PEM' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l plain-http -d 'Unsafe: reach this host without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l maintenance-window -d 'Times at which an update may start, such as \'Sat,Sun 01:00-05:00; Mon-Fri 03:00-04:00\'; empty: always' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l set -d 'Show only settings that a file or the command line makes'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show each setting in effect and where it comes from: the command line, a line of a file, or its default'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check every line of the settings file and its drop-ins. Prints one line per problem; exits 78 if there is any'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -f -a "reset-time" -d 'Accept the time of the clock, although this device knew a later one. Correct the clock first'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and not __fish_seen_subcommand_from reset-time help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l conf -d 'Settings file; FILE.d/*.conf is read after it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l state -d 'State file; trust.json and the lock are beside it' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l color -d 'Colours on standard output; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t''
always\t''
never\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l progress -d 'Progress on standard error; json: one line each second, for programs' -r -f -a "auto\t'A bar on a terminal that can move the cursor, else plain lines'
plain\t'A plain line every 5 s'
json\t'A line of JSON every second, the first at once and the last at the end'
none\t'Nothing'"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l slot-a -d 'Slot A: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l slot-b -d 'Slot B: a folder, a block device, LABEL=NAME on the booted disk, or PARTUUID=ID' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l bootenv -d 'Boot environment: grub:FILE, uboot:FILE with U-Boot\'s fw_env.config, or rpi:DIR with a Raspberry Pi\'s autoboot.txt' -r -f
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l booted -d 'Booted slot, if the slots are folders' -r -f -a "A\t''
B\t''"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l cmdline -d 'File with the kernel command line of this boot, which names slot and trial [default: /proc/cmdline, unless the slots are folders]' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l pubkey -d 'Public key file, or a folder of them: the complete set' -r -F
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -l json -d 'Print JSON on standard output'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -s v -l verbose -d 'Increase verbosity (repeat for debug output)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from reset-time" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "reset-time" -d 'Accept the time of the clock, although this device knew a later one. Correct the clock first'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "check" -d 'Show the offer and the state of each gate. Changes nothing'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "apply" -d 'Fetch the offer, verify it and write it into the free slot'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "run" -d 'Update unattended, for timers: check, stage or activate, as auto= says. Never bypasses a gate'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "activate" -d 'Activate the staged release: it boots next, on trial'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "healthcheck" -d 'Judge this boot: commit or revert a trial, and settle earlier boots. Run this after each boot'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "rollback" -d 'End a trial, cancel an activation, or return to the previous release'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "data" -d 'Save or restore the data of a trial: the step of each boot before any service. Repeatable'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "adopt" -d 'Switch a KubeSolo OS device to the loader file of this agent. Safe at every power cut, and repeatable'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "status" -d 'Show slots, boot environment and the last update. Needs neither root nor settings'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "history" -d 'Show past attempts and their outcomes'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "metrics" -d 'Print metrics in the text format of Prometheus; with --json as a list of series'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "doctor" -d 'Check that this device is ready for updates. Prints one line per check; exits 78 if any fails'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "verify" -d 'Verify both slots: compare them with their digests and signatures'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "env-lock" -d 'Make the locks of U-Boot\'s tools, if U-Boot is the bootloader. For units: their sandbox has no access to the folders'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "explain" -d 'Explain a reason or an exit code: its meaning and the next step. Without a word it lists the exit codes'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "disk" -d 'Print the device of a partition, looked for on the disk that was booted. For the init stage and units. Ends with 75 while the disk is not there yet'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "config" -d 'Show or check the settings'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "trust" -d 'Change what this device trusts'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and not __fish_seen_subcommand_from check apply run activate healthcheck rollback data adopt status history metrics doctor verify env-lock explain disk config trust help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and __fish_seen_subcommand_from data" -f -a "status" -d 'Show the checkpoints of the data'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and __fish_seen_subcommand_from data" -f -a "check" -d 'Show the space and time that a checkpoint would need, and what would prevent it. Changes nothing'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and __fish_seen_subcommand_from data" -f -a "drop" -d 'Delete the data that are kept for rollback --with-data'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'Show each setting in effect and where it comes from: the command line, a line of a file, or its default'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Check every line of the settings file and its drop-ins. Prints one line per problem; exits 78 if there is any'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand help; and __fish_seen_subcommand_from trust" -f -a "reset-time" -d 'Accept the time of the clock, although this device knew a later one. Correct the clock first'
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand explain" -f -a "adopt-with-folders booted-with-devices doubled-images malformed-date no-images no-place reboot-with-folders usage bad-initramfs bad-redirect bad-url digest-mismatch file-changed file-replaced initramfs-broken kernel-unusable limit-exceeded malformed-bundle malformed-cosign-payload malformed-digest malformed-fingerprint malformed-freshness malformed-index malformed-json malformed-latest-json malformed-manifest malformed-patches malformed-pieces malformed-referrers malformed-signature malformed-slot-manifest malformed-user-data malformed-version no-channel serial-too-low size-mismatch size-unknown slot-damaged slot-incomplete slot-newer-schema slot-unreadable access-denied bundle-unreadable byte-budget captive-portal certificate-time certificate-untrusted client-certificate-wanted image-unreadable insecure-redirect login-refused not-found not-https not-readable notes-unreadable proxy-refused rate-limited registry-denied registry-failed registry-too-slow server-error signature-not-listed signature-unreadable tag-not-found timeout too-slow unreachable document-differs header illegal-phase internal json key-encoding no-authorities no-random no-random-numbers no-runtime no-such-image nothing-to-sign reboot runtime tls cannot-mount cannot-open-device cannot-unmount cannot-write damaged-filesystem data-incomplete data-space data-time device-busy env-full env-write filesystem-features io-error key-not-written loader-write no-space not-permitted not-written output read-back-failed read-only state-io-error state-no-space state-not-permitted state-not-writable state-read-only bytes-failed-before clock data-checkpoint data-unsettled delta-only disk-not-ready env-busy expired failed-before fleetlock foreign-environment hook-later interrupted locked no-checkpoint no-free-slot no-statement node-blocked not-before not-confirmed not-fresh not-the-latest nothing-staged nothing-to-roll-back other-architecture rollout single-copy statement-not-proven trial version-unknown window downgrade epoch-jump foreign-token-server hook-refused keys-revoked memory no-key no-such-architecture other-board other-channel same-version security-epoch serial-went-back signature-form signature-invalid signature-missing signature-of-index signature-revoked-key signature-unknown-key signatures-too-few too-old version-lower version-published wrong-architecture bad-ca bad-config bad-credentials bad-host bad-key bad-loader-file bad-record bad-mirror bad-proxy bad-reference bad-seed bad-server bad-tag bad-user-data bad-zone booted-slot-unknown bootenv-kind device-ambiguous device-not-found env-elsewhere env-invalid env-link env-unreadable foreign-data fw-env-config history-damaged hooks-unreadable http-client kernel-args key-exposed key-malformed key-unreadable loader-cannot-hash loader-not-in-use loader-unreadable newer-schema no-client no-command-line no-grub-cfg no-panic-timeout no-source no-sysfs no-verification-key old-loader slot-mismatch slot-unusable state-unusable too-few-keys unknown-grub-cfg unsafe-file unsafe-place version-file 64 65 69 70 73 75 77 78"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand disk" -f -a "data slot-a slot-b efi env seed"
complete -c kubesolo-update -n "__fish_kubesolo_update_using_subcommand config; and __fish_seen_subcommand_from show" -f -a "server registry channel board tag registry_ca registry_auth registry_auth_hosts registry_token_cache registry_mirror server_mirror registry_cert registry_key registry_timeout max_rate delta proxy no_proxy plain_http pubkey signature_threshold freshness freshness_pubkey require_fresh allow_unsigned legacy_file_signatures auto auto_reboot maintenance_window maintenance_zone wariness machine_id_file pre_update_dir pre_update_timeout kubeconfig node_name fleetlock_url fleetlock_group health_dir health_timeout healthcheck_url data_dir state_paths checkpoint_keep auto_rollback_after slot_a slot_b bootenv version_file"
