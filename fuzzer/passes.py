"""Which optimisations of a backend changed the networks of a campaign: ONNX Runtime's graph transformers, TVM's passes.

Workers look at every eighth case or so (see oracles.worker.LOOK). What they saw is kept with the coverage, in a column of its own
for each backend: the name of an optimisation, counted, and with the first case behind it, once; a point without a name counts the
cases that were looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oracles.records import Outcome

COLUMN = " passes"  # behind the name of a backend


def seen(backend: str, index: int, outcomes: Iterable[Outcome], known: set[str]) -> Counter[tuple[str, str]]:
    """Points of one case. `known`: optimisations that this lane has met before, which grows."""
    looked = [o.changed for o in outcomes if o.changed is not None]
    names = {name for changed in looked for name in changed}
    counts = Counter({(backend + COLUMN, name): 1 for name in names})
    for name in names:
        if f"{backend}\t{name}" not in known:
            known.add(f"{backend}\t{name}")
            counts[backend + COLUMN, f"{name}\t{index}"] = 1
    if looked:
        counts[backend + COLUMN, ""] = 1
    return counts


def rows(counts: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """One object per backend and optimisation: `cases` it changed, of `looked` that were looked at, and the number of the `first`."""
    found = list[dict[str, Any]]()
    for column in sorted({c for c, _ in counts if c.endswith(COLUMN)}):
        own = {point: n for (c, point), n in counts.items() if c == column}
        for name, n in sorted(((p, n) for p, n in own.items() if p and "\t" not in p), key=lambda item: (-item[1], item[0])):
            first = min((int(p.partition("\t")[2]) for p in own if p.startswith(f"{name}\t")), default=-1)
            found.append({"backend": column.removesuffix(COLUMN), "pass": name, "cases": n, "looked": own.get("", 0), "first": first})
    return found


def lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A heading per backend, and a line per optimisation."""
    width = max((len(r["pass"]) for r in found), default=0)
    for backend in dict.fromkeys(r["backend"] for r in found):
        own = [r for r in found if r["backend"] == backend]
        yield f"{backend}: {len(own)} optimisations changed a model, in {own[0]['looked']} cases looked at"
        for r in own:
            yield f"  {r['pass']:{width}}  {r['cases']:6} cases  first {r['first']}"
