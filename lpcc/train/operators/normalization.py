"""Operators that bring what they read to a common mean and scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, as_listed


def batch_normalization(call: Call) -> Kernel:
    """`y = scale * (x - mean) / sqrt(var + epsilon) + bias`, for each channel.

    In training the mean and the (biased) variance are the batch's own, and the running ones, inputs 3 and 4, are
    updated in place: running = (1 - momentum) * running + momentum * batch, with torch's unbiased variance (n - 1).
    A batch of one value for each channel has no variance: the running statistics serve. A node whose attribute
    training_mode is 1 always uses those of its batch, and gives running statistics out, with the biased variance.
    """
    epsilon, mode = call.real("epsilon", 1e-5), call.mode
    if call.opset < 9 and not call.integer("spatial", 1):
        raise Unsupported("spatial=0: statistics for each element")
    if call.integer("training_mode", 0):
        return _always_training(call, epsilon, call.real("momentum", 0.9))
    if call.outputs > 1:
        raise Unsupported("the statistics of the batch as outputs")

    def kernel(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        training = mode.training and x.numel() > scale.numel()
        return torch.batch_norm(x, scale, bias, mean, var, training, mode.momentum, epsilon, True)

    return kernel


def _always_training(call: Call, epsilon: float, momentum: float) -> Kernel:
    def kernel(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        axes = (0, *range(2, x.dim()))
        batch_var, batch_mean = torch.var_mean(x.to(torch.promote_types(x.dtype, mean.dtype)), axes, unbiased=False)
        y = F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
        running = (old * momentum + new * (1 - momentum) for old, new in ((mean, batch_mean), (var, batch_var)))
        return as_listed(call, (y, *running))

    return kernel


def instance_normalization(call: Call) -> Kernel:
    """Batch norm over each channel of each sample alone."""
    epsilon = call.real("epsilon", 1e-5)

    def kernel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        y = F.group_norm(x, x.shape[1], None, None, epsilon)
        shape = (-1, *[1] * (x.dim() - 2))
        return y * scale.reshape(shape) + bias.reshape(shape)

    return kernel


def group_normalization(call: Call) -> Kernel:
    """Layer norm over groups of channels. Scale and bias: one for each group, from opset 21 on for each channel."""
    epsilon, groups = call.real("epsilon", 1e-5), call.integer("num_groups", 1)

    def kernel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if call.opset < 21 and scale.numel() == groups:
            scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
        return F.group_norm(x, groups, scale, bias, epsilon)

    return kernel


def layer_normalization(call: Call) -> Kernel:
    """`y = scale * (x - mean) / d + bias`, d = sqrt(var + epsilon), over the axes from `axis` on. Then mean, 1 / d."""
    epsilon, axis = call.real("epsilon", 1e-5), call.integer("axis", -1)

    def normalize(x: Tensor, scale: Tensor, bias: Tensor = None) -> Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return F.layer_norm(x, shape, scale, bias, epsilon)
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        return y if bias is None else y + bias

    def with_statistics(x: Tensor, scale: Tensor, bias: Tensor = None) -> Tensor:
        axes = tuple(range(axis % x.dim(), x.dim()))
        var, mean = torch.var_mean(x, axes, unbiased=False, keepdim=True)
        return as_listed(call, (normalize(x, scale, bias), mean, torch.rsqrt(var + epsilon)))

    return with_statistics if call.outputs > 1 else normalize


def rms_normalization(call: Call) -> Kernel:
    """`y = scale * x / sqrt(mean of x^2 + epsilon)`, over the axes from `axis` on."""
    epsilon, axis = call.real("epsilon", 1e-5), call.integer("axis", -1)

    def kernel(x: Tensor, scale: Tensor) -> Tensor:
        axes = tuple(range(axis % x.dim(), x.dim()))
        return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale

    return kernel


def lrn(call: Call) -> Kernel:
    """`y = x / (bias + alpha * m)^beta`, m the mean of x^2 over `size` channels around."""
    alpha, beta, bias = call.real("alpha", 1e-4), call.real("beta", 0.75), call.real("bias", 1.0)
    size = call.integer("size", 1)
    before = (size - 1) // 2

    def kernel(x: Tensor) -> Tensor:
        squares = x.square().flatten(2) if x.dim() > 2 else x.square().unsqueeze(-1)
        squares = F.pad(squares.unsqueeze(1), (0, 0, before, size - 1 - before))
        means = F.avg_pool2d(squares, (size, 1), 1).reshape(x.shape)
        return x / (bias + alpha * means) ** beta

    return kernel


def lp_normalization(call: Call) -> Kernel:
    """The input divided by its norm along an axis; zero where that is zero."""
    axis, p = call.integer("axis", -1), call.integer("p", 2)

    def kernel(x: Tensor) -> Tensor:
        sums = (x.square() if p == 2 else x.abs()).sum(axis, keepdim=True)
        safe = torch.where(sums > 0, sums, 1)
        return x / (safe.sqrt() if p == 2 else safe)

    if p not in (1, 2):
        raise Unsupported(f"p={p}")
    return kernel


def mean_variance_normalization(call: Call) -> Kernel:
    """(x - mean) / (standard deviation + 1e-9), over `axes`."""
    axes = tuple(call.integers("axes") or (0, 2, 3))

    def kernel(x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, axes, unbiased=False, keepdim=True)
        return (x - mean) / (var.sqrt() + 1e-9)

    return kernel


def skip_layer_normalization(call: Call) -> Kernel:
    """LayerNormalization of x + skip + b over the last axis. The fourth output is that sum."""
    epsilon = call.real("epsilon", 1e-5)
    if call.outputs in (2, 3):
        raise Unsupported("mean and deviation as outputs")

    def kernel(x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor = None, b: Tensor = None) -> Tensor:
        total = x + skip
        if b is not None:
            total = total + b
        y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
        return (y, None, None, total) if call.outputs > 3 else y

    return kernel


STANDARD: Mapping[str, Lowering] = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "RMSNormalization": rms_normalization,
}

MICROSOFT: Mapping[str, Lowering] = {"SkipLayerNormalization": skip_layer_normalization}
