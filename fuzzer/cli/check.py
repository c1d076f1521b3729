"""`fuzz check`: is this model compiled right, by every backend here?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from fuzzer.cli import Exit, app


@app.command()
def check(
    paths: list[Path] = typer.Argument(..., metavar="PATH...", help="An .onnx file, or a folder with model.onnx and, if there, inputs.npz and outputs.npz."),
    inputs: Path | None = typer.Option(None, "--inputs", metavar="X.npz", help="Inputs by name; default: inputs.npz beside the model, else drawn."),
    outputs: Path | None = typer.Option(
        None, "--outputs", metavar="Y.npz", help="Judge these outputs, computed by another system for MODEL and X.npz, instead of running backends."
    ),
    equivalent: Path | None = typer.Option(None, "--equivalent", metavar="OTHER.onnx", help="Also: does OTHER compute the same function as MODEL?"),
    backends: str = typer.Option("", "--backends", help="For example onnxruntime:all,tvm or onnxruntime:*; default: all that are installed."),
    timeout: str = typer.Option("60s", "--timeout", help="Per backend and setting."),
    memory: str = typer.Option("8G", "--memory", help="Per backend; also the largest tensor a model may declare."),
    seed: int = typer.Option(0, "--seed", help="For drawn inputs."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line, one line a model."),
) -> None:
    """Run models on all backends and compare each with a float64 reference and a bound for every element.

    Exit status: 0 all is well, 1 a finding, 2 a file that cannot be a test, 5 no backend could run it.

    Example: `fuzz check model.onnx --backends onnxruntime:*`
    """
    from fuzzer.checking import Request, check_path
    from fuzzer.settings import parse_bytes, parse_seconds
    from oracles.plugin import find, installed, parse
    from specs.rule import UsageError

    chosen = backends or ",".join(f"{n}:*" if n == "onnxruntime" else n for n in installed())
    request = Request(tuple(parse(chosen)), inputs, outputs, equivalent, parse_seconds(timeout), parse_bytes(memory), seed)
    for target in request.targets:
        missing = find(target.backend).missing()
        if missing and backends:
            raise UsageError(missing)
    statuses = list[int]()
    for path in paths:
        try:
            result = check_path(path, request)
        except UsageError as e:
            statuses.append(Exit.USAGE)
            typer.echo(json.dumps({"model": str(path), "error": str(e), "verdicts": []}) if as_json else f"fuzz: {e}", err=not as_json)
            continue
        statuses.append(_status(result))
        typer.echo(json.dumps(result) if as_json else _text(result))
    raise typer.Exit(_overall(statuses))


def _status(result: dict[str, Any]) -> int:
    from oracles.records import FINDINGS

    verdicts = [v["verdict"] for v in result["verdicts"]]
    if any(v in FINDINGS for v in verdicts):
        return Exit.FINDING
    if any(v == "ours" for v in verdicts):
        return Exit.OUR_BUG
    return Exit.NOTHING_NEW if any(v in ("ok", "noise") for v in verdicts) else Exit.NOTHING_TESTED


def _overall(statuses: list[int]) -> int:
    """The gravest: a finding, then a file that could not be tested, then our own bug, then nothing tested."""
    for status in (Exit.FINDING, Exit.USAGE, Exit.OUR_BUG):
        if status in statuses:
            return status
    return Exit.NOTHING_TESTED if statuses and all(s == Exit.NOTHING_TESTED for s in statuses) else Exit.NOTHING_NEW


def _text(result: dict[str, Any]) -> str:
    from fuzzer.checking import summary_lines

    return "\n".join([result["model"], *summary_lines(result["verdicts"])])
