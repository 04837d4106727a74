"""What tensors hold on real images: statistics from one streaming run, and quantisation ranges from those."""

from __future__ import annotations

from lpcc.calibrate.calibrator import Statistics, collect
from lpcc.calibrate.histograms import Histogram
from lpcc.calibrate.ranges import Method, choose

__all__ = ["Histogram", "Method", "Statistics", "choose", "collect"]
