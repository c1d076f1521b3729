"""`fuzz gate`: did this change break a kernel?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fuzzer.cli import Exit, app

if TYPE_CHECKING:
    from fuzzer.gate import Order
    from fuzzer.settings import Budget


@app.command()
def gate(
    paths: list[Path] = typer.Argument(None, metavar="[PATH...]", help="More changed files, as --changed takes them."),
    kernels: str = typer.Option(
        "", "--kernels", metavar="NAMES", help="Kernels to test, e.g. 'softmax*,!*-half'; default: those that changed, else the project's own, else all."
    ),
    base: str = typer.Option("", "--base", metavar="REF", help="Test what changed since this commit (a branch: since it was left), and compare with it."),
    changed: list[Path] = typer.Option(None, "--changed", metavar="PATH", help="Test the kernels made of this file or folder; may be repeated."),
    budget: str = typer.Option("10m", "--budget", help="A time (90s, 10m) or a number of fresh cases (500cases)."),
    seed: int | None = typer.Option(None, "--seed", help="Default: from the commit, so that a commit always gets the same cases."),
    strict: bool = typer.Option(False, "--strict", help="Fail for what was wrong on base already, too."),
    stop_on_first: bool = typer.Option(False, "--stop-on-first", help="End at the first cause that fails the gate."),
    out: Path = typer.Option(Path("fuzz-gate"), "--out", help="Output folder: findings, reports, and the corpus that the next gate begins with."),
    corpus: list[Path] = typer.Option(None, "--corpus", metavar="DIR", help="More case folders to replay; default: corpus/seeds where it is there."),
    report: str = typer.Option("", "--report", metavar="KINDS", help="Also write junit, sarif, md, json or html (several: junit,sarif) to OUT/report/."),
    perf: float | None = typer.Option(None, "--perf", metavar="PCT", help="Also fail when a kernel is slower than base by more percent, with 95 % confidence."),
    timeout: str = typer.Option("30s", "--timeout", help="Per case."),
    memory: str = typer.Option("4G", "--memory", help="Per worker."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object instead of text."),
) -> None:
    """Test custom kernels before a change of them is merged.

    Replays stored cases, draws fresh ones aimed at the kernels that changed, checks that they would notice a broken kernel,
    and fails only for what is reproducible and was not there before.

    Exit status: 0 nothing new, 1 a new reproducible cause (or slower, with --perf), 2 usage, 5 a kernel of which nothing was tested.

    Example: `fuzz gate --base origin/main --budget 10m --report junit,sarif`
    """
    from fuzzer.settings import parse_budget, parse_bytes, parse_seconds
    from specs.rule import UsageError

    limits = parse_budget(budget), parse_seconds(timeout), parse_bytes(memory)
    paths = [*(changed or []), *(paths or [])]
    if base and paths:
        raise UsageError("--base and --changed: give one of them; --base finds out itself what changed")
    if perf is not None and not base:
        raise UsageError("--perf compares with another state of the kernels: it needs --base REF")
    wanted = [k for k in report.split(",") if k.strip()]
    order = _ordered(kernels, base, paths, limits, seed, out, corpus or [], strict, stop_on_first, perf)
    if order is None:
        _nothing(f"nothing to test: no kernel's files changed since {base}" if base else "nothing to test: no kernel is made of these files", as_json)
        return
    raise typer.Exit(_run(order, wanted, as_json))


def _ordered(
    names: str,
    base: str,
    paths: list[Path],
    limits: tuple[Budget, float, int],
    seed: int | None,
    out: Path,
    corpora: list[Path],
    strict: bool,
    first: bool,
    perf: float | None,
) -> Order | None:
    """What is to be done; None when nothing changed."""
    from fuzzer.gate import Order
    from fuzzer.gating import changes
    from fuzzer.settings import select_kernels
    from oracles.kernel import kernels as known

    settings = {s: k for k in known().values() for s in k.settings if "@" not in s}
    chosen = {name: settings[name] for name in select_kernels(names, settings)}
    for path in paths:
        if not path.exists() and not path.parent.exists():
            typer.echo(f"fuzz: --changed {path}: is not here; taken as a file that was removed", err=True)
    before = changes.earlier(base) if base else None
    touched = changes.differing(chosen, before) if before else changes.touched(chosen, paths) if paths else {}
    if before or paths:
        chosen = {name: k for name, k in chosen.items() if name in touched}
    elif not names:
        chosen = {name: k for name, k in chosen.items() if not k.shipped} or chosen
    if not chosen:
        if before:
            changes.discard(before)
        return None
    budget, seconds, memory = limits
    seeds = Path("corpus/seeds")
    places = tuple(corpora) or ((seeds,) if seeds.is_dir() else ())
    number = changes.seed(chosen) if seed is None else seed
    return Order(chosen, budget, number, out.resolve(), touched, before, places, strict, first, perf, seconds, memory)


def _run(order: Order, wanted: list[str], as_json: bool) -> int:
    import json
    import warnings

    from fuzzer.cli.progress import bar
    from fuzzer.gate import Gate
    from fuzzer.gating import report as reports
    from triage.formats import parse as parse_kinds

    warnings.simplefilter("ignore")
    kinds = parse_kinds(",".join(wanted)) if wanted else []
    order.out.mkdir(parents=True, exist_ok=True)
    with bar("gate") as step:
        result = Gate(order, step).run()
    written = reports.write(result, kinds)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a") as f:
            f.write(reports.markdown(result))
    typer.echo(json.dumps(reports.as_json(result)) if as_json else reports.text(result))
    for path in written if not as_json else []:
        typer.echo(f"report: {path}")
    sys.stdout.flush()
    return result.status


def _nothing(why: str, as_json: bool) -> None:
    import json

    typer.echo(json.dumps({"status": Exit.NOTHING_NEW, "verdict": why, "kernels": [], "findings": []}) if as_json else f"gate: {why}")
