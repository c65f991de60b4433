//! A kernel of 1 KiB that says which file it came from, which command line and which initramfs it was given, and ends
//! QEMU. It makes a power-on cost about a second.

use std::fs;
use std::path::Path;
use std::process::Command;

use bootenv::SlotId;

use crate::image::{Content, Plan, Size};
use crate::runner::Run;
use crate::{Result, root, run, tool};

/// The device that QEMU needs for the stub to end it.
pub const DEVICE: [&str; 2] = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
/// QEMU's exit code then: twice the byte that the stub writes, plus one.
pub const EXIT: i32 = 0x21;

/// Where a kernel in this format is loaded and entered, in 32-bit mode with `esi` at the boot parameters
/// (Documentation/x86/boot.rst of Linux).
const LOADED_AT: u32 = 0x10_0000;
/// Boot sector and one sector of set-up code, both unused but for the header. For arm64 where the name lies.
const HEADER: usize = 1024;

/// Printed before the command line is the name; an initramfs for the stub is text that ends in NUL.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0x89, 0xf3,                         //       mov  ebx, esi
    0xbe, 0x46, 0x00, 0x10, 0x00,       //       mov  esi, LOADED_AT + name
    0xe8, 0x20, 0x00, 0x00, 0x00,       //       call print
    0x8b, 0xb3, 0x28, 0x02, 0x00, 0x00, //       mov  esi, [ebx + 0x228]   ; cmd_line_ptr
    0xe8, 0x15, 0x00, 0x00, 0x00,       //       call print
    0x8b, 0xb3, 0x18, 0x02, 0x00, 0x00, //       mov  esi, [ebx + 0x218]   ; ramdisk_image
    0xe8, 0x0a, 0x00, 0x00, 0x00,       //       call print
    0x66, 0xba, 0xf4, 0x00,             //       mov  dx, 0xf4             ; isa-debug-exit
    0xb0, 0x10,                         //       mov  al, 0x10
    0xee,                               //       out  dx, al
    0xf4,                               // halt: hlt
    0xeb, 0xfd,                         //       jmp  halt
    0xac,                               // print: lodsb
    0x84, 0xc0,                         //       test al, al
    0x74, 0x14,                         //       jz   done
    0x88, 0xc4,                         //       mov  ah, al
    0x66, 0xba, 0xfd, 0x03,             //       mov  dx, 0x3fd            ; COM1, line status
    0xec,                               // wait: in   al, dx
    0xa8, 0x20,                         //       test al, 0x20
    0x74, 0xfb,                         //       jz   wait
    0x66, 0xba, 0xf8, 0x03,             //       mov  dx, 0x3f8            ; COM1, data
    0x88, 0xe0,                         //       mov  al, ah
    0xee,                               //       out  dx, al
    0xeb, 0xe7,                         //       jmp  print
    0xc3,                               // done: ret
]; // name:

/// A kernel that prints `name`, then its command line, then its initramfs.
#[must_use]
pub fn kernel(name: &str) -> Vec<u8> {
    let mut image = vec![0; HEADER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x202, b"HdrS");
    put(0x206, &0x0206_u16.to_le_bytes()); // version: the first with a size of the command line
    put(0x211, &[1]); // loadflags: loaded high
    put(0x214, &LOADED_AT.to_le_bytes()); // code32_start
    put(0x22c, &0x37ff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    image.extend_from_slice(CODE);
    image.extend_from_slice(name.as_bytes());
    image.push(0);
    image
}

/// The same for arm64, compiled from C.
///
/// # Errors
/// There is no compiler for arm64.
fn arm64(dir: &Path) -> Result<Vec<u8>> {
    let source = root().join("tests/qemu/guest/stub-arm64.c");
    let (program, image) = (dir.join("stub.elf"), dir.join("stub.bin"));
    let mut compiler = Command::new(tool("aarch64-linux-gnu-gcc")?);
    compiler.args([
        "-Os",
        "-ffreestanding",
        "-fno-pie",
        "-no-pie",
        "-nostdlib",
        "-static",
        "-fno-stack-protector",
        "-fno-asynchronous-unwind-tables",
        "-mgeneral-regs-only",
    ]);
    compiler.args(["-mstrict-align", "-Wl,-Ttext=0,--build-id=none,-n,-e,0"]).arg("-o").arg(&program).arg(source);
    run(&mut compiler)?;
    run(Command::new(tool("aarch64-linux-gnu-objcopy")?).args(["-O", "binary"]).arg(&program).arg(&image))?;
    Ok(fs::read(image)?)
}

/// A disk for arm64 with a stub in each slot, whose kernel and initramfs say which slot they are of.
///
/// # Errors
/// There is no compiler for arm64, or a file cannot be written.
pub fn arm64_plan(run: &Run) -> Result<Plan> {
    let stub = arm64(&run.dir)?;
    let content = |slot: SlotId| -> Result<Content> {
        let kernel = arm64_kernel(&stub, &format!("\nks-stub: kernel {slot}: "));
        let kernel = run.write(&format!("kernel-{slot}"), &kernel)?;
        let initramfs = run.write(&format!("initramfs-{slot}"), format!(" initramfs {slot}\n\0").as_bytes())?;
        Ok(Content::new(&kernel, &initramfs))
    };
    let mut plan = Plan::new(content(SlotId::A)?);
    plan.b = Some(content(SlotId::B)?);
    plan.size = Size { esp: 34, slot: 2, data: 2 };
    plan.firmware = run.firmware;
    Ok(plan)
}

/// A flattened device tree without devices, which [`arm64_plan`]'s kernel prints the name of (Devicetree Specification 0.4, 5).
#[must_use]
pub fn tree(name: &str) -> Vec<u8> {
    const NAMES: &[u8] = b"#address-cells\0#size-cells\0kubesolo,test\0";
    let cell = |number: usize| (number as u32).to_be_bytes().to_vec();
    let property = |at: usize, value: &[u8]| {
        let mut bytes = [cell(3), cell(value.len()), cell(at), value.to_vec()].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let name = format!("{name}\0");
    let properties = [property(0, &cell(2)), property(15, &cell(2)), property(27, name.as_bytes())].concat();
    let structure = [cell(1), cell(0), properties, cell(2), cell(9)].concat();
    let reserved = vec![0; 16];
    let (header, at) = (40, 40 + reserved.len());
    let names = at + structure.len();
    let sizes = [names + NAMES.len(), at, names, header, 17, 16, 0, NAMES.len(), structure.len()];
    let header = [vec![0xd0, 0x0d, 0xfe, 0xed], sizes.map(cell).concat()].concat();
    [header, reserved, structure, NAMES.to_vec()].concat()
}

/// A kernel for arm64 that prints `name`.
fn arm64_kernel(stub: &[u8], name: &str) -> Vec<u8> {
    let mut image = stub.to_vec();
    image.resize(HEADER, 0);
    [&image, name.as_bytes(), b"\0"].concat()
}
