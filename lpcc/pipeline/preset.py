"""A target's own pipeline, varied: its quantisation by a named recipe, some layers kept in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from lpcc.errors import UsageError
from lpcc.pipeline.base import Pass
from lpcc.pipeline.known import presets
from lpcc.pipeline.layers import can_skip
from lpcc.pipeline.syntax import Named, Pipeline, default_of, nearest

if TYPE_CHECKING:
    from lpcc.target import Target

_REPLACED = "quantize"


def pipeline_for(
    target: Target,
    asked: str | Pipeline | None = None,
    preset: str | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Pipeline:
    """The pipeline that was `asked` for, or the target's own, varied by a preset, with layers kept in float.

    Raises:
        UsageError: a text is no pipeline, a preset is asked for beside a pipeline, or see `with_preset`, `with_layers`.
    """
    if asked is None:
        pipeline = Pipeline.parse(target.pipeline)
        if preset is not None:
            pipeline = with_preset(pipeline, preset, f"the pipeline of target {target.name}")
    elif preset is not None:
        raise UsageError(f"--preset {preset} varies the target's own pipeline: give it or --pipeline, not both")
    else:
        pipeline = asked if isinstance(asked, Pipeline) else Pipeline.parse(asked)
    return with_layers(pipeline, keep, only)


def with_preset(pipeline: Pipeline, preset: str, whose: str = "the pipeline") -> Pipeline:
    """The pipeline with each `quantize`, or other preset, replaced by the passes of the preset of that name.

    What the pipeline says of `quantize` and the preset leaves open holds for the `quantize` of the preset too.

    Raises:
        UsageError: there is no such preset, or `whose` pipeline has no `quantize`.
    """
    known = presets()
    if preset not in known:
        raise UsageError(f"unknown preset `{preset}`; {nearest(preset, known)}")
    recipe = Pipeline.parse(preset)
    found = False

    def items(of: Sequence[Pass | Named]) -> Iterator[Pass | Named]:
        nonlocal found
        for item in of:
            if isinstance(item, Named) and item.name in known:  # another preset, whose own options are its recipe
                found = True
                yield from recipe.items
            elif isinstance(item, Named):
                inner = tuple(items(item.passes))
                yield from (item,) if inner == item.passes else inner
            elif item.name == _REPLACED:
                found = True
                yield from _refined(recipe, item).items
            else:
                yield item

    result = Pipeline(tuple(items(pipeline.items)))
    if not found:
        raise UsageError(
            f"--preset {preset}: {whose}, `{pipeline}`, has no `{_REPLACED}` to replace: give a --pipeline"
        )
    return result


def with_layers(pipeline: Pipeline, keep: Sequence[str] = (), only: Sequence[str] = ()) -> Pipeline:
    """The pipeline with layers to be kept in float, or the only ones that are not, told to the passes that ask.

    Names may have wildcards; which layers there are is known to the passes alone.

    Raises:
        UsageError: no pass of the pipeline has such an option.
    """
    added = {"keep": _several(keep), "only": _several(only)}
    for name, layers in added.items():
        if layers and not any(_has(item, name) for item in pipeline):
            able = next((item.name for item in pipeline if can_skip(item)), None)
            hint = f"it is an option of `{_REPLACED}`" if able is None else f"use the option `skip` of `{able}`"
            raise UsageError(f"--{name}: no pass of `{pipeline}` takes it; {hint}")
    return _changed(pipeline, added)


def _refined(recipe: Pipeline, stated: Pass) -> Pipeline:
    """The recipe whose `quantize` has the options that are stated for the one it replaces and are open in its own."""

    def merged(item: Pass) -> Pass:
        if type(item) is not type(stated):
            return item
        asked = {
            option.name: getattr(stated, option.name)
            for option in fields(stated)
            if getattr(stated, option.name) != default_of(option) and getattr(item, option.name) == default_of(option)
        }
        return replace(item, **asked) if asked else item

    return _mapped(recipe, merged)


def _changed(pipeline: Pipeline, added: dict[str, tuple[str, ...]]) -> Pipeline:
    def extended(item: Pass) -> Pass:
        more: dict[str, Any] = {
            name: tuple(dict.fromkeys((*getattr(item, name), *names)))
            for name, names in added.items()
            if names and _has(item, name)
        }
        return replace(item, **more) if more else item

    return _mapped(pipeline, extended)


def _mapped(pipeline: Pipeline, change: Callable[[Pass], Pass]) -> Pipeline:
    """The pipeline with `change` applied to each pass; a named one that is not the same any more is spelt out."""
    items: list[Pass | Named] = []
    for item in pipeline.items:
        if isinstance(item, Named):
            passes = tuple(change(inner) for inner in item.passes)
            items += [item] if passes == item.passes else passes
        else:
            items.append(change(item))
    return Pipeline(tuple(items))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _has(item: Pass, option: str) -> bool:
    return any(found.name == option for found in fields(item))
