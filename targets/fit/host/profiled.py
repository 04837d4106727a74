"""Times of the parts of a model, by onnxruntime's profiler: all its convolutions, all its changes of layout, ...

The profiler's own work is in them, a microsecond or so a kernel; the fit finds out how much.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from lpcc.analysis.kernels import Kernel
from lpcc.runtime.session import open_session, session_options

_RUNS = 30
_WARM_UP = 5
_TYPICAL = 0.75
"""Share of the runs that count, the fastest ones: the others were disturbed."""

_PARTS = {
    "conv": "Conv FusedConv QLinearConv ConvTranspose",
    "product": "Gemm FusedGemm QGemm MatMul FusedMatMul QLinearMatMul MatMulIntegerToFloat LSTM GRU",
    "pool": "MaxPool AveragePool GlobalAveragePool QLinearAveragePool QLinearGlobalAveragePool NhwcMaxPool",
    "transpose": "Transpose ReorderInput ReorderOutput",
    "quantize": "QuantizeLinear",
    "dequantize": "DequantizeLinear",
    "concat": "Concat QLinearConcat",
}
_PART_OF = {op: part for part, ops in _PARTS.items() for op in ops.split()}
_KIND_IN = {
    "conv": "conv", "winograd": "conv", "pointwise": "conv", "depthwise": "conv", "grouped": "conv",
    "gemm": "product", "matmul": "product", "rnn": "product",
}  # fmt: skip
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_REST = "rest"


def parts_of(kernels: Sequence[Kernel]) -> dict[str, tuple[Kernel, ...]]:
    """Predicted kernels by part; views belong to none."""
    found: defaultdict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        if kernel.kind != "view":
            part = _KIND_IN.get(kernel.kind, kernel.kind)
            found[part if part in _PARTS else _REST].append(kernel)
    return {part: tuple(members) for part, members in found.items()}


def profile(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, tuple[int, float]]:
    """By part: how many kernels onnxruntime runs, and their milliseconds in a typical run."""
    with tempfile.TemporaryDirectory(prefix="lpcc-") as folder:
        options = session_options(threads=1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(model, options)
        for _ in range(_WARM_UP + _RUNS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    times: defaultdict[tuple[str, str], list[int]] = defaultdict(list)  # by node and operator
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"], event["args"]["op_name"]].append(event["dur"])
    found: dict[str, tuple[int, float]] = {}
    for (_, op), all_runs in times.items():
        if op not in _VIEWS:
            part = _PART_OF.get(op, _REST)
            count, total = found.get(part, (0, 0.0))
            runs = sorted(all_runs[_WARM_UP:])
            found[part] = count + 1, total + float(np.mean(runs[: max(1, int(_TYPICAL * len(runs)))])) / 1e3
    return found
