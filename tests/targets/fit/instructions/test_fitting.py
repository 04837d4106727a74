from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from lpcc.analysis.geometry import Geometry
from lpcc.cost.table import KernelTable
from lpcc.target import Target
from lpcc.targets.fit.instructions import held_out, physics
from lpcc.targets.fit.instructions.counts import COLUMNS, Row, read, write
from lpcc.targets.fit.instructions.fitting import fit


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for row in read(held_out.COUNTS) if row.name != "run"]


@pytest.mark.parametrize("isa", ["armv8", "dotprod"])
def test_the_committed_tables_are_the_fit_of_the_committed_counts(rows: list[Row], isa: str) -> None:
    table = KernelTable.read(held_out.TABLES[isa])
    found = fit(rows, isa)
    assert set(found) == set(table.rows)
    for key, classes in found.items():
        for quantity, terms in classes.items():
            assert table.rows[key][quantity] == pytest.approx(terms, rel=1e-2, abs=1e-6), (key, quantity)


def test_rows_survive_a_file(rows: list[Row], tmp_path: Path) -> None:
    write(tmp_path / "counts.csv", rows[:50], "a comment")
    again = read(tmp_path / "counts.csv")
    assert [row.counts for row in again] == [row.counts for row in rows[:50]]
    assert [row.kernel.geometry for row in again] == [row.kernel.geometry for row in rows[:50]]
    assert (tmp_path / "counts.csv").read_text().splitlines()[1].split(",") == list(COLUMNS)


def test_float_convolutions_multiply_in_vectors_of_four_and_tiles_of_eight_columns(rows: list[Row]) -> None:
    conv = next(row.kernel for row in rows if row.kernel.kind == "conv" and row.kernel.dtype == "float32")
    table = KernelTable.read(held_out.TABLES["armv8"])
    for pixels, columns in ((64, 64), (49, 56)):
        geometry = Geometry(cin=16, cout=32, kh=3, kw=3, ih=1, iw=pixels, oh=1, ow=pixels)
        kernel = type(conv)(**{**vars(conv), "geometry": geometry, "elements": 32 * pixels, "nodes": conv.nodes[:1]})
        amounts = table.of(kernel)
        assert amounts is not None
        assert amounts["mac"] == pytest.approx(columns / 4 * 32 * 144, rel=0.02)
        assert amounts["other"] > 0.4 * amounts["mac"]


def test_dot_products_need_fewer_instructions(rows: list[Row]) -> None:
    tables = {isa: KernelTable.read(path) for isa, path in held_out.TABLES.items()}
    convs = [row for row in rows if row.kernel.kind == "conv" and row.kernel.scheme == "s8s8" and row.kernel.macs > 1e6]
    assert len(convs) > 20
    ratios = [held_out.predicted(row, tables["dotprod"]) / held_out.predicted(row, tables["armv8"]) for row in convs]
    assert median(ratios) < 0.65  # those of few channels gain nothing: the kernel computes 16 at once


def test_networks_and_layers_that_were_not_fitted_meet_the_promise() -> None:
    checks = held_out.instructions(read(held_out.CHECKED))
    assert len(checks) == 8
    assert [check.what for check in checks if not check.met] == []


def test_a_few_measured_networks_predict_others_at_another_size(truth: Path) -> None:
    networks = physics.read(truth)[:60]
    table = KernelTable.read(held_out.TABLES["dotprod"])
    numbers = physics.fit(physics.measured(networks[:30], physics.SQUARE, table))
    other = physics.measured(networks[30:], physics.STRIP, table)
    assert abs(numbers.ms(other) / other.ms - 1).mean() < 0.05
    assert abs(numbers.mj(other) / other.mj - 1).mean() < 0.10
    assert 0.5 < numbers.mac < 0.8
    assert 0.2 < numbers.other < 0.4


def test_the_raspberry_pi_has_what_was_fitted(truth: Path) -> None:
    numbers = physics.shipped(physics.read(truth), KernelTable.read(held_out.TABLES["dotprod"]))
    target = Target.load("raspberry-pi-5")
    assert target.physics.cycles_per_instruction == pytest.approx(
        {"mac": numbers.mac, "other": numbers.other}, rel=1e-2
    )
    assert target.overhead_us.inference == pytest.approx(numbers.inference_us, rel=2e-2)
    assert target.energy.active_watts == pytest.approx(numbers.watts, rel=1e-3)
