/* Which class an A64 instruction belongs to.
 *
 * The classes are those that tell kernels of neural networks apart: what multiplies and accumulates, what moves data,
 * and the rest. Decoding follows the encoding index of the Arm Architecture Reference Manual (DDI 0487), section C4.1,
 * as far as the classes need it; the masks below name the fields that they compare.
 */
#ifndef LPCC_A64_H
#define LPCC_A64_H

#include <stdint.h>

enum insn_class {
    FP_MAC,       /* fused multiply-add on floats, vector or scalar */
    DOT,          /* dot product of 8-bit integers or bfloat16 */
    MMLA,         /* matrix multiply-accumulate */
    INT_MAC,      /* multiply (and accumulate) of integer vectors, widening or not */
    FP_DIV,       /* division and square root of floats */
    FP,           /* all other arithmetic on floats: add, multiply, compare, convert */
    SIMD,         /* all other vector instructions: integer arithmetic, shuffles, moves */
    VECTOR_LOAD,
    VECTOR_STORE,
    LOAD,         /* of general registers; atomics and prefetches too */
    STORE,
    BRANCH,
    SCALAR,       /* everything on general registers, and system instructions */
    SVE,          /* scalable vectors: seen only on CPUs that have them switched on */
    INSN_CLASSES
};

static const char *const insn_class_names[INSN_CLASSES] = {
    "fp_mac", "dot", "mmla", "int_mac", "fp_div", "fp", "simd",
    "vector_load", "vector_store", "load", "store", "branch", "scalar", "sve",
};

/* Bits `high` to `low` of an instruction. */
static inline uint32_t bits(uint32_t x, int high, int low)
{
    return (x >> low) & ((2u << (high - low)) - 1);
}

static enum insn_class class_of_memory_access(uint32_t x)
{
    int vector = bits(x, 26, 26), load;
    if ((x & 0xbe000000) == 0x0c000000)              /* structures: ld1, st4, ld1r */
        return bits(x, 22, 22) ? VECTOR_LOAD : VECTOR_STORE;
    if ((x & 0x3b000000) == 0x18000000)              /* pc-relative */
        load = 1;
    else if (bits(x, 29, 27) == 5)                   /* pairs */
        load = bits(x, 22, 22);
    else if ((x & 0x3f000000) == 0x08000000)         /* exclusive and ordered */
        load = bits(x, 22, 22) || (bits(x, 23, 23) && bits(x, 21, 21)); /* compare and swap reads first */
    else if ((x & 0x3f200c00) == 0x38200000)         /* atomic read-modify-write */
        load = 1;
    else                                             /* one register; for general ones anything but opc=0 reads */
        load = vector ? bits(x, 22, 22) : bits(x, 23, 22) != 0;
    return vector ? (load ? VECTOR_LOAD : VECTOR_STORE) : (load ? LOAD : STORE);
}

/* Vector by one element of a vector: the workhorse of matrix kernels. */
static enum insn_class class_of_by_element(uint32_t x)
{
    int u = bits(x, 29, 29), size = bits(x, 23, 22);
    switch (bits(x, 15, 12)) {
    case 0x0: case 0x4:                              /* fmlal, fmlsl; mla, mls */
        return u ? INT_MAC : FP_MAC;
    case 0x1: case 0x5:                              /* fmla, fmls; fcmla */
        return FP_MAC;
    case 0x3: case 0x7:                              /* sqdmlal, sqdmlsl; fcmla */
        return u ? FP_MAC : INT_MAC;
    case 0x9:                                        /* fmul, fmulx */
        return FP;
    case 0x8: case 0xc:                              /* mul, sqdmulh; fmlal2, fmlsl2 */
        return u ? FP_MAC : INT_MAC;
    case 0xe:                                        /* sdot, udot */
        return DOT;
    case 0xf:                                        /* sudot, usdot, bfdot; bfmlal; sqrdmlsh */
        return u ? INT_MAC : size == 3 ? FP_MAC : DOT;
    default:                                         /* smlal, smlsl, smull, sqdmlal, sqrdmulh ... */
        return INT_MAC;
    }
}

static enum insn_class class_of_three_same(uint32_t x)
{
    uint32_t op = bits(x, 15, 11);
    int u = bits(x, 29, 29), high = bits(x, 23, 23);
    if (op == 0x12 || op == 0x13 || op == 0x16)      /* mla, mls; mul; sqdmulh */
        return INT_MAC;
    if (op < 0x18)
        return SIMD;
    if (op == 0x19 || (op == 0x1d && !u && bits(x, 22, 22) == 0)) /* fmla, fmls, fmlal2; fmlal, fmlsl */
        return FP_MAC;
    return op == 0x1f && u && !high ? FP_DIV : FP;
}

static enum insn_class class_of_three_same_extra(uint32_t x)
{
    int size = bits(x, 23, 22);
    switch (bits(x, 14, 11)) {
    case 0x0: case 0x1:                              /* sqrdmlah, sqrdmlsh */
        return INT_MAC;
    case 0x2: case 0x3:                              /* sdot, udot; usdot */
        return DOT;
    case 0x4: case 0x5: case 0xd:                    /* smmla, ummla; usmmla; bfmmla */
        return MMLA;
    case 0xf:                                        /* bfdot; bfmlal */
        return size == 3 ? FP_MAC : DOT;
    default:                                         /* fcmla, fcadd */
        return bits(x, 14, 13) == 2 ? FP_MAC : FP;
    }
}

static enum insn_class class_of_vector(uint32_t x)
{
    if (bits(x, 31, 24) == 0xce)                     /* cryptography */
        return SIMD;
    if (bits(x, 28, 24) == 0x0f) {                   /* by element, or shifts and immediates where bit 10 is set */
        if (!bits(x, 10, 10))
            return class_of_by_element(x);
        uint32_t op = bits(x, 15, 11);               /* scvtf, fcvtzs between fixed and floating point */
        return bits(x, 22, 19) && (op == 0x1c || op == 0x1f) ? FP : SIMD;
    }
    if (bits(x, 21, 21)) {
        if (bits(x, 10, 10))
            return class_of_three_same(x);
        if (bits(x, 11, 10) == 0) {                  /* three registers of different widths */
            uint32_t op = bits(x, 15, 12);
            return op >= 0x8 && op <= 0xd ? INT_MAC : SIMD;
        }
        uint32_t op = bits(x, 16, 12);               /* two registers, and across lanes */
        if (bits(x, 20, 17) == 0) {
            if (op == 0x1f && bits(x, 29, 29) && bits(x, 23, 23))
                return FP_DIV;                       /* fsqrt */
            return op >= 0x0c && (op < 0x12 || op > 0x14) ? FP : SIMD;
        }
        if (bits(x, 20, 17) == 0x8)
            return op >= 0x0c && op <= 0x0f ? FP : SIMD; /* fmaxnmv, fmaxv, faddp; addv ... */
        if (bits(x, 20, 17) == 0xc)                  /* two registers of half precision */
            return op == 0x1f && bits(x, 29, 29) ? FP_DIV : FP;
        return SIMD;                                 /* cryptography */
    }
    if (bits(x, 15, 15) && bits(x, 10, 10))
        return class_of_three_same_extra(x);
    if (bits(x, 22, 22) && bits(x, 15, 14) == 0 && bits(x, 10, 10)) { /* three registers of half precision */
        uint32_t op = bits(x, 13, 11);
        return op == 1 && !bits(x, 29, 29) ? FP_MAC : op == 7 && bits(x, 29, 29) ? FP_DIV : FP;
    }
    return SIMD;                                     /* tables, permutations, extract, copies */
}

static enum insn_class class_of_scalar_fp(uint32_t x)
{
    if (bits(x, 24, 24))                             /* fmadd, fmsub, fnmadd, fnmsub */
        return FP_MAC;
    if (bits(x, 21, 21) && bits(x, 11, 10) == 2 && bits(x, 15, 12) == 1)
        return FP_DIV;
    if (bits(x, 21, 21) && bits(x, 14, 10) == 0x10 && bits(x, 20, 15) == 3)
        return FP_DIV;                               /* fsqrt */
    return FP;
}

static enum insn_class class_of(uint32_t x)
{
    uint32_t group = bits(x, 28, 25);
    if ((group & 5) == 4)
        return class_of_memory_access(x);
    if ((group & 14) == 10)
        return bits(x, 31, 24) == 0xd5 ? SCALAR : BRANCH; /* d5: barriers, hints, system registers */
    if ((group & 7) == 7) {
        if (!bits(x, 28, 28))
            return class_of_vector(x);
        if (bits(x, 30, 30))                         /* vector instructions on one lane: the same opcodes */
            return class_of_vector(x & ~(1u << 28));
        return class_of_scalar_fp(x);
    }
    return group == 2 ? SVE : SCALAR;
}

#endif
