/* A kernel for arm64 that says which file it came from, which command line, which initramfs and which device tree it was given,
 * and switches the board off. Its name lies at byte 1024. */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

/* The header of an arm64 Image (Documentation/arch/arm64/booting.rst of Linux). */
__asm__(".section .text.unlikely, \"ax\"\n"
        "head: b start\n"
        ".long 0\n"
        ".quad 0\n"       /* text_offset */
        ".quad 0x100000\n" /* image_size */
        ".quad 0xa\n"     /* flags: little-endian, 4 KiB pages, anywhere */
        ".quad 0, 0, 0\n"
        ".ascii \"ARM\\x64\"\n"
        ".long 0\n"
        "start: adr x1, start\n"
        "add x1, x1, #0x80, lsl #12\n"
        "mov sp, x1\n"
        "bl tell\n"
        "ldr w0, =0x84000008\n" /* PSCI: SYSTEM_OFF */
        "hvc #0\n"
        "1: b 1b\n");

extern const char head[];

static void say(const char *text) {
    volatile u32 *uart = (volatile u32 *)0x09000000; /* PL011 of QEMU's virt board */
    for (; *text; text++) {
        while (uart[6] & 0x20) {
        }
        uart[0] = (u8)*text;
    }
}

static u32 number(const u8 *at) { return (u32)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

static int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

/* The device tree: a property `bootargs`, where the initramfs lies, and the name of a tree of the tests. */
void tell(const u8 *tree) {
    const u8 *at = tree + number(tree + 8);
    const char *names = (const char *)tree + number(tree + 12);
    const char *line = "", *initramfs = " none\n", *name_of_tree = 0;
    for (;;) {
        u32 token = number(at);
        at += 4;
        if (token == 1) {
            u32 length = 0;
            while (at[length]) length++;
            at += (length + 4) & ~3u;
        } else if (token == 3) {
            u32 length = number(at);
            const char *name = names + number(at + 4);
            const u8 *value = at + 8;
            if (same(name, "bootargs")) line = (const char *)value;
            if (same(name, "kubesolo,test")) name_of_tree = (const char *)value;
            if (same(name, "linux,initrd-start")) {
                u64 start = number(value);
                if (length == 8) start = start << 32 | number(value + 4);
                initramfs = (const char *)start;
            }
            at = value + ((length + 3) & ~3u);
        } else if (token == 9) {
            break;
        }
    }
    say(head + 1024);
    say(line);
    if (name_of_tree) {
        say(" tree=");
        say(name_of_tree);
    }
    say(initramfs);
}
