"""Recurrent networks: RNN, GRU and LSTM, one layer each, in one direction or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported, as_listed

Function = Callable[[Tensor], Tensor]

_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Order in which torch has the gates that ONNX has as h; z r h; i o f c."""

_ALPHA = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "Elu": 1.0, "HardSigmoid": 0.2, "ScaledTanh": 1.0, "Affine": 1.0}
_BETA = {"HardSigmoid": 0.5, "ScaledTanh": 1.0, "Affine": 0.0}


def _activation(name: str, alpha: float | None, beta: float | None) -> Function:
    a = _ALPHA.get(name, 1.0) if alpha is None else alpha
    b = _BETA.get(name, 0.0) if beta is None else beta
    functions: dict[str, Function] = {
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "Relu": torch.relu,
        "Softsign": F.softsign,
        "Softplus": F.softplus,
        "Affine": lambda x: a * x + b,
        "LeakyRelu": lambda x: F.leaky_relu(x, a),
        "ThresholdedRelu": lambda x: F.threshold(x, a, 0.0),
        "ScaledTanh": lambda x: a * torch.tanh(b * x),
        "HardSigmoid": lambda x: torch.clamp(a * x + b, 0, 1),
        "Elu": lambda x: F.elu(x, a),
    }
    if name not in functions:
        raise Unsupported(f"activation {name} is not known")
    return functions[name]


@dataclass(frozen=True)
class _Layer:
    """The attributes of a recurrent node."""

    op: str
    directions: tuple[bool, ...]
    """Of each direction, whether it runs from the end to the beginning."""

    functions: tuple[tuple[Function, ...], ...]
    """The activations of each direction."""

    standard: str
    """torch's name of a layer with these activations; empty where it has none."""

    clip: float
    batch_first: bool
    input_forget: bool
    linear_before_reset: bool

    @classmethod
    def of(cls, call: Call) -> _Layer:
        direction = call.text("direction", "forward")
        directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
        if directions is None:
            raise Unsupported(f"direction={direction} is not known")
        default = _DEFAULTS[call.op]
        names = call.texts("activations") or [*default] * len(directions)
        alphas, betas = (
            _spread(names, call.reals("activation_alpha"), _ALPHA),
            _spread(names, call.reals("activation_beta"), _BETA),
        )
        names = [_CASES.get(name.lower(), name) for name in names]
        functions = [_activation(*each) for each in zip(names, alphas, betas, strict=True)]
        per = len(default)
        same = len({tuple(names[i * per : (i + 1) * per]) for i in range(len(directions))}) == 1
        standard = {("RNN", ("Tanh",)): "rnn_tanh", ("RNN", ("Relu",)): "rnn_relu", ("GRU", default): "gru"}
        standard[("LSTM", default)] = "lstm"
        return cls(
            call.op,
            directions,
            tuple(tuple(functions[i * per : (i + 1) * per]) for i in range(len(directions))),
            standard.get((call.op, tuple(names[:per])), "") if same else "",
            call.real("clip", 0.0),
            bool(call.integer("layout", 0)),
            bool(call.integer("input_forget", 0)),
            bool(call.integer("linear_before_reset", 0)),
        )


_CASES = {name.lower(): name for name in ("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu")}
_CASES |= {name.lower(): name for name in ("ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus")}


def _spread(names: Sequence[str], values: Sequence[float] | None, table: Mapping[str, float]) -> list[float | None]:
    """The parameters of activations: the list holds them for those alone that have one."""
    rest = list(values or ())
    return [rest.pop(0) if rest and _CASES.get(name.lower(), name) in table else None for name in names]


def recurrent(call: Call) -> Kernel:
    """One layer over the steps of a sequence; the state goes from step to step.

    RNN: h = f(Wx + Rh + b). GRU: z, r = f(...), n = g(Wx + R(r * h) + b), or under linear_before_reset
    g(Wx + r * (Rh + b)), h = (1 - z) * n + z * h. LSTM: i, o, f with peepholes, c = f * c + i * g(...), h = o * h(c).
    Samples that are shorter than the sequence (sequence_lens) keep their last state, and give zeros beyond it.
    torch's own layers serve wherever they compute the same.
    """
    layer = _Layer.of(call)

    def kernel(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor = None,
        lengths: Tensor = None,
        h: Tensor = None,
        c: Tensor = None,
        p: Tensor = None,
    ) -> Tensor:
        if layer.batch_first:
            x, h, c = (None if t is None else t.transpose(0, 1) for t in (x, h, c))
        batch, hidden = x.shape[1], r.shape[2]
        zeros = x.new_zeros(len(layer.directions), batch, hidden)
        state = [zeros if h is None else h, zeros if c is None else c]
        plain = layer.standard and lengths is None and p is None and not layer.clip and not layer.input_forget
        if plain and (layer.op != "GRU" or layer.linear_before_reset):
            found = _by_torch(layer, x, w, r, b, state)
        else:
            found = _by_steps(layer, x, (w, r, b, p), lengths, state)
        if layer.batch_first:
            found = (found[0].permute(2, 0, 1, 3), *(t.transpose(0, 1) for t in found[1:]))
        return as_listed(call, found)

    return kernel


def _by_torch(layer: _Layer, x: Tensor, w: Tensor, r: Tensor, b: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """By torch's layer: its gates come in another order."""
    order = _GATES[layer.op]

    def gates(t: Tensor) -> Tensor:
        parts = t.chunk(len(order))
        return t if len(order) == 1 else torch.cat([parts[i] for i in order])

    weights = []
    for direction in range(len(layer.directions)):
        weights += [gates(w[direction]), gates(r[direction])]
        if b is not None:
            weights += [gates(half) for half in b[direction].chunk(2)]
    backwards = layer.directions == (True,)
    fed = x.flip(0) if backwards else x
    two = len(layer.directions) == 2
    first = tuple(state) if layer.op == "LSTM" else state[0]
    learning = torch.is_grad_enabled()  # cuDNN keeps what its backward needs only if told so
    found = getattr(torch, layer.standard)(fed, first, weights, b is not None, 1, 0.0, learning, two, False)
    y = found[0].flip(0) if backwards else found[0]
    y = y.reshape(*y.shape[:2], len(layer.directions), -1).transpose(1, 2)
    return (y, *found[1:])


def _by_steps(
    layer: _Layer, x: Tensor, weights: Sequence[Tensor], lengths: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Step by step."""
    steps = x.shape[0]
    alive = None
    if lengths is not None:
        alive = (torch.arange(steps, device=x.device).unsqueeze(1) < lengths.to(x.device)).unsqueeze(2)
    outputs, last = [], []
    for direction, backwards in enumerate(layer.directions):
        w, r, b, p = (_of(t, direction) for t in weights)
        step = _STEPS[layer.op](layer, layer.functions[direction], r, b, p)
        projected = torch.matmul(x, w.t()) + (0 if b is None else b.chunk(2)[0])
        now = tuple(t[direction] for t in state)
        found: list[Tensor] = [None] * steps
        for t in reversed(range(steps)) if backwards else range(steps):
            after = step(projected[t], now)
            if alive is not None:  # backwards, a shorter sample begins at its own end
                after = tuple(torch.where(alive[t], new, old) for new, old in zip(after, now, strict=True))
                found[t] = torch.where(alive[t], after[0], 0)
            else:
                found[t] = after[0]
            now = after
        outputs.append(torch.stack(found))
        last.append(now)
    states = [torch.stack(each) for each in zip(*last, strict=True)]
    return (torch.stack(outputs, 1), *states[: 2 if layer.op == "LSTM" else 1])


def _of(t: Tensor, direction: int) -> Tensor:
    return None if t is None else t[direction]


Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _clipped(layer: _Layer, x: Tensor) -> Tensor:
    return torch.clamp(x, -layer.clip, layer.clip) if layer.clip else x


def _rnn(layer: _Layer, functions: Sequence[Function], r: Tensor, b: Tensor, _p: Tensor) -> Step:
    bias = 0 if b is None else b.chunk(2)[1]

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return functions[0](_clipped(layer, x + torch.matmul(state[0], r.t()) + bias)), state[1]

    return step


def _gru(layer: _Layer, functions: Sequence[Function], r: Tensor, b: Tensor, _p: Tensor) -> Step:
    f, g = functions
    size = r.shape[1]
    bias = r.new_zeros(3 * size) if b is None else b.chunk(2)[1]

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = state[0]
        gates = x[:, : 2 * size] + torch.matmul(h, r[: 2 * size].t()) + bias[: 2 * size]
        update, reset = f(_clipped(layer, gates)).chunk(2, 1)
        if layer.linear_before_reset:
            inner = reset * (torch.matmul(h, r[2 * size :].t()) + bias[2 * size :])
        else:
            inner = torch.matmul(reset * h, r[2 * size :].t()) + bias[2 * size :]
        new = g(_clipped(layer, x[:, 2 * size :] + inner))
        return (1 - update) * new + update * h, state[1]

    return step


def _lstm(layer: _Layer, functions: Sequence[Function], r: Tensor, b: Tensor, p: Tensor) -> Step:
    f, g, h = functions
    bias = 0 if b is None else b.chunk(2)[1]
    peep = [0, 0, 0] if p is None else p.chunk(3)

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gates = x + torch.matmul(state[0], r.t()) + bias
        into, out, forget, cell = gates.chunk(4, 1)
        into = f(_clipped(layer, into + peep[0] * state[1]))
        keep = 1 - into if layer.input_forget else f(_clipped(layer, forget + peep[2] * state[1]))
        c = keep * state[1] + into * g(_clipped(layer, cell))
        return f(_clipped(layer, out + peep[1] * c)) * h(c), c

    return step


_STEPS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}

STANDARD: Mapping[str, Lowering] = {"GRU": recurrent, "LSTM": recurrent, "RNN": recurrent}
