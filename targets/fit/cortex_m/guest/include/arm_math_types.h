/* As much of CMSIS-DSP's types as older releases of CMSIS-NN ask for. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "cmsis_compiler.h"
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#define ARM_MATH_DSP
#endif
typedef int8_t q7_t;
typedef int16_t q15_t;
typedef int32_t q31_t;
typedef int64_t q63_t;
typedef enum { ARM_MATH_SUCCESS = 0, ARM_MATH_ARGUMENT_ERROR = -1, ARM_MATH_SIZE_MISMATCH = -3 } arm_status;
