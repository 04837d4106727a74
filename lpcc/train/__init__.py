"""Training of the graph itself: its nodes run in torch, its weights are parameters, what is learned is written back.

torch is an extra. The modules of this room import it; whoever imports them calls `require_torch` first.
"""

from __future__ import annotations

from importlib.util import find_spec

from lpcc.errors import UsageError

__all__ = ["require_torch"]


def require_torch(what: str) -> None:
    """Raise UsageError, naming `what` needs it and how to install it, where torch is not installed."""
    if find_spec("torch") is None:
        raise UsageError(f"{what} needs torch, which is not installed: pip install 'lpcc[train]'")
