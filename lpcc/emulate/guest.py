"""Runs inside the emulator, under the arm64 Python: one request a line on stdin, one reply a line on stdout, as JSON.

A request names a model file, input files (``samples``, npz), and what is wanted: ``outputs`` (a file for the outputs
of each sample, npz, numbered in the model's order), ``optimised`` (a file for the graph that onnxruntime makes of the
model), ``count`` ("run": instructions of a run on the first sample; "bound": the same with inputs and outputs left in
onnxruntime; "kernels": of each kernel in it). Counts themselves
go from the counting plugin to the host; the reply holds the rest. Needs only numpy and onnxruntime.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

_START, _START_AT_CLOCK, _STOP = 7770000, 7770001, 7770002
"""Process groups that do not exist: asking for them marks a place for the counting plugin."""

_WARM_UP = 2
"""Runs before the one that counts: the first allocates, the second lays out its memory by what the first asked for."""


def _mark(what: int) -> None:
    with contextlib.suppress(OSError):
        os.getpgid(what)


def _feeds(path: str) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _options(request: dict[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if request.get("optimised"):
        options.optimized_model_filepath = request["optimised"]
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1048576")
    return options


def _count_kernels(request: dict[str, Any], feeds: dict[str, Any]) -> list[dict[str, Any]]:
    """Run under onnxruntime's profiler, which reads the clock around each kernel; its events, in order."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options(request)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
        for _ in range(_WARM_UP):
            session.run(None, feeds)
        _mark(_START_AT_CLOCK)
        session.run(None, feeds)
        _mark(_STOP)
        events = json.loads(Path(session.end_profiling()).read_text())
    begin = max(event["ts"] for event in events if event["name"] == "model_run")
    kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time") and e["ts"] >= begin]
    return [
        {
            "name": e["name"].removesuffix("_kernel_time"),
            "op": e["args"]["op_name"],
            "tensors": len(e["args"].get("input_type_shape", [])) + len(e["args"].get("output_type_shape", [])),
        }
        for e in kernels
    ]


def _plain(session: ort.InferenceSession, feeds: dict[str, Any]) -> Callable[[], Any]:
    return lambda: session.run(None, feeds)


def _bound(session: ort.InferenceSession, feeds: dict[str, Any]) -> Callable[[], Any]:
    """A run that neither takes inputs from Python nor gives it the outputs."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")

    kept = [feeds]  # what is bound lies in these arrays
    return lambda: kept and session.run_with_iobinding(binding)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    samples = request.get("samples", [])
    if request.get("count") == "kernels":
        return {"kernels": _count_kernels(request, _feeds(samples[0]))}
    session = ort.InferenceSession(request["model"], _options(request), providers=["CPUExecutionProvider"])
    if request.get("count") in ("run", "bound"):
        run = (_bound if request["count"] == "bound" else _plain)(session, _feeds(samples[0]))
        for _ in range(_WARM_UP):
            run()
        _mark(_START)
        run()
        _mark(_STOP)
    for sample, path in zip(samples, request.get("outputs", []), strict=False):
        values = session.run(None, _feeds(sample))
        arrays = {f"o{i}": value for i, value in enumerate(values) if isinstance(value, np.ndarray)}
        np.savez(path, allow_pickle=False, **arrays)
    return {"outputs": [output.name for output in session.get_outputs()]}


def main() -> None:
    """Serve until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what onnxruntime prints is no reply
    gc.disable()  # it would run at a time of its own, and count
    gc.freeze()  # what the imports made is never looked at again
    print(json.dumps({"onnxruntime": ort.__version__, "python": sys.version.split()[0]}), file=replies, flush=True)
    for line in sys.stdin:
        try:
            reply = _answer(json.loads(line))
        except Exception as error:  # of onnxruntime, which share no base class
            reply = {"error": str(error) or type(error).__name__}
        gc.collect()
        print(json.dumps(reply), file=replies, flush=True)


main()
