"""What has been drawn of every operator, and which backends accepted it: attribute value classes, types and ranks.

A point is one thing that an application of an operator shows: `Conv auto_pad=VALID`, `Conv T=float16`, `Conv rank=4`.
Lanes count points while they run cases; without a campaign they are counted over fresh draws.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fuzzer.attributes import OLDEST, classes, title, universe
from fuzzer.grow import OPSETS, Menu, opsets
from fuzzer.menus import avoided
from fuzzer.network import Network, Step
from fuzzer.passes import COLUMN
from fuzzer.sources import Seeded
from fuzzer.wiring import grow
from fuzzer.wrap import WAYS
from specs import schema
from specs.operator import Operator, operators
from specs.rule import Misfit, UsageError

DRAWN = "drawn"  # the column beside the backends
RUNS = "+"  # before a support key (see fuzzer.grow.support_key): all types of an application at once
#: Operators that networks get by wrapping a part of them (see fuzzer.wrap), not by a drawing of their own.
WRAPPED = (
    "If", "Loop", "Scan", "SequenceMap", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength",
    "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
)  # fmt: skip


def covered() -> dict[str, Operator]:
    """The operators that can be drawn, by title."""
    chosen = (o for o in operators().values() if o.draw is not None or (not o.domain and o.name in WRAPPED))
    return {title(o): o for o in sorted(chosen, key=lambda o: (o.domain, o.name))}


def points(network: Network) -> set[str]:
    """Every point of a network, those in sub-graphs and functions too."""
    found = set[str]()
    for step in _steps([*network.steps, *(s for f in network.functions for s in f.body.steps)]):
        if step.domain in ("assay.functions", "assay.kernels"):
            continue
        name = f"{step.domain}.{step.op}" if step.domain else step.op
        found.add(name)
        found.update(f"{name} {c}" for c in classes(step.op, step.domain, network.opset if not step.domain else 1, step.attrs))
        if step.bodies:
            found.update(f"{name} {b}=given" for b in step.bodies)
        found.update(f"{name} {t}" for t in step.key.split(" ")[1:])
        if step.key:
            found.add(RUNS + step.key)
        shown = next((v for v in (*step.inputs, *step.outputs) if v is not None), None)
        if shown is not None:
            found.add(f"{name} rank={len(shown.shape)}")
            if not step.key and not shown.wrapper:
                found.add(f"{name} {schema.type_variable(step.op, step.domain, network.opset, 0) if step.inputs else 'T'}={shown.format.name}")
    return found


def _steps(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        for body in (*step.bodies.values(), *([step.function] if step.function is not None else [])):
            yield from _steps(body.steps)


def fresh(draws: int, names: frozenset[tuple[str, str]] | None = None, progress: Callable[[str], None] = lambda _: None) -> Counter[tuple[str, str]]:
    """Points of fresh draws by (column, point): `draws` operators in all, the more classes the oftener."""
    chosen = {t: o for t, o in covered().items() if names is None or o.key in names}
    weight = {t: (8 + len(universe(o))) * (1 if o.draw is not None else 3) for t, o in chosen.items()}  # wrapping decides less
    unit = max(1.0, draws / max(1, sum(weight.values())))
    counts = Counter[tuple[str, str]]()
    for name, op in chosen.items():
        progress(name)
        for i in range(round(unit * weight[name])):
            network = draw(op, i)
            counts.update((DRAWN, p) for p in points(network) if p.split(" ")[0] == name)
    return counts


def draw(op: Operator, seed: int) -> Network:
    """A network with this operator: alone, or wrapped around a part of a small network."""
    name = title(op)
    if op.draw is not None:
        return grow(Seeded("coverage", name, seed), 1, Menu(names=frozenset([op.key]), opsets=opsets(op.since)))
    source = Seeded("coverage", name, seed)
    network = grow(source, 2, Menu(names=_plain(), opsets=tuple(o for o in OPSETS if o >= _since(op))))
    ways = [w for w in WAYS if w.__name__.strip("_") in (op.name.lower(), "optional" if "Optional" in op.name else "sequence" if "equence" in op.name else "")]
    for _ in range(24):
        try:
            wrapped = ways[source.choose(len(ways))](network, source)
        except Misfit:
            continue
        if any(s.op == op.name for s in _steps(wrapped.steps)):
            return wrapped
    return network


@lru_cache(maxsize=1)
def _plain() -> frozenset[tuple[str, str]]:
    return frozenset(("", n) for n in ("Relu", "Tanh", "Abs", "Neg", "Add", "Mul", "Identity", "Sub"))


@cache
def _since(op: Operator) -> int:
    return next((o for o in sorted(OPSETS) if schema.schema(op.name, op.domain, o) is not None), OLDEST)


def stored(folder: Path) -> Counter[tuple[str, str]]:
    """Points that the campaign in a folder has counted, those of `fuzzer.passes` among them. Raises UsageError when there is none."""
    file = folder / "fuzz.db"
    if not file.exists():
        raise UsageError(f"{folder}: holds no campaign (no fuzz.db); `fuzz run --out {folder}` makes one, and without --out fresh draws are looked at")
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT name, value FROM counters WHERE kind = 'coverage'").fetchall()
    finally:
        database.close()
    counts = Counter[tuple[str, str]]()
    for name, value in rows:
        column, _, point = name.partition("\t")
        counts[column, point] += int(value)
    return counts


def table(counts: Mapping[tuple[str, str], int], names: frozenset[tuple[str, str]] | None = None) -> list[dict[str, Any]]:
    """One row per operator: `points` by kind ("attributes", "types", "ranks") and name -> counts by column; `never`: classes not drawn."""
    columns = sorted({c for c, _ in counts if not c.endswith(COLUMN)} - {DRAWN})
    by_operator = dict[str, set[str]]()
    for point in (p for c, p in counts if not c.endswith(COLUMN)):
        name, _, rest = point.partition(" ")
        by_operator.setdefault(name, set()).add(rest)
    rows = list[dict[str, Any]]()
    for name, op in covered().items():
        if names is not None and op.key not in names:
            continue
        seen = by_operator.get(name, set()) - {""}
        expected = universe(op)
        attributes = seen & expected | {s for s in seen if s.split("=")[0] in _attributes(op)}
        types = {s for s in seen if not s.startswith("rank=")} - attributes
        kinds = {
            "attributes": sorted(attributes | expected),
            "types": sorted(types | _types(op)),
            "ranks": sorted((s for s in seen if s.startswith("rank=")), key=lambda s: int(s[5:])),
        }
        points = {k: {p: {c: counts.get((c, f"{name} {p}"), 0) for c in (DRAWN, *columns)} for p in found} for k, found in kinds.items()}
        rows.append(
            {
                "op": op.name, "domain": op.domain, "draws": counts.get((DRAWN, name), 0), "accepted": {c: counts.get((c, name), 0) for c in columns}, **points,
                "never": sorted(expected - seen), "unexpected": sorted(attributes - expected),
            }
        )  # fmt: skip
    return rows


def newly(counts: Mapping[tuple[str, str], int]) -> dict[str, list[str]]:
    """By backend: support keys that ran although its matrix, by which drawing is steered, has them as never running."""
    ran = dict[str, set[str]]()
    for (column, point), n in counts.items():
        if n and point.startswith(RUNS):
            ran.setdefault(column, set()).add(point.removeprefix(RUNS))
    found = {b: sorted(keys & avoided(b)) for b, keys in ran.items()}
    return {b: keys for b, keys in sorted(found.items()) if keys}


@cache
def _attributes(op: Operator) -> frozenset[str]:
    return frozenset(
        a for o in ((*OPSETS, *opsets(op.since)) if not op.domain else (1,)) if (s := schema.schema(op.name, op.domain, o)) is not None for a in s.attributes
    )


@cache
def _types(op: Operator) -> frozenset[str]:
    """What the type variables of the inputs allow at the newest opset drawn, for operators with a drawing of their own."""
    newest = max(opsets(op.since))
    found = schema.schema(op.name, op.domain, newest)
    if found is None or op.draw is None:
        return frozenset()
    result = set[str]()
    for i, parameter in enumerate(found.inputs):
        variable = parameter.type_str
        if not variable.startswith("tensor("):
            allowed = schema.formats(op.name, op.domain, newest, variable)
            usable = [f for f in allowed if op.among is None or i or f in op.among]
            result |= {f"{variable}={f.name}" for f in usable if f.kind not in ("string", "complex")}
    return frozenset(result)


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line per operator, and one for what was never drawn of it."""
    width = max((len(_name(r)) for r in rows), default=0)
    for r in rows:
        share = "  ".join(f"{kind} {sum(p[DRAWN] > 0 for p in r[kind].values())}/{len(r[kind])}" for kind in ("attributes", "types"))
        ranks = " ".join(p[5:] for p, n in r["ranks"].items() if n[DRAWN])
        accepted = "  ".join(f"{c} {n}" for c, n in r["accepted"].items())
        yield f"{_name(r):{width}}  {r['draws']:6} draws  {share}  ranks {ranks or '-'}  {accepted}".rstrip()
        if r["never"]:
            yield f"{'':{width}}  never: {', '.join(r['never'])}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['domain']}.{row['op']}" if row["domain"] else row["op"]


def html(rows: Sequence[Mapping[str, Any]], source: str, passes: Sequence[Mapping[str, Any]] = ()) -> str:
    """One page that needs nothing else."""
    from fuzzer.pages import page

    columns = [DRAWN, *(rows[0]["accepted"] if rows else ())]
    return page("coverage.html", rows=rows, source=source, columns=columns, name=_name, passes=passes)
