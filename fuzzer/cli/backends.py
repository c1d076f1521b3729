"""`fuzz backends`: which compilers can be tested here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from fuzzer.cli import app


@app.command()
def backends(
    names: list[str] = typer.Argument(None, metavar="[BACKEND...]", help="With --matrix: measure these anew, and keep the lists that steer generation."),
    as_json: bool = typer.Option(False, "--json", help="One JSON list of {name, version, settings, available, default, missing}; with --matrix the matrix."),
    matrix: bool = typer.Option(False, "--matrix", help="Which operators and types are implemented, refused, failing or wrong; as measured last, or now."),
    page: Path | None = typer.Option(None, "--html", metavar="FILE", help="With --matrix: write it as one page."),
    draws: int = typer.Option(40, min=1, help="With --matrix BACKEND: models per operator."),
    missing: bool = typer.Option(False, "--missing", help="With --matrix BACKEND: measure only what was not measured yet with this version."),
) -> None:
    """List the backends with their versions and settings, or what they implement.

    `fuzz backends kernels` lists the custom kernels that are found here.

    Example: `fuzz backends --matrix onnxruntime --html matrix.html`
    """
    from fuzzer.listing import backend_rows, kernel_rows
    from specs.rule import UsageError

    if matrix:
        _matrix(names or [], draws, missing, as_json, page)
        return
    if page is not None or names not in (None, [], ["kernels"]):
        raise UsageError("names of backends and --html go with --matrix; only `fuzz backends kernels` lists custom kernels")
    if names:
        found = kernel_rows()
        typer.echo(json.dumps(found) if as_json else "\n".join(map(_kernel_text, found)))
        return
    rows = backend_rows()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for r in rows:
        state = r["version"] if r["available"] else f"not available: {r['missing']}"
        shown = r["settings"] if r["name"] != "kernels" else [s for s in r["settings"] if s in r["default"]]
        settings = ", ".join(f"{s}*" if s in r["default"] else s for s in shown)
        settings += f", {len(r['settings']) - len(shown)} kernels: `fuzz backends kernels`" if shown != r["settings"] else ""
        typer.echo(f"{r['name']:12} {state}\n{'':12} settings: {settings}")
    typer.echo("* runs when only the backend is named")


def _kernel_text(row: dict[str, Any]) -> str:
    about = row["problem"] or f"{row['title']}\n{'':24} {row['form']}, for {row['implements']} in {', '.join(row['dtypes']) or 'any type'}"
    variants = [f"@{b}" for b in row["baselines"]] + [f"!{d}" for d in row["defects"]]
    return f"{row['name']:24} {about}" + (f"; also {' '.join(variants)}" if variants else "")


def _matrix(names: list[str], draws: int, missing: bool, as_json: bool, page: Path | None) -> None:
    from fuzzer import matrix
    from fuzzer.cli.progress import bar
    from oracles.plugin import find
    from specs.rule import UsageError

    for name in names:
        if find(name).missing():
            raise UsageError(find(name).missing())
        with bar(f"probing {name}") as step:
            matrix.save(name, matrix.measure(name, draws, progress=step, known=matrix.known(name) if missing else frozenset()))
    versions = {b: v for b, v in matrix.stored().items() if not names or b in names}
    table = matrix.rows(list(versions))
    if page is not None:
        page.write_text(matrix.html(table, versions))
    if as_json:
        typer.echo(json.dumps(table))
        return
    typer.echo("\n".join(matrix.lines(table, list(versions))))
    measured = ", ".join(f"{b} {v}" for b, v in versions.items())
    typer.echo(f"{len(table)} combinations of operator and types, measured with {measured}{f'; the table is in {page}' if page else ''}")
