"""The passes that look for patterns, on real models: same outputs, same interface, no more nodes run than before."""

from __future__ import annotations

import onnx
import pytest

from lpcc.graph import load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime.fused import count_kernels, optimised
from lpcc.testing import assert_equivalent

PASSES = (
    "freeze-inputs,lift-constants,raise-opset,fold-constants,resolve-shapes,remove-noops,dce,"
    "merge-pad,recognise-layer-norm,recognise-activations,fuse-matmul-add,fold-bn,fold-affine,"
    "recognise-channel-shuffle,dce"
)
DONE = {
    "cifar10_resnet20_jpegft": {"fold-bn": 19},
    "mlperf_resnet8_cifar10": {"fold-bn": 7},
    "fashion_mnist_vgg": {"fold-bn": 5},
    "mobilenetv2_imagenet": {},
    "squeezenet1_1_imagenet": {},
    "fastestdet_coco": {"recognise-channel-shuffle": 13, "merge-pad": 1},
    "ultraface_rfb320": {"fold-bn": 35, "fold-affine": 1},
    "deeplabv3_mnv2_dm05_person": {"fold-bn": 54},
    "ppocr_mobile_v2_cls": {"fold-bn": 35, "recognise-activations": 18, "fold-affine": 18, "fuse-matmul-add": 1},
}
"""Rewrites of each pass from `merge-pad` on, those without any left out."""


@pytest.mark.parametrize("name", DONE)
def test_model(zoo, name):
    before = onnx.load(zoo.model(name))
    graph = load(zoo.model(name))
    records = run_pipeline(graph, Pipeline.parse(PASSES), Context())
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    found = {record.item.name: len(record.changes.rewrites) for record in records[7:-1] if record.changes}
    assert found == DONE[name]
    feeds = zoo.calib(name, 1)
    assert_equivalent(before, after, feeds)
    assert count_kernels(optimised(after)).nodes <= count_kernels(optimised(before)).nodes
