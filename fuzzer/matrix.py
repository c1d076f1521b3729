"""The support matrix: which backend runs which operator on which formats, measured with single-node models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fuzzer.generate import generate_from
from fuzzer.grow import Menu
from fuzzer.menus import path
from fuzzer.sources import Seeded
from oracles.plugin import Target, find
from oracles.pool import run
from specs.operator import Operator, operators


@dataclass
class Support:
    """Statuses seen for one operator and its formats: {"ok": 3, "unsupported": 1}, and a message that said so."""

    seen: dict[str, int] = field(default_factory=dict)
    message: str = ""

    @property
    def refused(self) -> bool:
        """Every draw was unsupported."""
        return set(self.seen) == {"unsupported"}


def measure(backend: str, draws: int = 40, names: Iterable[str] | None = None, progress: Callable[[str], None] = lambda _: None, timeout: float = 30.0) -> dict[str, Support]:
    """Run `draws` single-node models of every operator on a backend with optimisation off, by support key."""
    setting = find(backend).reference_setting or find(backend).default[0]
    matrix = dict[str, Support]()
    for op in sorted((o for o in operators().values() if o.draw is not None), key=lambda o: o.key):
        if names is not None and op.name not in names:
            continue
        progress(op.name)
        for seed in range(draws):
            _probe(op, seed, Target(backend, (setting,)), matrix, timeout)
    return matrix


def _probe(op: Operator, seed: int, target: Target, matrix: dict[str, Support], timeout: float) -> None:
    made = generate_from(Seeded("matrix", op.name, seed), 1, Menu(names=frozenset([op.key])), elements=512, wraps=False)
    keys = [s.key for s in made.network.steps if s.op == op.name]
    if len(keys) != 1 or not made.found.safe:
        return
    support = matrix.setdefault(keys[0], Support())
    if sum(support.seen.values()) >= 6:  # enough to know, and formats are what varies
        return
    for outcome in run(made.case, [target], timeout=timeout):
        support.seen[outcome.status] = support.seen.get(outcome.status, 0) + 1
        if outcome.status == "unsupported":
            support.message = outcome.message.splitlines()[0] if outcome.message else ""


def save(backend: str, matrix: dict[str, Support]) -> None:
    """Write the list that steers generation, beside the backend."""
    content = {
        "version": find(backend).version(),
        "unsupported": {k: s.message[:160] for k, s in sorted(matrix.items()) if s.refused},
        "failing": sorted(k for k, s in matrix.items() if "ok" not in s.seen and not s.refused),
    }
    path(backend).write_text(json.dumps(content, indent=1) + "\n")
