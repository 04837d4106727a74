"""One emulated process: requests in, replies out, with the counts of the plugin; what goes wrong in one line."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from lpcc.emulate.counts import CLASSES, Tally, parse_line
from lpcc.emulate.cpu import Cpu
from lpcc.emulate.folder import Folder
from lpcc.errors import ModelError, UsageError

_START_SECONDS = 120.0


class Guest:
    """The emulated Python with onnxruntime, which serves requests until it is closed (see guest.py).

    `plugin` is the counting plugin, None to run without. Starting takes 3 to 9 s, so keep it for many requests. Raises
    UsageError when it does not start.
    """

    def __init__(self, qemu: Path, folder: Folder, cpu: Cpu, plugin: Path | None) -> None:
        python = folder.checked_python()
        self._folder = tempfile.TemporaryDirectory(prefix="lpcc-emulate-")
        self.folder = Path(self._folder.name)
        """A folder for files of requests, deleted at the end."""
        counts = self.folder / "counts.txt"
        command = [str(qemu), "-L", str(folder.root), "-cpu", cpu.qemu]
        if plugin is not None:
            command += ["-plugin", f"{plugin},out={counts}"]
        command += [str(python), str(Path(__file__).parent / "guest.py")]
        environment = {
            "PYTHONHOME": str(folder.root / "usr"),
            "PYTHONPATH": str(folder.site),
            "PYTHONHASHSEED": "0",
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(self.folder),
        }
        self._errors: IO[bytes] = (self.folder / "stderr.txt").open("w+b")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            cwd=self.folder,
            start_new_session=True,  # the terminal's interrupt is for this process alone, which ends the other
        )
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._pending = b""
        self._counts: IO[str] | None = None
        try:
            hello = self._reply(_START_SECONDS)
            if plugin is not None:
                self._counts = counts.open()
                if tuple(self._counts.readline().split()[1:]) != CLASSES:
                    raise UsageError(f"{plugin}: counts other classes than this version of lpcc knows: delete it")
        except ModelError as error:
            self.close()
            raise UsageError(f"the emulated Python does not start: {error}") from None
        except BaseException:
            self.close()
            raise
        self.onnxruntime = str(hello["onnxruntime"])
        """The version of the emulated onnxruntime."""

    @property
    def alive(self) -> bool:
        """Whether it can take a request."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], timeout: float) -> tuple[dict[str, Any], list[tuple[str, Tally]]]:
        """The reply to a request and the plugin's marks since the last one, with their counts.

        Raises:
            ModelError: onnxruntime refuses the model, crashes, or takes more than `timeout` seconds.
        """
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except OSError:
            raise ModelError(self._death()) from None
        reply = self._reply(timeout)
        if "error" in reply:
            self._marks()
            raise ModelError(str(reply["error"]))
        return reply, self._marks()

    def close(self) -> None:
        """End the process and delete its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._replies, self._counts, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # unsent requests of a dead process
                    continue
        self._folder.cleanup()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _marks(self) -> list[tuple[str, Tally]]:
        return [parse_line(line) for line in self._counts] if self._counts is not None else []

    def _reply(self, timeout: float) -> dict[str, Any]:
        stream = self._replies.fileno()
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stream], [], [], timeout)
            if not ready:
                self._process.kill()
                self._process.wait()  # or it might seem alive to the next request
                raise ModelError(f"no answer of the emulator within {timeout:g} s; smaller inputs take less")
            read = os.read(stream, 1 << 16)
            if not read:
                raise ModelError(self._death())
            self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> str:
        """How the process ended, in a line."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        lines = [line for line in lines if "cpuid_info warning" not in line]
        last = f": {lines[-1][:300]}" if lines else ""
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"the emulated onnxruntime ended {how}{last}"
