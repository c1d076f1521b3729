"""The figures Assay is measured by: `fuzz bench`. One decorated function per group of figures, units in the names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

Figures = dict[str, float]
Measure = Callable[["Scale"], Figures]


@dataclass(frozen=True)
class Scale:
    """How much to measure: `quick` is for tests and a first look."""

    quick: bool = False

    def count(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Benchmark:
    """A group of figures; `goals` says what each has to be: ("<=", 5.0) or (">=", 60.0)."""

    name: str
    measure: Measure
    goals: dict[str, tuple[str, float]]


_registry: dict[str, Benchmark] = {}


def benchmark(name: str, **goals: tuple[str, float]) -> Callable[[Measure], Measure]:
    """Register a measurement with the goals for its figures."""

    def decorate(measure: Measure) -> Measure:
        _registry[name] = Benchmark(name, measure, goals)
        return measure

    return decorate


def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"benchmarks.{module}")
    return _registry


def met(value: float, goal: tuple[str, float]) -> bool:
    return value <= goal[1] if goal[0] == "<=" else value >= goal[1]
