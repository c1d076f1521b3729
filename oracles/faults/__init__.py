"""Seeded miscompilations: what the judge must find. One decorated function per kind of fault, with its strength in the name.

`relative-2^-11:Conv` is the kind `relative`, of strength 2^-11, at Conv. Severities: `gross` (most elements far off), `subtle`
(few elements, or only certain sizes and values), `precision` (a small relative error of most elements), `legal` (a difference
that a compiler is allowed to make: nobody may be blamed for it, and it is counted apart).
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oracles.rewriting import Rewrite

#: (run, node, args, strength) -> results, or None where the fault does not apply.
Kind = Callable[..., Any]


@dataclass(frozen=True)
class Fault:
    """`kind` is the class it belongs to; `ops` the operators it sits in (none: any)."""

    name: str
    kind: str
    severity: str
    ops: frozenset[str]
    rewrite: Rewrite

    def at(self, run: Any, node: Any, args: list[Any]) -> Any:
        """The fault's results at a node, None where it does nothing."""
        return self.rewrite(run, node, args) if not self.ops or (node.op.name in self.ops and not node.op.domain) else None


_registry: dict[str, Fault] = {}


def fault(kind: str, severity: str, ops: Sequence[str], *, each: bool = False, strengths: Sequence[Any] = ()) -> Callable[[Kind], Kind]:
    """Register a kind of fault at all `ops` together or, with `each`, one fault per operator; and one per strength.

    A strength is given to the function and written into the name; a pair (strength, severity) has a severity of its own.
    """

    def decorate(function: Kind) -> Kind:
        for s in strengths or (None,):
            value, grade = s if isinstance(s, tuple) else (s, severity)
            name = kind if value is None else f"{kind}-{_shown(value)}"
            for chosen in [(o,) for o in ops] if each else [tuple(ops)]:
                full = f"{name}:{chosen[0]}" if each else name
                assert full not in _registry, full
                _registry[full] = Fault(full, kind, grade, frozenset(chosen), _bound(function, value))
        return function

    return decorate


def _bound(function: Kind, value: Any) -> Rewrite:
    if value is None:
        return function
    return lambda run, node, args: function(run, node, args, value)


def _shown(value: Any) -> str:
    """2^-11 for 2**-11."""
    if isinstance(value, float) and value < 1:
        return f"2^{round(math.log2(value))}"
    return str(value)


def faults() -> dict[str, Fault]:
    """All seeded faults by name."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"oracles.faults.{module}")
    return _registry
