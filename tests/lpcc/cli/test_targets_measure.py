from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lpcc.target import Target
from lpcc.targets.fit.host import measure as work
from lpcc.targets.fit.host.probes import probes
from lpcc.targets.fit.host.timing import BusyError, Gate
from lpcc.targets.fit.host.whole import networks


class AnyClock:
    """A machine on which nothing is ever disturbed: each reading of a clock is a millisecond later."""

    def __init__(self) -> None:
        self._passed = self._computed = 0

    def passed(self) -> int:
        self._passed += 1_000_000
        return self._passed

    def computed(self) -> int:
        self._computed += 1_000_000
        return self._computed

    def spin(self) -> None:
        pass


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few probes and networks, on a quiet machine."""
    monkeypatch.chdir(tmp_path)
    some = [
        probe for probe in probes(Target.load("host").int8) if " pointwise " in probe.name or " tiny " in probe.name
    ]
    apart = list(islice(networks(Target.load("host").int8), 1))
    monkeypatch.setattr(work, "probes", lambda _int8: iter(some[::6]))
    monkeypatch.setattr(work, "networks", lambda _int8: iter(apart))
    monkeypatch.setattr(work, "Gate", lambda: Gate(AnyClock()))


@pytest.mark.usefixtures("quick")
def test_writes_a_target_of_this_machine(lpcc: Callable[..., Any]) -> None:
    done = lpcc("targets", "measure", "--name", "my-box", "--minutes", "0.1", "--json", "out.json")
    assert (done.code, done.err) == (0, "")
    assert "my-box.toml: " in done.out
    assert "networks not fitted" in done.out
    target = Target.load("my-box.toml")
    assert target.name == "my-box"
    assert not target.is_host
    assert target.tables.rows
    assert target.quality.networks == 1
    assert json.loads(Path("out.json").read_text())["networks"][0]["name"] == "float32 separable"
    assert not [path.name for path in Path.cwd().iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("quick")
def test_fits_times_measured_before_to_the_same_bytes(
    lpcc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lpcc("targets", "measure", "--name", "my-box", "--minutes", "0.1", "-q").code == 0
    first = [Path(f"my-box.{kind}").read_bytes() for kind in ("toml", "csv", "times.csv")]
    monkeypatch.setattr(work, "measure", lambda *_: pytest.fail("measured"))
    assert lpcc("targets", "measure", "--name", "my-box", "--times", "my-box.times.csv", "-q").code == 0
    assert [Path(f"my-box.{kind}").read_bytes() for kind in ("toml", "csv", "times.csv")] == first


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("error", "code"), [(BusyError("too busy"), 3), (KeyboardInterrupt(), 130)])
def test_leaves_nothing_behind_where_it_cannot_end(
    lpcc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def stop(*_: object) -> Iterator[None]:
        raise error

    monkeypatch.setattr(work, "times", stop)
    done = lpcc("targets", "measure", "--name", "my-box", "--minutes", "0.1")
    assert done.code == code
    assert len(done.err.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--name"),
        (["--name", "a/b"], "expected letters, digits"),
        (["--name", "box", "-o", "box.csv"], "ends in .toml"),
        (["--name", "box", "-o", "missing/box.toml"], "no folder"),
        (["--name", "box", "--minutes", "0"], "--minutes"),
        (["--name", "box", "--times", "missing.csv"], "missing.csv: cannot be read"),
    ],
)
def test_wrong_usage(
    lpcc: Callable[..., Any], arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = lpcc("targets", "measure", *arguments)
    assert done.code == 2
    assert says in done.error
