"""`fuzz reduce`: the smallest case that fails in the same way."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from fuzzer.cli import Exit, app

if TYPE_CHECKING:
    from fuzzer.reducing import Done


@app.command()
def reduce(
    cases: list[Path] = typer.Argument(..., metavar="CASE...", help="A finding's folder, a folder with model.onnx and inputs.npz, or an .onnx file."),
    inputs: Path | None = typer.Option(None, "--inputs", metavar="X.npz", help="Inputs by name, for an .onnx file; default: drawn."),
    backends: str = typer.Option("", "--backends", help="For cases that are no findings: where they fail; default: all that are installed."),
    out: Path = typer.Option(Path("fuzz-reduced"), "--out", metavar="DIR", help="Where the reduced finding is written."),
    budget: str = typer.Option("5m", "--budget", help="Time for one case."),
    workers: int = typer.Option(0, "--workers", min=0, help="Cases tried at once; default: two where compiling is slow."),
    timeout: str = typer.Option("60s", "--timeout", help="Per backend and setting."),
    memory: str = typer.Option("4G", "--memory", help="Per backend."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line, one line a case."),
) -> None:
    """Make a failing case as small as it gets, keep its cause, and find what is to blame.

    Ctrl-C ends it with the best so far; the same command goes on from there.

    Exit status: 0 nothing fails, or what fails is known; 1 a new finding, reduced; 2 not a case or a missing backend; 130 interrupted.

    Example: `fuzz reduce fuzz-out/findings/wrong-4be1c0d2`
    """
    from fuzzer.cli.progress import bar
    from fuzzer.reducing import Limits, find_failure, reduce_to, targets_of
    from fuzzer.settings import parse_bytes, parse_seconds
    from oracles.plugin import find, installed
    from specs.rule import UsageError

    limits = Limits(parse_seconds(budget), parse_seconds(timeout), parse_bytes(memory), workers)
    targets = targets_of(backends, installed())
    stopped, new = False, False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        for path in cases:
            if not path.exists():
                raise UsageError(f"{path}: there is no such file or folder")
            with bar(str(path)) as tell:
                finding = find_failure(path, inputs, targets, limits)
                missing = find(finding.verdict.backend).missing() if finding is not None else ""
                if missing:
                    raise UsageError(missing)
                try:
                    done = reduce_to(out, finding, limits, lambda: stopped, tell) if finding is not None else None
                except ValueError:
                    done = None
            new |= done is not None and done.finding.status == "new"
            typer.echo(_line(path, done, as_json))
            if stopped:
                raise typer.Exit(Exit.INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, previous)
    raise typer.Exit(Exit.FINDING if new else Exit.NOTHING_NEW)


def _line(path: Path, done: Done | None, as_json: bool) -> str:
    if done is None:
        return json.dumps({"case": str(path), "finding": None}) if as_json else f"{path}: nothing fails here"
    if as_json:
        return json.dumps({"case": str(path), **done.about()})
    from triage.report import title

    r, f = done.result, done.finding
    how = "interrupted" if done.interrupted else "finished" if r.finished else "out of time; the same command goes on"
    lines = [
        f"{path}: {done.before} nodes -> {r.nodes}, {r.probes} cases tried in {r.seconds:.1f} s ({how})",
        f"  {title(f)}",
        *([f"  blamed: {f.blame}"] if f.blame else []),
        *([f"  known: {f.known.reference}"] if f.known else []),
        f"  in {done.folder}",
    ]
    return "\n".join(lines)
