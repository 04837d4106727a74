"""Running a model in onnxruntime on this machine's CPU, with one-line errors and no chatter."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.errors import ModelError
from lpcc.runtime.spec import Array, Dim, TensorSpec

if TYPE_CHECKING:
    import onnx
    import onnxruntime

MESSAGE_LIMIT = 1_900_000_000
"""Bytes that a model may have in one file: protobuf refuses to write a message of 2 GiB."""
_REUSE_LIMIT = 2000
"""Nodes up to which onnxruntime plans the reuse of memory, which takes it quadratic time: 36 s at 20,000 nodes."""
_SIGNED = "session.qdqisint8allowed"
_FATAL_ONLY = 4  # severities of onnxruntime's log: errors reach the user as exceptions

_TYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "object",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Session:
    """A model loaded into onnxruntime's CPU provider.

    `threads` is the number of threads within a node (nodes run one after another). ``optimise=False`` turns all of
    onnxruntime's graph optimisations off, as a reference run wants (some of its fusions are wrong). ``arena=False``
    gives memory back after each run, for measuring memory. ``signed=True`` leaves activations of signed 8 bits what
    they are, as onnxruntime does on Arm; on x86 it makes unsigned ones of them, where it can. It then refuses some
    models that it made so itself (from opset 21 on, where it moved a QuantizeLinear past a Transpose): those are loaded
    as with ``signed=True``. Raises ModelError when onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes | str | Path,
        *,
        threads: int = 1,
        optimise: bool = True,
        arena: bool = True,
        signed: bool = False,
    ) -> None:
        import onnxruntime as ort

        level = ort.GraphOptimizationLevel
        options = session_options(threads)
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = arena
        if signed:
            options.add_session_config_entry(_SIGNED, "1")
        options.enable_mem_reuse = _nodes(model) <= _REUSE_LIMIT
        self.raw: onnxruntime.InferenceSession = _opened(model, options, retry=optimise and not signed)
        """onnxruntime's own session, for what this class does not offer."""
        self.inputs: tuple[TensorSpec, ...] = tuple(map(_spec, self.raw.get_inputs()))
        if not isinstance(model, bytes | str | Path):
            self.inputs = _with_unknown_ranks(self.inputs, TensorSpec.inputs_of(model))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(_spec, self.raw.get_outputs()))
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _FATAL_ONLY

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """The named outputs (all when None) for one set of inputs.

        Sequences, maps and absent optionals come back as onnxruntime gives them: list, dict and None. Raises ModelError
        when the model cannot run on `feeds`.
        """
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        if not names:  # onnxruntime takes none for all
            return {}
        try:
            values = self.raw.run(names, dict(feeds), self._run_options)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"onnxruntime could not run the model: {one_line(error)}") from None
        return dict(zip(names, values, strict=True))


def _nodes(model: onnx.ModelProto | bytes | str | Path) -> int:
    """Nodes of a model's main graph; 0 where the model is not at hand."""
    return 0 if isinstance(model, bytes | str | Path) else len(model.graph.node)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options of a quiet session with `threads` threads within a node and one node at a time."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    return options


def _opened(
    model: onnx.ModelProto | bytes | str | Path, options: onnxruntime.SessionOptions, *, retry: bool
) -> onnxruntime.InferenceSession:
    """The model in onnxruntime; where that spoils its QuantizeLinear nodes, with signed integers left as they are."""
    try:
        return open_session(model, options)
    except ModelError as error:
        if not retry or "output_dtype" not in str(error):
            raise
        options.add_session_config_entry(_SIGNED, "1")
        return open_session(model, options)


def open_session(
    model: onnx.ModelProto | bytes | str | Path, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """Load a model into onnxruntime. A model over protobuf's 2 GiB goes through a temporary folder.

    Raises ModelError with the first line of onnxruntime's reason.
    """
    import onnxruntime as ort

    def load(source: bytes | str) -> onnxruntime.InferenceSession:
        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            where = f" {source}" if isinstance(source, str) else " the model"
            raise ModelError(f"onnxruntime refuses{where}: {one_line(error)}") from None

    if isinstance(model, bytes):
        return load(model)
    if isinstance(model, str | Path):
        return load(str(model))
    if model.ByteSize() < MESSAGE_LIMIT:
        return load(model.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="lpcc-") as folder:
        path = Path(folder) / "model.onnx"
        save_apart(model, path)
        return load(str(path))


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of `model` that also gives the named tensors of its main graph as outputs.

    Types are left for onnxruntime to infer, which it does at every optimisation level and opset (onnx.checker would ask
    for them). Names that already are outputs are not added twice. Raises ModelError for a name that no node of the main
    graph makes.
    """
    import onnx

    made = {name for node in model.graph.node for name in node.output if name}
    known = {value.name for value in model.graph.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in dict.fromkeys(names):
        if name in known:
            continue
        if name not in made:
            raise ModelError(f"no node of the model makes a tensor named `{name}`")
        copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def one_line(error: Exception) -> str:
    """The reason onnxruntime gives, in one line without its error codes and its C++ source locations."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? (?=\S)", "", text)
    return text if len(text) <= 400 else text[:397] + "..."


def save_apart(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` with its large tensors beside it, leaving `model` as it is."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # onnx.save turns the tensors of what it is given into references
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)


def _spec(arg: Any) -> TensorSpec:
    match = re.fullmatch(r"tensor\((\w+)\)", arg.type)
    if match is None:
        return TensorSpec(arg.name, None, None)
    name = _TYPES.get(match[1])
    # An unknown rank reads as a scalar here: onnxruntime's interface does not tell them apart.
    shape: tuple[Dim, ...] = tuple(d if isinstance(d, str) or (d is not None and d >= 0) else None for d in arg.shape)
    return TensorSpec(arg.name, None if name is None else np.dtype(name), shape)


def _with_unknown_ranks(found: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The specs that onnxruntime gives, apart from those that only look like scalars there."""
    unknown = {spec.name for spec in declared if spec.shape is None}
    return tuple(replace(s, shape=None) if s.name in unknown and s.shape == () else s for s in found)
