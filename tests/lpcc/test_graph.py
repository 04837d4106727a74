"""The door: whatever comes in goes out; files are written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from lpcc import edit
from lpcc.door import files
from lpcc.errors import ModelError, PassError, UsageError
from lpcc.graph import clone, from_proto, load, save, to_proto
from lpcc.testing import assert_equivalent


def small() -> onnx.ModelProto:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}>'
    return onnx.parser.parse_model(text + "{ a = Add(x, w) y = Relu(a) }")


def test_zoo_models_survive(zoo: Any, canonical: Any) -> None:
    for name in zoo.names:
        model = onnx.load(zoo.model(name))
        assert canonical(to_proto(load(zoo.model(name)))) == canonical(model)
        assert canonical(to_proto(clone(from_proto(model)))) == canonical(model)


# Random graphs ---------------------------------------------------------------------------------------


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Small graphs of element-wise nodes on float[4], with constants, several outputs, and branches in branches."""
    names = iter(f"t{i}" for i in range(10_000))
    weights: list[onnx.TensorProto] = []

    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, 1, [4])

    def constant() -> onnx.TensorProto:
        values = draw(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4))
        return numpy_helper.from_array(np.array(values, np.float32), next(names))

    def graph(visible: list[str], depth: int, inputs: list[str]) -> onnx.GraphProto:
        seen = [*visible, *inputs]
        own = [constant() for _ in range(draw(st.integers(0, 2)))]
        if not depth:
            weights.extend(own)
        seen += [tensor.name for tensor in own]
        nodes: list[onnx.NodeProto] = []
        made: list[str] = []
        for _ in range(draw(st.integers(1, 5))):
            kind = draw(st.sampled_from(["Relu", "Neg", "Identity", "Add", "Mul", *(["If"] if depth < 2 else [])]))
            result = next(names)
            if kind == "If":
                branches = {side: graph(seen, depth + 1, []) for side in ("then_branch", "else_branch")}
                nodes.append(helper.make_node("If", ["c"], [result], name=f"n_{result}", **branches))
            else:
                count = 2 if kind in ("Add", "Mul") else 1
                read = [draw(st.sampled_from(seen)) for _ in range(count)]
                nodes.append(helper.make_node(kind, read, [result], name=f"n_{result}"))
            seen.append(result)
            made.append(result)
        results = draw(st.lists(st.sampled_from(made), min_size=1, max_size=1 if depth else 3, unique=True))
        return helper.make_graph(nodes, f"g{next(names)}", [], [info(name) for name in results], own)

    main = graph([], 0, ["x"])
    main.input.extend([info("x"), helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])])
    return helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@given(models())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_graphs_survive(canonical: Any, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    graph = from_proto(model)
    after = to_proto(graph)
    assert to_proto(clone(graph)) == after
    assert to_proto(from_proto(after)) == after
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(model, after, tolerance=0)


@given(models())
@settings(max_examples=30, deadline=None)
def test_a_clone_is_independent(model: onnx.ModelProto) -> None:
    graph = from_proto(model)
    before = to_proto(graph)
    copied = clone(graph)
    for scope in edit.graphs(copied):
        with edit.Edit(scope) as e:
            for node in e.nodes:
                node.attrs["changed"] = 1
                node.op = "Changed"
                if node.inputs:
                    e.replace_input(node, 0, e.constant("new", np.ones(4, np.float32)))
    copied.opset = 3
    assert to_proto(graph) == before


def test_a_clone_shares_the_arrays_of_weights() -> None:
    graph = from_proto(small())
    array = graph.nodes[0].inputs[1].values
    assert clone(graph).nodes[0].inputs[1].values is array


def test_weights_are_read_only() -> None:
    array = from_proto(small()).nodes[0].inputs[1].values
    with pytest.raises(ValueError, match="read-only"):
        array *= 2


def test_types_of_variables() -> None:
    graph = from_proto(small())
    x = graph.inputs[0]
    assert (x.dtype, x.shape, x.default) == (np.dtype(np.float32), ["N", 4], None)
    assert graph.nodes[0].outputs[0].dtype is None
    assert graph.nodes[0].outputs[0].shape is None


def test_a_negative_size_is_an_unknown_one(canonical: Any) -> None:
    model = small()
    for info in (model.graph.input[0], model.graph.output[0]):
        info.CopyFrom(helper.make_tensor_value_info(info.name, 1, [-1, 4]))
    graph = from_proto(model)
    assert graph.inputs[0].shape == [None, 4]
    assert canonical(to_proto(graph)) == canonical(model)


def test_a_model_without_its_own_operator_set_gets_none(canonical: Any) -> None:
    model = small()
    del model.opset_import[:], model.graph.node[:]
    model.opset_import.append(helper.make_opsetid("odd", 3))
    model.graph.node.append(helper.make_node("Odd", ["x", "w"], ["y"], domain="odd"))
    assert canonical(to_proto(from_proto(model))) == canonical(model)


# What passes may leave behind ------------------------------------------------------------------------


def test_two_tensors_of_one_name_are_refused() -> None:
    graph = from_proto(small())
    graph.nodes[0].outputs[0].name = "x"
    with pytest.raises(PassError, match="two different tensors are named `x`"):
        to_proto(graph)


def test_an_attribute_that_onnx_has_no_type_for_is_refused() -> None:
    graph = from_proto(small())
    graph.nodes[1].attrs["odd"] = object()
    with pytest.raises(PassError, match=r"attribute `odd`.*object"):
        to_proto(graph)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "INT"),
        (np.int64(3), "INT"),
        (np.float32(0.5), "FLOAT"),
        ([1, np.int64(2)], "INTS"),
        ((1, 2), "INTS"),
        ([1, 2.5], "FLOATS"),
        (["a", "b"], "STRINGS"),
        ("a", "STRING"),
        ([], "INTS"),
        (np.ones(3, np.float32), "TENSOR"),
    ],
)
def test_attributes_that_passes_write(value: Any, kind: str) -> None:
    graph = from_proto(small())
    graph.nodes[1].attrs["new"] = value
    [attribute] = to_proto(graph).graph.node[1].attribute
    assert onnx.AttributeProto.AttributeType.Name(attribute.type) == kind


def test_a_stale_type_is_not_written() -> None:
    model = small()
    model.graph.value_info.append(helper.make_tensor_value_info("a", 1, ["N", 4], "doc"))
    graph = from_proto(model)
    graph.nodes[0].outputs[0].shape = ["N", 2, 2]
    [info] = to_proto(graph).graph.value_info
    assert [dim.dim_value or dim.dim_param for dim in info.type.tensor_type.shape.dim] == ["N", 2, 2]
    assert info.doc_string == "doc"


# Functions -------------------------------------------------------------------------------------------


def with_function(op: str, opset: int, model_opsets: list[tuple[str, int]]) -> onnx.ModelProto:
    nodes = [helper.make_node(op, ["a"], ["b"])]
    function = helper.make_function("f", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", opset)])
    model = small()
    del model.graph.node[:], model.opset_import[:], model.graph.initializer[:]
    model.graph.node.append(helper.make_node("F", ["x"], ["y"], domain="f"))
    model.functions.append(function)
    model.opset_import.extend(helper.make_opsetid(*pair) for pair in [("f", 1), *model_opsets])
    return model


def test_a_function_of_another_opset_is_inlined_where_it_means_the_same() -> None:
    graph = from_proto(with_function("Relu", 20, [("", 21)]))
    assert [node.op for node in graph.nodes] == ["Relu"]
    assert graph.opset == 21


def test_a_function_of_another_opset_is_refused_where_it_means_something_else() -> None:
    with pytest.raises(ModelError, match="`f::F` cannot be inlined"):
        from_proto(with_function("Softmax", 12, [("", 13)]))


def test_what_only_functions_import_is_imported() -> None:
    graph = from_proto(with_function("Relu", 20, []))
    assert graph.opset == 20
    onnx.checker.check_model(to_proto(graph), full_check=True)


# Saving ----------------------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A file with old content in a folder that must hold nothing else in the end."""
    file = tmp_path / "out.onnx"
    file.write_bytes(b"old")
    yield file
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_save_and_load(tmp_path: Path, canonical: Any) -> None:
    path = tmp_path / "out.onnx"
    save(from_proto(small()), path)
    assert canonical(onnx.load(path)) == canonical(small())
    assert to_proto(load(path)) == to_proto(from_proto(small()))


def test_saves_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(from_proto(small()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_save_that_dies_leaves_the_old_file(target: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", die)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", die)
    else:
        monkeypatch.setattr(os, "fdopen", die)
    with pytest.raises(KeyboardInterrupt):
        save(from_proto(small()), target)
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_is_a_clear_error(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"out\.onnx: cannot be written: No space left"):
        save(from_proto(small()), target)
    monkeypatch.undo()
    assert target.read_bytes() == b"old"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    graph = from_proto(small())
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save(graph, tmp_path / "folder")
    with pytest.raises(UsageError, match="No such file or directory"):
        save(graph, tmp_path / "missing" / "out.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        save(graph, tmp_path / "file" / "out.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        save(from_proto(small()), tmp_path / "out.onnx")
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("alias", ["same", "dots", "symbolic link", "hard link"])
def test_the_input_is_not_overwritten(tmp_path: Path, alias: str) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(small().SerializeToString())
    data = path.read_bytes()
    other = {
        "same": path,
        "dots": tmp_path / "sub" / ".." / "in.onnx",
        "symbolic link": tmp_path / "link.onnx",
        "hard link": tmp_path / "hard.onnx",
    }[alias]
    (tmp_path / "sub").mkdir()
    if alias == "symbolic link":
        other.symlink_to(path)
    elif alias == "hard link":
        other.hardlink_to(path)
    graph = load(path)
    for opened in (graph, clone(graph)):
        with pytest.raises(UsageError, match="is the input model"):
            save(opened, other)
    assert path.read_bytes() == data
    save(graph, path, overwrite_input=True)
    assert to_proto(load(path)) == to_proto(graph)


def test_a_model_over_the_limit_has_its_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    rng = np.random.default_rng(0)
    big = [rng.standard_normal((64, 8)).astype(np.float32) for _ in range(3)]
    for index, values in enumerate(big):
        model.graph.initializer.append(numpy_helper.from_array(values, f"big{index}"))
    monkeypatch.setattr(files, "_PROTOBUF_LIMIT", 1000)
    graph = from_proto(model)
    save(graph, tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert (tmp_path / "out.onnx").stat().st_size < 1000
    assert to_proto(load(tmp_path / "out.onnx")) == to_proto(graph)
    loaded = onnx.load(tmp_path / "out.onnx")  # others can read it too
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    for index, values in enumerate(big):
        np.testing.assert_array_equal(arrays[f"big{index}"], values)


def test_the_weights_of_the_input_are_not_overwritten_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output's own weights would go where the input has its weights."""
    model = small()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 8), np.float32), "big"))
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=10)
    data = (tmp_path / "out.onnx.data").read_bytes()
    monkeypatch.setattr(files, "_PROTOBUF_LIMIT", 1000)
    with pytest.raises(UsageError, match=r"out\.onnx\.data: is the input model"):
        save(load(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == data


def test_constants_may_be_made_of_anything_numpy_reads() -> None:
    graph = from_proto(small())
    with edit.Edit(graph) as e:
        e.replace_input(graph.nodes[0], 1, e.constant("w2", np.asfortranarray(np.ones((3, 4), np.float32))[:1]))
    found = {tensor.name: tensor for tensor in to_proto(graph).graph.initializer}
    assert numpy_helper.to_array(found["w2"]).tolist() == [[1.0] * 4]


def test_a_loaded_graph_is_a_graph_of_graphsurgeon() -> None:
    assert isinstance(from_proto(small()), gs.Graph)


def test_names_that_shape_inference_makes_up_are_not_written() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,M] y) { a = Relu(x) y = Exp(a) }"""
    )
    graph = from_proto(model)
    graph.nodes[0].outputs[0].dtype = np.dtype(np.float32)
    graph.nodes[0].outputs[0].shape = ["unk__0", 3]
    (info,) = to_proto(graph).graph.value_info
    assert [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim] == [0, 3]
