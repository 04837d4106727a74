"""Which layers of a student learn from which of its teacher."""

from __future__ import annotations

from lpcc.train.pairing.pairs import Pair, Pairing, given_pairs, pair_layers

__all__ = ["Pair", "Pairing", "given_pairs", "pair_layers"]
