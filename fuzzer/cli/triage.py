"""`fuzz triage`: one row per cause over the findings of one or more runs."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from fuzzer.cli import Exit, app

COLUMNS = ("status", "cause", "count", "first seen", "last seen", "backend", "what", "blamed")
WIDEST = 48  # characters of the last two columns


@app.command()
def triage(
    outs: list[Path] = typer.Argument(None, metavar="[OUT...]", help="Folders of runs, or of findings; default: fuzz-out."),
    run: bool = typer.Option(True, "--run/--no-run", help="Run again what a newer version may have fixed, and transplant cures where findings look alike."),
    timeout: str = typer.Option("60s", "--timeout", help="Per backend and setting."),
    memory: str = typer.Option("4G", "--memory", help="Per backend."),
    first_bad: list[Path] = typer.Option(
        [], "--first-bad", metavar="ENV", help="A virtual environment with another version of a backend; give several to find the first bad release."
    ),
    report: str = typer.Option("", "--report", metavar="KINDS", help="Also write html, md, junit, sarif or json, one unit per cause, to OUT/report/."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object with everything that is printed, and more."),
) -> None:
    """Group findings by cause: how often, since when, in which versions, who is to blame, and what is new.

    Two findings are one when the switch that cures one cures the other and their smallest graphs have the same shape.

    Exit status: 0 nothing new, 1 at least one new reproducible cause, 2 no such folder.

    Example: `fuzz triage fuzz-out other-run`
    """
    from fuzzer.cli.progress import bar
    from fuzzer.settings import parse_bytes, parse_seconds
    from fuzzer.triaging import dated, members, reported, row, transplanted, updated
    from triage.formats import parse as parse_kinds
    from triage.group import group
    from triage.replay import runner

    kinds = parse_kinds(report) if report else []
    limits = parse_seconds(timeout), parse_bytes(memory)
    folders = list(outs or []) or [Path("fuzz-out")]
    with bar("findings") as tell:
        found = members(folders)
        found = updated(found, tell, runner(*limits)) if run else found
        groups = group(found, transplanted(*limits) if run else None)
        since = dated(groups, first_bad, tell)
        rows = [{**row(g), "since": since.get(g.best.key)} for g in groups]
    files = reported(groups, folders[0], kinds)
    if as_json:
        typer.echo(json.dumps({"summary": _counts(rows), "findings": len(found), "causes": rows, "reports": [str(f) for f in files]}))
    else:
        typer.echo(text(rows, len(found), [str(f) for f in folders]))
        for path in files:
            typer.echo(f"report: {path}")
    raise typer.Exit(Exit.FINDING if any(r["status"] == "new" for r in rows) else Exit.NOTHING_NEW)


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    counted = Counter(r["status"] for r in rows)
    return {status: counted[status] for status in ("new", "known", "flaky", "fixed")}


def text(rows: Sequence[dict[str, Any]], findings: int, folders: Sequence[str]) -> str:
    """The table, with the links of known issues and the first bad releases below it."""
    if not rows:
        return f"no findings in {', '.join(folders)}"
    counts = ", ".join(f"{n} {status}" for status, n in _counts(rows).items() if n)
    cells = [tuple(c.upper() for c in COLUMNS), *(_cells(r) for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    links = [f"{r['cause']}  {'fixed in ' + r['fixed_in'] if r['fixed_in'] else r['known']}" for r in rows if r["fixed_in"] or r["known"]]
    links += [f"{r['cause']}  {r['since']['sentence']}" for r in rows if r.get("since")]
    heading = f"{len(rows)} cause{'s' if len(rows) != 1 else ''} of {findings} finding{'s' if findings != 1 else ''} in {', '.join(folders)}: {counts}"
    return "\n".join([heading, "", *table, *(["", *links] if links else [])])


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    what = f"{r['verdict']} {' -> '.join(r['ops']) or 'a model'}{f' ({d})' if (d := r['dtype']) else ''}"
    others = len(r["findings"]) - 1
    cause = r["cause"] + (f" +{others}" if others else "")
    when = [time.strftime("%Y-%m-%d", time.gmtime(r[k])) if r[k] else "" for k in ("first_seen", "last_seen")]
    alone = re.match(r"the implementation of (.+?), (?:which|each)", r["blame"])
    blamed = ", ".join(r["guilty"]) or (f"{alone[1]} alone" if alone else "")
    return (r["status"], cause, str(r["count"]), *when, f"{r['backend']} {', '.join(r['versions'])}".strip(), _short(what), _short(blamed))


def _short(words: str) -> str:
    return words if len(words) <= WIDEST else words[: WIDEST - 3] + "..."
