"""Structured pruning: channels that are removed for good."""

from __future__ import annotations

from lpcc.passes.prune.masking import zeroed
from lpcc.passes.prune.prune_channels import PruneChannels
from lpcc.passes.prune.removal import remove
from lpcc.passes.prune.remove_dead_channels import RemoveDeadChannels
from lpcc.passes.prune.sharing import unshare
from lpcc.passes.prune.trim import Trim

__all__ = ["PruneChannels", "RemoveDeadChannels", "Trim", "remove", "unshare", "zeroed"]
