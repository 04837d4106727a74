"""What tensors hold on real images: statistics from one streaming run, and quantisation ranges from those."""

from __future__ import annotations

from lpcc.calibrate.calibrator import Extremes, collect
from lpcc.calibrate.histograms import Histogram
from lpcc.calibrate.ranges import Method, choose, joint
from lpcc.calibrate.streams import Statistics

__all__ = ["Extremes", "Histogram", "Method", "Statistics", "choose", "collect", "joint"]
