# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kubesolo_release_global_optspecs
    string join \n q/quiet v/verbose json h/help V/version
end

function __fish_kubesolo_release_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kubesolo_release_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kubesolo_release_using_subcommand
    set -l cmd (__fish_kubesolo_release_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -s h -l help -d 'Print help'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -s V -l version -d 'Print version'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "keygen" -d 'Make an Ed25519 key pair: the private key for the publisher, the public key for every device'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "publish" -d 'Check, upload and sign a release, then move its tag'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "sign" -d 'Sign a published release: all architectures of a tag or digest'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "payload" -d 'Write the bytes to sign, one file for each architecture, for any signing tool'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "attach" -d 'Add signatures from another machine, if the given keys made them for this release'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "freshness" -d 'Publish a freshness statement: the release of this tag is the latest, so that devices detect hidden newer ones'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "verify" -d 'Verify a release as a device does: with the device\'s code and exit codes, without credentials'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "inspect" -d 'Show a published release, and check its signatures'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "list" -d 'List the releases of a repository: tags, versions, dates and signers'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "tag" -d 'Move tags to a published release, if all its architectures are signed'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "bundle" -d 'Write a published release into one file, for `kubesolo-update apply --bundle FILE` without a network'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "repack" -d 'Rewrite an initramfs with restart points, so that unchanged files are the same bytes in the next release'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "factory" -d 'Make the start of a device from a published release: slot A, boot partition, and the scripts that make a disk'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "explain" -d 'Explain a reason or an exit code: its meaning and the next step'
complete -c kubesolo-release -n "__fish_kubesolo_release_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -l private -d 'File for the private key' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -l public -d 'File for the public key' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -l public-format -d 'Format of the public key' -r -f -a "pem\t'PEM, as OpenSSL writes it'
hex\t'64 hex digits, which agents of KubeSolo OS up to 0.3 need'"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand keygen" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l http -d 'Write a tree of files for an HTTP server instead, with a folder for each architecture below DIR' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l url -d 'Future URL of DIR; agents of KubeSolo OS up to 0.3 need it' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l version -d 'Version of the release (SemVer)' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l channel -d 'Channel of the release' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l amd64 -d 'Kernel and initramfs for amd64' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l arm64 -d 'Kernel and initramfs for arm64' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l key -d 'Private key file to sign with. Repeatable' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l min-compatible-version -d 'Oldest version that can update to this one directly' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l release-notes -d 'Description of the changes: a text, or @FILE' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l release-date -d 'Date of the release in the form of RFC 3339 [default: SOURCE_DATE_EPOCH, else now]' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l security-epoch -d 'Security epoch: devices that committed it refuse every lower one, and every one that is more than 1000 higher' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l board -d 'Board of the images; other devices refuse the release' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l revoke-key -d 'Key to revoke on each device that commits this release: its public key file, or the SHA-256 of the raw key. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l delta-from -d 'Earlier release whose devices fetch patches instead of the initramfs: a reference, a bundle, or a tree of --http. Repeatable, at most 8' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l rollout -d 'Waves: each share of the devices may install the release from that many hours after its date' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l also-tag -d 'Another tag to move to the release. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l unsigned -d 'Publish without a signature; devices refuse the release until it is signed'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l replace -d 'Replace a higher version, or other images of the same version. Devices that installed those refuse this release'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l dry-run -d 'Check everything, also against the published release, and write nothing'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l unsafe-unchecked-kernel -d 'Unsafe: publish a kernel that is not a known kind of Linux boot image'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l no-fallback-tag -d 'Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand publish" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -l key -d 'Private key file. Repeatable' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -l no-fallback-tag -d 'Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand sign" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -l http -d 'Tree of files of `publish --http` with the release' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -l output -d 'Folder for amd64.json and arm64.json' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand payload" -s h -l help -d 'Print help'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l http -d 'Tree of files of `publish --http` with the release' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l signature -d 'Signature file. Repeatable' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l pubkey -d 'Public key, or folder of keys, of the signers' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l no-fallback-tag -d 'Write no tag with the list of referrers if the registry lists them itself. Caches in between may hide the signatures'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand attach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l http -d 'Tree of files of `publish --http` with the releases' -r -f -a "(__fish_complete_directories)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l key -d 'Private key file to sign with. Repeatable' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l output -d 'Write the statement into this file instead, to sign it on another machine' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l statement -d 'Publish this statement, which was signed on another machine' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l signature -d 'Signature of the statement. Repeatable' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l pubkey -d 'Public key, or folder of keys, of the signers' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l days -d 'Days until the statement expires' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l serial -d 'Serial, higher than the last one [default: seconds since 1970]' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand freshness" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l bundle -d 'Bundle, as written by `bundle`' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l tag -d 'Tag, as on the device' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l pubkey -d 'Public key, or folder of keys, as on the device' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l threshold -d 'Number of keys that must sign, as signature_threshold= on the device' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l channel -d 'Channel, as channel= on the device' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l board -d 'Board, as board= on the device' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l freshness-pubkey -d 'Keys of freshness statements, as freshness_pubkey= on the device' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l architecture -d 'Use only this architecture: amd64 or arm64' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l require-fresh -d 'Require a valid freshness statement, as require_fresh=yes on the device'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l metadata-only -d 'Do not fetch the images'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -l pubkey -d 'Public key, or folder of keys, as on the device; exits 77 if an architecture has no signature by one of them' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -l pubkey -d 'Public key, or folder of keys, as on the device; without it, signers are as the signatures name them, unchecked' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -l pubkey -d 'Public key, or folder of keys: each architecture must have a signature by one of them' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -l threshold -d 'Number of these keys that must sign each architecture' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand tag" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -l architecture -d 'Use only this architecture: amd64 or arm64' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand bundle" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand repack" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand repack" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand repack" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand repack" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l bundle -d 'Bundle, as written by `bundle`' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l unsafe-unpublished -d 'Unsafe: use a kernel and an initramfs that nobody signed; the slot has no manifest' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l architecture -d 'Architecture of the device: amd64 or arm64' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l boot -d 'Bootloader of the device' -r -f -a "grub\t'GRUB, by BIOS or UEFI'
uboot\t'U-Boot, unmodified'"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l pubkey -d 'Public key, or folder of keys, that must have signed the release' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l threshold -d 'Number of these keys that must sign' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l kernel-args -d 'Kernel arguments of the device, such as its console' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l efi-mib -d 'Size of the boot partition in MiB, at least 34' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l slot-mib -d 'Size of each slot in MiB [default: 2.5 times the images, at least 256]' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l data-mib -d 'Size of the data partition in MiB' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l plain-http -d 'Unsafe: contact this registry without TLS. Repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l registry-ca -d 'Certificate authorities to trust beside those of the system, in PEM' -r -F
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l registry-auth-host -d 'Host of a token server that may get the password, beside the registry\'s own host. Repeatable' -r -f
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand factory" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand explain" -s q -l quiet -d 'Print only errors'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand explain" -s v -l verbose -d 'Increase verbosity'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand explain" -l json -d 'Print the result, or the error, as one JSON object'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand explain" -s h -l help -d 'Print help'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "keygen" -d 'Make an Ed25519 key pair: the private key for the publisher, the public key for every device'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "publish" -d 'Check, upload and sign a release, then move its tag'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "sign" -d 'Sign a published release: all architectures of a tag or digest'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "payload" -d 'Write the bytes to sign, one file for each architecture, for any signing tool'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "attach" -d 'Add signatures from another machine, if the given keys made them for this release'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "freshness" -d 'Publish a freshness statement: the release of this tag is the latest, so that devices detect hidden newer ones'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "verify" -d 'Verify a release as a device does: with the device\'s code and exit codes, without credentials'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "inspect" -d 'Show a published release, and check its signatures'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "list" -d 'List the releases of a repository: tags, versions, dates and signers'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "tag" -d 'Move tags to a published release, if all its architectures are signed'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "bundle" -d 'Write a published release into one file, for `kubesolo-update apply --bundle FILE` without a network'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "repack" -d 'Rewrite an initramfs with restart points, so that unchanged files are the same bytes in the next release'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "factory" -d 'Make the start of a device from a published release: slot A, boot partition, and the scripts that make a disk'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "explain" -d 'Explain a reason or an exit code: its meaning and the next step'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand help; and not __fish_seen_subcommand_from keygen publish sign payload attach freshness verify inspect list tag bundle repack factory explain help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubesolo-release -n "__fish_kubesolo_release_using_subcommand explain" -f -a "adopt-with-folders booted-with-devices doubled-images malformed-date no-images no-place reboot-with-folders usage bad-initramfs bad-redirect bad-url digest-mismatch file-changed file-replaced initramfs-broken kernel-unusable limit-exceeded malformed-bundle malformed-cosign-payload malformed-digest malformed-fingerprint malformed-freshness malformed-index malformed-json malformed-latest-json malformed-manifest malformed-patches malformed-pieces malformed-referrers malformed-signature malformed-slot-manifest malformed-user-data malformed-version no-channel serial-too-low size-mismatch size-unknown slot-damaged slot-incomplete slot-newer-schema slot-unreadable access-denied bundle-unreadable byte-budget captive-portal certificate-time certificate-untrusted client-certificate-wanted image-unreadable insecure-redirect login-refused not-found not-https not-readable notes-unreadable proxy-refused rate-limited registry-denied registry-failed registry-too-slow server-error signature-not-listed signature-unreadable tag-not-found timeout too-slow unreachable document-differs header illegal-phase internal json key-encoding no-authorities no-random no-random-numbers no-runtime no-such-image nothing-to-sign reboot runtime tls cannot-mount cannot-open-device cannot-unmount cannot-write damaged-filesystem data-incomplete data-space data-time device-busy env-full env-write filesystem-features io-error key-not-written loader-write no-space not-permitted not-written output read-back-failed read-only state-io-error state-no-space state-not-permitted state-not-writable state-read-only bytes-failed-before clock data-checkpoint data-unsettled delta-only disk-not-ready env-busy expired failed-before fleetlock foreign-environment hook-later interrupted locked no-checkpoint no-free-slot no-statement node-blocked not-before not-confirmed not-fresh not-the-latest nothing-staged nothing-to-roll-back other-architecture rollout single-copy statement-not-proven trial version-unknown window downgrade epoch-jump foreign-token-server hook-refused keys-revoked memory no-key no-such-architecture other-board other-channel same-version security-epoch serial-went-back signature-form signature-invalid signature-missing signature-of-index signature-revoked-key signature-unknown-key signatures-too-few too-old version-lower version-published wrong-architecture bad-ca bad-config bad-credentials bad-host bad-key bad-loader-file bad-record bad-mirror bad-proxy bad-reference bad-seed bad-server bad-tag bad-user-data bad-zone booted-slot-unknown bootenv-kind device-ambiguous device-not-found env-elsewhere env-invalid env-link env-unreadable foreign-data fw-env-config history-damaged hooks-unreadable http-client kernel-args key-exposed key-malformed key-unreadable loader-cannot-hash loader-not-in-use loader-unreadable newer-schema no-client no-command-line no-grub-cfg no-panic-timeout no-source no-sysfs no-verification-key old-loader slot-mismatch slot-unusable state-unusable too-few-keys unknown-grub-cfg unsafe-file unsafe-place version-file 64 65 69 70 73 75 77 78"
