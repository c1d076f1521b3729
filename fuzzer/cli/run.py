"""`fuzz run`: search until the budget is spent."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from fuzzer.cli import app


@app.command()
def run(
    budget: str = typer.Option("2m", "--budget", help="A time (90s, 2m, 1h) or a number of cases (500cases)."),
    seed: int | None = typer.Option(None, "--seed", help="Case i of a run depends only on the seed and i. Default: 0, or that of the run resumed."),
    out: Path = typer.Option(Path("fuzz-out"), "--out", help="Output folder; running again with the same folder goes on."),
    backends: str = typer.Option("", "--backends", help="For example onnxruntime:off+all,tvm or onnxruntime:*; default: all that are installed."),
    specs: str = typer.Option("", "--specs", metavar="GLOB", help="Operators to draw from, e.g. 'conv*,relu,!slice'."),
    blocks: str = typer.Option("", "--blocks", metavar="GLOB", help="Building blocks to use, e.g. 'cbam,unet*,!*/net'; 'none' for operators only."),
    max_nodes: int = typer.Option(10, "--max-nodes", min=1, max=500, help="Most operators in a network."),
    workers: str = typer.Option("auto", "--workers", help="Processes that make cases; each has its own backend workers. auto: half of the cores."),
    timeout: str = typer.Option("30s", "--timeout", help="Per backend, setting and case."),
    memory: str = typer.Option("4G", "--memory", help="Per backend worker."),
    fresh: bool = typer.Option(False, "--fresh", help="Start over instead of resuming."),
    stop_on_first: bool = typer.Option(False, "--stop-on-first", help="End at the first new finding."),
    report: str = typer.Option("", "--report", metavar="KINDS", help="Also write html, md, junit, sarif or json (several: html,junit) to OUT/report/."),
    ui: str = typer.Option("auto", "--ui", help="auto, screen, plain or json."),
) -> None:
    """Generate networks, run them on all backends, and report what is wrong.

    Exit status: 0 nothing new, 1 a new finding, 2 usage, 5 nothing could be tested, 130 interrupted (and saved).

    Example: `fuzz run --budget 1h --backends onnxruntime,tvm --specs 'conv*,*pool,relu,add'`
    """
    from corpus.store import Store
    from fuzzer.campaign import Campaign, exit_status, tell
    from fuzzer.reports import write_reports
    from fuzzer.screen import screen
    from fuzzer.settings import Settings, lanes, parse_budget, parse_bytes, parse_seconds, select, select_blocks
    from oracles.plugin import find, installed, parse
    from specs.operator import operators
    from specs.rule import UsageError
    from triage.formats import parse as parse_kinds

    if ui not in ("auto", "screen", "plain", "json"):
        raise UsageError(f"--ui '{ui}': choose auto, screen, plain or json")
    kinds = parse_kinds(report) if report else []
    limit, seconds, size, count = parse_budget(budget), parse_seconds(timeout), parse_bytes(memory), lanes(workers)
    chosen = backends or ",".join(installed())
    if not chosen:
        raise UsageError("no backend is installed; `fuzz doctor` says how to install one")
    targets = parse(chosen)
    for t in targets:
        if find(t.backend).missing():
            raise UsageError(find(t.backend).missing())
    names = select(specs, {k: o for k, o in operators().items() if o.draw is not None})
    versions = {t.backend: str(find(t.backend).version()) for t in targets}
    with Store.open(out, fresh=fresh, argv=sys.argv, versions=versions, seed=seed) as store:
        settings = Settings(
            limit, out.resolve(), tuple(targets), store.run["seed"], max_nodes, names, select_blocks(blocks, specs), count, seconds, size, stop_on_first
        )
        display = screen(ui)
        try:
            ended = Campaign(settings, store, display).run()
        finally:
            display.close()
        if ui != "json":
            tell(ended, str(out))
        status = exit_status(ended)
        for path in write_reports(store, kinds):
            if ui != "json":
                typer.echo(f"report: {path}")
    raise typer.Exit(status)
