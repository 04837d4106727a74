from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset, Preprocess, TensorSpec
from lpcc.errors import DataError

F32 = np.dtype(np.float32)


def rows(count: int, *shape: int) -> np.ndarray:
    return np.arange(count * int(np.prod(shape)), dtype=np.float32).reshape(count, *shape)


def test_fixed_batch_is_filled_up_and_says_what_counts() -> None:
    x = rows(5, 2)
    data = Dataset.from_arrays({"x": x}, np.arange(5), [TensorSpec("x", F32, (3, 2))])
    first, last = data.batches(64)
    assert data.fixed_batch == 3
    assert (first.count, last.count) == (3, 2)
    np.testing.assert_array_equal(last.feeds["x"], x[[3, 4, 4]])
    assert last.labels is not None
    assert last.labels.tolist() == [3, 4]
    np.testing.assert_array_equal(last.valid(last.feeds["x"]), x[3:])
    assert last.valid(np.float32(1) * np.ones(())).shape == ()
    assert last.valid(np.ones((7, 1))).shape == (7, 1)  # its first axis is not the samples


def test_free_batch_is_as_large_as_asked_for() -> None:
    data = Dataset.from_arrays({"x": rows(5, 2)})
    assert data.fixed_batch is None
    assert [b.rows for b in data.batches(2)] == [2, 2, 1]
    assert [b.count for b in data.head(3).batches(2)] == [2, 1]
    assert len(data.head(99)) == 5


def test_inputs_that_share_no_sample_axis_come_one_set_at_a_time() -> None:
    specs = [TensorSpec("a", F32, (2, 3)), TensorSpec("b", F32, (3, 4)), TensorSpec("c", F32, ())]
    arrays = {"a": rows(2, 2, 3), "b": rows(2, 3, 4), "c": rows(2)}
    batches = list(Dataset.from_arrays(arrays, None, specs).batches(16))
    assert len(batches) == 2
    assert {name: x.shape for name, x in batches[1].feeds.items()} == {"a": (2, 3), "b": (3, 4), "c": ()}
    assert batches[1].feeds["c"] == 1
    assert isinstance(batches[1].feeds["c"], np.ndarray)  # onnxruntime takes no numpy scalars


def test_checks_arrays_against_the_inputs() -> None:
    with pytest.raises(DataError, match="arrays: array `x` is float32, the model takes int64"):
        Dataset.from_arrays({"x": rows(5, 2)}, None, [TensorSpec("x", np.dtype(np.int64), (3, 2))])


def test_a_model_without_inputs_takes_no_data() -> None:
    with pytest.raises(DataError, match="the model has no inputs to feed"):
        Dataset.open("x.npz", ())


def test_an_input_that_is_no_tensor_takes_no_data() -> None:
    with pytest.raises(DataError, match="input `x` of the model is no tensor"):
        Dataset.from_arrays({"x": rows(5, 2)}, None, [TensorSpec("x", None, None)])


class TestArraysInMemory:
    SPECS = (TensorSpec("x", F32, (None, 1, 2, 2)),)

    def test_are_like_those_of_a_file(self) -> None:
        arrays = {"x": rows(5, 1, 2, 2), "labels": np.arange(5), "other": rows(1)}
        (batch,) = Dataset.open(arrays, self.SPECS, labels_needed=True).batches(8)
        np.testing.assert_array_equal(batch.feeds["x"], arrays["x"])
        assert batch.labels is not None
        assert batch.labels.tolist() == [0, 1, 2, 3, 4]

    def test_are_preprocessed(self) -> None:
        images = np.full((3, 1, 2, 2), 255, np.uint8)
        (batch,) = Dataset.open({"x": images}, self.SPECS, Preprocess(divide=255, mean=(0.5,), std=(0.25,))).batches(8)
        np.testing.assert_array_equal(batch.feeds["x"], np.full((3, 1, 2, 2), 2, np.float32))

    def test_without_labels(self) -> None:
        with pytest.raises(DataError, match="arrays: has no labels: add a `labels` array"):
            Dataset.open({"x": rows(5, 1, 2, 2)}, self.SPECS, labels_needed=True)


class TestServing:
    def test_a_fixed_batch(self) -> None:
        data = Dataset.from_arrays({"x": rows(5, 2)}).serving([TensorSpec("x", F32, (3, 2))])
        assert [(batch.count, batch.rows) for batch in data.batches(64)] == [(3, 3), (2, 3)]

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            (TensorSpec("y", F32, (None, 2)), "array `x` is no input of the model"),
            (TensorSpec("a", F32, (None, 2)), "no array `a`"),
            (TensorSpec("x", np.dtype(np.float64), (None, 2)), "array `x` is float32; the model takes float64"),
        ],
    )
    def test_other_inputs(self, spec: TensorSpec, says: str) -> None:
        with pytest.raises(DataError, match=f"arrays: {says}"):
            Dataset.from_arrays({"x": rows(5, 2)}).serving([spec])
