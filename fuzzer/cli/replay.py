"""`fuzz replay`: are stored findings still there?"""

from __future__ import annotations

import json
from pathlib import Path

import typer

from fuzzer.cli import Exit, app


@app.command()
def replay(
    cases: list[str] = typer.Argument(..., metavar="CASE...", help="Folders of findings, a run's folder, or ids such as wrong-4be1c0d2 of the run in --out."),
    out: Path = typer.Option(Path("fuzz-out"), "--out", help="The run whose findings an id names."),
    repeat: int = typer.Option(3, "--repeat", min=1, help="Runs per finding."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line, one line a finding."),
) -> None:
    """Run stored findings again: STILL there, FIXED, FLAKY, or CHANGED into another defect.

    Exit status: 0 all fixed, 1 at least one is still there, 2 no such finding or missing backend.

    Example: `fuzz replay fuzz-out`
    """
    from fuzzer.cli.progress import bar
    from triage.replay import replay as run_again

    folders = [f for case in cases for f in _folders(case, out)]
    still = False
    for folder in folders:
        with bar(folder.name):
            result = run_again(folder, repeats=repeat)
        still |= result.status != "FIXED"
        if as_json:
            about = {"finding": folder.name, "folder": str(folder), "status": result.status, "hits": result.hits, "repeats": result.repeats, "now": result.now}
            typer.echo(json.dumps(about))
        else:
            typer.echo(f"{result.status:8} {folder.name}  {result.hits}/{result.repeats}{f'  now: {result.now}' if result.now else ''}")
    raise typer.Exit(Exit.FINDING if still else Exit.NOTHING_NEW)


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
