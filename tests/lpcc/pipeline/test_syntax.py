"""The text form of pipelines, both ways, and what it says about mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from importlib.metadata import EntryPoint
from typing import Annotated, ClassVar, Literal

import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.errors import UsageError
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Pipeline, Range
from lpcc.pipeline.known import join, known_passes, named_pipelines
from lpcc.pipeline.syntax import Named, describe, options_of


@dataclass(frozen=True)
class Plain(Pass):
    """Without options."""

    name: ClassVar[str] = "plain"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        return Changes()


@dataclass(frozen=True)
class Rich(Plain):
    """With an option of each kind."""

    name: ClassVar[str] = "rich"
    count: Annotated[int, Range(min=0, max=10)] = 3
    ratio: float = 0.5
    share: Annotated[float | None, Range(0, 1)] = None
    on: bool = False
    text: str = "a"
    maybe: str | None = None
    kind: Literal["min", "max", "in between"] = "min"
    bits: Literal[4, 8] = 8
    skip_layers: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Demanding(Plain):
    """With an option that must be given, and a rule of its own."""

    name: ClassVar[str] = "demanding"
    low: int
    high: int = 9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low exceeds high")


@dataclass(frozen=True)
class Impostor(Plain):
    """With the name of another pass, which it inherits."""


PASSES = {kind.name: kind for kind in (Plain, Rich, Demanding)}
NAMES = {"both": "plain,rich{count=5}", "nested": "both,plain"}


@pytest.fixture(autouse=True, scope="module")
def _known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpcc.pipeline.known.known_passes", lambda: PASSES)
        patch.setattr("lpcc.pipeline.known.named_pipelines", lambda: NAMES)
        yield


rich = st.builds(
    Rich,
    count=st.integers(0, 10),
    ratio=st.floats(allow_nan=False),
    share=st.none() | st.floats(0, 1),
    on=st.booleans(),
    text=st.text(),
    maybe=st.none() | st.text() | st.just("none"),
    kind=st.sampled_from(["min", "max", "in between"]),
    bits=st.sampled_from([4, 8]),
    skip_layers=st.lists(st.text()).map(tuple).filter(lambda names: names != ("",)),
    sizes=st.lists(st.integers()).map(tuple),
)
demanding = st.integers(-5, 9).map(Demanding)
named = st.just(Named("both", (Plain(), Rich(count=5))))
pipelines = st.lists(st.one_of(st.just(Plain()), rich, demanding, named), min_size=1).map(lambda i: Pipeline(tuple(i)))


@given(pipelines)
def test_round_trip(pipeline: Pipeline) -> None:
    text = str(pipeline)
    assert text.isprintable()
    assert Pipeline.parse(text) == pipeline
    assert str(Pipeline.parse(text)) == text


@given(st.text(alphabet='plainrchbot{}=," \\1.5-', max_size=40))
def test_any_text_is_a_pipeline_or_an_error_with_a_column(text: str) -> None:
    try:
        pipeline = Pipeline.parse(text)
    except UsageError as error:
        message = str(error)
    else:
        message = ""
        assert Pipeline.parse(str(pipeline)) == pipeline
    if message:
        column = int(message.split("column ")[-1].partition(":")[0])
        assert 1 <= column <= len(text) + 1
        assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "plain,plain",
        "both",
        "nested,plain",
        "rich{count=1 ratio=0.25 share=1.0 on=true}",
        "rich{skip-layers=conv1,conv2}",
        'rich{skip-layers="a b",c}',
        'rich{text=""}',
        'rich{text="none"}',
        'rich{kind="in between" bits=4}',
        'rich{sizes=""}',
        "rich{sizes=7}",
        "demanding{low=-1}",
    ],
)
def test_text_form(text: str) -> None:
    assert str(Pipeline.parse(text)) == text


def test_default_values_are_left_out() -> None:
    assert str(Pipeline.parse("rich{count=3 share=none}")) == "rich"
    assert str(Pipeline.parse("rich{}")) == "rich"
    assert str(Rich(count=4)) == "rich{count=4}"


def test_a_named_pipeline_runs_as_its_passes() -> None:
    pipeline = Pipeline.parse("nested,plain")
    assert pipeline.passes == (Plain(), Rich(count=5), Plain(), Plain())


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "expected the name of a pass"),
        ("plain,", 7, "expected the name of a pass"),
        (",plain", 1, "expected the name of a pass"),
        ("plain plain", 6, "expected `,`, not ` `"),
        ("both{x=1}", 5, "expected `,`, not `{`"),
        ("plain,ricj", 7, "unknown pass `ricj`; did you mean rich? known: both, demanding, nested, plain, rich"),
        ("zzz", 1, "unknown pass `zzz`; known: both"),
        ("plain{a=1}", 7, "pass `plain` has no option `a`; it has none"),
        ("rich{cuont=1}", 6, "no option `cuont`; did you mean count or on?"),
        ("rich{count=1 count=2}", 14, "option `count` is given twice"),
        ("rich{count}", 11, "expected `=`, not `}`"),
        ("rich{count=}", 12, "expected a value"),
        ("rich{count=1", 13, "expected a space, `}` or `,`"),
        ("rich{count=11}", 12, "option `count` takes a whole number between 0 and 10, not `11`"),
        ("rich{count=1.5}", 12, "option `count` takes a whole number between 0 and 10, not `1.5`"),
        ("rich{count=1,2}", 12, "option `count` takes one value"),
        ("rich{count=none}", 12, "a whole number"),
        ("rich{ratio=nan}", 12, "option `ratio` takes a number, not `nan`"),
        ("rich{share=2}", 12, "a number between 0 and 1"),
        ("rich{on=yes}", 9, "true or false"),
        ("rich{kind=mean}", 11, "one of min, max, in between"),
        ("rich{bits=5}", 11, "one of 4, 8"),
        ("rich{sizes=1,b}", 12, "a whole number, not `b`"),
        ('rich{text="a}', 11, "unclosed or malformed quotes"),
        ("plain,demanding", 7, "pass `demanding` needs the option `low`"),
        ("demanding{low=10}", 1, "pass `demanding`: low exceeds high"),
        ("rich{text=a=b}", 12, 'a value with `=` needs quotes: text="a=b"; in a shell'),
        ("rich{skip-layers=a=4,*=8 on=true}", 19, 'needs quotes: skip-layers="a=4","*=8";'),
        ('rich{skip-layers="a"=4}', 21, 'needs quotes: skip-layers="a=4";'),
        (
            "rich{text=rich{on=true count=1} on=true}",
            15,
            'a value with `{` needs quotes: text="rich{on=true count=1}";',
        ),
        ('rich{text="a"b}', 14, "expected a space, `}` or `,`"),
    ],
)
def test_mistakes(text: str, column: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(text)
    assert f"column {column}: " in str(caught.value)
    assert message in str(caught.value)


def test_options_in_words() -> None:
    options = options_of(Rich)
    assert list(options) == [
        *("count", "ratio", "share", "on", "text", "maybe", "kind", "bits", "skip-layers", "sizes"),
    ]
    words = {name: describe(annotation) for name, (annotation, _) in options.items()}
    assert words["count"] == "a whole number between 0 and 10"
    assert words["share"] == "a number between 0 and 1"
    assert words["maybe"] == "text"
    assert words["skip-layers"] == "a list of text"
    assert options_of(Demanding)["low"][1] is MISSING


@pytest.mark.parametrize(
    ("bounds", "words"),
    [(Range(1), "at least 1"), (Range(max=2), "at most 2"), (Range(1, 2), "between 1 and 2"), (Range(), "any number")],
)
def test_ranges_in_words(bounds: Range, words: str) -> None:
    assert str(bounds) == words


# Plugins ---------------------------------------------------------------------------------------------------------


def plugin(value: str) -> EntryPoint:
    return EntryPoint("theirs", value, "lpcc.passes")


def test_a_plugin_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: Rich)
    assert join([Plain], [plugin("their:Rich")]) == {"plain": Plain, "rich": Rich}


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (Impostor, "`plain` is taken"),
        (object, "not a subclass of lpcc.Pass"),
        (Plain(), "not a subclass of lpcc.Pass"),
        (ImportError("no module their"), "cannot be loaded: no module their"),
    ],
)
def test_plugins_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, loaded: object, message: str) -> None:
    def load(_: EntryPoint) -> object:
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(UsageError, match=r"plugin `theirs` \(their:Thing\)") as caught:
        join([Plain], [plugin("their:Thing")])
    assert message in str(caught.value)


def test_the_built_in_ones_fit_together() -> None:
    """The real tables: every named pipeline parses to passes of known names, none of which is a pipeline's too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpcc.pipeline.known.known_passes", known_passes)
        patch.setattr("lpcc.pipeline.known.named_pipelines", named_pipelines)
        for name, text in named_pipelines().items():
            assert str(Pipeline.parse(name)) == name
            assert str(Pipeline.parse(text)) == text
            assert all(type(item) is known_passes()[item.name] for item in Pipeline.parse(text))
    assert not set(known_passes()) & set(named_pipelines())
