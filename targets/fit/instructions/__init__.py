"""Counting instructions of emulated kernels, and fitting the formulas of kernel tables to them."""
