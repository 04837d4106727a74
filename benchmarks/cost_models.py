"""How far the cost models can be trusted: python benchmarks/cost_models.py [PART...] [--plots].

Each part fits on some devices and networks and predicts others, and prints what was asked of it and what came out. The
measurements of real devices are found by LPCC_TRUTH, else in shared/truth beside the checkout; `host` measures this
machine and is run only by name, on a quiet one.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from lpcc.targets.fit.check import Check

ROOT = Path(__file__).parents[1]
TRUTH = Path(os.environ.get("LPCC_TRUTH") or ROOT.parent / "shared" / "truth")
PARTS = ("instructions", "ncnn", "tflite", "mcu", "memory", "ethos_u", "eyeriss", "jetson_nano", "speed", "host")
BY_NAME_ONLY = ("host",)


def main() -> int:
    """Print the table; 1 where a promise is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--plots", action="store_true", help="draw docs/plots again")
    given = parser.parse_args()
    unknown = sorted(set(given.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not TRUTH.is_dir():
        parser.error(f"no measurements at {TRUTH}: set LPCC_TRUTH to their folder")
    names = given.parts or [part for part in PARTS if part not in BY_NAME_ONLY]
    modules = {name: import_module(f"lpcc.targets.fit.{name}") for name in names}
    met = True
    for name, module in modules.items():
        checks = module.checks(TRUTH)
        met &= all(check.met for check in checks)
        _show(name, checks)
    if given.plots:
        from lpcc.targets.fit.plots import draw

        found = [points for module in modules.values() if hasattr(module, "points") for points in module.points(TRUTH)]
        draw(found, ROOT / "docs" / "plots")
    return 0 if met else 1


def _show(name: str, checks: list[Check]) -> None:
    """A table in Markdown, as it stands in docs/cost-models.md."""
    print(f"\n### {name}\n\n| what | asked | measured | met | how |\n|---|---|---|---|---|")
    for check in checks:
        met = "yes" if check.met else "**no**"
        print(f"| {check.what} | {check.asked} | {check.measured} | {met} | {check.detail} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
