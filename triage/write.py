"""The folder of a finding, written in full or not at all, and read back."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx

from corpus.arrays import load_arrays
from corpus.folders import put, put_arrays, put_before, put_json, stored_case, write_case
from corpus.inputs import declared
from corpus.lock import storing
from oracles.records import Outcome, Verdict
from specs.rule import UsageError
from triage.cause import Cause
from triage.finding import Finding
from triage.known import Known
from triage.report import readme, title
from triage.repro import repro

T = TypeVar("T")
VERSION = 1
NUMBERS = ("got", "expected", "bound", "ratio")


def write_finding(parent: Path, finding: Finding, timeout: float = 60.0, memory: int = 4 << 30) -> Path:
    """Write <parent>/<verdict>-<key8>/; an older version of the same finding is replaced in one step. Raises StoreError."""
    folder, fresh = parent / finding.name, parent / f".{finding.name}.{os.getpid()}"
    with storing(folder):
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            put(fresh / "model.onnx", finding.case.model)
            put_arrays(fresh / "inputs.npz", finding.case.inputs)
            put_before(fresh, finding.case)
            put_arrays(fresh / "expected.npz", {**finding.expected, **{f"bound:{n}": a for n, a in finding.bounds.items()}})
            put_json(fresh / "outcome.json", as_json(finding))
            put(fresh / "README.md", readme(finding))
            put(fresh / "repro.py", repro(finding, timeout, memory))
            if finding.original is not None:
                write_case(fresh / "original", finding.original)
            else:
                write_case(fresh / "original", finding.case)
            _swap(fresh, folder)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    return folder


def _swap(fresh: Path, folder: Path) -> None:
    """A folder cannot replace one that has files in it: the old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def as_json(finding: Finding) -> dict[str, Any]:
    """outcome.json: everything but arrays."""
    return {
        "version": VERSION,
        "title": title(finding),
        "key": finding.key,
        "status": finding.status,
        "cause": asdict(finding.cause),
        "verdict": verdict_json(finding.verdict),
        "verdicts": [verdict_json(v) for v in finding.verdicts],
        "outcomes": [{k: getattr(o, k) for k in ("backend", "setting", "status", "stage", "message", "seconds")} for o in finding.outcomes],
        "failing": finding.failing,
        **{k: getattr(finding, k) for k in ("reproduced", "repeats", "count", "first_seen", "last_seen", "blame")},
        "known": asdict(finding.known) if finding.known else None,
        "environment": dict(finding.environment),
        "case": {"id": finding.case.id, "origin": dict(finding.case.origin)},
        "original": finding.original.id if finding.original else None,
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Strict JSON has no NaN and no infinity: they become text."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(verdict).items()}


def read_finding(folder: Path) -> Finding:
    """A finding from its folder; outputs of the backends are not stored. Raises UsageError for a folder that is none."""
    try:
        about = json.loads((folder / "outcome.json").read_text())
    except FileNotFoundError:
        raise UsageError(f"{folder}: is not a finding (it has no outcome.json)") from None
    except (OSError, ValueError) as e:
        raise UsageError(f"{folder}/outcome.json: cannot be read ({e})") from None
    try:
        if about["version"] != VERSION:
            raise UsageError(f"{folder}: was written in format {about['version']}, this fuzz reads format {VERSION}")
        case = stored_case(folder)
        case = type(case)(case.model, case.inputs, about["case"]["origin"], case.before)
        original = stored_case(folder / "original") if (folder / "original" / "model.onnx").exists() else None
        both = _expected(folder, case.model)
        return Finding(
            cause=_record(Cause, about["cause"]),
            case=case,
            verdict=_verdict(about["verdict"]),
            outcomes=tuple(_record(Outcome, o) for o in about["outcomes"]),
            verdicts=tuple(_verdict(v) for v in about["verdicts"]),
            expected={n: a for n, a in both.items() if not n.startswith("bound:")},
            bounds={n[6:]: a for n, a in both.items() if n.startswith("bound:")},
            **{k: about[k] for k in ("reproduced", "repeats", "count", "first_seen", "last_seen", "blame", "environment")},
            known=_record(Known, about["known"]) if about["known"] else None,
            original=original if original is not None and original.id != case.id else None,
            given_key=about["key"],
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise UsageError(f"{folder}/outcome.json: lacks or misspells a field ({e})") from None


def _expected(folder: Path, model: bytes) -> Mapping[str, np.ndarray]:
    return load_arrays(folder / "expected.npz", declared(onnx.load_from_string(model).graph.output)) if (folder / "expected.npz").exists() else {}


def _record(kind: type[T], values: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})


def _verdict(values: Mapping[str, Any]) -> Verdict:
    numbers = {k: float(v) for k, v in values.items() if k in NUMBERS and isinstance(v, str) and v in ("nan", "inf", "-inf")}
    return _record(Verdict, {**values, **numbers})


def find_folders(path: Path) -> list[Path]:
    """The findings in a folder: itself, or those of a run. Empty when there are none."""
    if (path / "outcome.json").exists():
        return [path]
    parent = path / "findings" if (path / "findings").is_dir() else path
    return sorted(p.parent for p in parent.glob("*/outcome.json") if not p.parent.name.startswith("."))
