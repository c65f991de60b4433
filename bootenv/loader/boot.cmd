# kubesolo-update loader 1
# The bootloader's side of the A/B slot protocol for U-Boot: which slot a power-on boots, and what is stored before.
# bootenv/src/boot.rs is the same decision in Rust; a test replays one against the other.
#
# Runs as boot.scr, which U-Boot's own boot command finds, with `devtype`, `devnum` and `distro_bootpart` set. Needs no
# change of U-Boot: commands `part`, `load`, `env import`, `env export`, `crc32`, `setexpr` with regular expressions, and
# `read` and `write` of the kind of disk.
#
# A board whose U-Boot counts boots itself (CONFIG_BOOTCOUNT_ENV, see bootcount.env) keeps the protocol's variables in U-Boot's own
# environment and runs this with ks_counted=1: nothing is read, counted or stored here then.
#
# U-Boot's shell has no functions and no arithmetic on variables. Rules that hold for every line here:
# - After a failure the script continues: it never ends at a prompt.
# - The copy that counts is never written: a store goes to the other one, with the next number.
# - A counter is saved before anything is checked or loaded, so that a hang uses up a try.
# - Regular expressions have no ranges: `[0-9]` is three characters.
# - Numbers are hexadecimal. A value from the disk is only compared, with a letter before it: it may be anything.

# --- Settings, which kernel-args.txt beside boot.scr may change ----------------------------------------------------
setenv ks_args "console=tty0 console=ttyAMA0,115200n8"
# Seconds, in decimal, until the next attempt when nothing can be loaded.
setenv ks_delay 30
# The environment: size of a copy, where the second one begins. As in fw_env.config, and whole blocks of 512 bytes.
setenv ks_size 4000
setenv ks_second 80000

test -n "${devtype}" || setenv devtype virtio
test -n "${devnum}" || setenv devnum 0
setenv ks_disk "${devtype} ${devnum}"
# Work areas: after what the script itself was loaded to lie the images; these are between.
setexpr ks_work ${kernel_addr_r} - 100000
setexpr ks_raw ${ks_work} + 10000
setexpr ks_back ${ks_work} + 20000
setexpr ks_sum ${ks_work} + 30000
# A device tree of the release, 80000 bytes at most: where the board wants it, else behind the work areas.
setexpr ks_tree_at ${ks_work} + 40000
if test -n "${fdt_addr_r}"; then setexpr ks_tree_at ${fdt_addr_r} + 0; fi
if test -n "${distro_bootpart}"; then
    if load ${ks_disk}:${distro_bootpart} 0x${ks_work} kernel-args.txt 1000; then
        env import -t 0x${ks_work} ${filesize} ks_args ks_delay
    fi
fi

# --- Places: all on the disk that the script came from --------------------------------------------------------------
${devtype} dev ${devnum}
setenv ks_part_a
setenv ks_part_b
setenv ks_part_env
part number ${ks_disk} KSOLOA ks_part_a
part number ${ks_disk} KSOLOB ks_part_b
part number ${ks_disk} KSOLOENV ks_part_env
setenv ks_names "ks_v active_slot boot_success boot_counter ks_good ks_a ks_b ks_trial ks_seal ks_end"
setexpr ks_blocks 0x${ks_size} / 200
# Part of a copy that `env import` and `env export` handle: no flags, so one byte less.
setexpr ks_plain 0x${ks_size} - 1
# Bytes of data.
setexpr ks_bytes 0x${ks_size} - 5

# --- Reading the environment -----------------------------------------------------------------------------------------
# Of each copy: its flags if its checksum is right, else nothing.
setenv ks_flags_0
setenv ks_flags_1
setenv ks_start
if test -n "${ks_part_env}" && part start ${ks_disk} ${ks_part_env} ks_start; then
    setenv ks_block_0 ${ks_start}
    setexpr ks_block_1 0x${ks_second} / 200
    setexpr ks_block_1 0x${ks_block_1} + 0x${ks_start}
    # Puts the copy at block ${ks_block} where `env import -c` reads it: checksum and data side by side.
    setenv ks_fetch 'mw.b 0x${ks_raw} 0 0x${ks_size}; if ${devtype} read 0x${ks_raw} 0x${ks_block} 0x${ks_blocks}; then cp.b 0x${ks_raw} 0x${ks_work} 4; setexpr ks_from 0x${ks_raw} + 5; setexpr ks_to 0x${ks_work} + 4; cp.b 0x${ks_from} 0x${ks_to} 0x${ks_bytes}; setexpr ks_at 0x${ks_raw} + 4; true; else false; fi'
    for ks_copy in 0 1; do
        if test ${ks_copy} = 0; then setenv ks_block ${ks_block_0}; else setenv ks_block ${ks_block_1}; fi
        if run ks_fetch; then
            if env import -c 0x${ks_work} 0x${ks_plain} ks_nothing; then
                setexpr.b ks_flags_${ks_copy} *0x${ks_at}
            fi
        fi
    done
fi

# The copy that counts has the higher flags, but 0 comes after ff.
setenv ks_copy
if test -n "${ks_flags_0}" -a -n "${ks_flags_1}"; then
    setenv ks_copy 0
    if itest 0x${ks_flags_1} -gt 0x${ks_flags_0}; then setenv ks_copy 1; fi
    if itest 0x${ks_flags_0} == 0xff && itest 0x${ks_flags_1} == 0; then setenv ks_copy 1; fi
    if itest 0x${ks_flags_0} == 0 && itest 0x${ks_flags_1} == 0xff; then setenv ks_copy 0; fi
elif test -n "${ks_flags_0}"; then
    setenv ks_copy 0
elif test -n "${ks_flags_1}"; then
    setenv ks_copy 1
fi
if test -n "${ks_counted}"; then
    setenv ks_copy
else
    for ks_name in ${ks_names}; do setenv ${ks_name}; done
fi
if test -n "${ks_copy}"; then
    if test ${ks_copy} = 0; then
        setenv ks_block ${ks_block_0}
        setenv ks_other_block ${ks_block_1}
        setexpr ks_flags 0x${ks_flags_0} + 1
    else
        setenv ks_block ${ks_block_1}
        setenv ks_other_block ${ks_block_0}
        setexpr ks_flags 0x${ks_flags_1} + 1
    fi
    setexpr ks_flags 0x${ks_flags} "&" ff
    # Only these are imported: the environment cannot change a variable of this script.
    if run ks_fetch; then env import -c 0x${ks_work} 0x${ks_plain} ${ks_names}; fi
fi

# --- ks_view: ours, foreign (somebody else wrote last) or invalid --------------------------------------------------------
setenv ks_view invalid
setenv ks_odd
test "x${active_slot}" = xA -o "x${active_slot}" = xB || setenv ks_odd 1
test "x${boot_success}" = x0 -o "x${boot_success}" = x1 || setenv ks_odd 1
test "x${boot_counter}" = x0 -o "x${boot_counter}" = x1 -o "x${boot_counter}" = x2 -o "x${boot_counter}" = x3 || setenv ks_odd 1
if test -z "${ks_odd}"; then
    if test -z "${ks_v}" -a -z "${ks_end}"; then
        setenv ks_view foreign
    else
        test "x${ks_v}" = x1 -a "x${ks_end}" = x1 || setenv ks_odd 1
        test "x${ks_good}" = xA -o "x${ks_good}" = xB || setenv ks_odd 1
        test "x${ks_a}" = xgood -o "x${ks_a}" = xvoid -o "x${ks_a}" = xfail || setenv ks_odd 1
        test "x${ks_b}" = xgood -o "x${ks_b}" = xvoid -o "x${ks_b}" = xfail || setenv ks_odd 1
        setenv ks_match
        setexpr ks_match sub "^[0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef]$" yes "${ks_trial}"
        test "x${ks_match}" = xyes || setenv ks_odd 1
        if test -z "${ks_odd}"; then
            setenv ks_view foreign
            if test "x${ks_seal}" = "x${active_slot}${boot_success}"; then setenv ks_view ours; fi
        fi
    fi
fi

# --- Slots -----------------------------------------------------------------------------------------------------------------
# Loads slot ${ks_slot} as it is, without what its release adds. A kernel that would reach into the initramfs, or is no arm64
# Image, does not load.
setenv ks_load 'setenv ks_slot_args; setenv ks_fdt_slot; if test ${ks_slot} = A; then setenv ks_part ${ks_part_a}; else setenv ks_part ${ks_part_b}; fi; mw.l ${kernel_addr_r} 0 20; setenv filesize; if test -n "${ks_part}" && load ${ks_disk}:${ks_part} ${kernel_addr_r} vmlinuz && test -n "${filesize}"; then setenv ks_kernel ${filesize}; setexpr ks_behind ${kernel_addr_r} + 0x${ks_kernel}; setexpr ks_magic ${kernel_addr_r} + 38; setenv filesize; if itest 0x${ks_behind} -le ${ramdisk_addr_r} && itest.l *0x${ks_magic} == 0x644d5241 && load ${ks_disk}:${ks_part} ${ramdisk_addr_r} kubesolo-os.gz && test -n "${filesize}" && itest 0x${filesize} -gt 0; then setenv ks_initramfs ${filesize}; true; else false; fi; else false; fi'
# True if ${ks_size_of} bytes at ${ks_from} have the checksum ${ks_told}, eight digits. `crc32` stores big-endian.
setenv ks_compare 'crc32 ${ks_from} ${ks_size_of} 0x${ks_sum}; setenv ks_match; setexpr ks_match sub "^[0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef][0123456789abcdef]$" yes "${ks_told}"; if test "x${ks_match}" = xyes; then setexpr ks_wanted sub "^(..)(..)(..)(..)$" "\\\\4\\\\3\\\\2\\\\1" "${ks_told}"; itest.l *0x${ks_sum} == 0x${ks_wanted}; else false; fi'
# Takes what the release adds to the images in memory. False where it belongs to these images, and is damaged: args.env has a
# checksum, and names the checksums of the images. What an older agent left behind names others. No file: there is nothing.
# No word of ours may come from a release: the last one of a name counts.
setenv ks_tree 'setenv filesize; if test -z "${dtb_size}" -a -z "${dtb_crc32}"; then true; elif itest 0x${dtb_size} -le 0x80000 && load ${ks_disk}:${ks_part} 0x${ks_tree_at} board.dtb 80001 && test "x${filesize}" = "x${dtb_size}"; then setenv ks_from 0x${ks_tree_at}; setenv ks_size_of ${dtb_size}; setenv ks_told ${dtb_crc32}; if run ks_compare && fdt addr 0x${ks_tree_at} && fdt resize 2000; then setenv ks_fdt_slot 0x${ks_tree_at}; else false; fi; else false; fi'
setenv ks_extras 'setenv filesize; if test -e ${ks_disk}:${ks_part} args.env; then if load ${ks_disk}:${ks_part} 0x${ks_work} args.env 801 && test "x${filesize}" = x800 && env import -c 0x${ks_work} 800 ks_slot_args ks_of dtb_crc32 dtb_size; then if test "x${ks_of}" = "x${kernel_crc32}${initramfs_crc32}"; then setenv ks_match; setexpr ks_match sub " (ks|kubesolo)[.]" yes " ${ks_slot_args}"; if test -z "${ks_match}"; then run ks_tree; else false; fi; else setenv ks_slot_args; true; fi; else false; fi; else true; fi'
# Loads slot ${ks_slot} if both images match their checksums, with what the release adds. These find damage; an attacker who
# can write the slot can write them too.
setenv ks_hold 'echo "ks: checking slot=${ks_slot}"; setenv kernel_crc32; setenv initramfs_crc32; if run ks_load && load ${ks_disk}:${ks_part} 0x${ks_work} crc32.txt 100 && env import -t 0x${ks_work} ${filesize} kernel_crc32 initramfs_crc32; then setenv ks_from ${kernel_addr_r}; setenv ks_size_of ${ks_kernel}; setenv ks_told ${kernel_crc32}; if run ks_compare; then setenv ks_from ${ramdisk_addr_r}; setenv ks_size_of ${ks_initramfs}; setenv ks_told ${initramfs_crc32}; if run ks_compare; then run ks_extras; else false; fi; else false; fi; else false; fi'

# --- The decision: which slot is first, in which states both are, and what is stored ----------------------------------------
setenv ks_id 00000000
setenv ks_why
setenv ks_store
setenv ks_state_a good
setenv ks_state_b good
if test ${ks_view} = ours; then
    setenv ks_first ${active_slot}
    setenv ks_words committed
    setenv ks_rescue ${ks_good}
    # As they were, if nothing can be stored.
    setenv ks_before_a ${ks_a}
    setenv ks_before_b ${ks_b}
    if test ${boot_success} = 0 -a -n "${ks_counted}"; then
        setenv ks_words "try bootcount=${bootcount}"
        setenv ks_id ${ks_trial}
    elif test ${boot_success} = 0; then
        setenv ks_store ours
        if test ${boot_counter} = 0; then
            # One store: the last good slot is active and committed, the one on trial failed. The trial's id stays for
            # userspace to see.
            echo "ks: no tries left for slot ${active_slot}: returning to slot ${ks_good}"
            setenv active_slot ${ks_good}
            setenv boot_success 1
            if test ${ks_good} = A; then setenv ks_b fail; else setenv ks_a fail; fi
            setenv ks_first ${ks_good}
        else
            setexpr boot_counter ${boot_counter} - 1
            setenv ks_words "try counter=${boot_counter}"
            setenv ks_id ${ks_trial}
        fi
    fi
    setenv ks_state_a ${ks_a}
    setenv ks_state_b ${ks_b}
elif test ${ks_view} = foreign; then
    if test "x${ks_a}" = xfail; then setenv ks_state_a fail; fi
    if test "x${ks_b}" = xfail; then setenv ks_state_b fail; fi
    setenv ks_before_a ${ks_state_a}
    setenv ks_before_b ${ks_state_b}
    setenv ks_first ${active_slot}
    setenv ks_rescue ${active_slot}
    setenv ks_words "foreign, confirmed"
    if test ${boot_success} = 0; then
        if test ${boot_counter} = 0; then
            if test ${active_slot} = A; then setenv ks_slot B; else setenv ks_slot A; fi
            if run ks_hold; then
                echo "ks: no tries left for slot ${active_slot}: starting slot ${ks_slot}"
                setenv ks_store foreign
                setenv active_slot ${ks_slot}
                setenv boot_counter 2
                setenv ks_first ${ks_slot}
            fi
        else
            setenv ks_store foreign
            setexpr boot_counter ${boot_counter} - 1
        fi
        setenv ks_words "foreign, try counter=${boot_counter}"
    fi
else
    echo "ks: no copy of the boot environment is valid"
    setenv ks_why env
    setenv ks_first A
fi

# --- Storing: the whole set into the other copy, read back ----------------------------------------------------------------------
if test -n "${ks_store}" -a -z "${ks_counted}"; then
    # Never a matching seal over what somebody else wrote: only userspace adopts that. What is not there is not added.
    if test ${ks_store} = ours; then
        setenv ks_seal ${active_slot}${boot_success}
    elif test -n "${ks_seal}"; then
        setenv ks_seal --
    fi
    setenv ks_saved
    if env export -c -s 0x${ks_plain} 0x${ks_work} ${ks_names}; then
        cp.b 0x${ks_work} 0x${ks_raw} 4
        setexpr ks_at 0x${ks_raw} + 4
        mw.b 0x${ks_at} 0x${ks_flags}
        setexpr ks_from 0x${ks_work} + 4
        setexpr ks_to 0x${ks_raw} + 5
        cp.b 0x${ks_from} 0x${ks_to} 0x${ks_bytes}
        mw.b 0x${ks_back} 0 0x${ks_size}
        if ${devtype} write 0x${ks_raw} 0x${ks_other_block} 0x${ks_blocks}; then
            if ${devtype} read 0x${ks_back} 0x${ks_other_block} 0x${ks_blocks}; then
                if cmp.b 0x${ks_raw} 0x${ks_back} 0x${ks_size}; then setenv ks_saved 1; fi
            fi
        fi
    fi
    if test -z "${ks_saved}"; then
        echo "ks: the boot environment cannot be saved"
        setenv ks_why save
        setenv ks_id 00000000
        setenv ks_first ${ks_rescue}
        setenv ks_state_a ${ks_before_a}
        setenv ks_state_b ${ks_before_b}
    fi
fi

# --- Booting ------------------------------------------------------------------------------------------------------------------------
# The chosen slot if it is good and its files match. Otherwise anything. First a slot whose files match: a good one, a void
# one, a failed one. Then one that loads without a match. Such a boot is never a trial, and stores nothing.
if test ${ks_first} = A; then setenv ks_order "A B"; else setenv ks_order "B A"; fi
setenv ks_bad_a
setenv ks_bad_b
for ks_want in asked good void fail any; do
    if test ${ks_want} != asked -a -z "${ks_why}"; then
        setenv ks_why load
        setenv ks_id 00000000
    fi
    for ks_turn in ${ks_order}; do
        setenv ks_slot ${ks_turn}
        if test ${ks_slot} = A; then
            setenv ks_state ${ks_state_a}
            setenv ks_bad ${ks_bad_a}
        else
            setenv ks_state ${ks_state_b}
            setenv ks_bad ${ks_bad_b}
        fi
        setenv ks_go
        if test ${ks_want} = any; then
            setenv ks_words "fallback=${ks_why}: its files are not verified"
            if run ks_load; then setenv ks_go 1; fi
        else
            setenv ks_fits
            if test ${ks_want} = asked; then
                if test -z "${ks_why}" -a ${ks_slot} = ${ks_first} -a ${ks_state} = good; then setenv ks_fits 1; fi
            elif test ${ks_state} = ${ks_want}; then
                setenv ks_words "fallback=${ks_why}: it is ${ks_state}, and its files match"
                setenv ks_fits 1
            fi
            if test -n "${ks_fits}" -a -z "${ks_bad}"; then
                if run ks_hold; then
                    setenv ks_go 1
                else
                    echo "ks: slot ${ks_slot} cannot be used: a file is missing, does not match its checksum or cannot be loaded"
                    if test ${ks_slot} = A; then setenv ks_bad_a 1; else setenv ks_bad_b 1; fi
                fi
            fi
        fi
        if test -n "${ks_go}"; then
            # Ours first: a line that is too long loses its end. Of the others the last one counts: the device's settings
            # override the release.
            setenv bootargs "kubesolo.slot=${ks_slot} ks.trial=${ks_id} ks.proto=1"
            # The identity of the slot's partition, so that userspace finds the disk that this boot came from.
            setenv ks_guid
            part uuid ${ks_disk}:${ks_part} ks_guid
            if test -n "${ks_guid}"; then setenv bootargs "${bootargs} ks.part=${ks_guid}"; fi
            setenv bootargs "${bootargs} ks.loader=1"
            if test -n "${ks_why}"; then setenv bootargs "${bootargs} ks.fallback=${ks_why}"; fi
            setenv bootargs "${bootargs} panic=5"
            if test -n "${ks_slot_args}"; then setenv bootargs "${bootargs} ${ks_slot_args}"; fi
            setenv bootargs "${bootargs} ${ks_args}"
            if test -n "${fdt_addr}"; then setenv ks_fdt ${fdt_addr}; else setenv ks_fdt ${fdtcontroladdr}; fi
            if test -n "${ks_fdt_slot}"; then setenv ks_fdt ${ks_fdt_slot}; fi
            echo "ks: boot slot=${ks_slot} ${ks_words} trial=${ks_id}"
            booti ${kernel_addr_r} ${ramdisk_addr_r}:${ks_initramfs} ${ks_fdt}
            # It came back: no kernel that can be started.
            if test ${ks_slot} = A; then setenv ks_bad_a 1; else setenv ks_bad_b 1; fi
        fi
    done
done

# A restart reads everything again, including the copies in the firmware.
echo "ks: nothing can be loaded, trying again in ${ks_delay} s"
sleep ${ks_delay}
reset
