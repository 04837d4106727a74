from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from lpcc.data.source import Block
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.augment import Mixed  # noqa: E402
from lpcc.train.loop.running import Device, Part, full, parts, repeatable, reseed  # noqa: E402


def cut(count: int, rows: int, *, fixed: bool = False, mixed: bool = False) -> list[Part]:
    x = torch.arange(count)[:, None].float()
    partner = torch.arange(count).flip(0) if mixed else None
    return list(parts(Mixed({"x": x}, 0.25, partner), torch.arange(count), rows, fixed=fixed, sampled=True))


def places(part: Part) -> list[int]:
    found: list[int] = part.feeds["x"].ravel().int().tolist()
    return found


def test_parts_of_equal_size_but_for_one_sample() -> None:
    assert [places(part) for part in cut(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [places(part) for part in cut(3, 8)] == [[0, 1, 2]]
    for part in cut(7, 3):
        assert part.labels.tolist() == places(part)  # type: ignore[union-attr]
        assert part.count == part.rows


def test_a_fixed_batch_is_filled_up_from_the_same_step() -> None:
    found = cut(7, 3, fixed=True)
    assert [places(part) for part in found] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert [(part.count, part.rows) for part in found] == [(3, 3), (3, 3), (1, 3)]
    assert found[-1].labels.tolist() == [6]  # type: ignore[union-attr]
    (alone,) = cut(2, 5, fixed=True)
    assert places(alone) == [0, 1, 0, 1, 0]


def test_rows_that_fill_up_are_cut_off_where_the_first_axis_is_samples() -> None:
    part = cut(2, 4, fixed=True)[0]
    tensors = {"y": torch.zeros(4, 3), "scalar": torch.zeros(()), "other": torch.zeros(5)}
    assert {name: t.shape for name, t in part.valid(tensors).items()} == {"y": (2, 3), "scalar": (), "other": (5,)}
    whole = cut(4, 4, fixed=True)[0]
    assert whole.valid(tensors)["y"].shape == (4, 3)


def test_labels_of_both_halves_of_a_mixture() -> None:
    first, second = cut(4, 2, mixed=True)
    assert (first.other_labels.tolist(), second.other_labels.tolist()) == ([3, 2], [1, 0])  # type: ignore[union-attr]
    assert first.share == 0.25
    assert cut(4, 2)[0].other_labels is None


def test_without_a_sample_axis_each_sample_runs_by_itself() -> None:
    found = list(parts(Mixed({"x": torch.arange(6).reshape(3, 2)}), None, 1, fixed=False, sampled=False))
    assert [part.feeds["x"].tolist() for part in found] == [[0, 1], [2, 3], [4, 5]]


def test_losses_take_float32() -> None:
    found = full({"half": torch.zeros(1).half(), "double": torch.zeros(1).double(), "place": torch.zeros(1).long()})
    assert [t.dtype for t in found.values()] == [torch.float32, torch.float64, torch.int64]


def test_seeds_decide_what_torch_draws() -> None:
    def drawn(*numbers: int) -> float:
        reseed(*numbers)
        return float(torch.rand(()))

    assert drawn(0, 1, 2, 3) == drawn(0, 1, 2, 3)
    assert len({drawn(0, 1, 2, 3), drawn(1, 1, 2, 3), drawn(0, 1, 2, 4), drawn(0, 2, 1, 3)}) == 4


def test_all_is_as_before_afterwards() -> None:
    def settings() -> tuple[Any, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.get_num_threads(),
            torch.get_rng_state().numpy().tobytes(),
        )

    before = settings()
    threads = torch.get_num_threads() + 1
    with repeatable(threads, "cpu"):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == threads
        reseed(1)
    assert settings() == before
    with suppress(KeyError), repeatable(threads, "cpu"):
        raise KeyError
    assert settings() == before


def test_the_processor_computes_in_float32_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Device.of(Recipe()) == Device("cpu", False)
    assert Device.of(Recipe(precision="bfloat16")) == Device("cpu", True)
    x = torch.ones(2, 2)
    for recipe, dtype in ((Recipe(), torch.float32), (Recipe(precision="bfloat16"), torch.bfloat16)):
        with Device.of(recipe).lower():
            assert (x @ x).dtype == dtype


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert Device.of(Recipe()) == Device("cuda", True)
    assert Device.of(Recipe(precision="float32")) == Device("cuda", False)


def test_a_block_as_tensors() -> None:
    feeds, labels = Device("cpu", False).tensors(Block({"x": np.ones((2, 3), np.float32)}, np.array([4, 5])))
    assert feeds["x"].shape == (2, 3)
    assert labels.tolist() == [4, 5]  # type: ignore[union-attr]
    assert Device("cpu", False).tensors(Block({"x": np.ones((2, 3), np.float32)}, None))[1] is None
