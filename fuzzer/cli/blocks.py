"""`fuzz blocks`: the building blocks and the exact relations between them."""

from __future__ import annotations

import json

import typer

from fuzzer.cli import app


@app.command()
def blocks(
    as_json: bool = typer.Option(False, "--json", help="One JSON list of {id, family, title, seeds, dims, relations, hazards, covered, reason}."),
    family: str = typer.Option("", "--family", help="Only this family."),
) -> None:
    """List the documented building blocks that networks are made of, and the relations that are checked on each backend alone.

    Example: `fuzz blocks --family reparameterisation`
    """
    from fuzzer.listing import block_rows

    rows = [r for r in block_rows() if not family or r["family"] == family]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for r in (r for r in rows if not r["reason"]):
        dims = "/".join(f"{d}-D" for d in r["dims"])
        relations = f"  relations: {', '.join(r['relations'])}" if r["relations"] else ""
        typer.echo(f"{r['id']:36} {r['family']:24} {dims:12} {r['title']}{relations}")
    missing = [r for r in rows if r["reason"]]
    typer.echo(
        f"{len(rows) - len(missing)} blocks, {sum(len(r['relations']) for r in rows)} relations; "
        f"{len(missing)} rows of the catalogue without one (--json says why)"
    )
