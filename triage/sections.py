"""The parts that every report has, in Markdown; the templates of the projects put them in their own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from triage.finding import Finding
from triage.first_bad import History
from triage.lint import REPEATS
from triage.literals import shown
from triage.matters import Fact, Matters
from triage.mermaid import picture
from triage.replay import Replayed
from triage.report import claim, environment, origin, table

SURE = {
    "certified": "No order of operations, fused or wider arithmetic that the formats allow can explain the difference.",
    "likely": "The error is far beyond what rounding usually does, though not proven impossible.",
}


@dataclass(frozen=True)
class Report:
    """Everything that is known about a finding when it is reported.

    script   repro.py; matters, again, history: None where it was not asked
    versions what the project's own tool prints about the environment
    banner   stands on top of a report that was forced
    """

    finding: Finding
    script: str
    matters: Matters | None = None
    again: Replayed | None = None
    history: History | None = None
    versions: str = ""
    banner: str = ""


def sentence(report: Report) -> str:
    """What happens, what should, and how sure that is."""
    v = report.finding.verdict
    sure = SURE.get(v.grade or "", "") if v.verdict in ("wrong", "imprecise") else ""
    return f"{claim(report.finding)}{f' {sure}' if sure else ''}"


def evidence(report: Report) -> str:
    """Settings and results, who is to blame, how far back, what matters, and the picture."""
    parts = [table(report.finding), blame(report), since(report), repeated(report), conclusions(report), graph(report)]
    return "\n\n".join(p for p in parts if p)


def blame(report: Report) -> str:
    said = report.finding.blame
    return f"**Guilty:** {said}{'' if said.endswith('.') else '.'}" if said else ""


def since(report: Report) -> str:
    """How far back it goes."""
    h = report.history
    if h is None:
        return ""
    rows = "".join(f"| {r.version} | {r.state} | {r.now.replace('|', ' ')} |\n" for r in h.releases)
    return f"**Since:** {h.sentence}.\n\n| release | | instead |\n|---|---|---|\n{rows}".rstrip()


def repeated(report: Report) -> str:
    again = report.again
    if again is None:
        return f"Seen in {report.finding.reproduced} of {report.finding.repeats} runs, each in a fresh process." if report.finding.repeats else ""
    return f"Seen in {again.hits} of {again.repeats} runs, each in a fresh process." if again.repeats >= REPEATS else ""


def conclusions(report: Report) -> str:
    """*What matters* and *what does not*, from running the case with one thing changed at a time."""
    m = report.matters
    if m is None or not (m.facts or m.reason):
        return ""
    matter, not_so = [f for f in m.facts if f.matters], _merged([f for f in m.facts if f.indifferent])
    lines = list[str]()
    if matter:
        lines += ["**What matters** (one thing changed at a time, and run again)", "", "| | here | right with | fails just so with |", "|---|---|---|---|"]
        lines += [f"| {f.subject} | {_cell([f.was])} | {_cell(f.right)} | {_cell(f.same)} |" for f in matter]
        lines.append("")
    if not_so:
        lines += ["**What does not**", ""]
        lines += [f"- {f.subject}: {_cell([f.was])}, and just so with {_cell(f.same)}" for f in not_so]
    if m.reason:
        lines += ["", f"({m.reason}.)"]
    return "\n".join(lines).strip()


def _merged(facts: Sequence[Fact]) -> list[Fact]:
    """Facts that say the same of several things are one; sizes that were changed together say nothing when each alone was."""
    alone = {f.subject for f in facts}
    kept = [f for f in facts if not (f.kind == "size" and ", " in f.subject and set(f.subject.split(", ")) <= alone)]
    merged = dict[tuple[object, ...], list[Fact]]()
    for f in kept:
        merged.setdefault((f.kind, f.was, f.same) if f.kind in _FRAME else (f.kind, f.subject), []).append(f)
    return [replace(group[0], subject=_named([f.subject for f in group], *_FRAME.get(group[0].kind, ("", "")))) for group in merged.values()]


_FRAME = {"size": ("", ""), "values": ("values of ", ""), "operand": ("how ", " is given")}  # what stands around the name in a subject


def _named(subjects: Sequence[str], before: str, after: str) -> str:
    return f"{before}{', '.join(s.removeprefix(before).removesuffix(after) for s in subjects)}{after}"


def _cell(values: Sequence[str]) -> str:
    return ", ".join(v.replace("|", "\\|") for v in values)


def graph(report: Report) -> str:
    """The picture, or the text of a model that is too large for one."""
    drawn = picture(report.finding.model.proto, report.finding.cause.ops)
    return f"```mermaid\n{drawn}\n```" if drawn else f"```\n{shown(report.finding.model.proto, 60)}\n```"


def code(report: Report) -> str:
    return f"```python\n{report.script.rstrip()}\n```"


def versions(report: Report) -> str:
    """The collapsed block with all versions and where the case comes from."""
    tool = f"\n\n```\n{report.versions.strip()}\n```" if report.versions else ""
    return f"""\
<details><summary>Versions, and how it was found</summary>

{environment(report.finding)}

{origin(report.finding)}{tool}

</details>"""


def system(report: Report) -> str:
    """Linux, Windows or Mac."""
    name = report.finding.environment.get("platform", "")
    return {"Linux": "Linux", "Windows": "Windows", "macOS": "Mac", "Darwin": "Mac"}.get(name.split("-")[0], "Other / Unknown")


def machine(report: Report) -> str:
    name = report.finding.environment.get("machine", "").lower()
    return {"x86_64": "X64", "amd64": "X64", "i686": "X86", "aarch64": "ARM64", "arm64": "ARM64", "armv7l": "ARM32"}.get(name, "Other / Unknown")
