"""ONNX's own backend tests through the operators of training: right results or a clear refusal, nothing else.

    python benchmarks/training_operators.py [NAME ...]

Every test whose nodes are operators that torch runs here is run, each node by its lowering. The table says of each
operator how many of its tests came out right and how many were refused; below it, the reasons. The exit status is 1
if any result is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from conformance import Outcome, Test, _open_inputs, _plain, read, tests

RANDOM = re.compile("test_(bernoulli|training_dropout)")
"""Tests whose expected outputs are random numbers of NumPy's."""

DIFFERENT = dict.fromkeys(
    ("test_resize_downsample_scales_cubic_align_corners", "test_resize_downsample_scales_linear_align_corners"),
    "lengths that are no whole numbers: as in onnxruntime, which does not give what is expected either",
)
"""Tests whose expected outputs onnxruntime does not give; the operators here follow onnxruntime."""

OUTCOMES = ("ok", "refused", "unknown", "excused", "wrong")


def check(test: Test) -> Outcome:
    """Run one test and say what became of it."""
    from onnx.backend.test.runner import Runner

    from lpcc.train.operators import Unsupported

    if test.model.functions:
        return Outcome(test.name, test.kind, "unknown", "local functions")
    if test.name in DIFFERENT or RANDOM.match(test.name):
        return Outcome(test.name, test.kind, "excused", DIFFERENT.get(test.name, "random numbers"))
    missing = sorted(unknown(test.model))
    if missing:
        return Outcome(test.name, test.kind, "unknown", ", ".join(missing))
    names = [info.name for info in _open_inputs(test.model)]
    try:
        for inputs, expected in test.data:
            feeds = dict(zip(names, _plain(list(inputs)), strict=False))
            found = run(test.model, feeds)
            wanted = _plain(list(expected))
            half = any(np.asarray(each).dtype == np.float16 for each in wanted if not isinstance(each, list))
            atol = max(test.atol, 1e-3) if half else test.atol
            Runner.assert_similar_outputs(wanted, found, rtol=test.rtol, atol=atol)
    except Unsupported as error:
        return Outcome(test.name, test.kind, "refused", str(error))
    except Exception as error:
        return Outcome(test.name, test.kind, "wrong", " ".join(f"{type(error).__name__}: {error}".split())[:300])
    return Outcome(test.name, test.kind, "ok")


def operators(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Domain and name of the operators of a model."""
    return {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in model.graph.node}


def unknown(model: onnx.ModelProto) -> set[str]:
    """Names of the operators of a model that have no lowering."""
    from lpcc.train.operators import OPERATORS

    return {op for domain, op in operators(model) if (domain, op) not in OPERATORS}


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """The outputs of a model, node by node in torch, as arrays in their ONNX types."""
    import torch

    from lpcc.train.operators import Call, Mode, lower
    from lpcc.train.operators.shapes import tensor_of
    from lpcc.train.tensors import array_of

    def tensor(value: Any) -> Any:
        if isinstance(value, list):
            return [tensor(item) for item in value]
        return None if value is None else tensor_of(np.asarray(value))

    def array(value: Any, like: Any) -> Any:
        if isinstance(value, list):
            return [array(item, like) for item in value]
        return None if value is None else array_of(value, like)

    model = onnx.shape_inference.infer_shapes(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    infos = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    types = {info.name: _type(info.type) for info in infos}
    types |= {
        entry.name: np.dtype(helper.tensor_dtype_to_np_dtype(entry.data_type)) for entry in model.graph.initializer
    }
    values: dict[str, Any] = {entry.name: tensor(numpy_helper.to_array(entry)) for entry in model.graph.initializer}
    values |= {name: tensor(value) for name, value in feeds.items()}
    mode = Mode()
    with torch.no_grad():
        for node in model.graph.node:
            attributes = {entry.name: _attribute(entry) for entry in node.attribute}
            call = Call(
                node.op_type, "" if node.domain == "ai.onnx" else node.domain, opsets[node.domain], attributes,
                len(node.input), len(node.output), node.name, mode, tuple(types.get(name) for name in node.input),
            )  # fmt: skip
            found = lower(call)(*[values[name] if name else None for name in node.input])
            for name, value in zip(node.output, found if isinstance(found, tuple) else (found,), strict=False):
                values[name] = value
    return [array(values[info.name], types[info.name]) for info in model.graph.output]


def _type(info: onnx.TypeProto) -> np.dtype[Any] | None:
    """The element type of a tensor, or of the tensors of a sequence."""
    while info.HasField("sequence_type") or info.HasField("optional_type"):
        info = info.sequence_type.elem_type if info.HasField("sequence_type") else info.optional_type.elem_type
    kind = info.tensor_type.elem_type
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else None


def _attribute(entry: onnx.AttributeProto) -> Any:
    return numpy_helper.to_array(entry.t) if entry.type == entry.TENSOR else helper.get_attribute_value(entry)


def check_all(cases: Sequence[Any]) -> list[tuple[Outcome, set[str]]]:
    """The outcome of each test, with the names of the operators in it."""
    found = []
    for case in cases:
        if case.kind == "real":
            continue
        test = read(case)
        found.append((check(test), {op for _, op in operators(test.model)}))
    return found


def table(outcomes: Sequence[tuple[Outcome, set[str]]]) -> str:
    """Counts for each operator: of the tests that are of it alone."""
    counts: dict[str, Counter[str]] = {}
    for outcome, ops in outcomes:
        if len(ops) == 1:
            counts.setdefault(next(iter(ops)), Counter())[outcome.what] += 1
    rows = [f"{'operator':<28}" + "".join(f"{what:>9}" for what in OUTCOMES)]
    rows += [f"{op:<28}" + "".join(f"{counts[op][what] or '':>9}" for what in OUTCOMES) for op in sorted(counts)]
    whole = Counter(outcome.what for outcome, _ in outcomes)
    return "\n".join([*rows, f"{'all tests':<28}" + "".join(f"{whole[what]:>9}" for what in OUTCOMES)])


def main() -> int:
    """Run the tests, print the table, the reasons of refusals, and what is wrong."""
    parser = argparse.ArgumentParser(description="ONNX's backend tests through the operators of training")
    parser.add_argument("names", nargs="*", help="tests to run; all if none is given")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes = check_all([case for case in tests() if not given.names or case.name in given.names])
    print(table(outcomes))
    for what in ("refused", "excused", "unknown"):
        reasons = Counter(outcome.why for outcome, _ in outcomes if outcome.what == what)
        print(f"\n{what}:", *(f"  {count:>4} {why}" for why, count in reasons.most_common()), sep="\n")
    wrong = [outcome for outcome, _ in outcomes if outcome.what == "wrong"]
    for outcome in wrong:
        print(f"wrong: {outcome.test}: {outcome.why}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
