from __future__ import annotations

from itertools import islice

import onnx
import pytest

from lpcc.graph import from_proto
from lpcc.targets.fit.instructions import float_cases, integer_cases
from lpcc.targets.fit.instructions.cases import Case, Draft
from lpcc.targets.fit.instructions.counts import kernel_of
from lpcc.targets.fit.instructions.layers import cut
from lpcc.targets.fit.instructions.matching import match


def _sample(cases: list[Case]) -> list[Case]:
    return cases[:: max(1, len(cases) // 60)]


def test_the_design_is_the_same_every_time() -> None:
    once, again = (list(islice(integer_cases.cases(), 30)) for _ in range(2))
    assert [case.executed.SerializeToString() for case in once] == [case.executed.SerializeToString() for case in again]


@pytest.mark.parametrize("cases", [float_cases.cases, integer_cases.cases])
def test_each_case_is_one_kernel_of_its_kind(cases: object) -> None:
    found = list(cases())  # type: ignore[operator]
    assert len({case.name for case in found}) == len(found)
    for case in _sample(found):
        assert kernel_of(case.described, case.kind).kind == case.kind


def test_a_model_of_two_kernels_is_no_case() -> None:
    draft = Draft()
    draft.node("Abs", [draft.input("x", (1, 8))], "y")
    draft.node("Neg", ["y"], "z")
    with pytest.raises(ValueError, match="2 kernels of kind elementwise"):
        kernel_of(draft.model(["z"]), "elementwise")


def test_layers_are_cut_out_and_found_again() -> None:
    draft = Draft()
    draft.node("Relu", [draft.input("x", (1, 8, 4, 4))], "first")
    draft.node("MaxPool", ["first"], "second", kernel_shape=[2, 2], strides=[2, 2])
    draft.node("Relu", ["second"], "third")
    model = onnx.shape_inference.infer_shapes(draft.model(["third"]))
    layers = list(cut(model))
    assert [layer.op for layer in layers] == ["Relu", "MaxPool", "Relu"]
    assert layers[1].model.graph.output[0].type.tensor_type.shape.dim[2].dim_value == 2
    layers[2] = type(layers[2])("renamed", *[layers[2].op, layers[2].model])
    pairs = [(kernel.node.name, layer.name if layer else None) for kernel, layer in match(layers, from_proto(model))]
    assert pairs == [("first", "first"), ("second", "second"), ("third", "renamed")]
