"""Criteria: how much each channel of a graph matters."""
