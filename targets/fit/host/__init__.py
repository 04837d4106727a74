"""Calibrating a target on the machine that lpcc runs on: probes, gated timing, the fit, the file, the check."""
