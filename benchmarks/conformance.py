"""ONNX's own backend tests, through lpcc: right results or a clean refusal, nothing else.

    python benchmarks/conformance.py [--pipeline exact] [--sample N] [NAME ...]

Every test of the `onnx` package that onnxruntime itself passes is read, run through the pipeline and written again;
the result must give the expected outputs. The exit status is 1 if any result is wrong, any test crashes, or fewer than
`FLOOR` of the full set come out right.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOOR = 1575
"""Tests that must come out right when all are run."""

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
OUTCOMES = ("ok", "refused", "wrong", "crash", "beyond onnxruntime")
_WORKERS = 2


@dataclass(frozen=True)
class Outcome:
    """What became of one test: one of `OUTCOMES`, and why."""

    test: str
    kind: str
    what: str
    why: str = ""


@dataclass(frozen=True)
class Test:
    """A model, and inputs with the outputs expected for them."""

    name: str
    kind: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


def tests() -> list[Any]:
    """All test cases in a fixed order, as the `onnx` package describes them; `read` loads one."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the package makes its expectations with overflowing casts
        found = [case for kind in KINDS[:-1] for case in load_model_tests(kind=kind)]
        found += load_model_tests(kind="real")
    return sorted(found, key=lambda case: (KINDS.index(_kind(case)), case.name))


def sample(cases: Sequence[Any], count: int) -> list[Any]:
    """About `count` test cases, evenly spread over all kinds; the same ones each time."""
    step = max(1, len(cases) // count)
    return list(cases[::step])


def _kind(case: Any) -> str:
    return "light" if case.kind == "real" else str(case.kind)


def read(case: Any) -> Test:
    """The model and data of a test case."""
    if case.model is not None:
        model, data = case.model, case.data_sets
    elif case.kind == "real":
        path = Path(onnx.__file__).parent.parent / case.url
        model = onnx.load(path)
        expected = numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb")))
        data = [(_ramp(model), [expected])]
    else:
        folder = Path(case.model_dir)
        model = onnx.load(folder / "model.onnx")
        data = [_read_data(model, sub) for sub in sorted(folder.glob("test_data_set_*"))]
    return Test(case.name, _kind(case), model, data, case.rtol, case.atol)


def _ramp(model: onnx.ModelProto) -> list[np.ndarray]:
    """The input that the expected outputs of the light models were made with."""
    arrays = []
    for info in _open_inputs(model):
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        size = int(np.prod(shape))
        arrays.append((np.arange(size).astype(np.float32) / size).reshape(shape))
    return arrays


def _read_data(model: onnx.ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    return (
        [_read_value(folder / f"input_{i}.pb", info) for i, info in enumerate(_fed(model, folder))],
        [_read_value(folder / f"output_{i}.pb", info) for i, info in enumerate(model.graph.output)],
    )


def _fed(model: onnx.ModelProto, folder: Path) -> list[onnx.ValueInfoProto]:
    return list(model.graph.input)[: len(list(folder.glob("input_*.pb")))]


def _read_value(path: Path, info: onnx.ValueInfoProto) -> Any:
    data = path.read_bytes()
    if info.type.HasField("sequence_type"):
        sequence = onnx.SequenceProto.FromString(data)
        return numpy_helper.to_list(sequence)
    if info.type.HasField("optional_type"):
        optional = onnx.OptionalProto.FromString(data)
        return numpy_helper.to_optional(optional)
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def check(test: Test, pipeline: str) -> Outcome:
    """Run one test through lpcc and say what became of it."""
    from lpcc.errors import LpccError, PassError

    why = _differs(test, test.model)
    if why:
        return Outcome(test.name, test.kind, "beyond onnxruntime", why)
    try:
        model = compiled(test.model, pipeline)
    except PassError as error:
        return Outcome(test.name, test.kind, "crash", str(error))
    except LpccError as error:
        return Outcome(test.name, test.kind, "refused", str(error))
    except Exception as error:
        return Outcome(test.name, test.kind, "crash", f"{type(error).__name__}: {error}")
    why = _differs(test, model)
    return Outcome(test.name, test.kind, "wrong" if why else "ok", why)


def compiled(model: onnx.ModelProto, pipeline: str) -> onnx.ModelProto:
    """The model read from a file, run through the pipeline (none if empty), and made a model again."""
    from lpcc.graph import load, to_proto
    from lpcc.pipeline import Context, Pipeline
    from lpcc.pipeline.runner import run_pipeline

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        graph = load(path)
        run_pipeline(graph, Pipeline.parse(pipeline) if pipeline else (), Context())
        return to_proto(graph)


def _differs(test: Test, model: onnx.ModelProto) -> str:
    """Why the outputs of `model` are not the expected ones; empty if they are."""
    import onnxruntime as ort
    from onnx.backend.test.runner import Runner

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [info.name for info in _open_inputs(test.model)]
        for inputs, expected in test.data:
            found = _run(session, names, inputs)
            Runner.assert_similar_outputs(_plain(list(expected)), found, rtol=test.rtol, atol=test.atol)
    except Exception as error:
        return " ".join(str(error).split())[:300] or type(error).__name__
    return ""


def _open_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that the data is for: initialisers listed as inputs have their values already."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in defaults]


def _run(session: Any, names: Sequence[str], inputs: Sequence[Any]) -> list[Any]:
    """The outputs for one set of inputs: arrays, and lists of them."""
    values = [_plain(value) for value in inputs]
    if not any(isinstance(value, onnx.TensorProto) for value in inputs):
        return list(session.run(None, dict(zip(names, values, strict=False))))
    feeds = {name: _ort_value(value) for name, value in zip(names, values, strict=False)}
    outputs = [output.name for output in session.get_outputs()]
    return [_array(value) for value in session.run_with_ort_values(outputs, feeds)]


def _plain(value: Any) -> Any:
    """A value as arrays and lists: the package also states scalars and, for small number formats, messages."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return None if value is None else np.asarray(value)


def _ort_value(array: np.ndarray) -> Any:
    """A tensor for onnxruntime, whose NumPy interface lacks the small number formats."""
    import onnxruntime as ort

    if array.dtype.isbuiltin == 1:
        return ort.OrtValue.ortvalue_from_numpy(array)
    tensor = numpy_helper.from_array(array, "value")
    info = helper.make_tensor_value_info("value", tensor.data_type, array.shape)
    graph = helper.make_graph([], "value", [], [info], [tensor])
    source = helper.make_model(graph, ir_version=13, opset_imports=[helper.make_opsetid("", 25)])
    session = ort.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run_with_ort_values(["value"], {})[0]


def _array(value: Any) -> np.ndarray:
    """An array of any number format from onnxruntime's tensor."""
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return numpy_helper.to_array(onnx.TensorProto(data_type=value.element_type(), dims=value.shape(), raw_data=data))


def run(cases: Sequence[Any], pipeline: str) -> Iterator[Outcome]:
    """Outcomes of all cases, in the order in which they come out of the worker processes.

    A worker that dies has crashed on the test that it was at; another takes up its work behind that one.
    """
    context = multiprocessing.get_context("fork")  # the test cases take seconds to make
    pending: dict[Connection, list[Any]] = {}

    def start(work: list[Any]) -> None:
        receive, send = context.Pipe(duplex=False)
        context.Process(target=_work, args=(work, pipeline, send), daemon=True).start()
        send.close()
        pending[receive] = work

    for index in range(_WORKERS):
        start(list(cases[index::_WORKERS]))
    while pending:
        for ready in wait(list(pending)):
            assert isinstance(ready, Connection)
            try:
                outcome = ready.recv()
                pending[ready] = pending[ready][1:]
            except EOFError:
                rest = pending.pop(ready)
                if not rest:
                    continue
                outcome = Outcome(rest[0].name, _kind(rest[0]), "crash", "the process died")
                start(rest[1:])
            yield outcome


def _work(cases: list[Any], pipeline: str, send: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    for case in cases:
        send.send(check(read(case), pipeline))


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts by kind and outcome."""
    counts = Counter((outcome.kind, outcome.what) for outcome in outcomes)
    rows = [["kind", *OUTCOMES]]
    rows += [[kind, *(str(counts[kind, what]) for what in OUTCOMES)] for kind in KINDS]
    rows.append(["all", *(str(sum(counts[kind, what] for kind in KINDS)) for what in OUTCOMES)])
    return "\n".join(" ".join(f"{cell:>20}" if i else f"{cell:<18}" for i, cell in enumerate(row)) for row in rows)


def main() -> int:
    """Run the tests, print what is not ok and the counts."""
    parser = argparse.ArgumentParser(description="ONNX's backend tests through lpcc")
    parser.add_argument("names", nargs="*", help="tests to run; all if none is given")
    parser.add_argument("--pipeline", default="exact", help="the pipeline; empty for the door alone")
    parser.add_argument("--sample", type=int, help="run only about this many, evenly spread")
    given = parser.parse_args()
    cases = [case for case in tests() if not given.names or case.name in given.names]
    whole = len(cases)
    if given.sample:
        cases = sample(cases, given.sample)
    outcomes = []
    for outcome in run(cases, given.pipeline):
        outcomes.append(outcome)
        if sys.stderr.isatty():
            print(f"\r{len(outcomes)}/{len(cases)}", end="", file=sys.stderr)
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.what, outcome.test)):
        if outcome.what in ("refused", "wrong", "crash") or (given.names and outcome.why):
            print(f"{outcome.what}: {outcome.test}: {outcome.why}")
    print(table(outcomes))
    counts = Counter(outcome.what for outcome in outcomes)
    complete = not given.names and len(cases) == whole
    return int(counts["wrong"] + counts["crash"] > 0 or (complete and counts["ok"] < FLOOR))


if __name__ == "__main__":
    sys.exit(main())
