"""To which numbers of channels the kernels of a target want layers cut.

onnxruntime on x86 computes float convolutions on blocks of 16 channels with AVX-512 and of 8 without: 40 channels take
as long as 48, and a number that is no multiple of 4 leaves the blocked layout altogether and may take three times as
long. Integer kernels and those of Arm fill registers with 4 to 16 channels in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd, lcm
from typing import Final

from lpcc.analysis.groups import Group
from lpcc.cost.kinds import FORMATS
from lpcc.target import Target

_FINEST: Final = 4  # channels; less than that no kernel makes anything of


def channel_multiple(target: Target, formats: Iterable[str] | None = None) -> int:
    """The least number whose multiples suit the kernels of a target (`Compute.channel_multiple`), 1 if it states none.

    `formats` are those that the network will run in; where not given: float32, and int8 if the target's own pipeline
    quantises.
    """
    if formats is None:
        quantised = target.int8 is not None and "quantize" in target.pipeline
        formats = ("float32", "int8", target.int8.scheme) if target.int8 is not None and quantised else ("float32",)
    stated = [target.compute[name].channel_multiple for name in FORMATS if name in formats and name in target.compute]
    return lcm(*stated)


def kept_counts(group: Group, multiple: int) -> tuple[int, ...]:
    """How many channels of a group may be kept, ascending; the last is all of them.

    Those are the multiples of `multiple`, or of a part of it where each channel stands at several places of every
    tensor. Tensors that several groups share, by concatenation or as a stream that grows, then hold a multiple too, if
    what is pinned in them does. A group of no more than `multiple` channels may go down to a half of that, a quarter
    and so on, the largest that is less than the group and no less than 4; whether it gains anything the price says.
    """
    count = len(group)
    if group.pinned is not None:
        return (count,)
    step = _step(group, multiple)
    while step >= count and step % 2 == 0 and step > _FINEST:
        step //= 2
    return (*range(step, count, step), count)


def _step(group: Group, multiple: int) -> int:
    """The least number of channels that fills whole multiples of places along every axis."""
    places = {member.places.shape[1] for member in (*group.weights, *group.tensors)}
    return lcm(*(multiple // gcd(multiple, each) for each in places))
