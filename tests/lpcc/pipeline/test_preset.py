"""A target's own pipeline with another way to quantise, and with layers named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_graphsurgeon as gs
import pytest

import lpcc
from lpcc.errors import UsageError
from lpcc.passes import Quantize
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Pipeline
from lpcc.pipeline.known import named_pipelines
from lpcc.pipeline.known import presets as known_presets
from lpcc.pipeline.preset import pipeline_for, with_layers, with_preset
from lpcc.pipeline.syntax import Named
from lpcc.target import Target


@dataclass(frozen=True)
class Choosy(Pass):
    """Knows layers by name."""

    name: ClassVar[str] = "choosy"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        return Changes()


def quantisers(pipeline: Pipeline) -> list[Quantize]:
    return [item for item in pipeline if isinstance(item, Quantize)]


def test_presets_are_named_pipelines_that_quantise() -> None:
    for name in known_presets():
        assert len(quantisers(Pipeline.parse(named_pipelines()[name]))) == 1


@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_a_preset_stands_for_quantize_in_the_targets_pipeline(preset: str) -> None:
    found = with_preset(Pipeline.parse("exact,schedule,quantize,schedule"), preset)
    assert str(found) == f"exact,schedule,{preset},schedule"
    recipe = Pipeline.parse(preset).passes
    assert list(found)[-len(recipe) - 1 :] == [*recipe, Pipeline.parse("schedule").passes[0]]
    assert Pipeline.parse(str(found)) == found


def test_what_the_target_says_of_quantize_still_holds() -> None:
    found = with_preset(Pipeline.parse("exact,quantize{min-work=7 ranges=entropy}"), "fast")
    (quantize,) = quantisers(found)
    assert quantize == Quantize(ranges="output", min_work=7)  # the preset's own word goes before the target's
    assert Pipeline.parse(str(found)) == found


def test_a_preset_stands_for_another() -> None:
    assert str(with_preset(Pipeline.parse("exact,fast,schedule"), "accurate")) == "exact,accurate,schedule"
    assert str(with_preset(Pipeline.parse("exact,accurate"), "accurate")) == "exact,accurate"


def test_a_named_pipeline_that_quantises_is_varied_too() -> None:
    found = with_preset(Pipeline.parse("exact,accurate"), "fast")
    assert quantisers(found) == quantisers(Pipeline.parse("fast"))
    assert isinstance(found.items[0], Named)


def test_every_target_that_quantises_takes_every_preset() -> None:
    for name in Target.names():
        target = Target.load(name)
        if quantisers(Pipeline.parse(target.pipeline)):
            for preset in known_presets():
                assert quantisers(pipeline_for(target, preset=preset))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "acurate"}, "unknown preset `acurate`; did you mean accurate"),
        ({"preset": "fast", "pipeline": "exact"}, "give it or --pipeline, not both"),
        ({"preset": "fast", "target": "eyeriss"}, "has no `quantize` to replace"),
        ({"keep": ["conv1"], "pipeline": "exact"}, "--keep: no pass of `exact` takes it"),
        (
            {"only": ["conv1"], "pipeline": "exact"},
            "--only: no pass of `exact` takes it; it is an option of `quantize`",
        ),
        (
            {"keep": ["conv1"], "pipeline": "exact,quantize-weights"},
            "takes it; use the option `skip` of `quantize-weights`",
        ),
    ],
)
def test_what_cannot_be_is_one_line(arguments: dict[str, Any], message: str) -> None:
    given = {"target": "arm-cortex-a72", **arguments}
    target = Target.load(given.pop("target"))
    if target.name == "eyeriss":
        target = _without_quantize(target)
    with pytest.raises(UsageError) as raised:
        pipeline_for(target, given.pop("pipeline", None), **given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def _without_quantize(target: Target) -> Target:
    from dataclasses import replace

    return replace(target, pipeline="exact")


def test_layers_are_told_to_the_passes_that_ask() -> None:
    pipeline = Pipeline((Choosy(keep=("a",)), *Pipeline.parse("dce").items))
    found = with_layers(pipeline, keep=["b", "a"], only=["c*"])
    assert found.items[0] == Choosy(keep=("a", "b"), only=("c*",))
    assert found.items[1] == pipeline.items[1]
    assert with_layers(pipeline, keep="conv1").items[0] == Choosy(keep=("a", "conv1"))
    assert with_layers(pipeline) == pipeline


def test_a_named_pipeline_is_spelt_out_where_layers_change_it() -> None:
    pipeline = Pipeline((Named("recipe", (Choosy(),)), Named("other", Pipeline.parse("dce").passes)))
    found = with_layers(pipeline, keep=["a"])
    assert found.items == (Choosy(keep=("a",)), pipeline.items[1])


def test_a_misspelt_option_of_a_plan_is_an_error() -> None:
    from lpcc.driver import plan

    with pytest.raises(TypeError, match="max_dorp"):
        plan("net.onnx", max_dorp=3)  # type: ignore[call-arg]


def test_optimize_takes_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def noted(*arguments: Any) -> Pipeline:
        seen.append(arguments[1:])
        raise UsageError("enough")

    monkeypatch.setattr("lpcc.driver.pipeline_for", noted)
    with pytest.raises(UsageError, match="enough"):
        lpcc.optimize("net.onnx", target="arm-cortex-a72", preset="fast", keep=["a"], only=["b"])
    assert seen == [(None, "fast", ["a"], ["b"])]
