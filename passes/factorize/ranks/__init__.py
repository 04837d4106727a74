"""Ranks: how many channels are kept between the layers that take the place of one."""

from __future__ import annotations
