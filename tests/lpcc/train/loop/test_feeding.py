from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lpcc.data import Dataset, TensorSpec
from lpcc.errors import DataError

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.feeding import Supply, read_ahead  # noqa: E402

F32 = np.dtype(np.float32)
MUCH = 1 << 30


def numbered(count: int, width: int = 4) -> Dataset:
    """Samples that hold their own number, which is their label too."""
    places = np.arange(count, dtype=np.float32)
    return Dataset.from_arrays({"x": np.repeat(places[:, None], width, axis=1)}, np.arange(count))


def order(supply: Supply, epoch: int, first: int = 0) -> list[int]:
    found = []
    for block in supply.epoch(epoch, first):
        assert block.labels is not None
        np.testing.assert_array_equal(block.arrays["x"][:, 0], block.labels)
        found += block.labels.tolist()
    return found


@pytest.mark.parametrize("limit", [MUCH, 16 * 30])  # all in memory; 30 samples to shuffle among
class TestSupply:
    def test_every_sample_once_an_epoch_but_those_held_out_never(self, limit: int) -> None:
        supply = Supply(numbered(203), 16, 0.1, 0, limit)
        assert supply.held_out is not None
        assert supply.held_out.labels is not None
        held = supply.held_out.labels.tolist()
        assert held == [place for place in range(203) if place % 10 == 9]
        for epoch in (1, 2):
            assert sorted([*order(supply, epoch), *held]) == list(range(203))
        assert supply.held_out.labels.tolist() == held

    def test_batches_are_of_equal_size_but_for_one_sample(self, limit: int) -> None:
        supply = Supply(numbered(130), 64, 0, 0, limit)
        assert supply.held_out is None
        assert [len(block) for block in supply.epoch(1)] == [43, 43, 44]
        assert supply.steps == 3

    def test_the_order_is_a_function_of_seed_and_epoch(self, limit: int) -> None:
        data = numbered(200)
        a, b, c = (Supply(data, 16, 0.1, seed, limit) for seed in (1, 1, 2))
        assert order(a, 1) == order(b, 1) == order(a, 1)
        assert len({tuple(order(*which)) for which in ((a, 1), (a, 2), (c, 1))}) == 3
        assert order(a, 1) != sorted(order(a, 1))

    def test_an_epoch_begins_in_its_middle(self, limit: int) -> None:
        supply = Supply(numbered(200), 16, 0.1, 0, limit)
        whole = [block.arrays["x"] for block in supply.epoch(3)]
        rest = [block.arrays["x"] for block in supply.epoch(3, 5)]
        assert len(rest) == len(whole) - 5
        for there, here in zip(whole[5:], rest, strict=True):
            np.testing.assert_array_equal(there, here)

    def test_batches_stay_what_they_are(self, limit: int) -> None:
        supply = Supply(numbered(100), 8, 0.1, 0, limit)
        blocks = list(supply.epoch(1))
        copies = [block.arrays["x"].copy() for block in blocks]
        list(supply.epoch(2))
        for block, copy in zip(blocks, copies, strict=True):
            np.testing.assert_array_equal(block.arrays["x"], copy)
            block.arrays["x"][:] = -1  # does not reach the samples that are kept
        assert min(order(supply, 1)) >= 0

    def test_the_digest_tells_data_apart(self, limit: int) -> None:
        x = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
        y = x.copy()
        y[49] += 1  # held out
        digests = [Supply(Dataset.from_arrays({"x": a}), 8, 0.1, 0, limit).digest for a in (x, x.copy(), y, x[:-1])]
        assert digests[0] == digests[1]
        assert len(set(digests)) == 3
        assert Supply(Dataset.from_arrays({"x": x}, np.zeros(100, int)), 8, 0.1, 0, limit).digest not in digests


def test_a_buffer_mixes_as_far_as_it_reaches() -> None:
    supply = Supply(numbered(2000), 50, 0, 0, 16 * 400)
    found = order(supply, 1)
    ahead = max(number - place for place, number in enumerate(found))
    assert ahead <= 400 + 50  # none leaves the buffer before it was read
    early = np.mean(found[:200])
    assert 100 < early < 400
    assert np.corrcoef(found[:400], np.arange(400))[0, 1] < 0.9


def test_what_is_held_out_is_bounded_too() -> None:
    supply = Supply(numbered(1000), 10, 0.5, 0, 16 * 20)
    assert supply.held_out is not None
    assert len(supply.held_out) == 20
    assert supply.count == 980


@pytest.mark.parametrize(("count", "holdout"), [(1, 0.1), (5, 0.1)])
def test_too_few_samples_are_one_line(count: int, holdout: float) -> None:
    with pytest.raises(DataError, match=f"arrays: {count} samples are too few to train on some and judge by others"):
        Supply(numbered(count), 16, holdout, 0, MUCH)
    assert Supply(numbered(count), 16, 0, 0, MUCH).count == count


def test_samples_of_different_size_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feeds_of_two_sizes.py").write_text(
        "import numpy as np\n"
        "def images():\n"
        "    for size in (16, 20, 20):\n"
        "        yield {'x': np.zeros((1, 3, size, size), np.float32)}\n"
    )
    monkeypatch.chdir(tmp_path)
    data = Dataset.open("feeds_of_two_sizes:images", [TensorSpec("x", F32, (None, 3, None, None))])
    with pytest.raises(DataError, match=r"`x` has samples of \[3, 16, 16\] and of \[3, 20, 20\]: training takes"):
        Supply(data, 1, 0.5, 0, MUCH)
    with pytest.raises(DataError, match=r"`x` has samples of \[3, 16, 16\] and of \[3, 20, 20\], which cannot be run"):
        Supply(data, 2, 0.5, 0, MUCH)


def test_nan_is_told_by_whoever_reads() -> None:
    x = np.zeros((50, 4), np.float32)
    x[33, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in sample 33"):
        Supply(Dataset.from_arrays({"x": x}), 8, 0.1, 0, MUCH)


def test_memory_is_bounded_by_batch_and_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of 100 MB goes through a buffer of 4 MB: batches of 64 kB, as many as are read ahead, come on top."""
    (tmp_path / "a_long_stream.py").write_text(
        "import numpy as np\n"
        "def rows():\n"
        "    for seed in range(100):\n"
        "        yield {'x': np.random.default_rng(seed).standard_normal((64, 4096), dtype=np.float32)}\n"
    )
    monkeypatch.chdir(tmp_path)
    data = Dataset.open("a_long_stream:rows", [TensorSpec("x", F32, (None, 4096))])
    tracemalloc.start()
    try:
        supply = Supply(data, 16, 0.02, 0, 4 << 20)
        count = sum(len(block) for block in read_ahead(supply.epoch(1)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == supply.count
    assert supply.count * 4096 * 4 > 100e6
    assert peak < 16 << 20


class TestReadAhead:
    def test_gives_the_same_items_in_order(self) -> None:
        assert list(read_ahead(iter(range(100)), 2)) == list(range(100))
        assert list(read_ahead(iter(()))) == []

    def test_items_may_be_none(self) -> None:
        assert list(read_ahead([None, None])) == [None, None]

    def test_makes_a_few_before_they_are_asked_for_and_no_more(self) -> None:
        made: list[int] = []

        def items() -> Iterator[int]:
            for number in range(100):
                made.append(number)
                yield number

        stream = read_ahead(items(), 2)
        assert next(stream) == 0
        until = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert 3 <= len(made) <= 4  # two waiting, one in hand, the one taken
        stream.close()

    def test_hands_on_what_is_raised(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise DataError("sample 7 is damaged")

        stream = read_ahead(items())
        assert next(stream) == 1
        with pytest.raises(DataError, match="sample 7 is damaged"):
            next(stream)

    @pytest.mark.parametrize("taken", [0, 1, 5])
    def test_leaves_no_thread_and_closes_its_source(self, taken: int) -> None:
        closed = threading.Event()

        def items() -> Iterator[int]:
            try:
                yield from range(10**9)
            finally:
                closed.set()

        before = threading.active_count()
        stream = read_ahead(items(), 2)
        for _ in range(taken):
            next(stream)
        stream.close()
        assert threading.active_count() == before
        assert closed.is_set() == (taken > 0)  # a generator that never began starts no thread

    def test_a_forgotten_stream_ends(self) -> None:
        before = threading.active_count()
        stream = read_ahead(iter(range(10**9)))
        next(stream)
        del stream
        gc.collect()
        assert threading.active_count() == before
