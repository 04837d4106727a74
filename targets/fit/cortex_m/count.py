"""Counts the instructions that CMSIS-NN's kernels execute, and writes targets/fit/counts/cmsis-nn*.csv.

    git clone https://github.com/ARM-software/CMSIS-NN
    apt-get install gcc gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-user qemu-system-arm
    python -m lpcc.targets.fit.cortex_m.count CMSIS-NN BUILD

in a checkout takes some minutes. Kernels with the DSP extension run under qemu-arm, those with MVE on an
emulated board.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

_GUEST = Path(__file__).parent / "guest"
_OLD, _NEW = "3c835fc8", "v7.0.0"
_HEAD = f"""\
# Instructions that CMSIS-NN's int8 kernels execute, counted under QEMU (targets/fit/cortex_m/count.py), gcc -Ofast.
# dsp: commit {_OLD} (2022-03-10) for Cortex-M4; mac = SMLAD, MLA and other multiplications.
# mve: release {_NEW[1:]} for Cortex-M55; mac = vector instructions of any sort, loads and stores among them.
"""
_HEAD_S16 = f"""\
# As cmsis-nn.csv, for kernels with activations of 16 bits, weights of 8 and biases of 64: release {_NEW[1:]} on both.
# dsp-s8: int8 kernels of that release with the DSP extension, to compare with.
"""


@dataclass(frozen=True, order=True)
class Call:
    """A kernel and its loop bounds, in the order in which guest/kernels.c reads them."""

    kernel: str
    ih: int
    iw: int
    cin: int
    cout: int
    kh: int = 1
    kw: int = 1
    stride: int = 1
    oh: int = 1
    ow: int = 1
    pad_h: int = 0
    pad_w: int = 0


def calls() -> list[Call]:
    """The shapes that are counted: drawn from those of networks for microcontrollers, with remainders."""
    draw = random.Random(0)  # noqa: S311 - the same shapes each time
    sizes = [(32, 32), (16, 16), (24, 20), (9, 7), (5, 5), (8, 8), (3, 3), (48, 48), (12, 12), (24, 1)]
    found = []
    for _ in range(150):
        size = draw.choice(sizes)
        kernel = draw.choice([(3, 3)] * 4 + [(1, 1), (1, 1), (5, 5), (10, 4), (7, 7), (5, 1), (2, 2)])
        stride = draw.choice([1, 1, 2])
        cin = draw.choice([1, 3, 3, 4, 8, 16, 24, 32, 48, 64, 12, 20])
        cout = draw.choice([4, 8, 10, 16, 24, 32, 48, 64, 96])
        found.append(_conv("conv", size, cin, cout, kernel, 2 if kernel == (1, 1) else stride))
    channels = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256]
    for _ in range(110):
        size = draw.choice(sizes)
        cin, cout = draw.choice(channels), draw.choice([4, 8, 10, 16, 24, 32, 48, 64, 96, 128, 256])
        found.append(_conv("conv", size, cin, cout, (1, 1), 1))
    for _ in range(110):
        size, width = draw.choice(sizes), draw.choice(channels)
        kernel, stride = draw.choice([(3, 3)] * 3 + [(5, 5), (7, 7), (3, 1)]), draw.choice([1, 1, 2])
        found.append(_conv("depthwise", size, width, width, kernel, stride))
    found = [call for call in found if _fits(call)]
    found += [
        Call("gemm", 1, 1, cin, cout) for cin in (8, 32, 100, 128, 256, 640) for cout in (2, 8, 10, 12, 64, 128, 640)
    ]
    for kernel_name in ("average", "maximum"):
        for _ in range(30):
            ih, iw = draw.choice([(8, 8), (25, 5), (7, 7), (3, 3), (16, 16), (28, 28), (24, 20)])
            width = draw.choice([4, 8, 16, 24, 32, 64, 100, 128, 256])
            window, stride = draw.choice([None, (2, 2), (3, 3)]), draw.choice([1, 2])
            kh, kw = window or (ih, iw)
            step = stride if window else 1
            oh, ow = (ih - kh) // step + 1, (iw - kw) // step + 1
            found.append(Call(kernel_name, ih, iw, width, width, kh, kw, step, oh, ow))
    found += [Call(name, 1, 1, n, 1) for n in (64, 500, 1000, 4096, 16384) for name in ("add", "mul")]
    rows = ((1, 2), (1, 10), (1, 12), (1, 36), (1, 100), (1, 1000), (10, 10), (100, 4))
    found += [Call("softmax", high, 1, wide, 1) for high, wide in rows]
    return sorted(set(found))


def _conv(kernel: str, size: tuple[int, int], cin: int, cout: int, window: tuple[int, int], stride: int) -> Call:
    (oh, pad_h), (ow, pad_w) = (_same(n, k, stride) for n, k in zip(size, window, strict=True))
    return Call(kernel, *size, cin, cout, *window, stride, oh, ow, pad_h, pad_w)


def _same(size: int, window: int, stride: int) -> tuple[int, int]:
    out = -(-size // stride)
    return out, max((out - 1) * stride + window - size, 0) // 2


def _fits(call: Call) -> bool:
    """Whether the window is no larger than the image and the call takes some seconds at most."""
    products = call.oh * call.ow * call.cout * call.kh * call.kw * (1 if call.kernel == "depthwise" else call.cin)
    return call.ih >= call.kh and call.iw >= call.kw and products <= 12_000_000


class Emulator:
    """Builds the guests and counts calls of int8 kernels, or of those with activations of 16 bits.

    `dsp` is the version of the kernels with the DSP extension.
    """

    def __init__(self, library: Path, folder: Path, *, wide: bool = False, dsp: str = _OLD) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.plugin = folder / "thumb.so"
        _run("gcc", "-O2", "-shared", "-fPIC", "-o", self.plugin, _GUEST / "thumb.c")
        linux = (_GUEST / "linux.c", "-Wl,-Ttext-segment=0x10000")
        m4 = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16")
        self._wide = wide
        self.dsp = self._build(library, dsp, "dsp", *m4, *linux)
        self.mve = self._build(library, _NEW, "mve", "-mcpu=cortex-m55", _GUEST / "bare.c", "-T", _GUEST / "bare.ld")
        self._before: dict[str, tuple[int, int, int]] = {}

    def count(self, instructions: str, call: Call) -> tuple[int, int]:
        """Instructions of one call that multiply (or work on vectors), and all others."""
        key = f"{instructions} {call if instructions == 'dsp' else call.kernel}"
        if key not in self._before:
            self._before[key] = self._counted(instructions, call, 0)
        total, multiply, vector = (
            max(0, after - before)
            for after, before in zip(self._counted(instructions, call, 1), self._before[key], strict=True)
        )
        mac = vector if instructions == "mve" else multiply
        return mac, total - mac

    def _counted(self, instructions: str, call: Call, times: int) -> tuple[int, int, int]:
        kernel, *bounds = (str(value) for value in astuple(call))
        words = [kernel, str(times), *bounds]
        if instructions == "dsp":
            done = _run("qemu-arm", "-cpu", "cortex-a7", "-plugin", self.plugin, self.dsp, *words)
        else:
            given = ",".join(f"arg={word}" for word in ["kernels", *words])
            quiet = ("-nographic", "-monitor", "none", "-serial", "none")
            semihosting = ("-semihosting-config", f"enable=on,target=native,{given}")
            board = ("qemu-system-arm", "-M", "mps3-an547", *quiet, *semihosting)
            done = _run(*board, "-kernel", self.mve, "-plugin", self.plugin)
        line = next(line for line in done.splitlines() if line.startswith("counted "))
        total, multiply, vector = (int(word) for word in line.split()[1:])
        return total, multiply, vector

    def _build(self, library: Path, version: str, name: str, *options: str | Path) -> Path:
        source = self.folder / name
        packed = subprocess.run(
            ["git", "-C", library, "archive", version, "Source", "Include"],  # noqa: S607
            check=True,
            capture_output=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(source, filter="data")
        wanted = [path for path in sorted(source.rglob("*.c")) if _needed(path.name, wide=self._wide)]
        kernels = "kernels_s16.c" if self._wide else "kernels.c"
        program = self.folder / f"{name}.elf"
        flags = ("-mthumb", "-mfloat-abi=hard", "-Ofast", "-w", "-ffunction-sections", "-nostartfiles")
        paths = ("-I", _GUEST / "include", "-I", source / "Include")
        link = ("-Wl,--gc-sections", "--specs=nosys.specs", "-o", program)
        _run("arm-none-eabi-gcc", *flags, *options, *paths, _GUEST / kernels, *wanted, *link)
        return program


def _needed(name: str, *, wide: bool) -> bool:
    """Sources of int8 kernels and what they call, in releases old and new; of those for 16 bits if `wide`."""
    parts = ("s8", "q7", "nntables", "softmax", "nn_add", "nn_accum", *(("s16",) if wide else ()))
    return any(part in name for part in parts) and not any(part in name for part in ("lstm", "svdf", "f16", "f32"))


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


def main() -> None:
    """Build, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="a clone of CMSIS-NN")
    parser.add_argument("build", type=Path, help="a folder for what is built")
    given = parser.parse_args()
    folder = Path(__file__).parent.parent / "counts"
    old = Emulator(given.library, given.build / "s8")
    new = Emulator(given.library, given.build / "s8-new", dsp=_NEW)
    wide = Emulator(given.library, given.build / "s16", wide=True, dsp=_NEW)
    _write(folder / "cmsis-nn.csv", _HEAD, {"dsp": (old, "dsp"), "mve": (old, "mve")})
    _write(folder / "cmsis-nn-s16.csv", _HEAD_S16, {"dsp": (wide, "dsp"), "mve": (wide, "mve"), "dsp-s8": (new, "dsp")})


def _write(path: Path, head: str, sets: Mapping[str, tuple[Emulator, str]]) -> None:
    names = ("set", *Call.__dataclass_fields__, "mac", "other")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(head)
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        for name, (emulator, instructions) in sets.items():
            for call in calls():
                table.writerow((name, *astuple(call), *emulator.count(instructions, call)))


if __name__ == "__main__":
    main()
