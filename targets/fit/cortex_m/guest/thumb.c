/* QEMU plugin (API 1, QEMU 6.0 and later): executed Thumb instructions, printed at exit as "total multiply vector".
   Built by count.py; the declarations restate as much of the plugin interface as is used. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct block;
struct instruction;
typedef uint64_t plugin;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin, void (*)(plugin, struct block *));
extern void qemu_plugin_register_atexit_cb(plugin, void (*)(plugin, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct instruction *, int, void *, uint64_t);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t total, multiply, vector;

/* By its first half, as QEMU shows no more of an instruction that crosses a page. */
static uint64_t *class_of(const uint8_t *byte)
{
    const unsigned half = byte[0] | byte[1] << 8;
    if (half < 0xe800) return NULL; /* 16 bits wide */
    if ((half & 0xff00) == 0xfb00) return &multiply;                    /* MLA, SMLAD, SMULL, ... */
    if ((half & 0xee00) == 0xec00) return &vector;                      /* vector loads and stores */
    if ((half & 0xef00) == 0xee00 || (half & 0xef00) == 0xef00) return &vector; /* vector and floating point */
    return NULL;
}

static void translated(plugin id, struct block *block)
{
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct instruction *found = qemu_plugin_tb_get_insn(block, i);
        uint64_t *kind = class_of(qemu_plugin_insn_data(found));
        qemu_plugin_register_vcpu_insn_exec_inline(found, 0, &total, 1);
        if (kind) qemu_plugin_register_vcpu_insn_exec_inline(found, 0, kind, 1);
    }
    (void)id;
}

static void left(plugin id, void *data)
{
    fprintf(stderr, "counted %llu %llu %llu\n", (unsigned long long)total, (unsigned long long)multiply,
            (unsigned long long)vector);
    (void)id, (void)data;
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin id, const void *info, int count, char **words)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, left, NULL);
    (void)info, (void)count, (void)words;
    return 0;
}
