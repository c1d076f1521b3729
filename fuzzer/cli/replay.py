"""`fuzz replay`: are stored findings still there?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import typer

from fuzzer.cli import Exit, app


@app.command()
def replay(
    cases: list[str] = typer.Argument(None, metavar="[CASE...]", help="Folders of findings, a run's folder, or ids such as wrong-4be1c0d2; default: all."),
    out: Path = typer.Option(Path("fuzz-out"), "--out", help="The run whose findings an id names."),
    repeat: int = typer.Option(3, "--repeat", min=1, help="Runs per finding."),
    python: Path | None = typer.Option(None, "--python", metavar="PATH", help="A virtual environment with another version of the backend (and numpy, onnx)."),
    timeout: str = typer.Option("60s", "--timeout", help="Per setting and run."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line, one line a finding."),
) -> None:
    """Run stored findings again: STILL there, FIXED, FLAKY, or CHANGED into another defect.

    Exit status: 0 all fixed, 1 at least one is still there, 2 no such finding or missing backend.

    Example: `fuzz replay --out fuzz-out --python ~/envs/ort-1.20`
    """
    from fuzzer.cli.progress import bar
    from fuzzer.settings import parse_seconds
    from triage.elsewhere import Elsewhere, version
    from triage.first_bad import numbers
    from triage.replay import replay as run_again
    from triage.replay import runner
    from triage.write import read_finding

    seconds = parse_seconds(timeout)
    ask = Elsewhere(python, seconds) if python else None
    folders = [f for case in cases for f in _folders(case, out)] if cases else _folders(str(out), out)
    ends = Counter[str]()
    for folder in folders:
        finding = read_finding(folder)
        backend = finding.verdict.backend
        used = version(ask.python, backend) if ask else _installed(backend)
        with bar(folder.name):
            result = run_again(finding, ask or runner(seconds), repeats=repeat)
        ends[result.status] += 1
        settled = _settled(folder, finding.key) if result.status == "FIXED" and numbers(used) >= numbers(finding.environment.get(backend, "")) else []
        if as_json:
            about = {"finding": folder.name, "folder": str(folder), "status": result.status, "hits": result.hits, "repeats": result.repeats, "now": result.now}
            versions = {"backend": backend, "version": used, "found_in": finding.environment.get(backend, "")}
            typer.echo(json.dumps({**about, **versions, "may_be_closed": settled}))
        else:
            now = f"  now: {result.now}" if result.now and result.status != "STILL" else ""
            where = f"  {backend} {used}" if used != finding.environment.get(backend, used) or ask else ""
            typer.echo(f"{result.status:8} {folder.name}  {result.hits}/{result.repeats}{where}{now}")
            if settled:
                typer.echo(f"{'':8} may be closed: {', '.join(settled)}")
    if not as_json and len(folders) > 1:
        typer.echo(", ".join(f"{n} {status}" for status, n in sorted(ends.items())))
    raise typer.Exit(Exit.FINDING if ends.keys() - {"FIXED"} else Exit.NOTHING_NEW)


def _settled(folder: Path, key: str) -> list[str]:
    """Open reports of a finding that is fixed now; from now on they do not count for the budget."""
    from triage import filed

    return [f.url or f"the report to {f.project}" for f in filed.settle(filed.ledger(folder), key, "fixed")]


def _installed(backend: str) -> str:
    """Of the installed backend."""
    from oracles.plugin import find

    return find(backend).version() or "unknown"


def _folders(case: str, out: Path) -> list[Path]:
    from specs.rule import UsageError
    from triage.write import find_folders

    path = Path(case)
    if path.is_dir():
        found = find_folders(path)
        if not found:
            raise UsageError(f"{path}: holds no finding")
        return found
    named = [f for f in find_folders(out) if f.name == case or f.name.endswith(f"-{case}")] if out.is_dir() else []
    if not named:
        raise UsageError(f"no finding '{case}' (neither a folder nor an id of the run in {out})")
    return named
