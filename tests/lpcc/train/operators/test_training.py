"""What differs in training: batch norm, Dropout, and integers of few bits that carry gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.operators import Call, Mode, Unsupported, lower  # noqa: E402  (imports torch)


def batch_norm(mode: Mode, **given: Any) -> Any:
    return lower(Call("BatchNormalization", opset=15, attrs=given, inputs=5, mode=mode))


def test_batch_norm_learns_its_statistics_in_training() -> None:
    torch.manual_seed(0)
    mode = Mode(training=True, momentum=0.25)
    x, scale, bias, mean, var = torch.randn(6, 3, 4), torch.rand(3), torch.rand(3), torch.zeros(3), torch.ones(3)
    y = batch_norm(mode, epsilon=1e-3)(x, scale, bias, mean, var)
    own_mean, own_var = x.mean((0, 2)), x.var((0, 2), unbiased=False)
    normal = (x - own_mean[:, None]) / (own_var[:, None] + 1e-3).sqrt()
    torch.testing.assert_close(y, normal * scale[:, None] + bias[:, None])
    torch.testing.assert_close(mean, 0.25 * own_mean)
    torch.testing.assert_close(var, 0.75 + 0.25 * x.var((0, 2)))  # unbiased, as torch keeps it


def test_batch_norm_keeps_its_statistics_in_evaluation() -> None:
    mode = Mode(training=True)
    kernel = batch_norm(mode)
    mode.training = False
    mean, var = torch.full((3,), 0.5), torch.full((3,), 4.0)
    y = kernel(torch.ones(2, 3, 1), torch.ones(3), torch.zeros(3), mean, var)
    torch.testing.assert_close(y, torch.full((2, 3, 1), 0.25), rtol=1e-5, atol=1e-5)
    assert mean.tolist() == [0.5] * 3
    assert var.tolist() == [4.0] * 3


def test_a_batch_of_one_value_uses_the_running_statistics() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    y = batch_norm(Mode(training=True))(torch.ones(1, 3, 1, 1), torch.ones(3), torch.zeros(3), mean, var)
    torch.testing.assert_close(y, torch.ones(1, 3, 1, 1), rtol=1e-4, atol=1e-4)


def test_forms_of_batch_norm_that_are_refused() -> None:
    with pytest.raises(Unsupported, match="spatial=0"):
        lower(Call("BatchNormalization", opset=7, attrs={"spatial": 0}))
    with pytest.raises(Unsupported, match="statistics of the batch"):
        lower(Call("BatchNormalization", opset=9, outputs=5))


@pytest.mark.parametrize("opset", [7, 12])
def test_dropout(opset: int) -> None:
    mode = Mode(training=True)
    attrs = {"ratio": 0.25} if opset < 12 else {}
    kernel = lower(Call("Dropout", opset=opset, attrs=attrs, outputs=2, mode=mode))
    given = [] if opset < 12 else [torch.tensor(0.25)]
    x = torch.ones(10000)
    torch.manual_seed(0)
    y, mask = kernel(x, *given)
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(y != 0, mask)
    torch.manual_seed(0)
    assert torch.equal(kernel(x, *given)[0], y)
    mode.training = False
    y, mask = kernel(x, *given)
    assert torch.equal(y, x)
    assert mask.all()


def test_dropout_that_the_graph_itself_trains() -> None:
    y = lower(Call("Dropout", opset=13))(torch.ones(1000), torch.tensor(0.5), torch.tensor(True))
    assert 300 < (y == 0).sum() < 700


def test_casts_to_few_bits_pass_gradients_straight_through() -> None:
    x = torch.tensor([1.7, -1.7, 130.2], requires_grad=True)
    y = lower(Call("Cast", opset=13, attrs={"to": 3}))(x)
    assert y.tolist() == [1.0, -1.0, -126.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]
    assert lower(Call("Cast", opset=13, attrs={"to": 7}))(x.detach()).dtype == torch.int64


@pytest.mark.parametrize(("op", "expected"), [("Round", [2, -1, 0]), ("Floor", [1, -2, 0]), ("Ceil", [2, -1, 1])])
def test_rounding_passes_gradients_straight_through(op: str, expected: list[float]) -> None:
    x = torch.tensor([1.7, -1.2, 0.5], requires_grad=True)
    y = lower(Call(op, opset=13))(x)
    assert y.tolist() == expected
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0]


def test_a_query_that_may_attend_to_nothing_has_a_gradient() -> None:
    q = torch.randn(1, 1, 2, 4, requires_grad=True)
    k, mask = torch.randn(1, 1, 3, 4), torch.tensor([[True, False, True], [False, False, False]])
    y = lower(Call("Attention", opset=23))(q, k, k, mask)
    assert y[0, 0, 1].tolist() == [0.0] * 4
    y.square().sum().backward()
    assert torch.isfinite(q.grad).all()
    assert q.grad[0, 0, 0].abs().max() > 0


def test_constants() -> None:
    kernel = lower(Call("Constant", opset=13, attrs={"value_ints": [1, 2]}))
    assert kernel().tolist() == [1, 2]
    assert lower(Call("Constant", opset=13, attrs={"value": np.float32(2.5)}))().item() == 2.5
    with pytest.raises(Unsupported, match="neither a dense tensor"):
        lower(Call("Constant", opset=13, attrs={"value_string": "x"}))


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
def test_random_numbers_are_repeatable(op: str) -> None:
    kernel = lower(Call(op, opset=13, attrs={"shape": [2000], "mean": 3.0, "low": 2.0, "high": 4.0}))
    torch.manual_seed(1)
    first = kernel()
    torch.manual_seed(1)
    assert torch.equal(kernel(), first)
    assert first.mean().item() == pytest.approx(3.0, abs=0.1)
    like = lower(Call(f"{op}Like", opset=13, attrs={"dtype": 11}))
    assert like(first).dtype == torch.float64


def test_draws_follow_their_probabilities() -> None:
    torch.manual_seed(2)
    drawn = lower(Call("Bernoulli", opset=15))(torch.full((4000,), 0.3))
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.03)
    classes = lower(Call("Multinomial", opset=7, attrs={"sample_size": 4000}))(torch.tensor([[0.0, 2.0, -50.0]]))
    assert classes.dtype == torch.int32
    assert classes.float().mean().item() == pytest.approx(1 / (1 + np.exp(-2)), abs=0.03)
