"""The trained network as ONNX, layer for layer: batch norm stays a node of its own, the batch dimension stays free."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from network import Add
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

OPSET = 17
IR_VERSION = 8  # of opset 17's time, so that older runtimes read the file too


class LayerTracer(fx.Tracer):
    """Follows a network down to its layers, and takes `Add` as one of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True where tracing stops."""
        return isinstance(m, Add) or super().is_leaf_module(m, module_qualified_name)


def to_onnx(network: nn.Module, shape: tuple[int, ...], classes: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The checked ONNX model of `network` in evaluation mode.

    Its input is `image`, float32 (batch, *shape); its output `logits`, float32 (batch, classes). A node has the name of
    its layer, a weight that of its parameter. Raises ValueError for a layer that the example does not use.
    """
    network.eval()
    nodes: list[onnx.NodeProto] = []
    tensors: dict[fx.Node, str] = {}  # the ONNX name of what each traced step gives
    for step in LayerTracer().trace(network).nodes:
        inputs = [tensors[source] for source in step.all_input_nodes]
        if step.op == "placeholder":
            tensors[step] = "image"
        elif step.op == "output":
            nodes[-1].output[0] = "logits"
        elif step.op == "call_module":
            layer = network.get_submodule(step.target)
            if isinstance(layer, nn.Identity):
                tensors[step] = inputs[0]
                continue
            operator, weights, attributes = onnx_operator(layer)
            inputs += [f"{step.target}.{name}" for name in weights]
            nodes.append(helper.make_node(operator, inputs, [step.target], step.target, **attributes))
            tensors[step] = step.target
        else:
            raise ValueError(f"{step.name}: only layers can be written, not {step.op}")

    read = {name for node in nodes for name in node.input}
    state = {name: value.numpy() for name, value in network.state_dict().items() if name in read}
    graph = helper.make_graph(
        nodes,
        "fashion_mnist",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, name) for name, value in state.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="lpcc-example")
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def onnx_operator(layer: nn.Module) -> tuple[str, tuple[str, ...], dict[str, object]]:
    """The ONNX operator of a torch layer: its name, the layer's weights that it reads in order, its attributes."""
    match layer:
        case nn.Conv2d(padding=(int(), int()), padding_mode="zeros"):
            attributes = {
                "dilations": layer.dilation,
                "group": layer.groups,
                "kernel_shape": layer.kernel_size,
                "pads": (*layer.padding, *layer.padding),
                "strides": layer.stride,
            }
            return "Conv", ("weight",) if layer.bias is None else ("weight", "bias"), attributes
        case nn.BatchNorm2d():
            return "BatchNormalization", ("weight", "bias", "running_mean", "running_var"), {"epsilon": layer.eps}
        case nn.Linear(bias=nn.Parameter()):
            return "Gemm", ("weight", "bias"), {"transB": 1}
        case nn.ReLU():
            return "Relu", (), {}
        case nn.AdaptiveAvgPool2d(output_size=1):
            return "GlobalAveragePool", (), {}
        case nn.Flatten(start_dim=1, end_dim=-1):
            return "Flatten", (), {}
        case Add():
            return "Add", (), {}
    raise ValueError(f"no ONNX operator is known for {layer}")
