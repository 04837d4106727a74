from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

import lpcc.emulate
from lpcc.emulate import CLASSES
from lpcc.emulate.plugin import compiler

INSTRUCTIONS = {
    "fp_mac": {
        0x4F821020: "fmla v0.4s, v1.4s, v2.s[0]",
        0x4E22CC20: "fmla v0.4s, v1.4s, v2.4s",
        0x4F825020: "fmls v0.4s, v1.4s, v2.s[0]",
        0x4E420C20: "fmla v0.8h, v1.8h, v2.8h",
        0x4E22EC20: "fmlal v0.4s, v1.4h, v2.4h",
        0x1F020C20: "fmadd s0, s1, s2, s3",
        0x5F821020: "fmla s0, s1, v2.s[0]",
    },
    "dot": {
        0x4F82E020: "sdot v0.4s, v1.16b, v2.4b[0]",
        0x6F82E020: "udot v0.4s, v1.16b, v2.4b[0]",
        0x4E829420: "sdot v0.4s, v1.16b, v2.16b",
        0x4E829C20: "usdot v0.4s, v1.16b, v2.16b",
        0x6E42FC20: "bfdot v0.4s, v1.8h, v2.8h",
    },
    "mmla": {
        0x4E82A420: "smmla v0.4s, v1.16b, v2.16b",
        0x6E82A420: "ummla v0.4s, v1.16b, v2.16b",
        0x6E42EC20: "bfmmla v0.4s, v1.8h, v2.8h",
    },
    "int_mac": {
        0x0E628020: "smlal v0.4s, v1.4h, v2.4h",
        0x6E22C020: "umull2 v0.8h, v1.16b, v2.16b",
        0x0F422020: "smlal v0.4s, v1.4h, v2.h[0]",
        0x4EA29420: "mla v0.4s, v1.4s, v2.4s",
        0x4EA29C20: "mul v0.4s, v1.4s, v2.4s",
        0x6EA2B420: "sqrdmulh v0.4s, v1.4s, v2.4s",
    },
    "fp_div": {
        0x6E22FC20: "fdiv v0.4s, v1.4s, v2.4s",
        0x6EA1F820: "fsqrt v0.4s, v1.4s",
        0x1E221820: "fdiv s0, s1, s2",
        0x1E21C020: "fsqrt s0, s1",
    },
    "fp": {
        0x4E22D420: "fadd v0.4s, v1.4s, v2.4s",
        0x6E22DC20: "fmul v0.4s, v1.4s, v2.4s",
        0x4F829020: "fmul v0.4s, v1.4s, v2.s[0]",
        0x4E22F420: "fmax v0.4s, v1.4s, v2.4s",
        0x4E21D820: "scvtf v0.4s, v1.4s",
        0x4E21A820: "fcvtns v0.4s, v1.4s",
        0x6E30F820: "fmaxv s0, v1.4s",
        0x1E222820: "fadd s0, s1, s2",
        0x1E220020: "scvtf s0, w1",
    },
    "simd": {
        0x4EA28420: "add v0.4s, v1.4s, v2.4s",
        0x4E221C20: "and v0.16b, v1.16b, v2.16b",
        0x4EA21C40: "orr v0.16b, v2.16b, v2.16b",
        0x4F00E400: "movi v0.16b, #0",
        0x4E040C20: "dup v0.4s, w1",
        0x4E823820: "zip1 v0.4s, v1.4s, v2.4s",
        0x0E612820: "xtn v0.4h, v1.4s",
        0x0F10A420: "sshll v0.4s, v1.4h, #0",
        0x4EB1B820: "addv s0, v1.4s",
        0x0E220020: "saddl v0.8h, v1.8b, v2.8b",
        0x4E286820: "aesmc v0.16b, v1.16b",
    },
    "vector_load": {
        0x3DC00000: "ldr q0, [x0]",
        0xAD400400: "ldp q0, q1, [x0]",
        0x4C407800: "ld1 {v0.4s}, [x0]",
        0x4D40C800: "ld1r {v0.4s}, [x0]",
        0xBD400000: "ldr s0, [x0]",
        0x3CC10400: "ldr q0, [x0], #16",
        0x1C000040: "ldr s0, pc+8",
    },
    "vector_store": {
        0x3D800000: "str q0, [x0]",
        0xAD000400: "stp q0, q1, [x0]",
        0x4C007800: "st1 {v0.4s}, [x0]",
        0xBD000000: "str s0, [x0]",
    },
    "load": {
        0xF9400000: "ldr x0, [x0]",
        0xA9400400: "ldp x0, x1, [x0]",
        0x39800000: "ldrsb x0, [x0]",
        0x58000040: "ldr x0, pc+8",
        0xC85F7C20: "ldxr x0, [x1]",
        0xF8E00020: "ldaddal x0, x0, [x1]",
        0xC8E0FC20: "casal x0, x0, [x1]",
        0xF9800000: "prfm pldl1keep, [x0]",
    },
    "store": {
        0xF9000000: "str x0, [x0]",
        0xA9000400: "stp x0, x1, [x0]",
        0x38001400: "strb w0, [x0], #1",
        0xC8027C20: "stxr w2, x0, [x1]",
    },
    "branch": {
        0x54000001: "b.ne",
        0x14000001: "b",
        0xD65F03C0: "ret",
        0xD63F0000: "blr x0",
        0xB4000020: "cbz x0",
        0x36000020: "tbz w0, #0",
        0xD4000001: "svc #0",
    },
    "scalar": {
        0x8B010000: "add x0, x0, x1",
        0xF1000400: "subs x0, x0, #1",
        0x9B017C00: "mul x0, x0, x1",
        0xD503201F: "nop",
        0xD53BE040: "mrs x0, cntvct_el0",
        0x90000000: "adrp x0",
    },
    "sve": {0x65A10000: "fmla z0.s, p0/m, z0.s, z1.s"},
}


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("a64")
    header = Path(lpcc.emulate.__file__).parent / "a64.h"
    (folder / "one.c").write_text(
        f'#include "{header}"\nint one(uint32_t x) {{ return class_of(x); }}\n'
        "const char *name(int k) { return insn_class_names[k]; }\n"
    )
    subprocess.run([cc, "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "one.so", folder / "one.c"], check=True)
    library = ctypes.CDLL(str(folder / "one.so"))
    library.one.argtypes = [ctypes.c_uint32]
    library.name.restype = ctypes.c_char_p
    return library


def test_classes_are_named_alike_in_c_and_in_python(classify: ctypes.CDLL) -> None:
    assert tuple(classify.name(k).decode() for k in range(len(CLASSES))) == CLASSES


@pytest.mark.parametrize("name", CLASSES)
def test_instructions_of_a_class(classify: ctypes.CDLL, name: str) -> None:
    found = {text: CLASSES[classify.one(word)] for word, text in INSTRUCTIONS[name].items()}
    assert found == dict.fromkeys(found, name)


def test_every_word_has_a_class(classify: ctypes.CDLL) -> None:
    assert {classify.one(word * 0x9E3779B1 & 0xFFFFFFFF) for word in range(20000)} <= set(range(len(CLASSES)))
