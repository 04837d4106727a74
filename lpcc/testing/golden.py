"""Golden cases: one text file with a pipeline, the model before, what was done, and the model after.

    # A batch norm behind a convolution goes into its weights.
    pipeline: fold-bn
    dims: N=2
    --- before
    <ir_version: 10, opset_import: ["": 17]>
    g (float[N,3,8,8] x) => (float[N,4,6,6] y)
    <float[4,3,3,3] w, float[4] scale, float[4] bias, float[4] mean, float[4] var>
    {
        c = Conv(x, w)
        y = BatchNormalization(c, scale, bias, mean, var)
    }
    --- changes
    ...
    --- after
    ...

Comment lines say what the case shows. `dims` gives sizes to symbolic dimensions when the models are run; ``run: no``
leaves that out (say for operators that onnxruntime lacks). *before* is in ONNX's text syntax; weights that it declares
without data are filled from a seed, those named `var` or `variance` with positive values. *changes* and *after* are
written by ``pytest --update-golden`` and reviewed: what the passes did and refused, and the result in lpcc's own text.
Text is compared exactly; then both models are run in onnxruntime and compared, if all passes are exact.
"""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from lpcc.door.lazy import numpy_dtype
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Pipeline
from lpcc.testing.equivalence import assert_equivalent
from lpcc.text import print_graph


class GoldenError(AssertionError):
    """The result of a golden case is not what its file says."""


@dataclass(frozen=True)
class Case:
    """A golden case as its file has it."""

    comment: str
    settings: dict[str, str]
    before: str
    changes: str
    after: str

    @property
    def text(self) -> str:
        """The file's content."""
        settings = "".join(f"{key}: {value}\n" for key, value in self.settings.items())
        sections = f"--- before\n{self.before}--- changes\n{self.changes}--- after\n{self.after}"
        return f"{self.comment}{settings}{sections}"


def golden_cases(folder: str | Path) -> list[Path]:
    """The golden cases in a folder and those below it, sorted by path."""
    return sorted(Path(folder).rglob("*.txt"))


def parse_case(text: str) -> Case:
    """A case from the text of its file; *changes* and *after* may be missing.

    Raises:
        ValueError: there is no ``pipeline:`` line or no ``--- before`` section.
    """
    head, *sections = re.split(r"^--- (before|changes|after)\n", text, flags=re.MULTILINE)
    parts = dict(zip(sections[::2], sections[1::2], strict=True))
    lines = head.splitlines()
    settings = dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    if "pipeline" not in settings or "before" not in parts:
        raise ValueError("a golden case needs a `pipeline:` line and a `--- before` section")
    comment = "".join(line + "\n" for line in lines if line.startswith("#"))
    return Case(comment, settings, parts["before"], parts.get("changes", ""), parts.get("after", ""))


def read_model(text: str) -> onnx.ModelProto:
    """Model in ONNX's text syntax; weights declared without data are filled from a seed that depends on their names."""
    model = onnx.parser.parse_model(text)
    made = {name for node in model.graph.node for name in node.output}
    known = {tensor.name for tensor in model.graph.initializer} | {info.name for info in model.graph.input}
    for info in list(model.graph.value_info):
        if info.name not in made | known:
            kind = info.type.tensor_type
            shape = [dim.dim_value for dim in kind.shape.dim]
            rng = np.random.default_rng(zlib.crc32(info.name.encode()))
            positive = info.name.endswith(("var", "variance"))
            values = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape)
            array = np.asarray(values).astype(numpy_dtype(kind.elem_type))
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
    return model


def check_golden(
    path: str | Path, context: Context | None = None, *, passes: Iterable[type[Pass]] = (), update: bool = False
) -> None:
    """Run one golden case; with `update`, write its *changes* and *after* sections anew, if the result is sound.

    The case's pipeline may name `passes` besides the built-in ones and those of installed plugins.

    Raises:
        GoldenError: the result differs from the file; the message is a diff.
        AssertionError: the models before and after give different outputs though all passes are exact.
    """
    from lpcc.pipeline.runner import run_pipeline

    path = Path(path)
    case = parse_case(path.read_text(encoding="utf-8"))
    pipeline = Pipeline.parse(case.settings["pipeline"], passes)
    before = read_model(case.before)
    graph = from_proto(before)
    records = run_pipeline(graph, pipeline, context or Context())
    after = to_proto(graph)
    found = Case(
        case.comment,
        case.settings,
        case.before,
        "".join(_summary(record.item.name, record.changes) for record in records) or "nothing\n",
        print_graph(from_proto(after)),
    )
    if found != case and not update:
        diff = difflib.unified_diff(case.text.splitlines(), found.text.splitlines(), str(path), "result", lineterm="")
        raise GoldenError("\n".join(diff))
    onnx.checker.check_model(after, full_check=True)
    exact = all(item.fidelity is Fidelity.EXACT for item in pipeline)
    if exact and case.settings.get("run") != "no":
        dims = dict(pair.split("=") for pair in case.settings.get("dims", "").split())
        assert_equivalent(read_model(case.before), after, dims={name: int(size) for name, size in dims.items()})
    if found != case:
        path.write_text(found.text, encoding="utf-8")


def _summary(name: str, changes: Changes) -> str:
    lines = [f"{name}: {what} at {node}\n" for node, what in ((r.node, r.what) for r in changes.rewrites)]
    lines += [f"{name}: left {refusal.node} alone: {refusal.reason}\n" for refusal in changes.refused]
    return "".join(lines)
