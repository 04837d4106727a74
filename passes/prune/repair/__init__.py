"""What pruning breaks and least squares mend: the layers that read what is left make what they made before."""

from __future__ import annotations

from lpcc.passes.prune.repair.layerwise import refit_layers
from lpcc.passes.prune.repair.local import refit_biases, refit_readers
from lpcc.passes.prune.repair.readers import readings

__all__ = ["readings", "refit_biases", "refit_layers", "refit_readers"]
