"""Weights rounded by number formats: the slopes of the formats, and the gradients of those scales that are trained."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.formats.format import TENSOR, Layout
from lpcc.formats.integer import DorefaWeights
from lpcc.formats.powers import FLightNN, PowerOfTwo
from lpcc.formats.signs import Binary, Ternary, TwoScaleTernary

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.latents.low_bit import Decoder, format_weight  # noqa: E402
from lpcc.train.latents.scale import Scale  # noqa: E402

ROWS = Layout(0)
RNG = np.random.default_rng(0)


def latent(kind, values, *names):
    """The latent of weights in a format; trained are those of its scales that are named."""
    scales = kind.fit(values, ROWS)
    decoder = Decoder(kind, ROWS, kind.round(values, scales), lambda codes, found: {"codes": codes[0]}, scales)
    trained = [Scale([name], scales.spread(getattr(scales, name), values), 1, 1) for name in names]
    return format_weight("w", decoder, values, trained), scales


def gradients(weight):
    """Of the sum of products with random numbers: those numbers, and the gradients of weights and scales."""
    factors = torch.from_numpy(RNG.standard_normal(weight.weight.shape).astype(np.float32))
    (weight() * factors).sum().backward()
    of_scales = [(scale.share.grad / scale._factor).numpy().reshape(-1) for scale in weight._scales]
    return factors.numpy(), weight.weight.grad.numpy(), of_scales


def values(scale=0.3):
    return (RNG.standard_normal((6, 40)) * scale).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Binary(), ()),
        (Ternary(), ()),
        (TwoScaleTernary(), ("scale", "negative")),
        (DorefaWeights(2, rescaled=True), ("scale",)),
        (PowerOfTwo(2, 4), ("scale",)),
        (PowerOfTwo(1, 4, "power"), ()),
        (FLightNN(2, 4), ("scale",)),
    ],
    ids=lambda pair: type(pair).__name__ if not isinstance(pair, tuple) else "",
)
def test_weights_get_the_slope_of_their_format(kind, names):
    before = values(0.8)
    weight, scales = latent(kind, before, *names)
    assert np.array_equal(weight.weight.detach().numpy(), before)
    assert np.array_equal(weight().detach().numpy(), kind.round(before, scales))
    factors, found, _ = gradients(weight)
    np.testing.assert_allclose(found, factors * kind.slope(before, scales), rtol=1e-5)
    assert list(weight.weights) == ["w"]
    assert list(weight.others) == list(names)


def test_binary_and_ternary_scales_follow_the_weights():
    for kind in (Binary(), Ternary()):
        weight, _ = latent(kind, values())
        with torch.no_grad():
            weight.weight.mul_(3.0)
        now = weight.weight.detach().numpy()
        assert np.array_equal(weight().detach().numpy(), kind.round(now, kind.fit(now, ROWS)))


def test_two_scales_get_the_sums_of_their_weights():
    weight, _ = latent(TwoScaleTernary(), values(), "scale", "negative")
    rounded = weight().detach().numpy()
    factors, _, (up, down) = gradients(weight)
    np.testing.assert_allclose(up, (factors * (rounded > 0)).sum(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(down, -(factors * (rounded < 0)).sum(axis=1), rtol=1e-4, atol=1e-5)


def by_difference(weight, factors, scale, row, step):
    """Change of the sum of products when the scale of one row changes, with every code as it is."""
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            scale.share[row] += sign * step
            sums.append(float((weight() * torch.from_numpy(factors)).sum()))
            scale.share[row] -= sign * step
    return (sums[0] - sums[1]) / (2 * step) / float(scale._start[row])


def test_a_dorefa_factor_has_its_true_derivative():
    weight, _ = latent(DorefaWeights(2, rescaled=True), values(), "scale")
    factors, _, (found,) = gradients(weight)
    for row in range(6):
        expected = by_difference(weight, factors, weight._scales[0], row, 0.05)
        assert found[row] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_scales_of_powers_are_trained_as_steps_are():
    before = values()
    kind = PowerOfTwo(2, 4)
    weight, scales = latent(kind, before, "scale")
    factors, _, (found,) = gradients(weight)
    units = before / scales.scale[:, None]
    rounded = kind.round(before, scales) / scales.scale[:, None]
    error = np.where(np.abs(units) <= 2, rounded - units, rounded)
    np.testing.assert_allclose(found, (factors * error).sum(axis=1), rtol=1e-3, atol=1e-3)


def test_each_filter_keeps_its_number_of_powers():
    before = values()
    kind = FLightNN(2, 4, mean_k=1.4)
    weight, scales = latent(kind, before, "scale")
    assert len(set(scales.terms.tolist())) > 1
    with torch.no_grad():
        weight.weight.copy_(torch.from_numpy(values()))
    one = scales.terms == 1
    units = np.abs(weight().detach().numpy()[one] / scales.scale[one, None])
    assert set(np.log2(units[units > 0]).round(5) % 1) == {0.0}, "one power of two"
    assert not weight().detach().numpy()[scales.terms == 0].any()


def test_rounded_weights_alone_are_a_start_too():
    before = values()
    for kind, names in ((DorefaWeights(3, rescaled=True), ("scale",)), (Ternary(), ()), (Binary(), ())):
        _, scales = latent(kind, before, *names)
        rounded = kind.round(before, scales)
        decoder = Decoder(kind, ROWS, rounded, lambda codes, found: {}, scales)
        trained = [Scale([name], scales.spread(getattr(scales, name), before), 1, 1) for name in names]
        weight = format_weight("w", decoder, None, trained)
        assert np.array_equal(weight().detach().numpy(), rounded)
        weight().sum().backward()
        assert weight.weight.grad.abs().sum() > 0


def test_other_weights_than_those_that_were_rounded_are_no_start():
    before = values()
    decoder = Decoder(Binary(), TENSOR, Binary().round(before, Binary().fit(before)), lambda codes, found: {})
    other = format_weight("w", decoder, before + 0.1, ())
    assert np.array_equal(other().detach().numpy(), decoder.values)
    assert np.array_equal(other.weight.detach().numpy(), decoder.values)
