"""Every legal way we know to compute a network: what the judge says against it is a false positive, or a bound that is too small."""

from __future__ import annotations

from oracles.backends.reference import warm
from oracles.backends.torch import UNSUPPORTED
from oracles.plugin import Compiled, backend
from oracles.rewriting import compiled
from oracles.variants import variants


@backend(
    "legal",
    settings=list(variants()),
    default=["mixed-1", "sum-serial-in-half", "halves-in-float"],
    under_test=False,
    warm=warm,
    requires=["torch"],
    unsupported=UNSUPPORTED,
)
def legal(model: bytes, setting: str) -> Compiled:
    return compiled(model, variants()[setting].at)
