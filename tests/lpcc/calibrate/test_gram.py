from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.calibrate.gram import Gram
from lpcc.calibrate.patches import NoPatches


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_sums_are_those_of_all_rows(groups: int, left: int, right: int, parts: list[int]) -> None:
    rng = np.random.default_rng(sum(parts))
    a = rng.normal(size=(sum(parts), groups, left)).astype(np.float32)
    b = rng.normal(size=(sum(parts), groups, right)).astype(np.float32)
    own, cross, whole = Gram(groups, left), Gram(groups, left, right), Gram(groups, left, right)
    place = 0
    for count in parts:
        own.add(a[place : place + count])
        cross.add(a[place : place + count], b[place : place + count])
        place += count
    whole.add(a, b)
    exact = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_allclose(own.product, np.einsum("rga,rgb->gab", exact[0], exact[0]), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(cross.product, np.einsum("rga,rgb->gab", *exact), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(cross.means[1], exact[1].mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cross.product, whole.product)  # whatever the batches
    assert own.rows == sum(parts)
    centred = np.einsum("rga,rgb->gab", *(x - x.mean(axis=0) for x in exact)) / sum(parts)
    np.testing.assert_allclose(cross.centred(), centred, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cross.mean_product, cross.product / sum(parts))


def test_rows_may_have_the_axis_of_the_images() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 10, 1, 3)).astype(np.float32)
    apart, flat = Gram(1, 3), Gram(1, 3)
    apart.add(rows)
    flat.add(rows.reshape(60, 1, 3))
    np.testing.assert_array_equal(apart.product, flat.product)


def test_nothing_added() -> None:
    empty = Gram(2, 3)
    assert not empty.product.any()
    assert not empty.centred().any()


def test_too_deep_a_layer() -> None:
    with pytest.raises(NoPatches, match="25088 by 25088 numbers take 4802 MB"):
        Gram(1, 25088)


def test_half_precision_is_none_to_sum_up_in() -> None:
    rows = np.full((4096, 1, 2), 30, dtype=np.float16)
    gram = Gram(1, 2)
    gram.add(rows)
    np.testing.assert_allclose(gram.product, np.full((1, 2, 2), 900.0 * 4096))
    np.testing.assert_allclose(gram.centred(), 0, atol=1e-6)
