from __future__ import annotations

import platform
import tomllib
from pathlib import Path

import pytest

import lpcc.targets
from lpcc.errors import UsageError
from lpcc.target import Target, numbers_of
from lpcc.targets import BUILTIN
from lpcc.targets.host import detect

NAMES = sorted(BUILTIN)
PROCESSORS = [name for name in NAMES if Target.load(name).kind in ("cpu", "mcu")]


def test_the_list_is_what_is_on_disk() -> None:
    folder = Path(lpcc.targets.__file__).parent
    assert {str(path.relative_to(folder))[:-5] for path in folder.rglob("*.toml")} == set(BUILTIN)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    target = Target.load(name)
    assert target.name == name
    layers = [tomllib.loads(BUILTIN[name].read_text())]
    while "extends" in layers[-1]:
        layers.append(tomllib.loads(BUILTIN[layers[-1]["extends"]].read_text()))
    stated = {number for layer in layers for number in numbers_of(layer)}
    assert stated == set(target.sources)
    assert [number for number, source in target.sources.items() if len(source) < 8] == []


@pytest.mark.parametrize("name", NAMES)
def test_quality_is_stated(name: str) -> None:
    quality = Target.load(name).quality
    compared = quality.median_error_percent is not None
    assert compared == (quality.networks > 0)
    assert compared or quality.compared_with.startswith("not compared")


@pytest.mark.parametrize("name", PROCESSORS)
def test_int8_is_the_scheme_that_the_runtime_is_fast_with(name: str) -> None:
    int8 = Target.load(name).int8
    assert int8 is not None
    assert int8.per_channel
    assert int8.scheme == ("u8s8" if name.startswith("x86") else "s8s8")
    assert int8.reduce_range == (name == "x86-avx2"), "7 bits only where VPMADDUBSW saturates"


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_kind_has_a_rate_in_both_formats(name: str) -> None:
    target = Target.load(name)
    for numbers in ("float32", "int8"):
        compute = target.compute[numbers]
        assert compute.efficiency["depthwise"] < compute.efficiency["conv"] <= 1
        assert compute.elements_per_cycle["softmax"] < compute.elements_per_cycle["elementwise"]
    if target.kind == "mcu":
        assert target.memory.sram_kib is not None
        assert target.memory.flash_kib is not None
    else:
        assert target.memory.cache_kib > 0


def test_host_is_this_machine() -> None:
    target = Target.load("host")
    assert target.is_host
    assert target.name == "host"
    assert target.core.cores >= 1
    assert ("x86" in target.isa) == (platform.machine().lower() in ("x86_64", "amd64"))


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "base", "isa"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni", "x86-avx512-vnni", ["x86", "avx2", "avx512", "vnni"]),
        (
            "x86_64",
            "flags : fpu avx2 avx512f avx512_vnni amx_tile amx_int8",
            "x86-amx",
            ["x86", "avx2", "avx512", "vnni", "amx"],
        ),
        ("x86_64", "flags : fpu avx2 avx_vnni", "x86-avx512-vnni", ["x86", "avx2", "vnni"]),
        ("AMD64", "flags : fpu avx2", "x86-avx2", ["x86", "avx2"]),
        ("x86_64", "", "x86-avx2", ["x86"]),
        ("aarch64", "Features : asimd\nCPU part : 0xd03", "arm-cortex-a53", ["aarch64", "neon"]),
        ("aarch64", "Features : asimd\nCPU part : 0xd08", "arm-cortex-a72", ["aarch64", "neon"]),
        ("aarch64", "Features : asimd asimddp\nCPU part : 0xd0c", "arm-cortex-a76", ["aarch64", "neon", "dotprod"]),
        ("arm64", "", "arm-cortex-a76", ["aarch64", "neon"]),
    ],
)
def test_detection(machine: str, cpuinfo: str, base: str, isa: list[str]) -> None:
    found, layer = detect(cpuinfo, machine)
    assert (found, layer["isa"]) == (base, isa)


def test_an_architecture_that_no_target_is_near_to() -> None:
    with pytest.raises(UsageError, match="riscv64"):
        detect("", "riscv64")
