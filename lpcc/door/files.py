"""Model files: read with every check that needs the bytes, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper

from lpcc.door.lazy import copy_fields, numpy_dtype
from lpcc.errors import ModelError, UsageError

_PROTOBUF_LIMIT = 2**31 - 2**20
_EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the model, where shape inference sees them

_SMALL = 4096  # bytes; larger tensors say nothing about shapes
_LONGEST_MESSAGE = 400

_SIGNATURES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x80\x02": "a Python pickle",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"<": "XML or HTML",
}


def read(path: Path) -> onnx.ModelProto:
    """The model in a file, with external data read in, after all checks that need no runtime.

    Raises:
        ModelError: see `lpcc.graph.load`.
    """
    return read_all(path)[0]


def read_all(path: Path) -> tuple[onnx.ModelProto, frozenset[Path]]:
    """The model in a file, as `read` gives it, and all files that it was read from.

    Raises:
        ModelError: see `lpcc.graph.load`.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path}: not a file but a device or a pipe")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty")
    for signature, what in _SIGNATURES.items():
        if data.startswith(signature):
            raise ModelError(f"{path}: not an ONNX model but {what}")
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one") from error
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(f"{path}: not an ONNX model: it holds no graph")
    del data
    sources = {path.resolve()}
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            sources.add(_read_external(tensor, path))
        _check_size(tensor, path)
    check(model, str(path))
    return model, frozenset(sources)


def check(model: onnx.ModelProto, where: str) -> None:
    """Run ONNX's full checker, shape inference included, on everything but the bulk of the weights.

    Raises:
        ModelError: the checker refuses the model, it imports two versions of one operator set, or it has no outputs.
    """
    domains = [opset.domain or "ai.onnx" for opset in model.opset_import]
    twice = next((domain for domain in domains if domains.count(domain) > 1), None)
    if twice is not None:
        raise ModelError(f"{where}: imports the operator set `{twice}` twice")
    if not model.graph.output:
        raise ModelError(f"{where}: the graph has no outputs")
    try:
        onnx.checker.check_model(_without_bulk(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{where}: {one_line(error)}") from error
    except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise ModelError(f"{where}: ONNX's checker fails on it: {one_line(error)}") from error


def _without_bulk(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initialisers are inputs: the checker need not see their data, which may exceed 2 GB."""
    light = onnx.ModelProto()
    copy_fields(model, light, skip={"graph"})
    copy_fields(model.graph, light.graph, skip={"initializer"})
    listed = {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def one_line(error: BaseException) -> str:
    """An error's message in one line, without the context that ONNX's checker adds."""
    text = " ".join(str(error).partition("==> Context")[0].split())
    return text[:_LONGEST_MESSAGE] or type(error).__name__


def tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor in a model: initialisers and attributes, of subgraphs and functions too."""
    if isinstance(message, onnx.ModelProto):
        yield from tensors(message.graph)
        for function in message.functions:
            for node in function.node:
                yield from _node_tensors(node)
    elif isinstance(message, onnx.GraphProto):
        yield from message.initializer
        for sparse in message.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        for node in message.node:
            yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            if sparse.HasField("values"):
                yield sparse.values
                yield sparse.indices
        if attribute.HasField("g"):
            yield from tensors(attribute.g)
        for graph in attribute.graphs:
            yield from tensors(graph)


def _elements(tensor: onnx.TensorProto, path: Path) -> int:
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{path}: tensor `{tensor.name}` has a negative dimension in its shape {list(tensor.dims)}")
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}


def _bytes_needed(tensor: onnx.TensorProto, path: Path) -> int | None:
    """Bytes that the data of a tensor takes; None for strings, whose length varies."""
    try:
        dtype = numpy_dtype(tensor.data_type)
    except ModelError as error:
        raise ModelError(f"{path}: tensor `{tensor.name}`: {error}") from error
    if dtype is None or dtype == np.dtype(object):
        return None
    bits = _BITS.get(dtype.name, 8 * dtype.itemsize)
    return (_elements(tensor, path) * bits + 7) // 8


def _check_size(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor whose data does not match its shape, before anyone allocates what the shape claims."""
    needed = _bytes_needed(tensor, path)
    if needed is not None and tensor.HasField("raw_data") and len(tensor.raw_data) != needed:
        raise ModelError(
            f"{path}: tensor `{tensor.name}` of shape {list(tensor.dims)} needs {needed} bytes "
            f"and holds {len(tensor.raw_data)}"
        )
    if not tensor.HasField("raw_data"):
        count = _elements(tensor, path)
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        held = max([*(len(field) for field in fields), len(tensor.string_data)])
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            count *= 2
        elif needed is not None:
            count = min(count, needed)  # several small integers share one
        if held != count:
            raise ModelError(
                f"{path}: tensor `{tensor.name}` of shape {list(tensor.dims)} needs {count} values and holds {held}"
            )


def _read_external(tensor: onnx.TensorProto, path: Path) -> Path:
    """Read a tensor's data from the file it names, which must lie in the folder of the model; return that file."""
    where = f"{path}: external data of tensor `{tensor.name}`"
    entries: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    if not location or any(_leads_out(kind(location)) for kind in (PurePosixPath, PureWindowsPath)):
        raise ModelError(f"{where}: the location {location!r} is not a path below the model's folder")
    file = (folder / location).resolve()
    if not file.is_relative_to(folder):
        raise ModelError(f"{where}: {location!r} leads outside the model's folder")
    if not file.is_file():
        raise ModelError(f"{where}: the file {location!r} is missing")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
    except ValueError as error:
        raise ModelError(f"{where}: offset and length must be whole numbers") from error
    size = file.stat().st_size
    needed = _bytes_needed(tensor, path)
    if "length" not in entries:
        length = size - offset if needed is None else needed
    if offset < 0 or length < 0 or offset + length > size:
        end = offset + length
        raise ModelError(f"{where}: bytes {offset} to {end} do not lie within {location!r} ({size} bytes)")
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    return file


def _leads_out(location: PurePath) -> bool:
    """Whether a path may lead out of the folder that it starts from, in the eyes of some operating system."""
    return bool(location.anchor) or ".." in location.parts or "\0" in str(location)


def refuse_input(path: Path, *sources: Path | None) -> None:
    """Raise UsageError if writing a model to `path` would overwrite one of the files that it was read from."""
    read_from = [source.resolve() for source in sources if source is not None]
    for target in (path, _beside(path)):
        if target.resolve() in read_from or (
            target.exists() and any(map(target.samefile, filter(Path.exists, read_from)))
        ):
            raise UsageError(f"{target}: is the input model; choose another output, or overwrite it with --force")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".data")


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with its bulk in ``<path>.data`` where protobuf's 2 GB limit demands it, whole or not at all.

    Raises:
        UsageError: the path cannot be written.
    """
    if weight_bytes(model) < _PROTOBUF_LIMIT:
        write_bytes({path: [model.SerializeToString(deterministic=True)]})
        return
    side = _beside(path)
    chunks = _externalise(model, side.name)
    write_bytes({side: chunks, path: [model.SerializeToString(deterministic=True)]})


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of raw data in all tensors of a model."""
    return sum(len(tensor.raw_data) for tensor in tensors(model))


def _externalise(model: onnx.ModelProto, location: str) -> list[bytes]:
    """Move the data of large tensors out of the model; the chunks are the content of the file `location`."""
    chunks: list[bytes] = []
    offset = 0
    for tensor in tensors(model):
        if len(tensor.raw_data) < _EXTERNAL_FROM:
            continue
        data = tensor.raw_data
        entries: dict[str, Any] = {"location": location, "offset": offset, "length": len(data)}
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        chunks.append(data)
        offset += len(data)
    return chunks


def refuse_unwritable(path: Path) -> None:
    """Raise UsageError if `path` is something that a file must not take the place of: a folder, a device, a pipe."""
    if path.is_dir():
        raise UsageError(f"{path}: cannot be written: is a folder")
    if path.is_symlink() and not _leads_somewhere(path):
        raise UsageError(f"{path}: cannot be written: is a link that leads back to itself")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: cannot be written: is a device or a pipe, not a file")


def _leads_somewhere(link: Path) -> bool:
    try:
        link.resolve()
    except (RuntimeError, OSError):  # before Python 3.13, and since
        return False
    return True


def write_bytes(contents: dict[Path, Iterable[bytes]]) -> None:
    """Write files whole or not at all: temporary files in the same folder, flushed to disk, then renamed in order.

    Raises:
        UsageError: a path cannot be written; no file has changed then.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, chunks in contents.items():
            refuse_unwritable(path)
            final = path.resolve()  # a link stays, the file that it names is written
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=final.parent)
            staged.append((Path(name), final))
            with os.fdopen(handle, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o666 & ~_umask())
        for temporary, path in staged:
            temporary.replace(path)
    except OSError as error:
        target = staged[-1][1] if staged else next(iter(contents))
        raise UsageError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
