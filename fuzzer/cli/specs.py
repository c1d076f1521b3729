"""`fuzz specs`: the operators that are covered."""

from __future__ import annotations

import json

import typer

from fuzzer.cli import app


@app.command()
def specs(
    as_json: bool = typer.Option(False, "--json", help="One JSON list of {op, domain, since, dtypes, family, drawn}."),
    pattern: str = typer.Option("", "--specs", metavar="GLOB", help="Only operators whose names match, e.g. 'conv*,!slice'."),
) -> None:
    """List the operators with a spec: name, oldest opset drawn, types, family.

    Example: `fuzz specs --specs 'reduce*'`
    """
    from fuzzer.listing import spec_rows

    rows = spec_rows(pattern or None)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    width = max(len(r["op"]) for r in rows)
    for r in rows:
        name = f"{r['domain']}.{r['op']}" if r["domain"] else r["op"]
        typer.echo(f"{name:{width}}  {'drawn from opset ' + str(r['since']) if r['drawn'] else 'run only':20}  {r['family']:14} {' '.join(r['dtypes'])}")
    typer.echo(f"{len(rows)} operators, {sum(r['drawn'] for r in rows)} of them drawn")
