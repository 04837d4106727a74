from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.passes.normalize.axes import View


def test_shuffle_with_everything_else_unknown():
    view = View.of(["N", 6, "H", "W"]).reshaped(["N", 2, 3, "H", "W"]).transposed([0, 2, 1, 3, 4])
    assert view.channels() is None
    assert view.reshaped(["N", 6, "H", "W"]).channels().tolist() == [0, 3, 1, 4, 2, 5]
    assert view.reshaped(["N", 6, "W", "H"]) is None
    assert view.reshaped([0, 6, -1]).channels() is None


def test_unknown_sizes_join_but_do_not_split():
    view = View.of([None, 6, None, 4])
    assert view.reshaped([0, 6, -1]).reshaped([0, -1, 4]) is not None
    assert view.reshaped([0, 6, -1, 2, 2]) is not None
    assert view.reshaped([0, 6, 2, -1]) is None
    assert view.reshaped([0, 6, -1]).transposed([0, 2, 1]).reshaped([0, 4, -1]) is None


def test_picks():
    view = View.of([1, 6, 4]).reshaped([3, 2, 4]).transposed([1, 0, 2]).reshaped([2, -1, 3, 4])
    assert view.picked(0, 1, keep=False).channels().tolist() == [1, 3, 5]
    assert view.picked(0, -2, keep=False).channels().tolist() == [0, 2, 4]
    assert view.picked(0, 2, keep=False) is None
    assert view.picked(3, 0, keep=False) is None
    assert view.picked(0, 1, keep=True).channels() is None


@pytest.mark.parametrize("shape", [[], [3], [2, "C", 4], [0, 6, 2], [2, 0, 2]])
def test_no_view_without_channels_of_known_size(shape):
    assert View.of(shape) is None


@given(st.permutations(range(4)), st.sampled_from([(2, 3, 2, 5), (1, 3, 4, 5), (2, 6, 5, 1), (4, 3, 5, 1)]))
def test_channels_are_those_that_numpy_moves(order, target):
    """On an array that holds each element's channel, a view says what NumPy does, if it says anything."""
    shape = (2, 6, 5)
    channels = np.broadcast_to(np.arange(6)[None, :, None], shape)
    view = View.of(list(shape)).reshaped(list(target))
    if view is None:
        return
    moved = view.transposed(order).reshaped(list(shape))
    if moved is None or moved.channels() is None:
        return
    expected = channels.reshape(target).transpose(order).reshape(shape)
    assert np.array_equal(expected, np.broadcast_to(moved.channels()[None, :, None], shape))
