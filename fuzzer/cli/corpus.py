"""`fuzz corpus`: regression cases, listed, run again, and added from findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fuzzer.cli import Exit, app

if TYPE_CHECKING:
    from corpus.regressions import Regression


@app.command()
def corpus(
    folder: Path = typer.Argument(None, metavar="[FOLDER]", help="Regression cases; default: those that come with Assay."),
    add: list[Path] = typer.Option([], "--add", metavar="FINDING", help="Keep a finding's case in FOLDER; may be given several times."),
    run: bool = typer.Option(False, "--run", help="Run every case, and say whether it still shows what it was kept for."),
    backends: str = typer.Option("", "--backends", metavar="NAMES", help="Only cases of these backends, e.g. onnxruntime,tvm."),
    as_json: bool = typer.Option(False, "--json", help="One JSON list with an object per case."),
) -> None:
    """List the regression cases of a folder; run them; add findings to them.

    With --run: exit status 1 when a case shows something new that it was not kept for, 5 when none could be run.

    Example: `fuzz corpus my-corpus --add fuzz-out/findings/wrong-4be1c0d2`
    """
    from corpus.regressions import SEEDS, regressions

    where = folder or SEEDS
    for path in add:
        typer.echo(_kept(path, where), err=as_json)
    if add and not run:
        return
    chosen = [r for r in regressions(where) if not backends or r.seed.backend in backends.split(",")]
    rows = [{**r.row(), **(_rerun(r) if run else {})} for r in chosen]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            typer.echo(f"{row.get('status', ''):8}{row['name']}: {row['title']}{row.get('now', '')}".lstrip())
    if run:
        said = {row["status"] for row in rows}
        raise typer.Exit(Exit.FINDING if "CHANGED" in said else Exit.NOTHING_NEW if said - {"MISSING"} else Exit.NOTHING_TESTED)


def _kept(path: Path, folder: Path) -> str:
    from corpus.regressions import Seed, keep
    from oracles.plugin import find
    from triage.report import title
    from triage.write import read_finding

    found = read_finding(path)
    v = found.verdict
    seed = Seed(v.backend, v.setting, v.verdict, title(found), found.environment.get(v.backend) or find(v.backend).version() or "", v.message)
    return f"kept {path} as {keep(found.case, seed, found.ops or found.cause.ops, found.cause.dtype or 'mixed', folder)}"


def _rerun(regression: Regression) -> dict[str, str]:
    """STILL, GONE (right now), CHANGED (another finding) or MISSING (no such backend here)."""
    from oracles.plugin import Target, find
    from oracles.pool import run
    from oracles.records import FINDINGS
    from triage.replay import judged

    seed = regression.seed
    backend = find(seed.backend)
    if backend.missing():
        return {"status": "MISSING", "now": f" ({backend.missing()})"}
    plainest = () if backend.reference_setting in (None, seed.setting) else (backend.reference_setting,)
    outcomes = run(regression.case, [Target(seed.backend, (*plainest, seed.setting))])
    seen = {v.verdict for v in judged(regression.case, outcomes) if v.setting == seed.setting}
    if seen & regression.shows:
        return {"status": "STILL", "now": ""}
    other = sorted(seen & set(FINDINGS))
    return {"status": "CHANGED", "now": f" (now {', '.join(other)})"} if other else {"status": "GONE", "now": f" ({backend.version()})"}
