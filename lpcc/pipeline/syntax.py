"""Pipelines and their text form, both ways, as in MLIR: ``fold-bn,quantize{ranges=mse skip=conv1,conv2}``.

    pipeline := item ("," item)*
    item     := name ["{" [option (" " option)*] "}"]
    option   := name "=" value
    value    := element ("," element)*          elements may be quoted: "a b"

A name is a pass or a named pipeline such as ``exact``, which stands for its passes and keeps its name in the text.
Options that have their default value are left out, so that ``str(Pipeline.parse(text)) == text`` for text in that form.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from lpcc.errors import UsageError
from lpcc.pipeline.base import Pass, Range

_SPECIAL = set(',{}= "\\')

Item = TypeVar("Item")


@dataclass(frozen=True)
class Named:
    """A named pipeline within a pipeline: it runs as its passes and prints as its name."""

    name: str
    passes: tuple[Pass, ...]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Pipeline:
    """Passes to be run in order. `items` keeps named pipelines as they were written."""

    items: tuple[Pass | Named, ...]

    @classmethod
    def parse(cls, text: str, passes: Iterable[type[Pass]] = ()) -> Pipeline:
        """Pipeline from its text form, which may name `passes` besides the built-in ones and those of plugins.

        Raises:
            UsageError: the text is no pipeline; the message points at the column and lists what is known. Or one of
                `passes` has the name of another pass.
        """
        from lpcc.pipeline.known import including, known_passes, named_pipelines

        return _Parser(text, including(known_passes(), passes), named_pipelines()).pipeline()

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes in the order in which they run."""
        return tuple(self)

    def __iter__(self) -> Iterator[Pass]:
        for item in self.items:
            if isinstance(item, Named):
                yield from item.passes
            else:
                yield item

    def __str__(self) -> str:
        return ",".join(str(item) for item in self.items)


def format_pass(item: Pass) -> str:
    """Text form of one pass, with the options that differ from their defaults."""
    return item.name + format_options(item)


def format_options(item: Any) -> str:
    """Text form of the fields of a frozen dataclass that differ from their defaults, in braces; empty if none does."""
    written = []
    for option in fields(item):
        value = getattr(item, option.name)
        if value != default_of(option):
            written.append(f"{option.name.replace('_', '-')}={format_value(value)}")
    return "{" + " ".join(written) + "}" if written else ""


def options_of(kind: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Options of a pass, or fields of another dataclass, by their written names: annotation, default or MISSING."""
    hints = get_type_hints(kind, include_extras=True)
    return {option.name.replace("_", "-"): (hints[option.name], default_of(option)) for option in fields(kind)}


def describe(annotation: Any) -> str:
    """What an option accepts, in words."""
    base, bounds = _unwrap(annotation)
    if get_origin(base) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(base))
    if get_origin(base) is tuple:
        return f"a list of {describe(get_args(base)[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[base]
    return f"{words} {bounds}" if bounds else words


def nearest(name: str, known: Iterable[str]) -> str:
    """Hint at the end of an error: the nearest known names, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def default_of(option: Field[Any]) -> Any:
    """The default value of an option; MISSING where it must be given."""
    return option.default_factory() if option.default_factory is not MISSING else option.default


def format_value(value: Any) -> str:
    """Text form of the value of an option."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(format_value(item) for item in value) if value else '""'
    if value is None:
        return "none"
    if isinstance(value, str):
        plain = value not in ("", "none") and value.isprintable() and not _SPECIAL & set(value)
        return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())
    return repr(value)


def _unwrap(annotation: Any) -> tuple[Any, Range | None]:
    """The bare type of an option and its range; None as an alternative is dropped."""
    bounds = None
    if get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Range)), None)
        inner, inner_bounds = _unwrap(annotation)
        return inner, bounds or inner_bounds
    return annotation, bounds


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation) or (
        get_origin(annotation) is Annotated and _optional(get_args(annotation)[0])
    )


class ItemParser:
    """Recursive descent over a text of names with options in braces; every error knows its column.

    Pipelines are such texts, and what else is chosen by name and options can be: `item_is` is what a name stands for,
    `whole` what the text is, for messages; `special` are the characters that end a word.
    """

    item_is: ClassVar[str] = "pass"
    whole: ClassVar[str] = "pipeline"
    special: ClassVar[frozenset[str]] = frozenset(_SPECIAL)

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def one_of(self, known: Mapping[str, type[Item]], start: int, name: str, beside: Iterable[str] = ()) -> Item:
        """The item called `name`, which began at column `start`, with the options that follow.

        `beside` are names that the text may have too, for the hint of the error.
        """
        if name not in known:
            raise self.error(start, f"unknown {self.item_is} `{name}`; {nearest(name, [*known, *beside])}")
        kind = known[name]
        options = self._options(name, kind) if self.peek() == "{" else {}
        missing = [o for o, (_, d) in options_of(kind).items() if d is MISSING and o.replace("-", "_") not in options]
        if missing:
            raise self.error(start, f"{self.item_is} `{name}` needs the option `{missing[0]}`")
        try:
            return kind(**options)
        except ValueError as error:
            raise self.error(start, f"{self.item_is} `{name}`: {error}") from error

    def _options(self, owner: str, kind: type[Any]) -> dict[str, Any]:
        self.expect("{")
        known = options_of(kind)
        found: dict[str, Any] = {}
        while self.peek() != "}":
            start = self.at
            name = self.word("the name of an option")
            if name not in known:
                hint = nearest(name, known) if known else "it has none"
                raise self.error(start, f"{self.item_is} `{owner}` has no option `{name}`; {hint}")
            if name.replace("-", "_") in found:
                raise self.error(start, f"option `{name}` is given twice")
            self.expect("=")
            value = self.at
            found[name.replace("-", "_")] = self._value(name, known[name][0])
            if self.peek() == " ":
                self.at += 1
            elif self.peek() != "}":
                raise self.error(self.at, self._unquoted(name, value) or "expected a space, `}` or `,`")
        self.expect("}")
        return found

    def _value(self, name: str, annotation: Any) -> Any:
        start = self.at
        elements = [self._element()]
        while self.peek() == ",":
            self.at += 1
            elements.append(self._element())
        base, bounds = _unwrap(annotation)
        texts = [text for text, _ in elements]
        if get_origin(base) is tuple:
            if elements == [("", True)]:
                return ()
            inner = get_args(base)[0]
            return tuple(self._convert(start, name, text, *_unwrap(inner)) for text in texts)
        if len(elements) != 1:
            raise self.error(start, f"option `{name}` takes one value: {describe(annotation)}")
        if elements[0] == ("none", False) and _optional(annotation):
            return None
        return self._convert(start, name, texts[0], base, bounds)

    def _convert(self, start: int, name: str, text: str, base: Any, bounds: Range | None) -> Any:
        value: Any = text
        try:
            if get_origin(base) is Literal:
                value = {str(choice): choice for choice in get_args(base)}[text]
            elif base is bool:
                value = {"true": True, "false": False}[text]
            elif base in (int, float):
                value = base(text)
                if value != value or (bounds is not None and value not in bounds):
                    raise ValueError
        except (KeyError, ValueError):
            expected = describe(Annotated[base, bounds] if bounds else base)
            raise self.error(start, f"option `{name}` takes {expected}, not `{text}`") from None
        return value

    def _element(self) -> tuple[str, bool]:
        """One element of a value, and whether it was quoted."""
        if self.peek() == '"':
            try:
                text, length = json.JSONDecoder().raw_decode(self.text[self.at :])
            except json.JSONDecodeError:
                raise self.error(self.at, "unclosed or malformed quotes") from None
            self.at += length
            return str(text), True
        return self.word("a value"), False

    def word(self, what: str) -> str:
        """The characters up to the next special one; `what` is expected there, should there be none."""
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in self.special:
            self.at += 1
        if self.at == start:
            raise self.error(start, f"expected {what}")
        return self.text[start : self.at]

    def peek(self) -> str:
        """The next character; empty at the end."""
        return self.text[self.at] if self.at < len(self.text) else ""

    def _unquoted(self, name: str, start: int) -> str:
        """How to write the value from `start`, which stops at a character that it may only hold in quotes."""
        if self.peek() not in self.special:
            return ""
        found = re.compile(r"(\{[^}]*\}|[^ }])*").match(self.text, start)
        elements = [] if found is None else found[0].replace('"', "").split(",")
        written = ",".join(json.dumps(element, ensure_ascii=False) for element in elements)
        return f"a value with `{self.peek()}` needs quotes: {name}={written}; in a shell, single ones around it all"

    def expect(self, character: str) -> None:
        """Take the next character, which must be this one."""
        if self.peek() != character:
            found = f"`{self.peek()}`" if self.peek() else "the end"
            raise self.error(self.at, f"expected `{character}`, not {found}")
        self.at += 1

    def error(self, at: int, message: str) -> UsageError:
        """The error to raise about what stands at a column, counted from 0."""
        return UsageError(f"{self.whole} `{self.text}`, column {at + 1}: {message}")


class _Parser(ItemParser):
    """Pipelines, of passes and named pipelines."""

    def __init__(self, text: str, known: Mapping[str, type[Pass]], named: Mapping[str, str]) -> None:
        super().__init__(text)
        self.known = known
        self.named = named

    def pipeline(self) -> Pipeline:
        items = [self.item()]
        while self.at < len(self.text):
            self.expect(",")
            items.append(self.item())
        return Pipeline(tuple(items))

    def item(self) -> Pass | Named:
        start = self.at
        name = self.word("the name of a pass")
        if name in self.named:
            inner = _Parser(self.named[name], self.known, {k: v for k, v in self.named.items() if k != name})
            return Named(name, inner.pipeline().passes)
        return self.one_of(self.known, start, name, self.named)
