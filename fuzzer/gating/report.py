"""What is said of a gate: on the terminal, as Markdown, JSON and JUnit XML; SARIF and pages are those of every finding."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus.folders import plain, put
from fuzzer.gate import Found, Result
from fuzzer.gating.changes import head
from fuzzer.gating.tested import Tested
from triage.formats import write as write_findings
from triage.report import claim, title
from triage.sarif import kernel_source

OWN = {"junit": "junit.xml", "md": "report.md", "json": "report.json"}


def write(result: Result, wanted: Sequence[str]) -> list[Path]:
    """OUT/report/ in every kind that is wanted; returns the files."""
    folder, written = result.order.out / "report", list[Path]()
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if name in OWN:
            put(folder / OWN[name], _OWN[name](result))
            written.append(folder / OWN[name])
        else:
            about = {"seed": result.order.seed, "seconds": result.seconds, "cases": sum(t.cases for t in result.tested.values())}
            written += write_findings([f.finding for f in result.found], folder, [name], about)
    for path in written:
        if path.suffix == ".sarif":
            put(path, _with_baseline(json.loads(path.read_text()), result))
    return written


def percent(share: float) -> str:
    """Two digits, without an exponent."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %" if share >= 1e-6 else "0.0001 %"


# words ------------------------------------------------------------------------------------------------------------------
def verdict(result: Result) -> str:
    """The last line."""
    seconds = f"in {result.seconds:.0f} s"
    if result.red or result.slower:
        parts = [f"{len(result.red)} cause{'s' * (len(result.red) != 1)}"] if result.red else []
        parts += [f"{len(result.slower)} kernel{'s' * (len(result.slower) != 1)} slower"] if result.slower else []
        return f"FAILED: {' and '.join(parts)}, {seconds}"
    if result.nothing:
        return f"TESTED NOTHING of {', '.join(result.nothing)}, {seconds}"
    others = Counter(f.state for f in result.found)
    beside = f" (beside {', '.join(f'{n} {state}' for state, n in others.items())})" if others else ""
    return f"passed {seconds}{beside}"


def heading(result: Result) -> str:
    """What was compared with what."""
    order = result.order
    n = len(order.kernels)
    against = f" against {order.base}" if order.base else ""
    changed = " changed" if order.changed else ""
    return f"gate: {n} kernel{'s' * (n != 1)}{changed}{against}; head {head() or 'is no commit'}, seed {order.seed}, budget {order.budget}"


def text(result: Result) -> str:
    """All of it for a terminal."""
    lines = [heading(result)]
    for name, tested in result.tested.items():
        lines += ["", f"{name}  {counts(tested)}", *(f"  {line}" for line in _worth(tested, result))]
    for found in result.found:
        lines += ["", f"{found.state.upper()} {found.finding.name}  {title(found.finding)}", f"  {claim(found.finding, plain=True)}"]
        lines += [f"  in {_place(found)}", f"  {found.folder}/README.md", f"  python {found.folder}/repro.py"]
    if result.repeats:
        lines += ["", f"{result.repeats} more cases of causes that were found"]
    lines += [f"not believed: {line}" for line in result.ours]
    lines += [f"pace: {p.line()}" for p in result.paces]
    lines += [f"nothing tested: {name}: {why}" for name, why in result.nothing.items()]
    return "\n".join([*lines, "", verdict(result)])


def counts(t: Tested) -> str:
    fresh = t.cases - min(t.replayed, t.cases)
    return (
        f"{t.cases:,} cases ({min(t.replayed, t.cases):,} replayed, {fresh:,} fresh; {t.outside:,} of {t.drawn:,} networks drawn were outside its constraint)"
    )


def _worth(t: Tested, result: Result) -> list[str]:
    if not t.cases:
        return []
    changed = sorted({p.name for p in result.order.changed.get(t.kernel.name, ())})
    teeth = ", ".join(f"{name} {r} of {n}" for name, (r, n) in t.teeth.items())
    failed = f"{t.failures:,} of {t.cases:,} cases failed" if t.failures else "no case failed"
    return [
        *([f"changed: {', '.join(changed)}"] if changed else []),
        *(t.lines() if t.shapes else []),
        f"constraint covered {t.coverage:.0%}, undecided elements {t.undecided / t.cases:.2%}, teeth rejected: {teeth}",
        f"{failed}: with 95 % confidence, fewer than {percent(t.bound)} of such cases fail",
    ]


def _place(found: Found) -> str:
    """file:line of the kernel, relative to the working folder."""
    where = source_of(found)
    if where is None:
        return "a kernel without a source"
    path, line = where
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def source_of(found: Found) -> tuple[Path, int] | None:
    """Where the kernel's function is defined: the line that names its symbol followed by a parenthesis."""
    where = kernel_source(found.finding)
    kernel = found.tested.kernel
    if where is None or kernel.source is None or where[0] != kernel.source:
        return where
    name = re.compile(rf"\b{re.escape(kernel.symbol.rpartition('::')[2])}\s*\(")
    lines = kernel.source.read_text(errors="replace").splitlines()
    return kernel.source, next((i for i, line in enumerate(lines, 1) if name.search(line)), where[1])


# Markdown, JSON, JUnit --------------------------------------------------------------------------------------------------
def markdown(result: Result) -> str:
    """For a pull request or a job's page."""
    lines = [f"# {verdict(result)}", "", heading(result) + ".", ""]
    lines += ["| kernel | cases | shapes | types | covered | teeth | failures below (95 %) |", "|---|---|---|---|---|---|---|"]
    for name, t in result.tested.items():
        teeth = "all" if t.cases and not t.blunt else "**none**" if not t.cases else f"**not {', '.join(t.blunt)}**"
        bound = percent(t.bound) if t.cases else "nothing tested"
        lines.append(f"| `{name}` | {t.cases:,} | {len(t.shapes):,} | {', '.join(t.dtypes)} | {t.coverage:.0%} | {teeth} | {bound} |")
    for f in result.found:
        lines += ["", f"## {f.state}: {title(f.finding)}", "", claim(f.finding), "", f"In `{_place(f)}`. `python {f.folder}/repro.py`"]
    lines += [f"\n- {p.line()}" for p in result.paces]
    lines += [f"\n- Nothing tested of `{name}`: {why}" for name, why in result.nothing.items()]
    return "\n".join(lines) + "\n"


def as_json(result: Result) -> dict[str, Any]:
    """One object: what was tested, what was found, and the exit status."""
    order = result.order
    return {
        "status": result.status,
        "verdict": verdict(result),
        "seed": order.seed,
        "head": head(),
        "base": order.base.commit if order.base else None,
        "seconds": round(result.seconds, 3),
        "kernels": [{**t.as_json(), "changed": [str(p) for p in order.changed.get(name, ())]} for name, t in result.tested.items()],
        "findings": [_row(f) for f in result.found],
        "repeats": result.repeats,
        "not_believed": result.ours,
        "pace": [{"kernel": p.kernel, "ratio": p.ratio, "low": p.low, "high": p.high, "problem": p.problem} for p in result.paces],
    }


def _row(f: Found) -> dict[str, Any]:
    v = f.finding.verdict
    return {
        "name": f.finding.name,
        "state": f.state,
        "kernel": f.kernel,
        "verdict": v.verdict,
        "grade": v.grade,
        "ratio": v.ratio,
        "title": title(f.finding),
        "claim": claim(f.finding, plain=True),
        "source": _place(f),
        "folder": str(f.folder),
        "reproduced": f.finding.reproduced,
        "repeats": f.finding.repeats,
    }


def _json(result: Result) -> str:
    return json.dumps(as_json(result), indent=1, default=plain) + "\n"


def junit(result: Result) -> str:
    """One test a kernel, which fails with its causes; what was known before is skipped, what was not tested is an error."""
    suite = ET.Element("testsuite", {"name": "fuzz gate", "time": f"{result.seconds:.3f}", "tests": str(len(result.tested))})
    failures = errors = 0
    for name, tested in result.tested.items():
        case = ET.SubElement(suite, "testcase", {"classname": "fuzz.gate", "name": name, "time": "0"})
        red = [f for f in result.red if f.kernel == name]
        slow = [p for p in result.slower if p.kernel == name]
        for f in red:
            failure = ET.SubElement(case, "failure", {"type": f.finding.verdict.verdict, "message": _xml(claim(f.finding, plain=True))})
            failure.text = _xml(f"{title(f.finding)}\n{_place(f)}\npython {f.folder}/repro.py")
        for p in slow:
            ET.SubElement(case, "failure", {"type": "slower", "message": p.line()})
        if tested.nothing and not red:
            ET.SubElement(case, "error", {"type": "nothing tested", "message": _xml(tested.nothing)})
            errors += 1
        failures += bool(red or slow)
        ET.SubElement(case, "system-out").text = _xml("\n".join([counts(tested), *_worth(tested, result)]))
    suite.attrib.update({"failures": str(failures), "errors": str(errors), "skipped": "0"})
    ET.indent(suite)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suite, encoding="unicode")}\n'


def _xml(text: str) -> str:
    return "".join(c if c in "\t\n\r" or 0x20 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE else "?" for c in text)


def _with_baseline(content: dict[str, Any], result: Result) -> str:
    """SARIF's own words for new and old, so that code scanning shows what the change did."""
    found: Mapping[str, Found] = {f.finding.name: f for f in result.found}
    for run in content["runs"]:
        for r in run["results"]:
            f = found[r["properties"]["finding"]]
            state, where = f.state, source_of(f)
            if where is not None:
                r["locations"][0]["physicalLocation"]["region"] = {"startLine": where[1]}
            r["baselineState"] = "new" if state == "new" else "unchanged"
            r["level"] = "error" if state == "new" or (state == "old" and result.order.strict) else "note"
    return json.dumps(content, indent=1) + "\n"


_OWN: dict[str, Callable[[Result], str]] = {"junit": junit, "md": markdown, "json": _json}
