"""Rows for `fuzz specs` and `fuzz backends`, the same for people and for scripts."""

from __future__ import annotations

from typing import Any

from fuzzer.settings import select
from oracles.plugin import backends
from specs import schema
from specs.operator import Operator, operators


def spec_rows(pattern: str | None = None) -> list[dict[str, Any]]:
    """One object per operator. Raises UsageError when the pattern matches none."""
    known = dict(operators())
    chosen = select(pattern, dict(known))
    return [_row(op) for key, op in sorted(known.items(), key=lambda k: (k[0][0], k[0][1].lower())) if chosen is None or key in chosen]


def _row(op: Operator) -> dict[str, Any]:
    found = schema.schema(op.name, op.domain)
    dtypes = list[str]()
    if found is not None and found.inputs:
        dtypes = [f.name for f in schema.formats(op.name, op.domain, 26, found.inputs[0].type_str) if op.among is None or f in op.among]
    elif found is not None and found.outputs:
        dtypes = [f.name for f in schema.formats(op.name, op.domain, 26, found.outputs[0].type_str)]
    return {"op": op.name, "domain": op.domain, "since": op.since, "dtypes": dtypes, "family": op.family, "drawn": op.draw is not None}


def backend_rows() -> list[dict[str, Any]]:
    """One object per backend: name, version, settings, available; `missing` says how to install it."""
    return [
        {"name": b.name, "version": b.version(), "settings": list(b.settings), "available": b.available(), "default": list(b.default), "missing": b.missing()}
        for b in backends().values()
    ]


def kernel_rows() -> list[dict[str, Any]]:
    """One object per custom kernel; `problem` when its plugin could not be loaded."""
    from oracles.kernel import kernels

    return [
        {
            "name": k.name,
            "implements": k.implements,
            "dtypes": list(k.dtypes),
            "form": k.form,
            "title": k.title,
            "baselines": list(k.baselines),
            "defects": dict(k.defects),
            "source": str(k.source or k.library or k.location[0]),
            "shipped": k.shipped,
            "problem": k.problem,
        }
        for k in kernels().values()
    ]


def block_rows() -> list[dict[str, Any]]:
    """One object per block, and one with its `reason` per row of the catalogue that has none."""
    from specs.net import blocks, catalogue, relations

    by_block = dict[str, list[str]]()
    for r in relations().values():
        by_block.setdefault(r.block, []).append(r.id)
    listed = {row["id"]: row for row in catalogue()}
    rows = [
        {
            "id": b.id,
            "family": listed.get(b.id.split("/")[0], {}).get("family", b.family),
            "title": b.title,
            "seeds": list(b.seeds) or listed.get(b.id.split("/")[0], {}).get("seeds", []),
            "dims": list(b.dims),
            "relations": by_block.get(b.id, []),
            "hazards": b.hazards,
            "covered": True,
            "reason": "",
        }
        for b in sorted(blocks().values(), key=lambda b: (b.family, b.id))
    ]
    built = {b.split("/")[0] for b in blocks()}
    for row in listed.values():
        if row["id"] not in built:
            rows.append(
                {
                    **{k: row[k] for k in ("id", "family", "title", "seeds")},
                    "dims": [],
                    "relations": [],
                    "hazards": "",
                    "covered": False,
                    "reason": _reason(row, built),
                }
            )
    return rows


def _reason(row: dict[str, Any], built: set[str]) -> str:
    if row["same_as"] in built:
        return f"served by {row['same_as']}"
    if row["kind"] in ("training", "data"):
        return f"nothing to run: a row about {row['kind']}"
    return f"not built yet (part {row['part']} of the catalogue)"
