"""`fuzz generate`: models with inputs and expected outputs, for any other tool to use."""

from __future__ import annotations

from pathlib import Path

import typer

from fuzzer.cli import app


@app.command()
def generate(
    out: Path = typer.Option(..., "--out", help="Folder to write case-0, case-1 ... into."),
    op: str = typer.Option("", "--op", metavar="NAME", help="Only this operator."),
    nodes: int = typer.Option(10, "--nodes", min=1, max=2000, help="Operators per network."),
    seed: int = typer.Option(0, "--seed", help="The same seed gives the same bytes."),
    count: int = typer.Option(1, "--count", min=1, help="How many cases."),
    opset: int = typer.Option(0, "--opset", min=0, help="A fixed opset; default: drawn."),
) -> None:
    """Write `case-N/{model.onnx,inputs.npz,expected.npz,case.json}`: checked models, safe inputs, float64 results.

    Example: `fuzz generate --op Conv --nodes 1 --count 20 --out cases`
    """
    from fuzzer.cli.progress import bar
    from fuzzer.writing import write_cases

    with bar("generating") as step:
        written = write_cases(out, count=count, seed=seed, nodes=nodes, op=op, opset=opset, progress=step)
    typer.echo(f"wrote {written} case{'s' if written != 1 else ''} to {out}")
