"""`fuzz report`: a finding as an issue, in the words and the template of the project that has to fix it."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from fuzzer.cli import Exit, app


@app.command()
def report(
    case: str = typer.Argument(..., metavar="ID|FOLDER", help="An id such as wrong-4be1c0d2 of the run in --run, or a finding's folder."),
    target: str = typer.Option("", "--target", help="onnxruntime, tvm, pytorch or generic; default: the project of the backend."),
    out: Path | None = typer.Option(None, "--out", metavar="FILE", help="Write the report here instead of standard output."),
    of: Path = typer.Option(Path("fuzz-out"), "--run", help="The run whose findings an id names."),
    force: bool = typer.Option(False, "--force", help="Render what a maintainer would send back, with a banner that says so."),
    seconds: float = typer.Option(60.0, "--seconds", min=0, help="For finding out what matters; 0 leaves that out."),
    url: str = typer.Option("", "--filed", metavar="URL", help="Only note where the report was filed."),
    closed: bool = typer.Option(False, "--closed", help="Only note that the report was closed: it no longer counts for the budget of 15 open ones."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object: title, labels, body, faults, what matters."),
) -> None:
    """Write a finding as an issue: sentence, table, what matters, the script, versions; or say why it should not be filed.

    Exit status: 0 written, 2 refused (the reasons are on standard error), no such finding or missing backend.

    Example: `fuzz report wrong-4be1c0d2 --target onnxruntime --out issue.md`
    """
    from fuzzer.attributes import rule
    from fuzzer.cli.progress import bar
    from specs.rule import UsageError
    from triage.filing import file as render
    from triage.targets import choose
    from triage.write import read_finding

    if out is not None and out.is_dir():
        raise UsageError(f"--out {out}: is a folder; --out names the file to write, --run the run whose findings are meant")
    folder = _folder(case, of)
    finding = read_finding(folder)
    project = choose(target, finding)
    if url or closed:
        _note(folder, finding.key, finding.name, project.project, url, closed)
        return
    with bar(finding.name) as step:
        filing = render(folder, project, force=force, seconds=seconds, allowed=rule, progress=step)
    if as_json:
        typer.echo(json.dumps(filing.json()))
    elif out is not None and filing.text:
        try:
            out.write_text(filing.text)
        except OSError as e:
            raise UsageError(f"--out {out}: cannot be written ({e.strerror or e})") from None
        typer.echo(f"{out}: {project.title(finding)}")
    elif filing.text:
        typer.echo(filing.text, nl=False)
    if filing.faults and not as_json:
        done = "rendered because of --force, although" if filing.text else "not rendered:"
        typer.echo("\n".join([f"fuzz: {finding.name}: {done}", *(f"  {s}" for s in filing.faults.values())]), err=True)
    raise typer.Exit(Exit.NOTHING_NEW if filing.text else Exit.USAGE)


def _folder(case: str, run: Path) -> Path:
    from specs.rule import UsageError
    from triage.write import find_folders

    path = Path(case)
    folders = find_folders(path) if path.is_dir() else [f for f in find_folders(run) if case in (f.name, f.name.rpartition("-")[2])] if run.is_dir() else []
    if not folders:
        raise UsageError(f"no finding '{case}' (neither a folder nor an id of the run in {run})")
    if len(folders) > 1:
        raise UsageError(f"{path}: holds {len(folders)} findings; name one: {', '.join(f.name for f in folders[:8])}{' ...' if len(folders) > 8 else ''}")
    return folders[0]


def _note(folder: Path, key: str, name: str, project: str, url: str, closed: bool) -> None:
    from specs.rule import UsageError
    from triage import filed

    if not project:
        raise UsageError("--filed and --closed: a generic report has no project, so there is nothing to count")
    book = filed.ledger(folder)
    if url:
        filed.record(book, filed.Filed(name, key, project, url=url))
    if closed and not filed.settle(book, key, "closed"):
        raise UsageError(f"{name}: no report of it is open (see {book})")
    typer.echo(f"{name}: {'closed' if closed else url}; {len(filed.open_in(book, project))} of {filed.BUDGET} reports to {project} are open")
