"""The gate: a bad file gives one clear line, never another exception, a crash or a huge allocation."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.errors import LpccError, ModelError
from lpcc.graph import load, to_proto
from lpcc.runtime import Session

Change = Callable[[onnx.ModelProto], object]

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4] x) => (float[N,4] y)
<float[4] w = {1,2,3,4}>
{ a = Add(x, w)  y = Softmax<axis = -1>(a) }
"""


def small() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    tensor = numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32), "w")
    model.graph.initializer[0].CopyFrom(tensor)
    return model


def refusal(path: Path) -> str:
    """The message with which a file is refused, without its path; it must be one line."""
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# Files that hold no model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n0000", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<html></html>", "XML or HTML"),
        (b"hello world\n" * 20, "not an ONNX model"),
        (b"\x00" * 100, "not an ONNX model"),
        (numpy_helper.from_array(np.ones(4)).SerializeToString(), "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "it holds no graph"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_no_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.onnx")
    assert "Is a directory" in refusal(tmp_path)
    with pytest.raises(ModelError, match="null"):
        load(str(tmp_path / "a\0b"))


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "a device or a pipe" in refusal(tmp_path / "pipe.onnx")
    assert "a device or a pipe" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_model(tmp_path: Path, share: float) -> None:
    data = small().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data[: int(len(data) * share)])
    assert refusal(tmp_path / "m.onnx")


@pytest.mark.parametrize("depth", [30, 90, 2000, 20000])
def test_deep_nesting(tmp_path: Path, depth: int) -> None:
    """Written by hand: protobuf itself would not nest so deeply."""

    def varint(number: int) -> bytes:
        low, rest = number & 127, number >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    graph = field(2, b"g")
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + varint(20 << 3) + varint(5)
        graph = field(1, field(4, b"If") + field(5, attribute)) + field(2, b"g")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + field(8, b"\x10\x11") + field(7, graph))
    assert refusal(tmp_path / "m.onnx")


# Models that are wrong -------------------------------------------------------------------------------------------


def set_opset(*versions: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)

    return change


def set_weight(**fields: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].CopyFrom(TensorProto(name="w", **fields))

    return change


def set_input(elem_type: int, shape: list[Any] | None) -> Change:
    return lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", elem_type, shape))


def set_output(elem_type: int, shape: list[Any] | None) -> Change:
    return lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", elem_type, shape))


def recursive(model: onnx.ModelProto) -> None:
    call = helper.make_node("F", ["a"], ["b"], domain="f")
    model.functions.append(helper.make_function("f", "F", ["a"], ["b"], [call], [helper.make_opsetid("f", 1)]))
    model.opset_import.append(helper.make_opsetid("f", 1))
    model.graph.node[1].CopyFrom(helper.make_node("F", ["a"], ["y"], domain="f"))


WRONG: dict[str, tuple[Change, str]] = {
    "cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "'y'"),
    "a node reads itself": (lambda m: m.graph.node[0].input.__setitem__(0, "a"), "'a'"),
    "undefined tensor": (lambda m: m.graph.node[0].input.__setitem__(0, "nope"), "'nope'"),
    "undefined output": (lambda m: setattr(m.graph.output[0], "name", "nope"), "'nope'"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no outputs"),
    "two tensors of one name": (lambda m: m.graph.node[1].output.__setitem__(0, "a"), "'a'"),
    "two weights of one name": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "not unique"),
    "two inputs of one name": (lambda m: m.graph.input.append(m.graph.input[0]), "'x'"),
    "too little data": (set_weight(dims=[4], data_type=1, raw_data=bytes(12)), "needs 16 bytes and holds 12"),
    "too much data": (set_weight(dims=[4], data_type=1, raw_data=bytes(20)), "needs 16 bytes and holds 20"),
    "too few values": (set_weight(dims=[4], data_type=1, float_data=[1]), "needs 4 values and holds 1"),
    "too few packed values": (set_weight(dims=[9], data_type=22, int32_data=[1]), "needs 5 values and holds 1"),
    "no data": (set_weight(dims=[4], data_type=1), "needs 4 values and holds 0"),
    "terabytes in bytes": (set_weight(dims=[2**40, 4], data_type=1, raw_data=bytes(16)), "needs 17592186044416 bytes"),
    "terabytes in values": (set_weight(dims=[2**40], data_type=1, float_data=[1]), "holds 1"),
    "terabytes of nothing": (set_weight(dims=[2**40], data_type=1), "holds 0"),
    "terabytes of strings": (set_weight(dims=[2**40], data_type=8, string_data=[b"a"]), "holds 1"),
    "terabytes times nought": (set_weight(dims=[2**40, 2**40, 0], data_type=1, raw_data=b""), "overflow"),
    "size beyond 64 bits": (set_weight(dims=[2**62, 2**62], data_type=1, raw_data=bytes(16)), "holds 16"),
    "negative dimension": (set_weight(dims=[-4], data_type=1, raw_data=bytes(16)), "negative dimension"),
    "unknown type of a weight": (set_weight(dims=[4], data_type=99, raw_data=bytes(16)), "unknown data type 99"),
    "no type of a weight": (set_weight(dims=[4], data_type=0, raw_data=bytes(16)), "UNDEFINED"),
    "unknown type of an input": (set_input(77, [1, 4]), "77"),
    "no type of an input": (set_input(0, [1, 4]), "type"),
    "no opset": (set_opset(), "opset_import"),
    "opset 0": (set_opset(0), "domain_version of 0"),
    "negative opset": (set_opset(-3), "domain_version of -3"),
    "two opsets": (set_opset(17, 11), "`ai.onnx` twice"),
    "file format of the future": (lambda m: setattr(m, "ir_version", 99), "ir_version 99"),
    "no file format": (lambda m: m.ClearField("ir_version"), "not an ONNX model"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
    "no name": (lambda m: m.graph.ClearField("name"), "'name'"),
    "name that is not text": (lambda m: m.MergeFromString(b"\x3a\x04\x12\x02\xff\xfe"), "utf-8"),
    "unknown operator": (lambda m: setattr(m.graph.node[1], "op_type", "Wobble"), "Wobble"),
    "domain never imported": (lambda m: setattr(m.graph.node[1], "domain", "me"), "'me'"),
    "attribute of a wrong type": (
        lambda m: m.graph.node[1].attribute[0].CopyFrom(helper.make_attribute("axis", 1.5)),
        "axis",
    ),
    "unknown attribute": (lambda m: setattr(m.graph.node[1].attribute[0], "name", "wobble"), "wobble"),
    "too many inputs": (lambda m: m.graph.node[1].input.append("x"), "input size 2"),
    "wrong shape of an output": (set_output(1, ["N", 5]), "(4) vs (5)"),
    "wrong type of an output": (set_output(7, ["N", 4]), "elem type"),
    "recursive function": (recursive, "Cycle"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(tmp_path: Path, name: str) -> None:
    change, reason = WRONG[name]
    model = small()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert reason in refusal(tmp_path / "m.onnx")


def test_the_small_model_itself_is_right(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(small().SerializeToString())
    assert len(load(tmp_path / "m.onnx").nodes) == 2


# What chance makes of a model ------------------------------------------------------------------------------------


def branches() -> onnx.ModelProto:
    """A model with subgraphs, a function, metadata and a sparse weight."""
    side = "(float[N,4] {0}_y) {{ {0}_y = {1}(x, w) }}"
    then, other = ("graph = a () => " + side.format("a", "Add"), "graph = b () => " + side.format("b", "Mul"))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "f": 1]>\n'
        "g (float[N,4] x, bool c) => (float[N,4] y) <float[4] w = {1,2,3,4}>\n"
        f"{{ i = If(c) <then_branch: {then}, else_branch: {other}> y = f.F(i) }}\n"
        '<domain: "f", opset_import: ["": 17]> F (p) => (q) { q = Relu(p) }'
    )
    model.metadata_props.add(key="alphabet", value="abc")
    return model


def mutations(data: bytes, seed: int) -> bytes:
    """The bytes of a model with one to four of them flipped, replaced, dropped or added."""
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del changed[place : place + rng.randrange(1, 9)]
            case _:
                changed[place:place] = rng.randbytes(rng.randrange(1, 6))
    return bytes(changed)


def outcome(path: Path) -> str:
    """What becomes of a file: passed, refused, or unfit where only onnxruntime refuses it. Nothing else may happen."""
    try:
        graph = load(path)
    except ModelError as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    try:
        Session(path)
    except ModelError:
        return "unfit"
    Session(to_proto(graph))
    return "passed"


@pytest.mark.parametrize("make", [small, branches])
def test_chance(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    data = make().SerializeToString()
    found = []
    for seed in range(200):
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(mutations(data, seed))
        found.append(outcome(path))
    assert set(found) <= {"passed", "refused", "unfit"}
    assert found.count("refused") > 100
    assert found.count("passed") > 5


def fields(message: Any) -> list[tuple[Any, Any]]:
    """Each field that is set anywhere within a message, with the message that it belongs to."""
    found = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                found.extend(fields(inner))
    return found


@pytest.mark.parametrize("make", [small, branches])
def test_a_missing_field(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    count = len(fields(make()))
    assert count > 40
    for index in range(count):
        model = make()
        owner, field = fields(model)[index]
        owner.ClearField(field.name)
        path = tmp_path / f"{index}.onnx"
        path.write_bytes(model.SerializeToString())
        assert outcome(path) in ("passed", "refused", "unfit")


# External data ---------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, **entries: Any) -> Path:
    """A model whose weight is in another file."""
    model = small()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


WEIGHT = np.array([1, 2, 3, 4], np.float32).tobytes()


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("w.bin", {}),
        ("w.bin", {"offset": 8}),
        ("w.bin", {"offset": 8, "length": 16}),
        ("w.bin", {"offset": 8, "length": 16, "checksum": "abc"}),
        ("sub/w.bin", {"length": 16}),
        ("./w.bin", {"length": 16}),
    ],
)
def test_external_data(tmp_path: Path, location: str, entries: dict[str, Any], canonical: Any) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / location
    file.write_bytes(bytes(int(entries.get("offset", 0))) + WEIGHT + b"rest")
    graph = load(external(tmp_path, location, **entries))
    assert canonical(to_proto(graph)) == canonical(small())


def test_external_data_of_a_model_named_without_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT)
    external(tmp_path, "w.bin")
    monkeypatch.chdir(tmp_path)
    assert load("m.onnx").nodes[0].inputs[1].values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("location", "entries", "reason"),
    [
        ("../w.bin", {}, "not a path below"),
        ("sub/../../w.bin", {}, "not a path below"),
        ("/etc/passwd", {}, "not a path below"),
        ("C:\\w.bin", {}, "not a path below"),
        ("C:w.bin", {}, "not a path below"),
        ("\\\\host\\share\\w.bin", {}, "not a path below"),
        ("..\\w.bin", {}, "not a path below"),
        ("a\0b", {}, "not a path below"),
        ("", {}, "not a path below"),
        ("link.bin", {}, "outside the model's folder"),
        ("linked/w.bin", {}, "outside the model's folder"),
        ("missing.bin", {}, "is missing"),
        ("sub", {}, "is missing"),
        ("w.bin", {"offset": 8}, "do not lie within"),
        ("w.bin", {"offset": 100}, "do not lie within"),
        ("w.bin", {"offset": -4}, "do not lie within"),
        ("w.bin", {"offset": 2**70}, "do not lie within"),
        ("w.bin", {"length": 2**50}, "do not lie within"),
        ("w.bin", {"length": -1}, "do not lie within"),
        ("w.bin", {"length": 12}, "needs 16 bytes and holds 12"),
        ("w.bin", {"length": 0}, "needs 16 bytes and holds 0"),
        ("w.bin", {"offset": "one"}, "whole numbers"),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, location: str, entries: dict[str, Any], reason: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(WEIGHT)
    (folder / "w.bin").write_bytes(WEIGHT)
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "linked").symlink_to(tmp_path)
    assert reason in refusal(external(folder, location, **entries))


def test_external_data_of_a_huge_claimed_shape(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT)
    path = external(tmp_path, "w.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[0] = 2**45
    path.write_bytes(model.SerializeToString())
    assert "do not lie within" in refusal(path)


def test_external_data_in_attributes_and_subgraphs(tmp_path: Path) -> None:
    model = branches()
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "k")
    for attribute in model.graph.node[0].attribute:
        node = helper.make_node("Constant", [], [f"{attribute.name}_k"], value=weight)
        attribute.g.node.insert(0, node)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, convert_attribute=True, location="w"
    )
    graph = load(tmp_path / "m.onnx")
    for body in graph.nodes[0].attrs.values():
        assert body.nodes[0].attrs["value"].values.tolist() == [0, 1, 2, 3]


def test_errors_are_of_one_family() -> None:
    assert issubclass(ModelError, LpccError)
    assert ModelError.exit_code == 3
