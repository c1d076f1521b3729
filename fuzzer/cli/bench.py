"""`fuzz bench`: the figures Assay is measured by."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from fuzzer.cli import app


@app.command()
def bench(
    names: list[str] = typer.Argument(None, metavar="[NAME...]", help="Groups of figures; default: all."),
    output: Path | None = typer.Option(None, "--json", metavar="FILE", help="Write the figures as one JSON object."),
    quick: bool = typer.Option(False, "--quick", help="A first look: few repetitions."),
) -> None:
    """Measure speed, validity and trust, and print each figure beside its goal.

    Example: `fuzz bench generation --json figures.json`
    """
    import warnings

    from benchmarks import Scale, benchmarks, met
    from specs.rule import UsageError

    warnings.simplefilter("ignore")
    known = benchmarks()
    unknown = [n for n in names or [] if n not in known]
    if unknown:
        raise UsageError(f"no benchmark '{unknown[0]}'; there are {', '.join(known)}")
    figures = dict[str, float]()
    for name in names or known:
        typer.echo(name)
        for key, value in known[name].measure(Scale(quick)).items():
            goal = known[name].goals.get(key)
            verdict = "" if goal is None else f"   goal {goal[0]} {goal[1]:g}  {'met' if met(value, goal) else 'NOT MET'}"
            typer.echo(f"  {key:36} {value:12.4g}{verdict}")
            figures[key] = value
        if output is not None:
            output.write_text(json.dumps(figures, indent=1) + "\n")
