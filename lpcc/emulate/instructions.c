/* A QEMU plugin that counts the instructions of an emulated AArch64 program by class, between marks.
 *
 * The program marks with getpgid(MARK + what), which fails and does nothing else:
 *   MARK + 0  start: counters to zero
 *   MARK + 1  start, and write the counters and set them to zero at every clock_gettime until the stop: onnxruntime's
 *             profiler reads the clock before and after each kernel
 *   MARK + 2  stop: write the counters
 * Lines go to the file of the argument `out=FILE`: first the names of the classes, then the mark (`clock`, `stop`) and
 * the counts. Counting is for one thread at a time.
 *
 * Debian's QEMU comes without the header of its plugin interface, so the few declarations used are restated here; they
 * are those of versions 1 (QEMU 4.2 to 8.2) and 3 (QEMU 9.1 on).
 *
 * Build: cc -O2 -shared -fPIC -DPLUGIN_API=1 -o instructions.so instructions.c
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "a64.h"

#define EXPORT __attribute__((visibility("default")))
#define MARK 7770000
#define SYS_CLOCK_GETTIME 113
#define SYS_GETPGID 155

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t));
#if PLUGIN_API < 3
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#else
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#endif

EXPORT int qemu_plugin_version = PLUGIN_API;

/* What one run through a translated block adds. Blocks are short: 16 bits are plenty. */
struct block {
    uint16_t adds[INSN_CLASSES];
};

static uint64_t counts[INSN_CLASSES];
static int at_clock;
static FILE *out;

static uint32_t word(const struct qemu_plugin_insn *insn)
{
    uint32_t x = 0;
#if PLUGIN_API < 3
    memcpy(&x, qemu_plugin_insn_data(insn), sizeof x);
#else
    qemu_plugin_insn_data(insn, &x, sizeof x);
#endif
    return x;
}

static void executed(unsigned cpu, void *data)
{
    const struct block *block = data;
    (void)cpu;
    for (int k = 0; k < INSN_CLASSES; k++)
        counts[k] += block->adds[k];
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    struct block *block = calloc(1, sizeof *block); /* lives as long as the program: QEMU keeps the pointer */
    (void)id;
    if (!block)
        abort();
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++)
        block->adds[class_of(word(qemu_plugin_tb_get_insn(tb, i)))]++;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void write_counts(const char *mark)
{
    fputs(mark, out);
    for (int k = 0; k < INSN_CLASSES; k++)
        fprintf(out, " %" PRIu64, counts[k]);
    fputc('\n', out);
    memset(counts, 0, sizeof counts);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == SYS_CLOCK_GETTIME && at_clock) {
        write_counts("clock");
    } else if (number == SYS_GETPGID && (a1 == MARK || a1 == MARK + 1)) {
        at_clock = a1 == MARK + 1;
        memset(counts, 0, sizeof counts);
    } else if (number == SYS_GETPGID && a1 == MARK + 2) {
        at_clock = 0;
        write_counts("stop");
        fflush(out);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
    if (!out) {
        fputs("instructions: cannot write the file of the argument out=FILE\n", stderr);
        return 1;
    }
    fputs("classes", out);
    for (int k = 0; k < INSN_CLASSES; k++)
        fprintf(out, " %s", insn_class_names[k]);
    fputc('\n', out);
    fflush(out);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
