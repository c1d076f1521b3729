"""`fuzz show`: a stored finding or case as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fuzzer.cli import app

if TYPE_CHECKING:
    import numpy as np

    from oracles.records import Verdict
    from triage.finding import Finding

LONGEST = 24  # elements of an input that are printed


@app.command()
def show(
    cases: list[str] = typer.Argument(..., metavar="CASE...", help="Ids of findings such as wrong-4be1c0d2, folders of findings or cases, or .onnx files."),
    out: Path = typer.Option(Path("fuzz-out"), "--out", help="The run whose findings an id names."),
    original: bool = typer.Option(False, "--original", help="The case as it was found, before it was reduced."),
) -> None:
    """Print the model, the inputs and, for a finding, what every setting made of it.

    Example: `fuzz show wrong-4be1c0d2`
    """
    typer.echo("\n\n".join(_text(_folder(case, out), original) for case in cases))


def _folder(case: str, out: Path) -> Path:
    from specs.rule import UsageError

    path = Path(case)
    if path.exists():
        return path
    parent = out / "findings"
    named = [f for f in sorted(parent.iterdir()) if case in (f.name, f.name.rpartition("-")[2]) and (f / "outcome.json").exists()] if parent.is_dir() else []
    if not named:
        raise UsageError(f"no case '{case}' (neither a file or folder nor an id of the run in {out})")
    return named[0]


def _text(path: Path, original: bool) -> str:
    if (path / "outcome.json").exists():
        from triage.write import read_finding

        finding = read_finding(path)
        if not original:
            return "\n\n".join([_heading(path, finding), _table(finding.verdicts or (finding.verdict,)), _case(finding.case.model, finding.case.inputs)])
        path = path / "original" if finding.original is not None else path
    from corpus.folders import read_case

    folder = read_case(path)
    origin = f"\n{json.dumps(_plain(folder.origin))}" if folder.origin else ""
    return f"{path}{origin}\n\n{_case(folder.model.SerializeToString(), folder.inputs or {})}"


def _heading(path: Path, finding: Finding) -> str:
    from triage.report import title

    lines = [f"{path.name}  {title(finding)}", f"  status {finding.status}, reproduced {finding.reproduced} of {finding.repeats}, seen {finding.count} times"]
    if finding.known is not None:
        lines.append(f"  known: {finding.known.reference}")
    if finding.blame:
        lines.append(f"  blamed: {finding.blame}")
    origin = _plain(finding.case.origin)
    return "\n".join([*lines, f"  from {json.dumps(origin)}" if origin else "  origin unknown", f"  again: fuzz replay {path}"])


def _plain(origin: Any) -> dict[str, Any]:
    """Without the recorded choices, which are hundreds of numbers."""
    return {k: v for k, v in dict(origin).items() if k != "choices"}


def _table(verdicts: tuple[Verdict, ...]) -> str:
    rows: list[tuple[str, ...]] = [("backend", "verdict", "output", "got", "expected", "error / bound", "")]
    for v in verdicts:
        where = f"{v.output}{list(v.element) if v.element else ''}"
        numbers = ["" if n is None else f"{n:.6g}" if isinstance(n, float) else str(n) for n in (v.got, v.expected, v.ratio)]
        rows.append(
            (
                f"{v.backend}:{v.setting}",
                f"{v.verdict}{f' ({v.grade})' if v.grade else ''}",
                where,
                *numbers,
                v.message.splitlines()[0][:120] if v.message else "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _case(model: bytes, inputs: Any) -> str:
    import onnx

    proto = onnx.load_from_string(model)
    text = onnx.printer.to_text(proto)
    return "\n".join([_short(text), *(f"{name} = {_array(a)}" for name, a in inputs.items())])


def _short(text: str) -> str:
    """Weights of hundreds of elements cut after the first ones."""
    import re

    return re.sub(r"\{((?:[^{},\n]+,){16})[^{}\n]{40,}\}", lambda m: "{" + m[1] + "...}", text).strip()


def _array(a: np.ndarray | list[Any] | None) -> str:
    import numpy as np

    if a is None or isinstance(a, list):
        return "nothing" if a is None else "[" + ", ".join(_array(e) for e in a) + "]"
    more = f" ... ({a.size} elements)" if a.size > LONGEST else ""
    shown = np.array2string(a if a.size <= LONGEST else a.ravel()[:LONGEST], max_line_width=120, threshold=LONGEST + 1)
    return f"{a.dtype}{list(a.shape)} {shown}{more}".replace("\n", "\n  ")
