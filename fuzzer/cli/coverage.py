"""`fuzz coverage`: what has been drawn of every operator, what never, and who accepted it."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from fuzzer.cli import app


@app.command()
def coverage(
    out: Path | None = typer.Option(None, "--out", help="A campaign's output folder; default: fresh draws, which no backend runs."),
    pattern: str = typer.Option("", "--specs", metavar="GLOB", help="Only operators whose names match, e.g. 'conv*,!slice'."),
    page: Path | None = typer.Option(None, "--html", metavar="FILE", help="Write the whole table as one page."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object: operators, and passes, which is empty without --out."),
    draws: int = typer.Option(30000, "--draws", min=1, help="Without --out: how many operators are drawn in all."),
) -> None:
    """Per operator: attribute value classes, types and ranks that were drawn, and which backends accepted them.

    Of a campaign also which optimisations of a backend changed a model: how often, and in which case first.

    Example: `fuzz coverage --out fuzz-out --html coverage.html`
    """
    from fuzzer import passes
    from fuzzer.cli.progress import bar
    from fuzzer.coverage import covered, fresh, html, lines, newly, stored, table
    from fuzzer.settings import select

    names = select(pattern, {o.key: o for o in covered().values()})
    if out is not None:
        counts, source = stored(out), f"The campaign in {out}"
    else:
        with bar("drawing") as step:
            counts = fresh(draws, names, step)
        source = f"{sum(n for (_, p), n in counts.items() if ' ' not in p):,} fresh draws"
    rows, changes = table(counts, names), passes.rows(counts)
    if page is not None:
        page.write_text(html(rows, source, changes))
    if as_json:
        typer.echo(json.dumps({"operators": rows, "passes": changes, "newly_implemented": newly(counts)}))
        return
    typer.echo("\n".join((*lines(rows), *passes.lines(changes))))
    for backend, keys in newly(counts).items():
        typer.echo(f"{backend} ran what its matrix says it never does: {', '.join(keys)}; fuzz backends --matrix {backend} measures anew")
    pairs, never = sum(len(r["attributes"]) for r in rows), sum(len(r["never"]) for r in rows)
    typer.echo(f"{source}: {len(rows)} operators, {pairs} attribute value classes, {never} of them never drawn{f'; the table is in {page}' if page else ''}")
