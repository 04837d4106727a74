"""What a quantised network computes on another processor, computed on this one.

Integer kernels differ between processors in what they round and where they saturate. Here a Q/DQ model is rewritten
to a model, its *stand-in*, that gives on this machine what the original gives with onnxruntime there. The stand-in is
for judging, not for shipping: it is slower. Where the real runtime can be emulated (`lpcc.emulate`), it is the truth
that stand-ins were checked against: they are equal bit for bit but for what float kernels round.
"""

from __future__ import annotations

from lpcc.simulate.kernels import KERNELS, Kernels, kernels_here, kernels_named, kernels_of, stand_in
from lpcc.simulate.measured import Saturation, saturation

__all__ = ["KERNELS", "Kernels", "Saturation", "kernels_here", "kernels_named", "kernels_of", "saturation", "stand_in"]
