"""JUnit XML: one test case a cause, so that a CI shows findings as failed tests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from triage.finding import Finding
from triage.formats import Batch, kind, status
from triage.report import claim, effect, subject

_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@kind("junit", "junit.xml")
def junit(batch: Batch) -> str:
    """New findings fail; known and flaky ones are skipped, with the reason; each backend without a new one passes."""
    failed = [f for f in batch.findings if f.status == "new"]
    skipped = [f for f in batch.findings if f.status != "new"]
    clean = sorted(set(batch.about.get("tested", {})) - {f.verdict.backend for f in failed})
    counts = {"tests": len(batch.findings) + len(clean), "failures": len(failed), "errors": 0, "skipped": len(skipped)}
    seconds = f"{float(batch.about.get('seconds', 0.0)):.3f}"
    root = ET.Element("testsuites", {"name": "fuzz", "time": seconds, **{k: str(v) for k, v in counts.items()}})
    suite = ET.SubElement(root, "testsuite", {"name": "fuzz", "time": seconds, **{k: str(v) for k, v in counts.items()}})
    properties = ET.SubElement(suite, "properties")
    for name, value in sorted(_about(batch).items()):
        ET.SubElement(properties, "property", {"name": name, "value": _text(value)})
    for f in batch.findings:
        _case(suite, batch, f)
    for backend in clean:
        ET.SubElement(suite, "testcase", {"classname": f"fuzz.{backend}", "name": "nothing new", "time": "0"})
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _about(batch: Batch) -> dict[str, str]:
    versions = {f"version.{b}": str(v) for b, v in batch.about.get("versions", {}).items()}
    return {**versions, **{k: str(batch.about[k]) for k in ("seed", "cases") if k in batch.about}}


def _case(suite: ET.Element, batch: Batch, f: Finding) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": f"fuzz.{f.verdict.backend}", "name": _text(f"{f.name}: {subject(f)}: {effect(f)}"), "time": "0"})
    if f.status == "new":
        failure = ET.SubElement(case, "failure", {"type": f.verdict.verdict, "message": _text(claim(f, plain=True))})
        failure.text = _text(f"{claim(f, plain=True)}\n\npython {batch.place(f)}/repro.py\nfuzz replay {f.name}\n\n{f.verdict.message}".strip())
    else:
        reason = status(f) if f.status == "known" else f"flaky: {f.reproduced} of {f.repeats} runs showed it"
        ET.SubElement(case, "skipped", {"message": _text(reason)})


def _text(text: str) -> str:
    """Without the characters that XML has no way to write."""
    return _UNWRITABLE.sub("?", text)
