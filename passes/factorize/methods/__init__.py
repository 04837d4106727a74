"""The methods of factorisation, by name."""

from __future__ import annotations

from typing import Final

from lpcc.passes.factorize.methods.base import Decomposition
from lpcc.passes.factorize.methods.bmd import Bmd
from lpcc.passes.factorize.methods.cpd import Cpd, SeparableCpd
from lpcc.passes.factorize.methods.svd import Svd
from lpcc.passes.factorize.methods.tucker2 import Tucker2

METHODS: Final[dict[str, type[Decomposition]]] = {
    method.name: method for method in (Bmd, Cpd, SeparableCpd, Svd, Tucker2)
}
