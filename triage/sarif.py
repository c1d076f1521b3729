"""SARIF 2.1.0: findings as results of a static analysis, for code scanning. The fingerprint is the cause key, so a cause stays one alert."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from oracles.records import FINDINGS
from triage.finding import Finding
from triage.formats import Batch, kind
from triage.report import EFFECT, claim, title

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
FINGERPRINT = "causeKey/v1"
_HELP = {
    "crash": "The process of the compiler or of the compiled model was ended by a signal.",
    "hang": "No answer within the time limit.",
    "oom": "More memory than the limit, for a small model.",
    "wrong": "A value differs from float64 arithmetic by more than any legal rounding can explain.",
    "nonfinite": "NaN or infinity where the value is finite and far from overflow.",
    "unstable": "The same compiled model gives different results for the same inputs, or changes its inputs.",
    "mistyped": "An output has another type or shape than the ONNX specification gives it.",
    "broken": "A valid model that runs without optimisation fails with it.",
    "refused": "A valid model is rejected although its operators are claimed to be supported.",
    "imprecise": "The error is beyond what the declared precision policy allows.",
}


@kind("sarif", "report.sarif")
def sarif(batch: Batch) -> str:
    """One result a cause, one rule a verdict."""
    used = [v for v in FINDINGS if any(f.verdict.verdict == v for f in batch.findings)]
    driver = {"name": "onnx-assay", "version": _version(), "rules": [_rule(v) for v in used]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"RUN": {"uri": f"{batch.root.resolve().as_uri()}/"}, "SRCROOT": {"uri": f"{Path.cwd().as_uri()}/"}},
        "results": [_result(batch, f, used.index(f.verdict.verdict)) for f in batch.findings],
        "properties": {k: batch.about[k] for k in ("seed", "cases", "versions") if k in batch.about},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _version() -> str:
    try:
        return metadata.version("onnx-assay")
    except metadata.PackageNotFoundError:
        return "0"


def _rule(verdict: str) -> dict[str, Any]:
    name = EFFECT[verdict]
    return {
        "id": verdict,
        "name": "".join(word.capitalize() for word in name.split()),
        "shortDescription": {"text": f"{name[0].upper()}{name[1:]}."},
        "fullDescription": {"text": _HELP[verdict]},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["fuzzing", "onnx", "compiler"]},
    }


def _result(batch: Batch, f: Finding, rule: int) -> dict[str, Any]:
    suppressed = {"suppressions": [{"kind": "external", "status": "accepted", "justification": f"{f.known.title}: {f.known.reference}"}]} if f.known else {}
    return {
        "ruleId": f.verdict.verdict,
        "ruleIndex": rule,
        "level": {"new": "error", "known": "note"}.get(f.status, "warning"),
        "message": {"text": f"{title(f)}\n\n{claim(f, plain=True)}\n\nReproduce with: python {batch.place(f)}/repro.py"},
        "locations": [_location(batch, f)],
        "partialFingerprints": {FINGERPRINT: f.cause.key},
        "occurrenceCount": max(1, f.count),
        "properties": {"backend": f.verdict.backend, "setting": f.verdict.setting, "finding": f.name, "blame": f.blame, "ratio": _number(f.verdict.ratio)},
        **suppressed,
    }


def _location(batch: Batch, f: Finding) -> dict[str, Any]:
    """In the source of the kernel that is at fault, where there is one: that is where its author looks; else in the case's model."""
    found = kernel_source(f)
    line = found[1] if found is not None else 0
    model = batch.home(f) / "model.onnx"
    inside = {"uri": f"{batch.place(f)}/model.onnx", "uriBaseId": "RUN"} if model.is_relative_to(batch.root.resolve()) else {"uri": model.as_uri()}
    where = _address(found[0]) if found is not None else inside
    physical: dict[str, Any] = {"artifactLocation": where}
    if line:
        physical["region"] = {"startLine": line}
    logical = [{"name": op, "kind": "function"} for op in f.cause.ops]
    return {"physicalLocation": physical, **({"logicalLocations": logical} if logical else {})}


def kernel_source(finding: Finding) -> tuple[Path, int] | None:
    """File and line of the guilty kernel; None for findings of other backends."""
    if finding.verdict.backend != "kernels":
        return None
    from oracles.kernel import kernels

    named = [*finding.cause.guilty, re.split("[@!~]", finding.verdict.setting)[0]]
    guilty = next((k for name in named if (k := kernels().get(name)) is not None), None)
    if guilty is None:
        return None
    return (guilty.source, 1) if guilty.source is not None else (Path(guilty.location[0]), max(1, guilty.location[1])) if guilty.location[0] else None


def _address(path: Path) -> dict[str, str]:
    """Relative to the working folder where it is below it: that is the repository, in CI."""
    path = path.resolve()
    here = Path.cwd().resolve()
    return {"uri": path.relative_to(here).as_posix(), "uriBaseId": "SRCROOT"} if path.is_relative_to(here) else {"uri": path.as_uri()}


def _number(value: float | None) -> float | None:
    return value if value is not None and abs(value) < 1e300 else None
