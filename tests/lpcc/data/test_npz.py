from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.data import Dataset, Preprocess, TensorSpec
from lpcc.errors import DataError

F32 = np.dtype(np.float32)
INPUT = (TensorSpec("input", F32, ("batch", 3, 4, 4)),)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4)).astype(np.float32)


def test_streams_in_order_with_labels(tmp_path: Path) -> None:
    x = images(10)
    np.savez(tmp_path / "d.npz", input=x, labels=np.arange(10, dtype=np.uint8))
    data = Dataset.open(tmp_path / "d.npz", INPUT, labels_needed=True)
    batches = list(data.batches(4))
    assert len(data) == 10
    assert data.labelled
    assert not data.is_synthetic
    assert [b.count for b in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([b.feeds["input"] for b in batches]), x)
    labels = np.concatenate([b.labels for b in batches if b.labels is not None])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, np.arange(10))
    again = np.concatenate([b.feeds["input"] for b in data.batches(3)])
    np.testing.assert_array_equal(again, x)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    count=st.integers(1, 9),
    size=st.integers(1, 10),
    dtype=st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool"]),
    compressed=st.booleans(),
)
def test_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], count: int, size: int, dtype: str, compressed: bool
) -> None:
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    x = np.random.default_rng(0).integers(0, 2, (count, *shape)).astype(dtype)
    (np.savez_compressed if compressed else np.savez)(path, x=x, other=np.zeros(1))
    data = Dataset.open(path, [TensorSpec("x", np.dtype(dtype), (None, *shape))])
    parts = [b.feeds["x"] for b in data.batches(size)]
    assert all(len(part) == size for part in parts[:-1])
    np.testing.assert_array_equal(np.concatenate(parts), x)
    assert parts[0].dtype == x.dtype


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, save: object) -> None:
    spec = [TensorSpec("input", F32, ("batch", 3, 32, 32))]
    ten = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32)).astype(np.float32)

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.npz"
        save(path, input=np.tile(ten, (count // 10, 1, 1, 1)))  # type: ignore[operator]
        tracemalloc.start()
        try:
            for _ in Dataset.open(path, spec).batches(10):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # imports and caches
    assert peak(1000) < 1.05 * peak(100)


def refusal(path: Path, specs: tuple[TensorSpec, ...] = INPUT, **options: object) -> str:
    with pytest.raises(DataError) as error:
        for _ in Dataset.open(path, specs, **options).batches(4):  # type: ignore[arg-type]
            pass
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"inputs": images(2)}, "no array `input` (did you name it `inputs`?)"),
        ({"x": images(2)}, "no array `input` (there is `x`)"),
        ({"input": images(2)[..., :3]}, "array `input` has samples of shape [3, 4, 3], the model takes [3, 4, 4]"),
        (
            {"input": images(2)[0]},
            "array `input` has samples of shape [4, 4], the model takes [3, 4, 4]: the first axis",
        ),
        ({"input": images(2).astype("f8")}, "array `input` is float64, the model takes float32: save it with .astype"),
        ({"input": images(2).astype("u1")}, "is uint8, the model takes float32: state how images become inputs"),
        ({"input": np.full((2, 3, 4, 4), np.nan, "f4")}, "array `input` holds NaN or infinity in sample 0"),
        ({"input": np.concatenate([images(5), np.full((1, 3, 4, 4), np.inf, "f4")])}, "NaN or infinity in sample 5"),
        ({"input": images(0)}, "no samples"),
        ({"input": np.float32(1)}, "array `input` is a single value"),
        ({"input": images(3), "labels": np.arange(2)}, "`labels` has 2 entries for 3 samples"),
        ({"input": images(3), "labels": np.ones(3)}, "`labels` is float64; class indices are integers"),
        ({"input": images(3), "labels": np.ones((3, 1), int)}, "`labels` has shape [3, 1]"),
        ({"input": images(3), "labels": np.array([1, -1, 0])}, "`labels` is negative in sample 1"),
    ],
)
def test_refuses_what_does_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    assert expected in refusal(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        (
            (3, 4, 5),
            (7, 3, 4, 5),
            "[3, 4, 5], the model takes [4, 5]: the first axis of the model's input, [3, 4, 5], ",
        ),
        (
            (3, 4, 5),
            (7, 3, 4, 5),
            "counts samples, 3 at a time; give the model a batch axis, or arrays of shape (-1, 4, 5)",
        ),
        (("n", 3, 4, 5), (7, 4, 5, 3), "channels are last, the model has them first: .transpose(0, 3, 1, 2)"),
        (("n", 4, 5, 3), (7, 3, 4, 5), "channels are first, the model has them last: .transpose(0, 2, 3, 1)"),
        (("n", 3, None, None), (3, 4, 5), "takes [3, ?, ?]: the first axis of an array is that of the samples"),
        (("n", 3, 4, 5), (7, 1, 4, 5), "has samples of shape [1, 4, 5], the model takes [3, 4, 5]"),
        ((8, 3, 4, 5), (7, 3, 4), "has samples of shape [3, 4], the model takes [3, 4, 5]"),
    ],
)
def test_says_what_to_do_about_a_wrong_shape(
    tmp_path: Path, wanted: tuple[int | str | None, ...], found: tuple[int, ...], expected: str
) -> None:
    np.savez(tmp_path / "d.npz", input=np.zeros(found, np.float32))
    assert expected in refusal(tmp_path / "d.npz", (TensorSpec("input", F32, wanted),))


def test_refuses_inputs_of_different_lengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.zeros((3, 2), "f4"), b=np.zeros((4, 2), "f4"))
    specs = (TensorSpec("a", F32, ("n", 2)), TensorSpec("b", F32, ("n", 2)))
    assert "differ in their number of samples (`a` 3, `b` 4)" in refusal(tmp_path / "d.npz", specs)


def test_says_when_labels_are_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input=images(2))
    assert "add a `labels` array" in refusal(tmp_path / "d.npz", labels_needed=True)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("key", ["input", "labels"])
def test_never_unpickles(tmp_path: Path, key: str) -> None:
    arrays = {"input": images(1), key: np.array([Bomb()], dtype=object)}
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    assert "pickled Python objects, which are never read" in refusal(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not an .npz file"),
        (b"\x80\x04N.", "not an .npz file"),
        (b"\x89PNG\r\n", "not an .npz file"),
        (b"\x93NUMPY\x01\x00", "a bare .npy array; save it as .npz"),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    assert expected in refusal(tmp_path / "d.npz")


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "d.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_refuses_a_truncated_or_damaged_file(tmp_path: Path, save: object) -> None:
    path = tmp_path / "d.npz"
    save(path, input=images(50))  # type: ignore[operator]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refusal(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(8 * [255 - whole[middle]]) + whole[middle + 8 :])
    refusal(path)


def test_refuses_a_header_that_claims_terabytes(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (10**10, 3, 4, 4)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("input.npy", member.getvalue() + bytes(64))
    assert "claims [10000000000, 3, 4, 4] of float32 (1,920,000,000,000 bytes)" in refusal(tmp_path / "d.npz")


def test_refuses_a_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("input.npy", b"hello")
    assert "member `input.npy` is no NumPy array" in refusal(tmp_path / "d.npz")


def test_refuses_samples_on_the_last_axis(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input=np.asfortranarray(images(4)))
    assert "Fortran order" in refusal(tmp_path / "d.npz")


def test_raw_images_go_through_the_preprocessing(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", input=raw)
    data = Dataset.open(tmp_path / "d.npz", INPUT, Preprocess(divide=255, mean=(0.5,), std=(0.25,)))
    (batch,) = data.batches(8)
    expected = (raw.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(batch.feeds["input"], expected, rtol=1e-5, atol=1e-6)
    assert batch.feeds["input"].dtype == np.float32


def test_says_what_the_preprocessing_made_of_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input=np.zeros((5, 6, 4, 3), np.uint8))
    text = refusal(tmp_path / "d.npz", preprocess=Preprocess())
    assert "samples of shape [3, 6, 4] after preprocessing, the model takes [3, 4, 4]" in text
