"""Counts kernels in the emulated runtime (`--measure`), fits formulas to the counts, and writes the kernel tables.

python -m lpcc.targets.fit.instructions [--truth FOLDER] [--measure [--zoo FOLDER]]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lpcc.cost.table import KernelTable
from lpcc.targets.fit.instructions import physics
from lpcc.targets.fit.instructions.counts import read
from lpcc.targets.fit.instructions.fitting import fit, write
from lpcc.targets.fit.instructions.held_out import COUNTS, TABLES

_COMMENT = (
    "Instructions of onnxruntime's kernels on aarch64 ({what}): coefficient x term, fitted to emulated runs.\n"
    "Made by python -m lpcc.targets.fit.instructions from targets/fit/counts/onnxruntime-aarch64.csv."
)


def main() -> None:
    """Run the steps that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, help="folder with the measurements of devices: fits cycles, too")
    parser.add_argument("--measure", action="store_true", help="count anew in the emulator")
    parser.add_argument("--zoo", type=Path, help="folder with ONNX files to check on, when measuring")
    given = parser.parse_args()
    if given.measure:
        from lpcc.emulate.emulator import Emulator
        from lpcc.targets.fit.instructions.measure import measure

        measure(COUNTS.parent, given.zoo, Emulator.find(), lambda name: print(name, file=sys.stderr))
    rows = [row for row in read(COUNTS) if row.name != "run"]
    for isa, path in TABLES.items():
        write(path, fit(rows, isa), _COMMENT.format(what="Armv8.0" if isa == "armv8" else "with dot product"))
    if given.truth:
        print(physics.shipped(physics.read(given.truth), KernelTable.read(TABLES["dotprod"])))


main()
