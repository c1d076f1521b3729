"""Custom kernels in place of the reference: a network runs with a kernel wherever it applies and with the plain meaning elsewhere.

Settings: `off` (no kernel), `all` (every kernel), the name of one kernel; and on request NAME@BASELINE and NAME!DEFECT.
"""

from __future__ import annotations

from oracles.backends.reference import warm
from oracles.backends.torch import UNSUPPORTED
from oracles.kernel import applied
from oracles.kernel import kernels as known
from oracles.plugin import Compiled, backend, split
from oracles.records import Outcome
from oracles.substitution import Substitution, candidates
from specs.rule import Unsupported


def _settings() -> tuple[list[str], list[str]]:
    """Those that every run with `kernels:*` takes, and those that have to be named."""
    usual = [["off", "all"], *([k.settings[0]] for k in known().values())]
    return [s for part in usual for s in part], [s for k in known().values() for s in k.settings[1:]]


def switches(model: bytes, setting: str) -> list[str]:
    """Kernels that could be at work in this model."""
    base, off = split(setting)
    return [k.name for k, _ in candidates(model, base, off)]


def strict(outcome: Outcome) -> bool:
    """Whether all kernels at work in a run declare that they are."""
    return all(known()[name].strict for name in applied(outcome))


def register() -> None:
    """Again after kernels were added: the settings are their names."""
    usual, planted = _settings()
    backend(
        "kernels",
        settings=usual,
        planted=planted,
        default=["off", "all"],
        reference_setting="off",
        under_test=False,
        strict=strict,
        warm=warm,
        requires=["torch"],
        distribution="onnx-assay",
        unsupported=UNSUPPORTED,
        switches=switches,
    )(kernels)


def kernels(model: bytes, setting: str) -> Compiled:
    base, off = split(setting)
    alone = known().get(base.partition("@")[0].partition("!")[0])
    if alone is not None and alone.problem:
        raise Unsupported(alone.problem)
    chosen = candidates(model, base, off) if base != "off" else []
    if base != "off" and not chosen and not off:
        raise Unsupported("no kernel applies to a node of this model" if base == "all" else f"kernel {base} applies to no node of this model")
    return Substitution(model, setting, chosen).compiled()


register()
