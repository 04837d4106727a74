from __future__ import annotations

from statistics import fmean

import pytest

from lpcc.targets.fit.cortex_m.formulas import Activations, InstructionSet, counts, formulas, newer, predicted
from lpcc.targets.fit.cortex_m.rates import instruction_table


@pytest.mark.parametrize(
    ("instructions", "activations", "kind", "percent"),
    [
        ("dsp", "int8", "conv", 2),
        ("dsp", "int8", "pointwise", 4),
        ("dsp", "int8", "depthwise", 6),
        ("dsp", "int8", "gemm", 1),
        ("mve", "int8", "conv", 8),
        ("mve", "int8", "pointwise", 3),
        ("mve", "int8", "depthwise", 4),
        ("mve", "int8", "gemm", 8),
        ("dsp", "int16", "conv", 2),
        ("dsp", "int16", "pointwise", 1),
        ("dsp", "int16", "depthwise", 3),
        ("dsp", "int16", "gemm", 4),
        ("mve", "int16", "conv", 6),
        ("mve", "int16", "pointwise", 4),
        ("mve", "int16", "depthwise", 3),
        ("mve", "int16", "gemm", 8),
    ],
)
def test_a_formula_meets_the_counts(
    instructions: InstructionSet, activations: Activations, kind: str, percent: float
) -> None:
    formula = formulas(instructions, activations)[kind]
    calls = [call for call in counts(instructions, activations) if call.kind == kind]
    assert len(calls) >= 40
    errors = [abs(predicted(formula, call.kernel) / call.total - 1) for call in calls]
    assert 100 * fmean(errors) < percent


def test_eight_multiplications_for_sixteen_products() -> None:
    """SMLAD multiplies two pairs: what the source of the library says, found again by the fit."""
    conv = formulas("dsp")["conv"]["mac"]
    assert conv["ceil(rows/2)*ceil(cout/2)*floor(depth/4)"] == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize("activations", ["int8", "int16"])
@pytest.mark.parametrize("instructions", ["dsp", "mve"])
def test_the_table_that_targets_use_holds_the_formulas(instructions: InstructionSet, activations: Activations) -> None:
    table = instruction_table(instructions).rows
    as_old = newer() if (instructions, activations) == ("dsp", "int16") else {}
    for kind in ("conv", "depthwise", "gemm", "pool", "softmax"):
        for name, terms in formulas(instructions, activations)[kind].items():
            for term, value in terms.items():
                if value > 1e-4:
                    assert table[kind, activations][name][term] == pytest.approx(
                        as_old.get(kind, 1.0) * value, rel=1e-3
                    ), (kind, term)
