"""`fuzz backends`: which compilers can be tested here."""

from __future__ import annotations

import json

import typer

from fuzzer.cli import app


@app.command()
def backends(
    as_json: bool = typer.Option(False, "--json", help="One JSON list of {name, version, settings, available, default, missing}."),
    matrix: str = typer.Option(
        "", "--matrix", metavar="BACKEND", help="Measure which operators and types this backend runs, and keep the list that steers generation."
    ),
    draws: int = typer.Option(40, min=1, help="With --matrix: models per operator."),
) -> None:
    """List the backends with their versions and settings.

    Example: `fuzz backends --matrix onnxruntime`
    """
    from fuzzer.listing import backend_rows

    if matrix:
        _matrix(matrix, draws, as_json)
        return
    rows = backend_rows()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for r in rows:
        state = r["version"] if r["available"] else f"not available: {r['missing']}"
        settings = ", ".join(f"{s}*" if s in r["default"] else s for s in r["settings"])
        typer.echo(f"{r['name']:12} {state}\n{'':12} settings: {settings}")
    typer.echo("* runs when only the backend is named")


def _matrix(backend: str, draws: int, as_json: bool) -> None:
    from fuzzer.cli.progress import bar
    from fuzzer.matrix import measure, save

    with bar(f"probing {backend}") as step:
        found = measure(backend, draws, progress=step)
    save(backend, found)
    if as_json:
        typer.echo(json.dumps({k: {"seen": s.seen, "message": s.message} for k, s in sorted(found.items())}))
        return
    for key, support in sorted(found.items()):
        typer.echo(f"{'-' if support.refused else '+'} {key}  {support.message}")
    typer.echo(f"{len(found)} combinations of operator and types, {sum(s.refused for s in found.values())} not implemented by {backend}")
