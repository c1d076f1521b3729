"""Legal ways to compute the same network: what no compiler may be blamed for. One decorated function per way.

A variant that is called wrong by the judge shows that a bound is too small, or that the variant is not legal after all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oracles.rewriting import Rewrite


@dataclass(frozen=True)
class Variant:
    """policy  under which the variant is legal: "strict" (every operator as accurate as its type), "loosest", or "winograd" with a bound of its own"""

    name: str
    rewrite: Rewrite
    ops: frozenset[str]
    policy: str = "loosest"

    def at(self, run: Any, node: Any, args: list[Any]) -> Any:
        """The variant's results at a node, None where it has nothing of its own to say."""
        return self.rewrite(run, node, args) if not self.ops or (node.op.name in self.ops and not node.op.domain) else None


_registry: dict[str, Variant] = {}


def variant(name: str, ops: Sequence[str] = (), policy: str = "loosest") -> Callable[[Rewrite], Rewrite]:
    """Register a way to compute the operators named (none: any)."""

    def decorate(rewrite: Rewrite) -> Rewrite:
        assert name not in _registry, name
        _registry[name] = Variant(name, rewrite, frozenset(ops), policy)
        return rewrite

    return decorate


def variants() -> dict[str, Variant]:
    """All variants by name."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"oracles.variants.{module}")
    return _registry
