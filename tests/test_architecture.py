"""What ARCHITECTURE.md and CONTRIBUTING.md say of the code holds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORK = sorted((ROOT / "lpcc").rglob("*.py"))
PLUGGED = sorted([*(ROOT / "passes").rglob("*.py"), *(ROOT / "targets").rglob("*.py")])
CODE = [*FRAMEWORK, *PLUGGED]
OTHERS = sorted(path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))

LISTS_BUILT_INS = {
    "lpcc/pipeline/known.py": {"passes"},
    "lpcc/target.py": {"targets"},
    "lpcc/cli/targets/fit.py": {"targets"},
    "lpcc/cli/targets/measure.py": {"targets"},
}
BANNED = {"util", "utils", "helper", "helpers", "manager", "handler", "common", "misc", "base_utils", "core"}
IMPORTED_AS = {
    "onnx-graphsurgeon": "onnx_graphsurgeon",
    "protobuf": "google",
    "pillow": "PIL",
    "ml_dtypes": "ml_dtypes",
}
EXTRAS = {"torch", "pytest", "matplotlib"}
NOT_YET_USED = {"networkx", "tensorly"}
"""Factorisation and the planner need them; they are stated from the first version on so that these install the same."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """The part of lpcc that a file belongs to: ``pipeline``, ``graph``, ``passes``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "lpcc" else parts[1]


def imports(path: Path) -> Iterator[str]:
    """Modules, or names of modules, that a file imports when it runs; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """The parts of lpcc that a file imports; names of lpcc itself, such as its version, count as none."""
    found = {module.split(".")[1] for module in imports(path) if module.startswith("lpcc.")}
    return {part for part in found if part.islower() and not part.startswith("__")} - {room(path)}


def table() -> dict[str, set[str]]:
    """The table of ARCHITECTURE.md, from the top: each room with those of its row, and those that it rests on."""
    rows: dict[str, set[str]] = {}
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 3:
            continue
        places = [re.sub(r"^lpcc/|(\.py|/)$", "", place) for place in re.findall(r"`([^`]+)`", cells[0])]
        places = [place for place in places if "." not in place]  # `lpcc.passes` is the other name of `passes/`
        rests_on = set(rows) if cells[2] == "all above" else set(re.findall(r"\w+", cells[2]))
        rows.update((place, rests_on | {*places}) for place in places)
    return rows


def may_import() -> dict[str, set[str]]:
    """For each room, all that it rests on at any depth."""
    rows, reach = table(), {}
    for place, rests_on in rows.items():
        reach[place] = rests_on.union(*(reach.get(other, ()) for other in rests_on - {place}))
    for place, rests_on in rows.items():  # rooms of one row share what they rest on
        reach[place] |= set().union(*(reach[other] for other in rests_on if place in rows[other]))
    return reach


def test_framework_knows_no_pass_and_no_device() -> None:
    found = {name(path): rooms_imported(path) & {"passes", "targets"} for path in FRAMEWORK}
    assert {file: rooms for file, rooms in found.items() if rooms} == LISTS_BUILT_INS


def test_passes_and_targets_have_one_name() -> None:
    tops = {name(path): {module.split(".")[0] for module in imports(path)} for path in [*CODE, *OTHERS]}
    assert not [file for file, modules in tops.items() if modules & {"passes", "targets"}]


def test_every_room_is_in_the_table() -> None:
    assert {room(path) for path in CODE} - {"__init__", "__main__"} == set(table())


def test_rooms_import_what_the_table_says() -> None:
    allowed = may_import()
    beyond = {}
    for path in CODE:
        if room(path) in allowed:
            beyond[name(path)] = rooms_imported(path) - allowed[room(path)] - LISTS_BUILT_INS.get(name(path), set())
    assert not {file: rooms for file, rooms in beyond.items() if rooms}


def test_rooms_rest_on_rooms_above_them() -> None:
    rows = table()
    above: set[str] = set()
    for place, rests_on in rows.items():
        assert {other for other in rests_on if place not in rows[other]} <= above
        above.add(place)


def test_files_are_small() -> None:
    lines = {name(path): len(path.read_text().splitlines()) for path in [*CODE, *OTHERS]}
    assert not {file: count for file, count in lines.items() if count > 500}


def test_files_are_named_for_what_they_hold() -> None:
    assert not [name(path) for path in [*CODE, *OTHERS] if path.stem in BANNED]


def test_nothing_is_left_open() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
    assert not [name(path) for path in CODE if marks.search(path.read_text())]


class TestDependencies:
    @pytest.fixture
    def declared(self) -> dict[str, str]:
        stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        return {re.split(r"[<>=!~]", line)[0]: line for line in stated}

    def test_are_those_that_are_imported(self, declared: dict[str, str]) -> None:
        modules = {module.split(".")[0] for path in CODE for module in imports(path)}
        third_party = modules - set(sys.stdlib_module_names) - {"lpcc", *EXTRAS}
        assert {IMPORTED_AS.get(package, package) for package in declared} == third_party | NOT_YET_USED

    def test_are_bounded_on_both_sides(self, declared: dict[str, str]) -> None:
        for line in declared.values():
            assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", line), line
