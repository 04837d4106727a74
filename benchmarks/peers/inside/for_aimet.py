"""AIMET: batch norms folded, weights per channel, the other settings its own.

The variant is how ranges are chosen, and `CLE` behind it to equalise layers first. AIMET makes up inputs, for which
every dimension needs a number.
"""

from __future__ import annotations

import numpy as np
import onnx
from aimet_onnx import QuantizationSimModel, int8
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
from aimet_onnx.cross_layer_equalization import equalize_model
from task import Task


def _fix_shapes(model: onnx.ModelProto, row: dict[str, np.ndarray]) -> None:
    """Put the sizes of an image in the place of all that are unknown but the batch's, where there are such."""
    for info in model.graph.input:
        if info.name in row:
            dims = info.type.tensor_type.shape.dim
            for dim, size in zip(dims[1:], row[info.name].shape[1:], strict=True):
                dim.dim_value = size
            if dims and dims[0].dim_value <= 0 and not dims[0].dim_param:
                dims[0].dim_param = "batch"


if __name__ == "__main__":
    task = Task.of_command_line()
    model = onnx.load(task.model)
    _fix_shapes(model, next(task.rows()))
    scheme, *equalise = task.variant.split()
    if equalise:
        equalize_model(model)
    else:
        fold_all_batch_norms_to_weight(model)
    sim = QuantizationSimModel(
        model,
        param_type=int8,
        activation_type=int8,
        quant_scheme=scheme,
        config_file=get_path_for_per_channel_config(),
        dummy_input=next(task.rows()),
    )
    sim.compute_encodings(task.rows())
    onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), task.result)
