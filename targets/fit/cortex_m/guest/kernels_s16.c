/* As kernels.c, for kernels with activations of 16 bits and weights of 8: biases have 64 bits, zero points are 0. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arm_nnfunctions.h"

#define CHANNELS 4096
static int16_t first[1 << 21], second[1 << 20], result[1 << 21], table[513];
static int8_t weights[1 << 22], scratch[1 << 21];
static int64_t bias[CHANNELS];
static int32_t multiplier[CHANNELS], shift[CHANNELS];

int run(int count, char **words)
{
    if (count != 14) return 2;
    int n[12];
    for (int i = 0; i < 12; i++) n[i] = atoi(words[2 + i]);
    static const char *const names[] = {"conv", "depthwise", "gemm", "average", "maximum", "add", "mul", "softmax"};
    enum { CONV, DEPTHWISE, GEMM, AVERAGE, MAXIMUM, ADD, MUL, SOFTMAX, NAMES } kernel = CONV;
    while (kernel < NAMES && strcmp(names[kernel], words[1])) kernel++;
    if (kernel == NAMES) return 3;
    const int ih = n[1], iw = n[2], cin = n[3], cout = n[4], kh = n[5], kw = n[6], stride = n[7], oh = n[8], ow = n[9];
    for (int i = 0; i < CHANNELS; i++) {
        multiplier[i] = 0x40000000 + 1000 * i;
        shift[i] = -7;
        bias[i] = i;
    }
    cmsis_nn_context context = {scratch, sizeof scratch};
    cmsis_nn_dims in = {1, ih, iw, cin}, out = {1, oh, ow, cout}, biases = {1, 1, 1, cout};
    cmsis_nn_per_channel_quant_params channels = {multiplier, shift};
    const cmsis_nn_bias_data wide = {bias, false};
    const cmsis_nn_tile strides = {stride, stride}, pads = {n[11], n[10]}, once = {1, 1};
    const cmsis_nn_activation limits = {-32768, 32767};
    for (int i = 0; i < n[0]; i++) {
        if (kernel == CONV) {
            cmsis_nn_dims window = {cout, kh, kw, cin};
            cmsis_nn_conv_params how = {0, 0, strides, pads, once, limits};
            arm_convolve_wrapper_s16(&context, &how, &channels, &in, first, &window, weights, &biases, &wide, &out,
                                     result);
        } else if (kernel == DEPTHWISE) {
            cmsis_nn_dims window = {1, kh, kw, cout};
            cmsis_nn_dw_conv_params how = {0, 0, 1, strides, pads, once, limits};
            arm_depthwise_conv_wrapper_s16(&context, &how, &channels, &in, first, &window, weights, &biases, bias,
                                           &out, result);
        } else if (kernel == GEMM) {
            cmsis_nn_dims matrix = {cin, 1, 1, cout}, row = {1, 1, 1, cin}, made = {1, 1, 1, cout};
            cmsis_nn_fc_params how = {0, 0, 0, limits};
            cmsis_nn_per_tensor_quant_params one = {multiplier[0], -7};
            arm_fully_connected_s16(&context, &how, &one, &row, first, &matrix, weights, &biases, bias, &made, result);
        } else if (kernel == AVERAGE || kernel == MAXIMUM) {
            cmsis_nn_dims window = {1, kh, kw, 1};
            cmsis_nn_pool_params how = {strides, pads, limits};
            (kernel == AVERAGE ? arm_avgpool_s16 : arm_max_pool_s16)(&context, &how, &in, first, &window, &out,
                                                                     result);
        } else if (kernel == ADD) {
            arm_elementwise_add_s16(first, second, 0, multiplier[0], -1, 0, multiplier[0], -1, 15, result, 0,
                                    multiplier[0], -14, -32768, 32767, ih * iw * cin);
        } else if (kernel == MUL) {
            arm_elementwise_mul_s16(first, second, 0, 0, result, 0, multiplier[0], -15, -32768, 32767, ih * iw * cin);
        } else {
            const cmsis_nn_softmax_lut_s16 tables = {table, table};
            arm_softmax_s16(first, ih, cin, multiplier[0], 0, &tables, result);
        }
    }
    return 0;
}
