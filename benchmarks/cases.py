"""Cases, references and runs that the two judges of the judge share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fuzzer.decided import MASKED, undecided
from fuzzer.generate import generate_from
from fuzzer.grow import EVERYTHING, Menu
from fuzzer.sources import Seeded
from oracles.adjoint import Weigh, weigher
from oracles.backends.torch import UNSUPPORTED
from oracles.records import Case
from oracles.reference import Expected
from oracles.rewriting import nodes
from specs.program import Program
from specs.rule import Unsupported

Outputs = Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A case with safe inputs, its reference and the operators in it."""

    case: Case
    program: Program
    expected: Mapping[str, Expected]
    weigh: Weigh
    ops: frozenset[str]
    nodes: int

    @property
    def kind(self) -> str:
        """The narrowest float format that any value has; "integer" when there is none."""
        forms = [f for f in self.program.formats.values() if f.is_float]
        return min(forms, key=lambda f: (f.bits, f.name)).name if forms else "integer"


def prepared(seed: tuple[object, ...], size: int, menu: Menu = EVERYTHING, elements: int = 2048) -> Prepared | None:
    """None where the network has no safe inputs, or where nearly nothing would be judged: the campaign draws it again as well."""
    made = generate_from(Seeded(*map(str, seed)), size, menu, elements, check=False)
    if made.expected is None or undecided(made.expected, steps=False) > MASKED:
        return None
    ops = frozenset(n.op.name for n in nodes(made.program.graph))
    return Prepared(made.case, made.program, made.expected, weigher(made.program, made.case.inputs), ops, len(made.network.steps))


def stream(name: str, count: int, sizes: tuple[int, ...], menu: Menu = EVERYTHING) -> Iterator[Prepared]:
    """Networks of these sizes in turn, all formats and operators."""
    torch.set_num_threads(1)
    for i in range(count):
        p = prepared((name, i), sizes[i % len(sizes)], menu)
        if p is not None:
            yield p


def answer(call: Callable[[Mapping[str, np.ndarray]], Outputs], case: Case) -> Outputs | None:
    """Outputs; None when torch has no kernel for a type."""
    try:
        return call(case.inputs)
    except (Unsupported, NotImplementedError):
        return None
    except (RuntimeError, TypeError) as e:
        if any(re.search(pattern, f"{type(e).__name__}: {e}") for pattern, _ in UNSUPPORTED):
            return None
        raise


def bits(value: Any) -> object:
    """What makes two answers the same answer."""
    if isinstance(value, (list, tuple)):
        return tuple(bits(v) for v in value)
    a = np.asarray(value)
    return (a.dtype.str, a.shape, repr(a.tolist()) if a.dtype == object else a.tobytes())


def table(title: str, counts: Counter[str], most: int = 12) -> None:
    """The largest of some counts, for the reader of a benchmark."""
    if counts:
        print(f"  {title}: " + ", ".join(f"{k} {n}" for k, n in counts.most_common(most)))
