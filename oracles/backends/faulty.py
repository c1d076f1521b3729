"""A backend that miscompiles on purpose, one fault per setting: what the judge does not say against it, it misses."""

from __future__ import annotations

from oracles.backends.reference import warm
from oracles.backends.torch import UNSUPPORTED
from oracles.faults import faults
from oracles.plugin import Compiled, backend
from oracles.rewriting import Rewrite, compiled
from oracles.variants import variants


def with_fault(model: bytes, fault: Rewrite | None) -> Compiled:
    """Strict but for the fault: halves are computed in float32 and rounded once."""
    return compiled(model, fault or (lambda run, node, args: None), variants()["halves-in-float"].at)


@backend(
    "faulty",
    settings=["ok", *faults()],
    default=["ok"],
    reference_setting="ok",
    under_test=False,
    strict=True,
    warm=warm,
    requires=["torch"],
    unsupported=UNSUPPORTED,
)
def faulty(model: bytes, setting: str) -> Compiled:
    """A fault without a place in the model does nothing."""
    return with_fault(model, None if setting == "ok" else faults()[setting].at)
