"""How long the search of ranges may take: bounded by the work that it is, never by the clock."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc.analysis.macs import macs
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes.quantize import auto_ranges, ranging
from lpcc.passes.quantize.effort import Effort
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.target import Target
from lpcc.testing.golden import read_model

FIRE = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,8,12,12] x) => (float[N,6,4,4] y)
<float[16,8,3,3] w0, float[8,16,1,1] w1, float[8,16,3,3] w2, float[6,16,3,3] w3>
{
    c0 = Conv<pads = [1,1,1,1]>(x, w0)
    r0 = Relu(c0)
    c1 = Conv(r0, w1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1]>(r0, w2)
    r2 = Relu(c2)
    j = Concat<axis = 1>(r1, r2)
    p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(j)
    y = Conv(p, w3)
}
"""
QUANTIZE = "exact,quantize{min-work=0}"


def fire():
    return read_model(FIRE)


def run(model, pipeline=QUANTIZE):
    values = np.random.default_rng(1).laplace(size=(40, 8, 12, 12)).astype(np.float32)
    ctx = Context(target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays({"x": values}))
    graph = from_proto(model)
    records = run_pipeline(graph, Pipeline.parse(pipeline), ctx)
    return to_proto(graph), [refusal.reason for refusal in records[-1].changes.refused]


def annotated(model):
    graph = from_proto(model)
    annotate(graph)
    return graph


def test_work_behind_a_tensor():
    graph = annotated(fire())
    found = Effort.of(graph)
    assert found.macs == sum(macs(graph).values())
    assert found.work > found.macs
    assert found.after(["x"]) == found.work, "an input has all of it behind"
    assert found.after(["y"]) == 0
    assert found.work > found.after(["c0"]) > found.after(["j"]) > found.after(["p"]) > 0
    assert found.after(["j", "c0"]) == found.after(["c0"])


@pytest.mark.parametrize("images_afforded", [2, 5, 16])
def test_fewer_images_where_they_are_more_work_and_none_where_too_few_are_left(images_afforded, monkeypatch):
    used, works = [], []
    search = auto_ranges.refine

    def counted(model, groups, starts, feeds, *rest):
        used.append(sum(len(feed["x"]) for feed in feeds))
        works.append(sum(Effort.of(annotated(model)).after(group.tensors) for group in groups))
        return search(model, groups, starts, feeds, *rest)

    monkeypatch.setattr(ranging, "refine", counted)
    _, reasons = run(fire())
    assert used.pop() == 16
    assert not any("chosen by layers" in reason for reason in reasons)

    monkeypatch.setattr(ranging, "_SEARCH", ranging._TRIES * works.pop() * images_afforded)
    used.clear()
    result, reasons = run(fire())
    onnx.checker.check_model(result)
    assert used == {2: [], 5: [5], 16: [16]}[images_afforded]
    assert any("chosen by layers" in reason for reason in reasons) == (images_afforded < 4)


def test_what_is_chosen_without_the_outputs_is_still_judged_by_them(monkeypatch):
    monkeypatch.setattr(ranging, "_SEARCH", 0)
    judged = []
    closest = ranging.closest

    def watched(choices, *rest):
        judged.append(len(choices))
        return closest(choices, *rest)

    monkeypatch.setattr(ranging, "closest", watched)
    result, reasons = run(fire())
    again, _ = run(fire())
    assert judged == [4, 4], "what asks the layers, and where that starts"
    assert sum("chosen by layers" in reason for reason in reasons) == 1
    assert result.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def test_a_large_network_of_the_zoo_is_not_searched_for_minutes(zoo):
    """DeepLabv3 on 513 by 513 pixels: eight images by the outputs would be 15 times 10^12 of the units of work."""
    graph = load(zoo.model("deeplabv3_mnv2_dm05_person"))
    ctx = Context(target=Target.load("x86-avx512-vnni"))
    run_pipeline(graph, Pipeline.parse("exact"), ctx)
    effort = Effort.of(graph)
    groups = [node.outputs[0].name for node in graph.nodes if node.op in ("Conv", "Add")]
    of_one = ranging._TRIES * sum(effort.after([name]) for name in groups)
    assert ranging._SEARCH // of_one < 8
    assert effort.macs > 3e9
