from __future__ import annotations

from lpcc.analysis.kernels import kernels
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.targets.fit.networks.builder import Builder
from lpcc.targets.fit.networks.mlperf_tiny import NETWORKS
from lpcc.targets.fit.networks.qdq import quantized


def test_sums_are_kernels_of_their_own() -> None:
    graph = from_proto(NETWORKS["ic"]())
    annotate(graph)
    found = kernels(graph, runtime="vela")
    assert sum(kernel.op == "Add" for kernel in found) == 3
    assert sum(kernel.op == "Add" for kernel in kernels(graph, runtime="none")) == 0


def test_feature_maps_inside_have_channels_in_sixteens() -> None:
    net = Builder("narrow")
    x = net.conv(net.input(1, 3, 32, 32), 8, 3, activation="relu")
    graph = from_proto(quantized(net.model(net.conv(x, 8, 3))))
    annotate(graph)
    first, second = (kernel for kernel in kernels(graph, runtime="vela") if kernel.kind == "conv")
    assert [operand.nbytes for operand in first.inputs] == [3 * 32 * 32], "as it is given"
    assert [operand.nbytes for operand in first.outputs] == [16 * 32 * 32]
    assert [operand.nbytes for operand in second.outputs] == [8 * 32 * 32], "as it is wanted"
