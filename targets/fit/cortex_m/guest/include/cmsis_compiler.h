/* As much of CMSIS's compiler header as older releases of CMSIS-NN ask for. */
#pragma once
#include <arm_acle.h>
#include <stdint.h>
#define __STATIC_INLINE static inline
#define __STATIC_FORCEINLINE __attribute__((always_inline)) static inline
#define __ASM __asm
#define __WEAK __attribute__((weak))
#define __RESTRICT restrict
#define __ALIGNED(x) __attribute__((aligned(x)))
#define __CLZ(x) __builtin_clz(x)
static inline uint32_t rotate_(uint32_t x, uint32_t n) { return x >> n | x << (32 - n); }
#define __ROR(x, n) rotate_(x, n)
#define __SMLAD(x, y, z) __smlad(x, y, z)
#define __SMUAD(x, y) __smuad(x, y)
#define __SXTB16(x) __sxtb16(x)
#define __SXTAB16(x, y) __sxtab16(x, y)
#define __SADD16(x, y) __sadd16(x, y)
#define __SSUB16(x, y) __ssub16(x, y)
#define __QADD16(x, y) __qadd16(x, y)
#define __QADD(x, y) __qadd(x, y)
#define __QSUB(x, y) __qsub(x, y)
#define __SSAT(x, n) __ssat(x, n)
#define __USAT(x, n) __usat(x, n)
#define __PKHBT(a, b, n) ({ uint32_t r_; __asm("pkhbt %0, %1, %2, lsl %3" : "=r"(r_) : "r"(a), "r"(b), "I"(n)); r_; })
#define __PKHTB(a, b, n) ({ uint32_t r_; if (n) __asm("pkhtb %0, %1, %2, asr %3" : "=r"(r_) : "r"(a), "r"(b), "I"(n)); \
    else __asm("pkhtb %0, %1, %2" : "=r"(r_) : "r"(a), "r"(b)); r_; })
static inline uint32_t __SXTB16_RORn(uint32_t x, uint32_t n)
{
    uint32_t r;
    if (n != 8) return __sxtb16(rotate_(x, n));
    __asm("sxtb16 %0, %1, ROR #8" : "=r"(r) : "r"(x));
    return r;
}
static inline uint32_t __SXTAB16_RORn(uint32_t a, uint32_t x, uint32_t n)
{
    uint32_t r;
    if (n != 8) return __sxtab16(a, rotate_(x, n));
    __asm("sxtab16 %0, %1, %2, ROR #8" : "=r"(r) : "r"(a), "r"(x));
    return r;
}
