from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lpcc.target
from lpcc.cost import KernelTable
from lpcc.errors import UsageError
from lpcc.target import Quality, Target

BOARD = """
name = "board"
extends = "arm-cortex-a72"
description = "My board"
[core]
clock_ghz = 1.8
[sources]
"core.clock_ghz" = "the data sheet"
"""


def board(folder: Path, text: str = BOARD, name: str = "board.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(spec: str) -> str:
    with pytest.raises(UsageError) as caught:
        Target.load(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_alias_differs_from_its_base_in_name_only() -> None:
    alias, base = Target.load("arm-cortex-a"), Target.load("arm-cortex-a72")
    assert (alias.name, base.name) == ("arm-cortex-a", "arm-cortex-a72")
    assert (alias.core, alias.memory, alias.compute, alias.int8) == (base.core, base.memory, base.compute, base.int8)
    assert alias.sources == base.sources


def test_a_users_file_inherits_by_deep_merge(tmp_path: Path) -> None:
    target = Target.load(board(tmp_path))
    base = Target.load("arm-cortex-a72")
    assert target.core.clock_ghz == 1.8
    assert (target.core.cores, target.memory) == (base.core.cores, base.memory)
    assert target.sources["core.clock_ghz"] == "the data sheet"
    assert target.sources["core.cores"] == base.sources["core.cores"]
    assert not target.is_host


def test_a_number_does_not_inherit_the_source_of_the_one_that_it_replaces(tmp_path: Path) -> None:
    target = Target.load(board(tmp_path, BOARD.split("[sources]")[0]))
    assert target.sources["core.clock_ghz"] == ""


def test_a_file_extends_another_one_beside_it(tmp_path: Path) -> None:
    board(tmp_path)
    target = Target.load(board(tmp_path, 'extends = "./board.toml"\nname = "other"\ncore = { cores = 2 }', "o.toml"))
    assert (target.name, target.core.cores, target.core.clock_ghz) == ("other", 2, 1.8)


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    one = board(tmp_path, 'extends = "./two.toml"', "one.toml")
    board(tmp_path, 'extends = "./one.toml"', "two.toml")
    assert "circle: one.toml -> two.toml -> one.toml" in refused(one)
    assert "circle" in refused(board(tmp_path, 'extends = "./self.toml"', "self.toml"))


def test_unknown_targets_are_answered_with_the_nearest_names() -> None:
    message = refused("arm-cortex-a75")
    assert "did you mean" in message
    assert "`arm-cortex-a76`" in message
    assert "`lpcc targets` lists all" in message
    assert "did you mean" not in refused("qqqq")
    assert "did you mean" not in refused("")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("[core]\nclock_gzh = 1", "`core.clock_gzh`, which is not known; nearest: `clock_ghz`"),
        ('[core]\nclock_ghz = "fast"', "`core.clock_ghz` = 'fast' is wrong; expected a number above 0"),
        ("[core]\nclock_ghz = 0", "`core.clock_ghz` = 0 is out of range; expected a number above 0"),
        ("[core]\nclock_ghz = nan", "`core.clock_ghz` = nan is out of range"),
        ("[core]\nclock_ghz = inf", "`core.clock_ghz` = inf is out of range"),
        ("[core]\ncores = 1.5", "`core.cores` = 1.5 is wrong; expected a whole number above 0"),
        ("[core]\ncores = true", "`core.cores` = True is wrong; expected a whole number above 0"),
        ("core = 3", "`core` must be a table, not 3"),
        ('isa = "neon"', "`isa` = 'neon' is wrong; expected a list of texts"),
        ("isa = [1]", "`isa` = 1 is wrong; expected a text"),
        ('kind = "fpga"', '`kind` = \'fpga\' is wrong; expected one of "cpu", "mcu"'),
        ("[core]\nclock = 1.5", "`core.clock` does not say its unit; write `clock_ghz`"),
        ("[physics.cycles_per_instruction]\nmacs = 1", "`physics.cycles_per_instruction.macs`, which is not known"),
        ("[physics]\nscale = 0", "`physics.scale` = 0 is out of range; expected a number above 0"),
        ('[int8]\nactivations = "s4"', '`int8.activations` = \'s4\' is wrong; expected one of "u8", "s8"'),
        ('[int8]\nreduce_range = "no"', "expected true or false"),
        ("[compute.float33]\nx = 1", "`compute.float33`, which is not known; nearest: `float32`"),
        ("[compute.int8.efficiency]\nconf = 1", "`compute.int8.efficiency.conf`, which is not known; nearest: `conv`"),
        ("[energy]\nactive_watts = -1", "expected a number at least 0"),
        ('[tables]\nkernel = "x.csv"', "`tables.kernel` which is not a table; nearest: `kernels`"),
        ('[tables]\nkernels = "x.csv"', "cannot read the kernel table"),
        ("extends = 3", "`extends` must be the name or the path"),
        ('sources = "me"', "`sources` must be a table"),
        ('[core]\ncores = 2\n[sources]\n"core.clok" = "me"', "`sources` names `core.clok`, which is not a number here"),
        ('[sources]\n"core.clock_ghz" = "me"', "`sources` names `core.clock_ghz`, but the file states no number"),
        ("is_host = true", "`is_host`, which is not known"),
    ],
)
def test_mistakes_in_a_file_are_one_line_with_file_and_key(tmp_path: Path, change: str, said: str) -> None:
    head = "" if change.startswith(("extends", "sources")) else 'extends = "arm-cortex-a72"\n'
    path = board(tmp_path, head + change)
    message = refused(path)
    assert said in message
    assert str(tmp_path) in message


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "`description` is missing; expected a text" in refused(board(tmp_path, 'name = "x"'))
    text = 'extends = "arm-cortex-a72"\n[compute.s8s8]\nmacs_per_cycle = 1\nchannel_multiple = 1\n'
    text += "efficiency = { gemm = 1 }\n"
    assert "`compute.s8s8.elements_per_cycle` is missing" in refused(board(tmp_path, text))
    text += "elements_per_cycle = { pool = 1 }"
    assert "`compute.s8s8.efficiency.conv` is missing" in refused(board(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such target file" in refused(str(tmp_path / "none.toml"))
    assert "not valid TOML" in refused(board(tmp_path, "name = "))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is no text" in refused(str(binary))
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert "cannot read" in refused(str(folder))


@given(st.text(max_size=60))
def test_any_text_as_a_name_or_path_is_a_target_or_a_usage_error(text: str) -> None:
    message = ""
    try:
        Target.load(text)
    except UsageError as error:
        message = str(error)
    assert "\n" not in message.replace(text, "")


def test_a_kernel_table_beside_the_file_drops_in(tmp_path: Path) -> None:
    (tmp_path / "fit.csv").write_text(
        "kernel,format,quantity,term,coefficient\n# fitted\nconv,int8,ns,one,2.5\nconv,int8,ns,macs,90\n"
    )
    target = Target.load(board(tmp_path, BOARD.replace("[core]", '[tables]\nkernels = "fit.csv"\n[core]')))
    assert target.tables.rows == {("conv", "int8"): {"ns": {"one": 2.5, "macs": 90.0}}}
    assert Target.load("arm-cortex-a72").tables != target.tables  # replaced as a whole


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("conv,int8,ns,one", "found 4 columns"),
        ("conv,int8,ms,one,1", "quantity `ms`, which is not known"),
        ("conv,int8,ns,mac,1", "quantity `mac`, which is not known; nearest: `macs`"),
        ("conv,int8,ns,2*macs,1", "term `2*macs`: factor `2` is none of"),
        ("conv,int8,ns,one,fast", "`fast` is not a number"),
        ("conv,int8,ns,one,-1", "`-1` is not a number of at least 0"),
        ("conv,int8,ns,one,nan", "`nan` is not a number"),
        ("conw,int8,ns,one,1", "kernel `conw`, which is not known; nearest: `conv`"),
        ("conv,int9,ns,one,1", "format `int9`, which is not known; nearest: `int8`"),
        ("conv,int8,ns,one,1\nconv,int8,ns,one,1", ":2: conv,int8,ns,one is stated twice"),
    ],
)
def test_mistakes_in_a_kernel_table(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "fit.csv"
    path.write_text(row)
    with pytest.raises(UsageError) as caught:
        KernelTable.read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def plug(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, object]) -> None:
    class Point(EntryPoint):
        def load(self) -> object:
            found = dict(points)[self.name]
            if isinstance(found, Exception):
                raise found
            return found

    monkeypatch.setattr(
        lpcc.target, "entry_points", lambda group: [Point(name, "plugin:x", group) for name, _ in points]
    )


def test_plugins_add_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = board(tmp_path)
    mine = Target.load(path)
    plug(monkeypatch, ("from-file", path), ("from-object", mine))
    assert {"from-file", "from-object", "host", "arm-cortex-a"} <= set(Target.names())
    assert Target.load("from-file").core.clock_ghz == 1.8
    assert Target.load("from-object") is mine
    derived = Target.load(board(tmp_path, 'extends = "from-file"\nname = "derived"', "derived.toml"))
    assert derived.core.clock_ghz == 1.8
    assert "cannot be extended" in refused(board(tmp_path, 'extends = "from-object"', "d.toml"))


@pytest.mark.parametrize("name", ["arm-cortex-a", "host"])
def test_a_plugin_may_not_take_a_built_in_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, (name, "x.toml"))
    assert "clashes" in refused("arm-cortex-m4")


def test_a_plugin_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, ("mine", ImportError("no module")))
    assert "`mine` of plugin `plugin:x` cannot be loaded: no module" in refused("mine")
    plug(monkeypatch, ("mine", 3))
    assert "must be a Target or the path" in refused("mine")


def test_targets_are_frozen_and_light() -> None:
    target = Target.load("x86-avx2")
    with pytest.raises(AttributeError):
        target.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(target)) == target
    assert asdict(target)["core"]["cores"] == target.core.cores
    program = (
        "import sys; from lpcc.target import Target; Target.load('host'); "
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'onnx_graphsurgeon') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_quality_is_not_inherited_in_part(tmp_path: Path) -> None:
    """A target that nobody compared has no error, whatever it extends."""
    board = tmp_path / "board.toml"
    board.write_text('name = "board"\nextends = "arm-cortex-m4"\n[quality]\ncompared_with = "not compared"\n')
    assert Target.load(board).quality == Quality("not compared")


def test_quality_of_the_base_is_not_that_of_a_board_with_other_numbers(tmp_path: Path) -> None:
    base = Target.load("arm-cortex-a76")
    head = 'name = "b"\nextends = "arm-cortex-a76"\ndescription = "a board"\n'
    renamed = Target.load(board(tmp_path, head))
    assert renamed.quality == base.quality
    faster = Target.load(board(tmp_path, head + "[core]\nclock_ghz = 2.8\n"))
    assert faster.quality.compared_with.endswith("(said of arm-cortex-a76, which this target extends)")
    (tmp_path / "deep").mkdir()
    deeper = f'name = "c"\nextends = "{tmp_path}/board.toml"\ndescription = "another"\n[core]\ncores = 2\n'
    assert Target.load(board(tmp_path / "deep", deeper)).quality == faster.quality
