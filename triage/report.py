"""README.md of a finding: what a maintainer has to read to believe it, on one screen; the rest folded away."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oracles.records import Verdict
from triage.cause import WROTE
from triage.finding import Finding
from triage.literals import shown
from triage.mermaid import picture

NAMES = {"onnxruntime": "ONNX Runtime", "tvm": "TVM", "inductor": "PyTorch inductor", "torch": "PyTorch"}
SETTING = {"onnxruntime": "optimisation level", "tvm": "pass pipeline", "inductor": "configuration"}
AREA = {"onnxruntime": "optimizer", "tvm": "relax", "inductor": "inductor"}
_SAID = {"ok": "right", "noise": "right", "unsupported": "not implemented", "refused": "rejected", "broken": "fails", "nonfinite": "NaN or infinity"}
EFFECT = {
    "wrong": "wrong result",
    "imprecise": "imprecise result",
    "nonfinite": "NaN or infinity",
    "mistyped": "wrong type or shape",
    "unstable": "result differs from run to run",
    "broken": "valid model fails",
    "refused": "valid model is rejected",
    "crash": "process crashes",
    "hang": "does not end",
    "oom": "runs out of memory",
}
ROWS = 12


_PREFIX = re.compile(r"^\w+: (?=\[)|\[ONNXRuntimeError\] : \d+ : \w+ : (?:Exception during initialization: |Load model from .*? failed:)?")


def title(finding: Finding) -> str:
    """[Bug][area] operators, type: effect in version (fuzzer-generated)."""
    v = finding.verdict
    area = AREA.get(v.backend, v.backend) if finding.cause.pattern == "optimised" or v.backend != "onnxruntime" else "CPU"
    version = finding.environment.get(v.backend, "")
    return f"[Bug][{area}] {subject(finding)}: {effect(finding)}{f' in {version}' if version else ''} (fuzzer-generated)"


def subject(finding: Finding) -> str:
    """The operators, and the type of their numbers."""
    chain = " -> ".join(finding.ops) or "a model"
    kind = finding.model.formats.get(finding.verdict.output) if finding.verdict.output else None
    types = sorted({f.name for f in (finding.model.formats.get(i.name) for i in finding.model.proto.graph.input) if f})
    return f"{chain} ({kind.name if kind else types[0]})" if kind or len(types) == 1 else chain


def effect(finding: Finding) -> str:
    v = finding.verdict
    if v.message.startswith(WROTE):
        return "writes into its input"
    where = f" at {SETTING.get(v.backend, 'setting')} {v.setting}" if len(finding.failing) < len(finding.settings) else ""
    return EFFECT.get(v.verdict, v.verdict) + where


def claim(finding: Finding, plain: bool = False) -> str:
    """One sentence: what happens, and what should."""
    v, tick = finding.verdict, "" if plain else "`"
    backend = NAMES.get(v.backend, v.backend)
    version = finding.environment.get(v.backend, "")
    who = f"{backend} {version}".strip()
    at = f", {SETTING.get(v.backend, 'setting')} {tick}{v.setting}{tick},{later(finding)}"
    fine = [s for s in finding.settings if s not in finding.failing]
    runs = "runs" if v.verdict in ("broken", "refused", "crash", "hang", "oom") else "right"
    beside = f" ({', '.join(tick + s + tick for s in fine)}: {runs})" if fine else ""
    element = f"{tick}{v.output}{list(v.element) if v.element else ''}{tick}"
    if v.message.startswith(WROTE):
        return f"{who}{at} changes the array that the caller passes as input {tick}{v.message.removeprefix(WROTE)}{tick}{beside}."
    if v.verdict == "unstable":
        return f"{who}{at} gives {_n(v.got)} and then {_n(v.expected)} for {element} in two runs of the same compiled model on the same inputs{beside}."
    if v.verdict in ("wrong", "nonfinite", "imprecise") and v.element is not None:
        times = f", which is {_times(v.ratio)} exceeded" if v.ratio and v.ratio < 1e300 and v.bound else ""
        allowed = f"rounding can explain an error of {_n(v.bound)}{times}" if v.bound else "the result is exact in this type"
        return f"{who}{at} gives {_n(v.got)} for {element} where float64 arithmetic gives {_n(v.expected)}; {allowed}{beside}."
    if v.verdict == "mistyped":
        return f"{who}{at} returns {element} with {v.message}{beside}."
    words = first_line(v.message)
    what = {
        "broken": "fails on a valid model that runs without optimisation", "refused": "rejects a valid model", "crash": "crashes on a valid model",
        "hang": "does not finish a valid model", "oom": "runs out of memory on a small valid model",
    }.get(v.verdict, "gives a wrong answer")  # fmt: skip
    return f"{who}{at} {what}{beside}{f': {tick}{words}{tick}' if words else ''}{'' if words.endswith('.') else '.'}"


def later(finding: Finding) -> str:
    """On which run it happens, when that is not the first one: words for a sentence, with a space before and a comma behind."""
    case = finding.case
    if not case.before:
        return ""
    same = all({n: a.shape for n, a in run.items()} == {n: a.shape for n, a in case.inputs.items()} for run in case.before)
    runs = "a run" if len(case.before) == 1 else f"{len(case.before)} runs"
    return f" after {runs} of the same compiled model on {'other inputs' if same else 'inputs of other sizes'},"


def runs(finding: Finding) -> str:
    """The sizes of all runs of the compiled model, when there are several."""
    case = finding.case
    each = [", ".join(f"`{n}` {list(a.shape)}" for n, a in run.items()) for run in (*case.before, case.inputs)]
    return f"\nOne compiled model runs on {'; then on '.join(each)}.\n" if case.before else ""


def expectation(finding: Finding) -> str:
    """What should happen instead, in a sentence."""
    v = finding.verdict
    if v.message.startswith(WROTE):
        return "The arrays that the caller passes stay as they are."
    if v.verdict == "unstable":
        return f"Two runs of the same compiled model on the same inputs give the same `{v.output}`, up to rounding."
    if v.verdict == "mistyped":
        form, want = finding.model.formats.get(v.output), finding.expected.get(v.output)
        kind = f" of type {form.name}" if form else ""
        return f"`{v.output}` is a tensor{kind}{f' of shape {list(want.shape)}' if want is not None else ''}, as the ONNX specification has it."
    if v.element is not None:
        allowed = f", up to an error of {_n(v.bound)}, which is what rounding can do" if v.bound else ", exactly"
        return f"`{v.output}{list(v.element) if v.element else ''}` is {_n(v.expected)}{allowed}."
    return "The model is valid (`onnx.checker.check_model(full_check=True)` passes): it compiles, runs and gives the values of the ONNX specification."


def first_line(message: str) -> str:
    """The part of a message that says something, short enough for a sentence."""
    from triage.message import CPP, SIGNATURE, SOURCE

    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = SIGNATURE.sub("", CPP.sub("", SOURCE.sub(r"\1", lines[0]))) if lines else ""
    text = _PREFIX.sub("", text)
    return (text if len(text) <= 260 else text[:250] + " ...").replace("`", "'")


def _n(value: float | int | str | None) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _times(ratio: float | None) -> str:
    return f"{ratio:,.0f} times" if ratio and ratio >= 10 else f"{ratio:.2g} times" if ratio else "often"


@dataclass(frozen=True)
class Row:
    """One setting's line of the table."""

    cells: tuple[str, ...]
    bad: bool


def cells(finding: Finding) -> list[Any]:
    """The head, then one row per setting: what it gave, what float64 gives, the bound and the ratio."""
    twice = finding.verdict.verdict == "unstable"
    columns = (
        ("first run", "second run", "allowed difference", "difference / allowed") if twice else ("value", "float64 value", "allowed error", "error / allowed")
    )
    rows, messages = list[Row](), set[str]()
    for setting in finding.settings[:ROWS]:
        mine = [v for v in finding.verdicts if v.setting == setting] or ([finding.verdict] if setting == finding.verdict.setting else [])
        bad = [v for v in mine if v.is_finding]
        v = next((b for b in bad if b.output == finding.verdict.output), bad[0] if bad else mine[0] if mine else None)
        row = _row(finding, setting, v)
        if v is not None and v.is_finding and v.element is None and v.message:
            row = (*row[:2], "the same", "", "", "") if row[2] in messages else row
            messages.add(row[2])
        rows.append(Row(row, v is not None and v.is_finding))
    return [("setting", "result", *columns), *rows]


def table(finding: Finding) -> str:
    """The same in Markdown."""
    head, *rows = cells(finding)
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    for row in rows:
        setting, result, *rest = (c.replace("|", "\\|") for c in row.cells)
        lines.append(f"| {setting} | {f'**{result}**' if row.bad else result} | {' | '.join(rest)} |".replace("|  ", "| "))
    return "\n".join(lines)


def _row(finding: Finding, setting: str, v: Verdict | None) -> tuple[str, ...]:
    if v is None:
        return (setting, "not run", "", "", "", "")
    said = _SAID.get(v.verdict, v.verdict)
    if not v.is_finding:
        got, want = _same_place(finding, setting) if finding.verdict.verdict != "unstable" else ("", "")
        return (setting, said, got, want, "", f"{v.ratio:.2g}" if v.ratio else "")
    if v.element is None:
        return (setting, said, first_line(v.message)[:120], "", "", "")
    ratio = "exact result expected" if not v.bound else f"{v.ratio:,.3g}" if v.ratio and v.ratio < 1e300 else ""
    return (setting, said, _n(v.got), _n(v.expected), _n(v.bound), ratio)


def _same_place(finding: Finding, setting: str) -> tuple[str, str]:
    """What a setting that is right gave for the element that another has wrong."""
    v = finding.verdict
    outcome = next((o for o in finding.outcomes if o.setting == setting and o.outputs), None)
    got = outcome.outputs.get(v.output) if outcome and outcome.outputs else None
    try:
        return (_n(got[v.element].item()), _n(v.expected)) if got is not None and v.element is not None else ("", "")
    except (IndexError, AttributeError, TypeError):
        return "", ""


def readme(finding: Finding) -> str:
    """The whole page in Markdown."""
    v = finding.verdict
    known = f"\n> Looks like a known issue: {', '.join(finding.known.references)} ({finding.known.title}; {finding.known.status}).\n" if finding.known else ""
    blame = f"\n**To blame:** {finding.blame}\n" if finding.blame else ""
    grade = {"certified": "No rounding can explain it.", "likely": "The error is far beyond what rounding usually does, but not proven impossible."}
    sure = f" {grade[v.grade]}" if v.grade in grade and v.verdict in ("wrong", "imprecise") else ""
    flow = picture(finding.model.proto, finding.cause.ops)
    drawn = f"\n<details><summary>The graph</summary>\n\n```mermaid\n{flow}\n```\n\n</details>\n" if flow else ""
    return f"""\
# {title(finding)}

{claim(finding)}{sure}
{known}{blame}
{table(finding)}

```
{shown(finding.model.proto, 30)}
```
{runs(finding)}{drawn}
**Reproduce:** `python repro.py` (status 1 while the defect is there), or `fuzz replay {finding.name}`. **File:** `fuzz report {finding.name}`.
Reproduced {finding.reproduced} of {finding.repeats} times in fresh processes{f"; met {finding.count} times" if finding.count > 1 else ""}.

<details><summary>Environment</summary>

{environment(finding)}

</details>
<details><summary>How it was found</summary>

{origin(finding)}

</details>
"""


def environment(finding: Finding) -> str:
    """Versions, as a list."""
    return "\n".join(f"- {name}: {value}" for name, value in finding.environment.items())


def origin(finding: Finding) -> str:
    """Where the case comes from, as a list."""
    told = {k: o for k, o in (finding.original or finding.case).origin.items() if k != "choices"}
    seen = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(finding.first_seen)) if finding.first_seen else "unknown"
    lines: Sequence[str] = [
        "- By a fuzzer that generates valid ONNX models and compares each backend with float64 arithmetic, never one backend with another.",
        f"- First seen: {seen}. Case {finding.case.id}{f', reduced from {finding.original.id} (in original/)' if finding.original else ''}.",
        f"- Origin: {', '.join(f'{k} {o}' for k, o in told.items()) or 'a model given by the user'}.",
        f"- Key {finding.key}: operators {', '.join(finding.cause.ops) or 'not known'}, types {finding.cause.dtype or 'mixed'}, {finding.cause.pattern}.",
    ]
    return "\n".join(lines)
