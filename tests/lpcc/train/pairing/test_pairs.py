"""Which layers pair: in networks cut in width, in depth, in bits, under other names, and where the user says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc import edit
from lpcc.errors import UsageError
from lpcc.graph import from_proto, load
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402
from lpcc.train.pairing import given_pairs, pair_layers  # noqa: E402

RESNET = "cifar10_resnet20_jpegft"
STAGES = [f"/layer{stage}/layer{stage}.2/Relu_1_output_0" for stage in (1, 2, 3)]


def halved(graph: gs.Graph) -> gs.Graph:
    """A ResNet-20 with the first half of the channels of each layer."""
    with edit.Edit(graph) as e:
        for node in e.nodes:
            op = edit.op(node)
            for index, tensor in enumerate(list(node.inputs)):
                values = edit.const(tensor)
                if values is None:
                    continue
                if op == "Conv":
                    inputs = values.shape[1] if values.shape[1] == 3 else values.shape[1] // 2
                    values = values[: len(values) // 2, :inputs]
                elif op == "BatchNormalization":
                    values = values[: len(values) // 2]
                elif op == "Gemm" and index == 1:
                    values = values[:, : values.shape[1] // 2]
                e.replace_input(node, index, gs.Constant(tensor.name, np.ascontiguousarray(values)))
            held = node.attrs.get("value")
            if op == "Constant" and isinstance(held, gs.Constant) and held.values.ndim == 1 and held.values.size > 3:
                node.attrs["value"] = gs.Constant(held.name, held.values // 2)  # channels that shortcuts pad with
    return graph


def shortened(graph: gs.Graph) -> gs.Graph:
    """A ResNet-14: of each stage the last block is left out."""
    tensors = {t.name: t for node in graph.nodes for t in node.outputs}
    with edit.Edit(graph) as e:
        for stage in (1, 2, 3):
            last, before = (tensors[f"/layer{stage}/layer{stage}.{block}/Relu_1_output_0"] for block in (2, 1))
            e.replace_uses(last, before)
            for node in e.nodes:
                if f"/layer{stage}.2/" in node.name:
                    e.remove(node)
    return graph


def renamed(graph: gs.Graph) -> gs.Graph:
    """The same network with names that say nothing."""
    outputs = {id(t) for t in graph.outputs}
    for number, tensor in enumerate(t for node in graph.nodes for t in node.outputs):
        if id(tensor) not in outputs:
            tensor.name = f"t{number}"
    return graph


def feeds(zoo: Any, count: int = 32) -> dict[str, Any]:
    return {name: torch.tensor(value) for name, value in zoo.calib(RESNET, count).items()}


@pytest.fixture(scope="module")
def teacher(zoo: Any) -> Network:
    return Network(load(zoo.model(RESNET)), frozen=True)


@pytest.fixture(scope="module")
def both() -> tuple[Network, Network]:
    return Network(transformer(1)), Network(transformer(2), frozen=True)


class TestResNet:
    def test_cut_in_width_pairs_by_name(self, zoo: Any, teacher: Network) -> None:
        found = pair_layers(Network(halved(load(zoo.model(RESNET)))), teacher, feeds(zoo))
        assert [(pair.student, pair.teacher) for pair in found.pairs] == [(name, name) for name in STAGES]
        assert [pair.student_shape for pair in found.pairs] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
        assert [pair.teacher_shape for pair in found.pairs] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
        assert all("the same name" in pair.why for pair in found.pairs)
        assert not found.given

    def test_cut_in_width_under_other_names_pairs_by_size_and_likeness(self, zoo: Any, teacher: Network) -> None:
        graph = halved(load(zoo.model(RESNET)))
        ends = [t for node in graph.nodes for t in node.outputs if t.name in STAGES]
        student = Network(renamed(graph))
        found = pair_layers(student, teacher, feeds(zoo))
        assert [(pair.student, pair.teacher) for pair in found.pairs] == [
            (end.name, name) for end, name in zip(ends, STAGES, strict=True)
        ]
        assert all(pair.why == "the same size, both end a stage" for pair in found.pairs)

    @pytest.mark.parametrize("named", [True, False])
    def test_cut_in_depth_pairs_the_ends_of_stages(self, zoo: Any, teacher: Network, named: bool) -> None:
        graph = shortened(load(zoo.model(RESNET)))
        tensors = {t.name: t for node in graph.nodes for t in node.outputs}
        ends = [tensors[name.replace(".2/", ".1/")] for name in STAGES]
        student = Network(graph if named else renamed(graph))
        found = pair_layers(student, teacher, feeds(zoo))
        assert [(pair.student, pair.teacher) for pair in found.pairs] == [
            (end.name, name) for end, name in zip(ends, STAGES, strict=True)
        ]

    def test_cut_in_both_ways_pairs_the_ends_of_stages(self, zoo: Any, teacher: Network) -> None:
        graph = shortened(halved(load(zoo.model(RESNET))))
        found = pair_layers(Network(graph), teacher, feeds(zoo))
        assert [pair.teacher for pair in found.pairs] == STAGES
        assert [pair.student for pair in found.pairs] == [name.replace(".2/", ".1/") for name in STAGES]

    def test_of_another_architecture_pairs_the_ends_of_stages(self, zoo: Any, teacher: Network) -> None:
        student = Network(load(zoo.model("mlperf_resnet8_cifar10")))
        x = feeds(zoo)["input"]
        found = pair_layers(student, teacher, {"input": x})
        assert [(pair.student, pair.teacher) for pair in found.pairs] == list(
            zip(["activation_2", "activation_4", "activation_6"], STAGES, strict=True)
        )

    def test_whose_batch_norms_are_folded_pairs_by_name(self, zoo: Any, teacher: Network) -> None:
        graph = load(zoo.model(RESNET))
        run_pipeline(graph, Pipeline.parse("exact"), Context())
        found = pair_layers(Network(graph), teacher, feeds(zoo, 4))
        assert [(pair.student, pair.teacher) for pair in found.pairs] == [(name, name) for name in STAGES]
        assert all(pair.likeness == pytest.approx(1, abs=1e-4) for pair in found.pairs)

    def test_is_reported(self, zoo: Any, teacher: Network) -> None:
        found = pair_layers(Network(halved(load(zoo.model(RESNET)))), teacher, feeds(zoo))
        assert str(found).splitlines() == found.lines()
        assert found.lines()[0].startswith(f"{STAGES[0]} (8x32x32) learns from {STAGES[0]} (16x32x32): the same name, ")
        assert found.text == ",".join(f"{name}={name}" for name in STAGES)
        assert json.loads(json.dumps(found.to_json()))[2]["teacher_shape"] == [64, 8, 8]

    def test_can_be_given_as_it_was_found(self, zoo: Any, teacher: Network) -> None:
        student = Network(halved(load(zoo.model(RESNET))))
        found = pair_layers(student, teacher, feeds(zoo))
        again = given_pairs(found.text, student, teacher, feeds(zoo))
        assert again.given
        assert [(p.student, p.teacher, p.student_axis, p.likeness) for p in again.pairs] == [
            (p.student, p.teacher, p.student_axis, p.likeness) for p in found.pairs
        ]

    def test_is_limited(self, zoo: Any, teacher: Network) -> None:
        found = pair_layers(teacher, teacher, feeds(zoo, 4), limit=2)
        assert [pair.student for pair in found.pairs] == STAGES[1:]


def transformer(blocks: int) -> gs.Graph:
    """Layers of tokens of one size, in a residual chain."""
    body = "c0 = Conv<strides=[4,4]>(image, patch) r = Reshape(c0, flat) t0 = Transpose<perm=[0,2,1]>(r)"
    for n in range(blocks):
        body += f" u{n} = MatMul(t{n}, w{n}) a{n} = Relu(u{n}) d{n} = MatMul(a{n}, v{n}) t{n + 1} = Add(t{n}, d{n})"
    weights = "".join(f", float[12,24] w{n}, float[24,12] v{n}" for n in range(blocks))
    return from_proto(
        read_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,16,16] image) => (float[N,7] y)
        <float[12,3,4,4] patch, float[12,7] head, int64[3] flat = {{0, 12, 16}}{weights}>
        {{ {body} p = ReduceMean<axes=[1], keepdims=0>(t{blocks}) y = MatMul(p, head) }}
        """)
    )


def images(count: int = 8) -> dict[str, Any]:
    return {"image": torch.tensor(np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32))}


class TestTransformer:
    def test_of_one_size_pairs_layers_evenly_in_depth(self) -> None:
        student, teacher = Network(transformer(3)), Network(transformer(6), frozen=True)
        found = pair_layers(student, teacher, images())
        assert len(found.pairs) >= 3
        assert found.pairs[-1].student == "t3"
        assert found.pairs[-1].teacher == "t6"
        assert {pair.student_axis % 3 for pair in found.pairs[1:]} == {2}
        assert found.pairs[-1].student_shape == (12, 16)
        depths = [teacher.graph.nodes.index(_maker(teacher.graph, pair.teacher)) for pair in found.pairs]
        assert depths == sorted(set(depths))

    def test_of_the_same_depth_pairs_by_name(self) -> None:
        network = Network(transformer(6))
        found = pair_layers(network, network, images())
        assert all(pair.student == pair.teacher for pair in found.pairs)


def _maker(graph: gs.Graph, name: str) -> gs.Node:
    return next(node for node in graph.nodes if any(t.name == name for t in node.outputs))


def test_a_single_matrix_has_no_layers_to_pair() -> None:
    model = read_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul(x, w) }'
    )
    network = Network(from_proto(model))
    found = pair_layers(network, network, {"x": torch.rand(5, 4)})
    assert found.pairs == ()
    assert str(found) == "no layers pair"


class TestGiven:
    def test_one_name_is_meant_on_both_sides(self, both: tuple[Network, Network]) -> None:
        found = given_pairs("t1, t0 = t2", *both, images())
        assert [(pair.student, pair.teacher) for pair in found.pairs] == [("t1", "t1"), ("t0", "t2")]
        assert {pair.why for pair in found.pairs} == {"given"}
        assert {pair.student_shape for pair in found.pairs} == {(12, 16)}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("t1=t3", r"pairs `t1=t3`: the teacher makes no hidden tensor `t3`; did you mean t\d or "),
            ("t2=t2", r"the student makes no hidden tensor `t2`; did you mean "),
            ("t1=y", "the teacher makes no hidden tensor `y`"),
            ("strange=t1", "the student makes no hidden tensor `strange`; it makes 8, such as `c0`"),
            ("t1=t1=t1", "`t1=t1=t1` is no pair; write student_tensor=teacher_tensor"),
            ("t1=", "`t1=` is no pair"),
            ("t1,,t1", "`` is no pair"),
        ],
    )
    def test_refuses_wrong_names_in_one_line(self, both: tuple[Network, Network], text: str, message: str) -> None:
        with pytest.raises(UsageError, match=message) as error:
            given_pairs(text, *both, images())
        assert "\n" not in str(error.value)

    def test_refuses_tensors_that_are_no_layers(self) -> None:
        model = read_model("""
            <ir_version: 8, opset_import: ["": 17]>
            g (float[N,4] x) => (float[N,3] y) <float[4,3] w>
            { size = Shape(x) a = Reshape(x, size) y = MatMul(a, w) }
        """)
        network = Network(from_proto(model))
        with pytest.raises(UsageError, match=r"`size` of the student is no layer.*it is torch.int64 of 2"):
            given_pairs("size", network, network, {"x": torch.rand(5, 4)})
