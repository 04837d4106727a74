"""Structured pruning: channels that are removed for good."""

from __future__ import annotations

from lpcc.passes.prune.masking import zeroed
from lpcc.passes.prune.removal import remove
from lpcc.passes.prune.remove_dead_channels import RemoveDeadChannels
from lpcc.passes.prune.sharing import unshare

__all__ = ["RemoveDeadChannels", "remove", "unshare", "zeroed"]
