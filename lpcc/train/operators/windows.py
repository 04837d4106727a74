"""Where the windows of convolutions and pools lie: strides, dilations and padding of each spatial axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lpcc.train.operators.call import Call, Unsupported

_AUTO = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Windows:
    """The attributes of a node about its windows. Lists hold one number for each spatial axis; None: all alike."""

    kernel: list[int] | None
    strides: list[int] | None
    dilations: list[int] | None
    pads: list[int] | None
    auto_pad: str
    ceil: bool

    @classmethod
    def of(cls, call: Call) -> Windows:
        """The windows that a node states. Raises Unsupported for an unknown auto_pad."""
        auto_pad = call.text("auto_pad", "NOTSET")
        if auto_pad not in _AUTO:
            raise Unsupported(f"auto_pad={auto_pad} is not known")
        return cls(
            call.integers("kernel_shape") or None,
            call.integers("strides") or None,
            call.integers("dilations") or None,
            call.integers("pads") or None,
            auto_pad,
            bool(call.integer("ceil_mode", 0)),
        )

    def stride(self, rank: int) -> list[int]:
        """The steps from one window to the next, for `rank` spatial axes."""
        return self.strides or [1] * rank

    def dilation(self, rank: int) -> list[int]:
        """The steps between the elements of a window."""
        return self.dilations or [1] * rank

    def padding(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
        """Elements added before and after each axis of an input of `size`."""
        rank = len(kernel)
        if self.auto_pad == "NOTSET":
            pads = self.pads or [0] * (2 * rank)
            return pads[:rank], pads[rank:]
        if self.auto_pad == "VALID":
            return [0] * rank, [0] * rank
        before, after = [], []
        for n, k, s, d in zip(size, kernel, self.stride(rank), self.dilation(rank), strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            small = total // 2
            before.append(small if self.auto_pad == "SAME_UPPER" else total - small)
            after.append(total - before[-1])
        return before, after

    def depends_on_size(self) -> bool:
        """Whether the padding has to be computed anew for each size of the input."""
        return self.auto_pad in ("SAME_UPPER", "SAME_LOWER")

    def counts(
        self, size: Sequence[int], before: Sequence[int], after: Sequence[int], kernel: Sequence[int]
    ) -> list[int]:
        """Windows along each axis. Under ceil_mode the last may stick out, but begins before the padding at the end."""
        rank = len(kernel)
        found = []
        for n, b, a, k, s, d in zip(size, before, after, kernel, self.stride(rank), self.dilation(rank), strict=True):
            room = n + b + a - (k - 1) * d - 1
            count = room // s + 1
            if self.ceil and room % s and count * s < n + b:
                count += 1
            found.append(count)
        return found


def interleaved(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Padding as torch's pad wants it: pairs, the last axis first."""
    return [number for pair in zip(reversed(before), reversed(after), strict=True) for number in pair]
