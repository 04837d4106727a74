from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lpcc.emulate import CPUS, Emulator, Folder
from lpcc.emulate.process import Guest
from lpcc.errors import ModelError, UsageError

CPU = CPUS["cortex-a72"]
ECHO = 'print(json.dumps({"heard": json.loads(line)}), flush=True)'


def test_requests_and_replies(stand_in: Callable[..., Path], ready: Folder) -> None:
    with Guest(stand_in(ECHO), ready, CPU, None) as guest:
        assert guest.onnxruntime == "1.27.0"
        assert guest.ask({"n": 1}, 10) == ({"heard": {"n": 1}}, [])
        assert guest.ask({"n": 2}, 10) == ({"heard": {"n": 2}}, [])
        folder = guest.folder
        assert folder.is_dir()
    assert not folder.exists()


def test_an_error_leaves_it_alive(stand_in: Callable[..., Path], ready: Folder) -> None:
    with Guest(stand_in('print(json.dumps({"error": "no"}), flush=True)'), ready, CPU, None) as guest:
        with pytest.raises(ModelError, match=r"^no$"):
            guest.ask({}, 10)
        assert guest.alive


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("sys.stderr.write('free(): bad\\n'); sys.exit(3)", r"ended with exit code 3: free\(\): bad"),
    ],
)
def test_a_crash(stand_in: Callable[..., Path], ready: Folder, answer: str, said: str) -> None:
    with Guest(stand_in(answer), ready, CPU, None) as guest:
        with pytest.raises(ModelError, match=said):
            guest.ask({}, 10)
        assert not guest.alive
        with pytest.raises(ModelError, match="ended"):
            guest.ask({}, 10)


def test_a_guest_that_never_answers(stand_in: Callable[..., Path], ready: Folder) -> None:
    with Guest(stand_in("time.sleep(60)"), ready, CPU, None) as guest:
        with pytest.raises(ModelError, match=r"within 0.1 s"):
            guest.ask({}, 0.1)
        assert not guest.alive


def test_a_python_that_does_not_start(tmp_path: Path, ready: Folder) -> None:
    broken = tmp_path / "qemu-aarch64"
    broken.write_text("#!/bin/sh\necho 'cannot open ld-linux' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match=r"does not start: .*cannot open ld-linux"):
        Guest(broken, ready, CPU, None)


def test_a_plugin_of_another_version(stand_in: Callable[..., Path], ready: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="counts other classes"):
        Guest(stand_in(ECHO, classes="mac other"), ready, CPU, tmp_path / "plugin.so")


def test_a_machine_starts_anew_after_a_crash(stand_in: Callable[..., Path], ready: Folder, tmp_path: Path) -> None:
    answer = (
        f"open({str(tmp_path / 'seen')!r}, 'a').write('x'); "
        "os.kill(os.getpid(), 11) if 'a.onnx' in line else print(json.dumps({'outputs': []}), flush=True)"
    )
    emulator = Emulator(stand_in(answer), ready)
    with emulator.plain_machine("cortex-a72") as machine:
        with pytest.raises(ModelError, match=r"onnxruntime 1.27.0 for aarch64: .* ended by SIGSEGV"):
            machine.runs(Path("a.onnx"), [])
        assert machine.runs(Path("b.onnx"), []) == []
    assert (tmp_path / "seen").read_text() == "xx"
