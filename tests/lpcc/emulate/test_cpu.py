from __future__ import annotations

import pytest

from lpcc.emulate import CPUS, cpu_named
from lpcc.errors import UsageError


def test_names_in_any_case() -> None:
    assert cpu_named("Cortex-A72") is CPUS["cortex-a72"]


def test_the_a55_has_the_instruction_set_of_the_a76() -> None:
    assert cpu_named("cortex-a55").qemu == cpu_named("cortex-a76").qemu


@pytest.mark.parametrize(("name", "hint"), [("cortex-a77", "did you mean cortex-a76?"), ("z80", "known are")])
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        cpu_named(name)
    assert hint in str(error.value)
    assert "neoverse-n1" in str(error.value)
