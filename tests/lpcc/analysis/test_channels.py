from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.analysis.channels import keeps_channel_means
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model


@pytest.mark.parametrize(
    ("opset", "shape", "node", "keeps"),
    [
        (17, "2,16,1,1", "Reshape(x, s) {2, 16}", True),
        (17, "2,16,4,4", "Reshape(x, s) {2, 16, 16}", True),
        (17, "2,16,4,4", "Reshape(x, s) {2, 16, 2, 8}", True),
        (17, "1,16,4,4", "Reshape(x, s) {16, 16}", False),  # as many, but of other numbers
        (17, "2,16,4,4", "Reshape(x, s) {2, 256}", False),
        (17, "2,16,4,4", "Reshape(x, s) {2, 4, 4, 16}", False),
        (17, "4,4,2,2", "Reshape(x, s) {1, 4, 4, 4}", False),
        (17, "16,16", "Reshape(x, s) {1, 16, 16}", False),
        (17, "2,3,1,1", "Flatten(x)", True),
        (17, "2,3,2,2", "Flatten(x)", False),
        (17, "2,4,2,2", "Flatten<axis=2>(x)", False),
        (17, "2,3,1,1", "Squeeze(x, s) {2, 3}", True),
        (17, "1,3,3,1", "Squeeze(x, s) {0}", False),
        (17, "2,3,4", "Unsqueeze(x, s) {3}", True),
        (17, "2,3,3", "Unsqueeze(x, s) {1}", False),
        (17, "2,3,4,4", "ReduceMean<axes=[2,3]>(x)", True),
        (17, "2,3,4,4", "ReduceMean<axes=[-1], keepdims=0>(x)", True),
        (17, "2,4,4,4", "ReduceMean<axes=[1], keepdims=0>(x)", False),
        (17, "2,4,4,4", "ReduceMean(x)", False),
        (18, "2,4,4,4", "ReduceMean<keepdims=0>(x, s) {1}", False),
        (18, "2,4,4,4", "ReduceMean(x, s) {2, 3}", True),
        (17, "2,4,4,4", "AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", True),
        (17, "2,4,4,4", "GlobalAveragePool(x)", True),
        (17, "2,4,4,4", "Identity(x)", True),
        (17, "2,4,4,4", "Transpose<perm=[0,2,1,3]>(x)", False),
        (17, "2,4,4,4", "MaxPool<kernel_shape=[2,2]>(x)", False),
    ],
)
def test_what_keeps_the_means_of_channels(opset, shape, node, keeps):
    """What is said to keep them does: checked on numbers."""
    call, _, values = node.partition(" {")
    weights = f", int64[{values.count(',') + 1}] s = {{{values}" if values else ""
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[{shape}] x) => (float y)
    <float[1] unused{weights}> {{ y = {call} }}"""
    model = onnx.ModelProto()
    model.CopyFrom(read_model(text))
    graph = from_proto(model)
    annotate(graph)
    (last,) = graph.nodes
    assert keeps_channel_means(last) == keeps
    if keeps:
        x = np.random.default_rng(0).standard_normal([int(size) for size in shape.split(",")]).astype(np.float32)
        y = Session(to_proto(graph)).run({"x": x})["y"]
        means = [t.reshape(*t.shape[:2], -1).mean(axis=(0, 2)) for t in (x, y)]
        np.testing.assert_allclose(*means, atol=1e-6)


@pytest.mark.parametrize(("to", "keeps"), [("{0, 0, -1}", False), ("{0, 16, 8, -1}", False)])
def test_sizes_that_are_not_known_keep_nothing(to, keeps):
    rank = to.count(",") + 1
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[N,16,H,W] x) => (float y)
    <int64[{rank}] s = {to}> {{ y = Reshape(x, s) }}"""
    graph = from_proto(read_model(text))
    annotate(graph)
    assert keeps_channel_means(graph.nodes[0]) == keeps
