"""NAS-Bench-201: networks of three stages of equal cells, each cell four nodes with an operation on every edge.

    |op~0|+|op~0|op~1|+|op~0|op~1|op~2|     the edges into nodes 1, 2 and 3, from nodes 0, 1 and 2

After Dong and Yang, NAS-Bench-201 (ICLR 2020). The edge ``none`` is a product with 0, which onnxruntime computes.
"""

from __future__ import annotations

import onnx

from lpcc.targets.fit.networks.builder import Builder, Tensor

CELLS = 5
"""Cells in a stage."""


def network(arch: str, image: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> onnx.ModelProto:
    """The network of a cell for images of (channels, height, width). Raises ValueError for a text of another form."""
    edges = [[edge.partition("~")[0] for edge in node.strip("|").split("|")] for node in arch.split("+")]
    if [len(node) for node in edges] != [1, 2, 3]:
        raise ValueError(f"not an architecture of NAS-Bench-201: {arch}")
    net = Builder("nasbench201")
    x = net.conv(net.input(1, *image), 16, 3)
    for stage in range(3):
        if stage:
            x = _reduction(net, x)
        for _ in range(CELLS):
            x = _cell(net, x, edges)
    x = net.global_pool(net.activate(net.batch_norm(x), "relu"))
    return net.model(net.dense(net.flatten(x), classes))


def _cell(net: Builder, x: Tensor, edges: list[list[str]]) -> Tensor:
    nodes = [x]
    for incoming in edges:
        found = [_edge(net, node, op) for node, op in zip(nodes, incoming, strict=True)]
        total = found[0]
        for other in found[1:]:
            total = net.add(total, other)
        nodes.append(total)
    return nodes[-1]


def _edge(net: Builder, x: Tensor, op: str) -> Tensor:
    if op == "none":
        return net.scale(x, 0.0)
    if op == "skip_connect":
        return x
    if op == "avg_pool_3x3":
        return net.pool(x, "average", 3, 1, (1, 1, 1, 1))
    if op in ("nor_conv_1x1", "nor_conv_3x3"):
        return net.conv(net.activate(x, "relu"), x.channels, int(op[-1]))
    raise ValueError(f"no operation of NAS-Bench-201: {op}")


def _reduction(net: Builder, x: Tensor) -> Tensor:
    """The residual block between stages, which halves the image and doubles the channels."""
    filters = 2 * x.channels
    y = net.conv(net.activate(x, "relu"), filters, 3, 2, (1, 1, 1, 1))
    y = net.conv(net.activate(y, "relu"), filters, 3)
    return net.add(net.conv(net.pool(x, "average", 2, 2), filters, 1), y)
