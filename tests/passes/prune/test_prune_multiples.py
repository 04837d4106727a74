"""Numbers of channels that kernels of a target like."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.passes.prune.multiples import channel_multiple, kept_counts
from lpcc.target import Target


def network(first, *, groups=1):
    """Two convolutions, the first with `first` channels, the second in groups, and a third for the output."""
    shapes = {"u": (first, 3, 3, 3), "v": (first, first // groups, 1, 1), "w": (4, first, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "u"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["b"], group=groups),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(np.ones(shape, dtype=np.float32), name) for name, shape in shapes.items()],
    )
    made = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    annotate(made)
    return channel_groups(made)


def first_free(found):
    return next(group for group in found.groups if group.pinned is None)


@pytest.mark.parametrize(
    ("name", "formats", "multiple"),
    [
        ("x86-avx512-vnni", None, 16),
        ("x86-avx2", ("float32",), 8),
        ("x86-avx2", None, 16),
        ("arm-cortex-a72", ("float32",), 4),
        ("arm-cortex-a72", None, 8),
        ("eyeriss", None, 1),
    ],
)
def test_multiple_of_targets(name, formats, multiple):
    assert channel_multiple(Target.load(name), formats) == multiple


@pytest.mark.parametrize(
    ("channels", "multiple", "counts"),
    [
        (64, 16, (16, 32, 48, 64)),
        (40, 16, (16, 32, 40)),
        (24, 16, (16, 24)),
        (16, 16, (8, 16)),
        (12, 16, (8, 12)),
        (8, 16, (4, 8)),
        (6, 16, (4, 6)),
        (4, 16, (4,)),
        (4, 1, (1, 2, 3, 4)),
    ],
)
def test_kept_counts(channels, multiple, counts):
    assert kept_counts(first_free(network(channels)), multiple) == counts


def test_channels_of_grouped_convolutions_fill_each_group():
    found = network(128, groups=2)
    group = first_free(found)
    assert len(group) == 64
    assert kept_counts(group, 16) == (16, 32, 48, 64)


def test_pinned_groups_stay():
    pinned = next(group for group in network(32).groups if group.pinned is not None)
    assert kept_counts(pinned, 16) == (len(pinned),)
