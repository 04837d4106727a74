/* Runs one int8 kernel of CMSIS-NN a number of times: kernel, repetitions, then ih iw cin cout kh kw stride oh ow pad_h
   pad_w. What the values are does not matter: the kernels have no branches on data, save for rare saturation. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arm_nnfunctions.h"

#define CHANNELS 4096
static int8_t first[1 << 22], second[1 << 21], weights[1 << 22], result[1 << 22], scratch[1 << 20];
static int32_t bias[CHANNELS], multiplier[CHANNELS], shift[CHANNELS];

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
    const cmsis_nn_tile strides = {stride, stride}, pads = {n[11], n[10]}, once = {1, 1};
    const cmsis_nn_activation limits = {-128, 127};
    for (int i = 0; i < n[0]; i++) {
        if (kernel == CONV) {
            cmsis_nn_dims window = {cout, kh, kw, cin};
            cmsis_nn_conv_params how = {128, -128, strides, pads, once, limits};
            arm_convolve_wrapper_s8(&context, &how, &channels, &in, first, &window, weights, &biases, bias, &out,
                                    result);
        } else if (kernel == DEPTHWISE) {
            cmsis_nn_dims window = {1, kh, kw, cout};
            cmsis_nn_dw_conv_params how = {128, -128, 1, strides, pads, once, limits};
            arm_depthwise_conv_wrapper_s8(&context, &how, &channels, &in, first, &window, weights, &biases, bias,
                                          &out, result);
        } else if (kernel == GEMM) {
            cmsis_nn_dims matrix = {cin, 1, 1, cout}, row = {1, 1, 1, cin}, made = {1, 1, 1, cout};
            cmsis_nn_fc_params how = {128, 0, -128, limits};
            cmsis_nn_per_tensor_quant_params one = {multiplier[0], -7};
            arm_fully_connected_s8(&context, &how, &one, &row, first, &matrix, weights, &biases, bias, &made, result);
        } else if (kernel == AVERAGE || kernel == MAXIMUM) {
            cmsis_nn_dims window = {1, kh, kw, 1};
            cmsis_nn_pool_params how = {strides, pads, limits};
            (kernel == AVERAGE ? arm_avgpool_s8 : arm_max_pool_s8)(&context, &how, &in, first, &window, &out, result);
        } else if (kernel == ADD) {
            arm_elementwise_add_s8(first, second, 128, multiplier[0], -1, 128, multiplier[0], -1, 20, result, -128,
                                   multiplier[0], -19, -128, 127, ih * iw * cin);
        } else if (kernel == MUL) {
            arm_elementwise_mul_s8(first, second, 128, 128, result, -128, multiplier[0], -7, -128, 127, ih * iw * cin);
        } else {
            arm_softmax_s8(first, ih, cin, multiplier[0], 20, -200, result);
        }
    }
    return 0;
}
