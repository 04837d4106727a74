"""Recurrent layers, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

torch = pytest.importorskip("torch", reason="the training extra is not installed")

Compare = Callable[..., list[np.ndarray[Any, Any]]]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CELLS = {"RNN": 1, "GRU": 2, "LSTM": 3}
rounds = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@rounds
@given(
    op=st.sampled_from(["RNN", "GRU", "LSTM"]),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    has=st.tuples(*[st.booleans()] * 6),
    clip=st.sampled_from([0.0, 0.0, 0.4]),
    activation=st.sampled_from(["", "Relu", "HardSigmoid", "Softsign", "Elu"]),
)
def test_recurrent(same: Compare, op: str, direction: str, has: tuple[bool, ...], clip: float, activation: str) -> None:
    bias, lengths, state, peepholes, coupled, reset = has
    steps, batch, size, hidden, ways = 4, 3, 2, 5, 1 + (direction == "bidirectional")
    rng = np.random.default_rng(1)

    def real(*shape: int) -> np.ndarray[Any, Any]:
        return rng.normal(size=shape).astype(np.float32)

    g = GATES[op]
    inputs: list[Any] = [real(steps, batch, size), real(ways, g * hidden, size), real(ways, g * hidden, hidden)]
    inputs.append(real(ways, 2 * g * hidden) if bias else None)
    inputs.append(np.array([4, 1, 3], np.int32) if lengths else None)
    inputs.append(real(ways, batch, hidden) if state else None)
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if op == "LSTM":
        inputs.append(real(ways, batch, hidden) if state else None)
        inputs.append(real(ways, 3 * hidden) if peepholes else None)
        attrs["input_forget"] = int(coupled)
    if op == "GRU":
        attrs["linear_before_reset"] = int(reset)
    if clip:
        attrs["clip"] = clip
    if activation:
        names = [activation, "Tanh", "Tanh"][: CELLS[op]] * ways
        if activation == "HardSigmoid":
            attrs |= {"activation_alpha": [0.3] * ways, "activation_beta": [0.4] * ways}
        if activation == "Elu":
            attrs |= {"activation_alpha": [0.7] * ways}
        attrs["activations"] = names
    same(op, inputs, opset=14, outputs=3 if op == "LSTM" else 2, tolerance=1e-4, **attrs)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("lengths", [None, [2, 4]])
def test_torch_layers_and_steps_agree(op: str, lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpcc.train.operators import Call, lower, recurrent

    torch.manual_seed(0)
    g = GATES[op]
    inputs = [torch.randn(4, 2, 3), torch.randn(2, g * 5, 3), torch.randn(2, g * 5, 5), torch.randn(2, g * 10)]
    attrs = {"hidden_size": 5, "direction": "bidirectional", "linear_before_reset": 1}
    kernel = lower(Call(op, opset=14, attrs=attrs, outputs=2))
    called: list[str] = []
    monkeypatch.setattr(recurrent, "_by_torch", lambda *a: called.append("torch") or recurrent._by_steps(  # type: ignore[func-returns-value]
        a[0], a[1], (*a[2:5], None), None, a[5]))  # fmt: skip
    steps = kernel(*inputs, None if lengths is None else torch.tensor(lengths))
    assert called == (["torch"] if lengths is None else [])
    monkeypatch.undo()
    fast = kernel(*inputs, None if lengths is None else torch.tensor(lengths))
    for a, b in zip(fast, steps, strict=True):
        torch.testing.assert_close(a, b)


def test_layout_1_has_the_batch_first() -> None:
    from lpcc.train.operators import Call, lower

    torch.manual_seed(0)
    x, w, r = torch.randn(4, 2, 3), torch.randn(1, 20, 3), torch.randn(1, 20, 5)
    first = lower(Call("LSTM", opset=14, attrs={"hidden_size": 5, "layout": 1}, outputs=3))
    second = lower(Call("LSTM", opset=14, attrs={"hidden_size": 5}, outputs=3))
    y, h, c = first(x.transpose(0, 1), w, r)
    y2, h2, c2 = second(x, w, r)
    torch.testing.assert_close(y, y2.permute(2, 0, 1, 3))
    torch.testing.assert_close(h, h2.transpose(0, 1))
    torch.testing.assert_close(c, c2.transpose(0, 1))


def test_unknown_activation_is_refused() -> None:
    from lpcc.train.operators import Call, Unsupported, lower

    with pytest.raises(Unsupported, match="activation Sine"):
        lower(Call("RNN", opset=14, attrs={"activations": ["Sine"]}))
