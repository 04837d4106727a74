"""Fit the target x86-avx512-vnni anew on this machine: python -m lpcc.targets.fit.host [--minutes 4] [--times FILE].

Measures what `lpcc targets measure` does, or reads the times that it left, and writes the kernel table and the fitted
numbers of the built-in target.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import lpcc.targets
from lpcc.target import Target
from lpcc.targets.fit.host.measure import calibrate, measure, read_times, source
from lpcc.targets.fit.host.target_file import rounded, table_csv
from lpcc.targets.host import detect

_NAME = "x86-avx512-vnni"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--times", type=Path)
    given = parser.parse_args()
    target = Target.load("host")
    found = measure(target.int8, given.minutes) if given.times is None else read_times(given.times)
    done = calibrate(target, found)
    folder = Path(lpcc.targets.__file__).parent
    where = source().replace("this machine", f"one {detect()[1]['core']['name']}")
    table = table_csv(done.coefficients, f"Nanoseconds of onnxruntime's kernels, {where}.")
    (folder / "tables" / f"{_NAME}.csv").write_text(table)
    values = done.coefficients.values
    file = folder / f"{_NAME}.toml"
    text = file.read_text()
    for key, value in {
        "kernel": rounded(values.get(("elementwise", "float32", "one"), 0.0) / 1e3),
        "view": rounded(values.get(("view", "", "one"), 0.0) / 1e3),
        "inference": rounded(values.get(("inference", "", "one"), 0.0) / 1e3),
        "weight_ns_per_byte": rounded(values.get(("weights", "", "cold"), 0.0)),
        "networks": len(done.judged),
        "median_error_percent": round(100 * done.median_error, 1),
        "compared_with": f"networks built in code, float and int8, which the fit did not see, {where}; mean error "
        f"{100 * done.mean_error:.1f} %; other processors not compared",
    }.items():
        text = _stated(text, key, value)
    file.write_text(text)
    for one in done.judged:
        print(f"{one.name:24} {one.measured_ms:8.3f} ms, predicted {one.predicted_ms:8.3f} ({100 * one.error:+.0f} %)")


def _stated(text: str, key: str, value: Any) -> str:
    """A target file with another value of a key."""
    found, count = re.subn(rf"(?m)^{key} = .*$", lambda _: f"{key} = {json.dumps(value, ensure_ascii=False)}", text)
    if count != 1:
        raise SystemExit(f"{_NAME}.toml states `{key}` {count} times")
    return found


if __name__ == "__main__":
    main()
