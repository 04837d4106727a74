from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lpcc.errors import UsageError
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.checkpoint import Checkpoint, Identity, digest  # noqa: E402


def identity(**others: Any) -> Identity:
    return replace(Identity("m", "t", "kd", "d", Recipe().to_json(), "cpu"), **others)


def content() -> dict[str, Any]:
    return {
        "step": 3,
        "loss": 0.1,
        "none": None,
        "state": {"w": torch.arange(6.0).reshape(2, 3)},
        "list": [1, {"a": 2}],
    }


def test_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    Checkpoint(path, identity(), 60).write(content())
    found = Checkpoint(path, identity(), 60).read()
    assert found is not None
    assert torch.equal(found.pop("state")["w"], content()["state"]["w"])
    assert found == {"step": 3, "loss": 0.1, "none": None, "list": [1, {"a": 2}]}
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_where_there_is_no_file(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "run.ckpt", identity(), 60).read() is None


def test_due_after_some_seconds(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "run.ckpt", identity(), 0).due
    slow = Checkpoint(tmp_path / "run.ckpt", identity(), 60)
    assert not slow.due
    slow._written -= 61
    assert slow.due
    slow.write(content())
    assert not slow.due


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "n"}, "this checkpoint is of another model"),
        ({"teacher": "n"}, "of another teacher"),
        ({"losses": "kd+hint"}, "of other losses"),
        ({"data": "n"}, "of other data"),
        ({"device": "cuda"}, "made on cuda"),
        ({"recipe": Recipe(momentum=0.5).to_json()}, "of another recipe: momentum was 0.5, now it is 0.9"),
    ],
)
def test_another_trainings_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "run.ckpt"
    Checkpoint(path, identity(**change), 60).write(content())
    with pytest.raises(UsageError, match=message) as raised:
        Checkpoint(path, identity(), 60).read()
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_damaged_files_are_one_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.ckpt"
    Checkpoint(path, identity(), 60).write(content())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match="is no checkpoint of a training, or a damaged one") as raised:
        Checkpoint(path, identity(), 60).read()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("other", [{"a": 1}, [1, 2], 7, {"format": 1, "identity": "{}", "content": {}}])
def test_other_files_of_torch_are_one_line(tmp_path: Path, other: object) -> None:
    path = tmp_path / "run.ckpt"
    torch.save(other, path)
    with pytest.raises(UsageError, match="is no checkpoint of a training"):
        Checkpoint(path, identity(), 60).read()
    path.write_text("text")
    with pytest.raises(UsageError, match="is no checkpoint of a training"):
        Checkpoint(path, identity(), 60).read()


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "identity": "{}", "content": Evil()}, "run.ckpt")
    with pytest.raises(UsageError, match="is no checkpoint of a training"):
        Checkpoint(Path("run.ckpt"), identity(), 60).read()
    assert not Path("pwned").exists()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        Checkpoint(tmp_path, identity(), 60).read()
    with pytest.raises(UsageError, match="cannot be written"):
        Checkpoint(tmp_path / "no" / "run.ckpt", identity(), 60).write(content())


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".run.ckpt.abc123.tmp", ".other.ckpt.abc123.tmp", "run.ckpt.tmp"):
        (tmp_path / name).write_text("half")
    Checkpoint(tmp_path / "run.ckpt", identity(), 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.ckpt.abc123.tmp", "run.ckpt.tmp"]


def test_the_file_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.ckpt"
    Checkpoint(path, identity(), 60).write(content())
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        Checkpoint(path, identity(), 60).write({"step": 4})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Module(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0))
        self.register_buffer("constant", torch.tensor(2, dtype=torch.int64), persistent=False)
        self.register_buffer("short", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("empty", torch.zeros(0, 2))


def test_the_digest_sees_every_value() -> None:
    assert digest(Module()) == digest(Module())
    found = {digest(Module()), digest(Module(), "more"), digest(None)}
    for name in ("weight", "constant", "short"):
        module = Module()
        getattr(module, name).data.view(-1)[-1:].add_(1)
        found.add(digest(module))
    assert len(found) == 6
