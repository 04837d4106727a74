from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from lpcc.graph import from_proto, to_proto
from lpcc.passes import RaiseOpset
from lpcc.passes.normalize.opset_steps import HIGHEST, LOWEST, STEPS
from lpcc.pipeline import Context
from lpcc.testing import assert_equivalent, golden_cases


@pytest.mark.parametrize("case", golden_cases("golden/raise-opset"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


NODES = {
    "average pool": (
        7,
        "float[1,2,7,7] x",
        "y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (x)",
    ),
    "average pool, ceil": (
        10,
        "float[1,2,6,6] x",
        "y = AveragePool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (x)",
    ),
    "arg max": (7, "float[3,4] x", "i = ArgMax <axis = 1> (x) y = Cast <to = 1> (i)"),
    "cast": (7, "float[3,4] x", "i = Cast <to = 7> (x) y = Cast <to = 1> (i)"),
    "clip one bound": (7, "float[3,4] x", "y = Clip <max = 0.5> (x)"),
    "clip no bound": (7, "float[3,4] x", "y = Clip (x)"),
    "conv transpose": (7, "float[1,1,4,4] x, float[1,2,3,3] w", "y = ConvTranspose <strides = [2,2]> (x, w)"),
    "depth to space": (7, "float[1,8,2,2] x", "y = DepthToSpace <blocksize = 2> (x)"),
    "elu": (7, "float[3,4] x", "y = Elu (x)"),
    "flatten": (7, "float[2,3,4] x", "y = Flatten <axis = 2> (x)"),
    "gemm": (7, "float[2,3] x, float[4,3] w, float[4] b", "y = Gemm <transB = 1, alpha = 0.5> (x, w, b)"),
    "gru": (7, "float[2,1,3] x, float[1,6,3] w, float[1,6,2] r", "a, y = GRU <hidden_size = 2> (x, w, r)"),
    "lstm": (7, "float[2,1,3] x, float[1,8,3] w, float[1,8,2] r", "a, y = LSTM <hidden_size = 2> (x, w, r)"),
    "hardmax": (7, "float[2,3,4] x", "y = Hardmax <axis = 1> (x)"),
    "log softmax": (8, "float[2,3,4] x", "y = LogSoftmax (x)"),
    "softmax from 0": (11, "float[2,3,4] x", "y = Softmax <axis = 0> (x)"),
    "softmax negative": (11, "float[2,3,4] x", "y = Softmax <axis = -2> (x)"),
    "max": (7, "float[3,4] x, float[3,4] z", "y = Max (x, z)"),
    "max pool": (
        7,
        "float[1,2,7,7] x",
        'y = MaxPool <kernel_shape = [3,3], auto_pad = "SAME_UPPER", strides = [2,2]> (x)',
    ),
    "pad": (7, "float[2,3] x", "y = Pad <pads = [0,1,2,3], value = 1.5> (x)"),
    "pad reflect": (7, "float[4,5] x", 'y = Pad <mode = "reflect", pads = [1,1,2,2]> (x)'),
    "pad crop": (7, "float[4,5] x", "y = Pad <pads = [-1,0,0,-1]> (x)"),
    "pow": (7, "float[3,4] x, float[1] z", "a = Abs (x) y = Pow (a, z)"),
    "prelu": (7, "float[2,3,4] x, float[3,1] z", "y = PRelu (x, z)"),
    "reduce all": (7, "float[2,3,4] x", "y = ReduceSum <keepdims = 0> (x)"),
    "reduce sum": (7, "float[2,3,4] x", "y = ReduceSum <axes = [0, 2]> (x)"),
    "reduce l2": (11, "float[2,3,4] x", "y = ReduceL2 <axes = [-1], keepdims = 0> (x)"),
    "reduce max": (12, "float[2,3,4] x", "y = ReduceMax <axes = [1]> (x)"),
    "resize nearest": (10, "float[1,1,3,3] x | float[4] s = {1, 1, 2, 2.5}", 'y = Resize <mode = "nearest"> (x, s)'),
    "resize linear": (10, "float[1,1,5,5] x | float[4] s = {1, 1, 0.6, 1.7}", 'y = Resize <mode = "linear"> (x, s)'),
    "resize shrink": (10, "float[1,1,7,7] x | float[4] s = {1, 1, 0.4, 0.7}", 'y = Resize <mode = "nearest"> (x, s)'),
    "resize 11": (
        11,
        "float[1,1,3,3] x, float[0] r | float[4] s = {1, 1, 2, 2}",
        'y = Resize <mode = "cubic"> (x, r, s)',
    ),
    "upsample 7": (7, "float[1,1,3,3] x", "y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x)"),
    "upsample 9": (9, "float[1,1,3,3] x | float[4] s = {1, 1, 1.5, 2}", 'y = Upsample <mode = "nearest"> (x, s)'),
    "upsample linear": (9, "float[1,1,3,3] x | float[4] s = {1, 1, 2, 2}", 'y = Upsample <mode = "linear"> (x, s)'),
    "scatter": (9, "float[3,3] x, float[1,3] u | int64[1,3] i = {2, 0, 1}", "y = Scatter (x, i, u)"),
    "slice": (7, "float[4,5] x", "y = Slice <starts = [1, -3], ends = [9, -1]> (x)"),
    "slice axes": (7, "float[4,5] x", "y = Slice <starts = [1], ends = [3], axes = [1]> (x)"),
    "split": (7, "float[6,2] x", "a, y = Split <split = [2,4]> (x)"),
    "split even": (7, "float[6,2] x", "y, b = Split (x)"),
    "squeeze all": (7, "float[1,3,1] x", "y = Squeeze (x)"),
    "unsqueeze": (11, "float[3] x", "y = Unsqueeze <axes = [0, -1]> (x)"),
    "top k": (9, "float[3,5] x", "y, i = TopK <k = 2> (x)"),
    "where": (9, "float[3] x, float[3] z", "c = Less (x, z) y = Where (c, x, z)"),
    "roi align": (
        10,
        "float[1,1,6,6] x | float[1,4] r = {0, 0, 4, 4}, int64[1] b = {0}",
        "y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, r, b)",
    ),
    "grid sample": (16, "float[1,1,4,4] x, float[1,2,2,2] z", 'y = GridSample <mode = "bilinear"> (x, z)'),
    "mod": (10, "float[4] x, float[4] z", "y = Mod <fmod = 1> (x, z)"),
    "non zero": (9, "float[4] x", "i = NonZero (x) y = Cast <to = 1> (i)"),
    "one hot": (9, "int64[3] x | int64 d = {4}, float[2] v = {0, 1}", "y = OneHot (x, d, v)"),
}


@pytest.mark.parametrize("to", [12, 13, 17, 21, HIGHEST])
@pytest.mark.parametrize("name", NODES)
def test_nodes_mean_the_same(name, to):
    if name == "roi align" and to > 21:
        pytest.skip("not followed: onnxruntime runs no RoiAlign of opset 22")
    opset, names, body = NODES[name]
    inputs, _, constants = names.partition(" | ")
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => (float y) <{constants}> {{ {body} }}'
    before = infer(text)
    graph = from_proto(before)
    changes = RaiseOpset(to=to).run(graph, Context())
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert not changes.refused
    assert after.opset_import[0].version == max(opset, to)
    assert_equivalent(before, after, tolerance=1e-5)


def infer(text):
    """The model in the text, with the type of its output as it is inferred."""
    model = onnx.parser.parse_model(text.replace("<> ", ""))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert inferred.graph.output[0].type.tensor_type.HasField("shape")
    return inferred


_WITHOUT_KERNELS = ("GlobalLpPool", "MaxRoiPool", "Multinomial", "RoiAlign")  # of opset 22, in onnxruntime 1.31
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
NOT_FOLLOWED = {
    *[("Scan", 9), ("MeanVarianceNormalization", 13), ("DFT", 20), ("GroupNormalization", 21)],
    *[("Attention", 24), ("Attention", 25)],
    *[(op, 22) for op in (*_WITHOUT_KERNELS, *_RANDOM)],
}


def test_every_version_is_followed_or_known_not_to_be():
    versions = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, []).append(schema.since_version)
    changed = {(name, version) for name, found in versions.items() for version in found if version > min(found)}
    assert {step for step in changed if LOWEST < step[1] <= HIGHEST} - set(STEPS) == NOT_FOLLOWED
    assert set(STEPS) <= changed


def test_everything_else_survives():
    model = onnx.parser.parse_model("""
        <ir_version: 4, opset_import: ["": 9, "com.microsoft": 1], producer_name: "p", model_version: 3,
         doc_string: "words", metadata_props: ["k": "v"]>
        g (float[N,2] x) => (float[N,1] y) { a = com.microsoft.Gelu (x) y = ReduceSum <axes = [1]> (a) }""")
    model.graph.node[0].doc_string = "why"
    graph = from_proto(model)
    assert RaiseOpset().run(graph, Context())
    after = to_proto(graph)
    assert (after.producer_name, after.model_version, after.doc_string) == ("p", 3, "words")
    assert after.metadata_props[0].value == "v"
    assert after.graph.node[0].doc_string == "why"
    assert {opset.domain: opset.version for opset in after.opset_import} == {"": 17, "com.microsoft": 1}
    assert after.graph.input == model.graph.input
    assert after.graph.output == model.graph.output
    assert np.array_equal(onnx.numpy_helper.to_array(after.graph.initializer[0]), [1])


def test_older_than_the_oldest():
    text = '<ir_version: 3, opset_import: ["": 6]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    model = onnx.parser.parse_model(text)
    changes = RaiseOpset().run(from_proto(model), Context())
    assert changes.refused[0].reason == "opset 6 is older than 7"
