from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lpcc.cli.emulated import processor
from lpcc.emulate import Emulator
from lpcc.errors import UsageError

SIZES = ("--dim", "H=16", "--dim", "W=16")


@pytest.mark.parametrize(
    ("name", "core"), [("cortex-a72", "cortex-a72"), ("Cortex-A53", "cortex-a53"), ("arm-cortex-a76", "cortex-a76")]
)
def test_processors_and_targets(name: str, core: str) -> None:
    assert processor(name) == core


@pytest.mark.parametrize(
    ("name", "said"), [("cortex-a7", "no such processor"), ("x86-avx2", "cannot be emulated"), ("no.toml", "no such")]
)
def test_what_cannot_be_emulated(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        processor(name)


def test_options_of_timing_are_refused(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("bench", model, "--on", "cortex-a72", "--threads", "2")
    assert done.code == 2
    assert done.error.startswith("lpcc: error: --threads is for timing")


def test_no_runtime(lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LPCC_EMULATOR", str(tmp_path / "arm64"))
    (tmp_path / "qemu-aarch64").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-aarch64").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = lpcc("bench", model, "--on", "cortex-a72", *SIZES)
    assert done.code == 2
    assert "`lpcc emulator install` sets it up" in done.error


@pytest.fixture
def emulator() -> Emulator:
    try:
        found = Emulator.find()
        found.plugin()
    except UsageError as error:
        pytest.skip(str(error))
    return found


@pytest.mark.usefixtures("emulator")
class TestWithTheEmulator:
    def test_two_models(self, lpcc: Callable[..., Any], model: Path) -> None:
        done = lpcc("bench", model, model, "--on", "cortex-a72", *SIZES, "--json", "counts.json")
        assert (done.code, done.err) == (0, "")
        assert re.search(r"B / A: (0.99|1.00)\d of the instructions", done.out)
        assert "same first class in 100 %" in done.out
        found = json.loads(Path("counts.json").read_text())
        assert list(found) == ["cpu", "onnxruntime", "samples", "inputs", "a", "b", "ratio"]
        assert found["inputs"] == {"x": [1, 3, 16, 16]}
        assert found["a"]["instructions"]["mac"] == found["b"]["instructions"]["mac"] > 0
        assert found["ratio"]["mac"] == 1

    def test_without_a_compiler_it_still_compares(
        self, lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        place = Emulator.find().folder.path
        monkeypatch.setenv("LPCC_EMULATOR", str(place))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("CC", "no-such-compiler")
        done = lpcc("bench", model, "--on", "cortex-a76", *SIZES, "--json", "counts.json")
        assert done.code == 0
        assert "instructions not counted: a C compiler is needed" in done.out
        found = json.loads(Path("counts.json").read_text())
        assert found["a"]["instructions"] is None
        assert found["a"]["agreement"]["agreement"] == 100
