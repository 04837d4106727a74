"""Attention as one operator, and the rotation of its queries and keys."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, as_listed
from lpcc.train.operators.shapes import torch_type


def attention(call: Call) -> Kernel:
    """`softmax(scale * Q K' + bias) V` (Vaswani et al., 2017) for each head; heads of Q may share those of K and V.

    Masked (added, or boolean), causal, in a window, over past keys and values, capped: cap * tanh(. / cap). A query
    that may attend to nothing gives zeros.
    """
    heads = [call.integer("q_num_heads", 0), *[call.integer("kv_num_heads", 0)] * 2]
    scale, cap = call.attrs.get("scale"), call.real("softcap", 0.0)
    causal, mode = bool(call.integer("is_causal", 0)), call.integer("qk_matmul_output_mode", 0)
    window = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    stated = call.attrs.get("softmax_precision")
    precision = None if stated is None else torch_type(int(stated))

    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor = None,
        past_k: Tensor = None,
        past_v: Tensor = None,
        lengths: Tensor = None,
    ) -> Tensor:
        flat = q.dim() == 3
        if flat:
            q, k, v = (
                t.reshape(*t.shape[:2], count, -1).transpose(1, 2) for t, count in zip((q, k, v), heads, strict=True)
            )
        if past_k is not None:
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        present = (k, v)
        if q.shape[1] != k.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        bias = _bias(q, k, mask, past_k, lengths)
        root = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else float(scale))
        scores = torch.matmul(q * root, k.transpose(2, 3) * root)
        if cap:
            scores = torch.tanh(scores / cap) * cap
        shown = scores if bias is None or mode != _BIASED else scores + bias
        if bias is not None:  # a row of nothing but -inf has no softmax, and would have no gradient either
            shut = torch.isneginf(bias.amax(-1, keepdim=True))
            scores = scores + torch.where(shut, 0, bias)
        weights = torch.softmax(scores if precision is None else scores.to(precision), -1)
        if bias is not None:
            weights = torch.where(shut, 0, weights)
        weights = weights.to(q.dtype)
        y = torch.matmul(weights, v)
        y = y.transpose(1, 2).flatten(2) if flat else y
        return as_listed(call, (y, *present, weights if mode == _WEIGHTS else shown))

    def _bias(q: Tensor, k: Tensor, mask: Tensor, past: Tensor, lengths: Tensor) -> Tensor:
        """What is added to the scores, -inf where a query may not attend to a key; None where there is nothing."""
        queries, keys = q.shape[2], k.shape[2]
        allowed = None
        bias = None
        if mask is not None:
            if mask.shape[-1] < keys:
                beyond = False if mask.dtype == torch.bool else -math.inf
                mask = F.pad(mask, (0, keys - mask.shape[-1]), value=beyond)
            allowed, bias = (mask, None) if mask.dtype == torch.bool else (None, mask)
        offset: Tensor = past.shape[2] if past is not None else 0
        if past is None and lengths is not None:
            lengths = lengths.to(q.device).reshape(-1, 1, 1, 1)
            offset = lengths - queries
        key = torch.arange(keys, device=q.device)
        ahead = key - torch.arange(queries, device=q.device).unsqueeze(1) - offset
        rules = [ahead <= 0] if causal else []
        rules += [-ahead <= window[0]] if window[0] >= 0 else []
        rules += [ahead <= window[1]] if window[1] >= 0 else []
        rules += [key < lengths] if lengths is not None else []
        for rule in rules:
            allowed = rule if allowed is None else allowed & rule
        if allowed is None:
            return bias
        shut = torch.where(allowed, 0, -math.inf).to(q.dtype)
        return shut if bias is None else bias + shut

    return kernel


_BIASED, _WEIGHTS = 2, 3
"""What the fourth output is, besides the scores as they are."""


def rotary_embedding(call: Call) -> Kernel:
    """Su et al., RoFormer (2021): pairs of elements are rotated by angles that grow with the position."""
    woven, part = bool(call.integer("interleaved", 0)), call.integer("rotary_embedding_dim", 0)
    heads = call.integer("num_heads", 0)

    def kernel(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor = None) -> Tensor:
        flat = x.dim() == 3
        y = x.reshape(*x.shape[:2], heads, -1) if flat else x.transpose(1, 2)
        size = part or y.shape[-1]
        if positions is not None:
            positions = positions.to(x.device)
            cos, sin = cos[positions], sin[positions]
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        turned, rest = y[..., :size], y[..., size:]
        a, b = (turned[..., 0::2], turned[..., 1::2]) if woven else turned.chunk(2, -1)
        pair = (cos * a - sin * b, sin * a + cos * b)
        turned = torch.stack(pair, -1).flatten(-2) if woven else torch.cat(pair, -1)
        y = torch.cat([turned, rest], -1)
        return y.reshape(x.shape) if flat else y.transpose(1, 2)

    return kernel


STANDARD: Mapping[str, Lowering] = {"Attention": attention, "RotaryEmbedding": rotary_embedding}
