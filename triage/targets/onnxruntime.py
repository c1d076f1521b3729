"""ONNX Runtime: the form for general issues."""

from __future__ import annotations

from triage.finding import Finding
from triage.report import effect, subject
from triage.sections import Report, code, evidence, machine, sentence, system, versions
from triage.targets import project

_HARM = {
    "wrong": "Results are silently wrong",
    "imprecise": "Results are silently imprecise",
    "nonfinite": "Results are silently NaN or infinite",
    "unstable": "Results are silently different from run to run",
    "crash": "The process dies",
    "hang": "The process does not end",
    "oom": "The process runs out of memory",
}


def title(finding: Finding) -> str:
    """Plain words: this tracker uses labels instead of brackets."""
    version = finding.environment.get("onnxruntime", "")
    return f"{subject(finding)}: {effect(finding)}{f' in {version}' if version else ''} (found by a fuzzer)"


@project("onnxruntime", project="microsoft/onnxruntime", backends=["onnxruntime"], title=title)
def onnxruntime(report: Report) -> str:
    finding = report.finding
    return f"""\
### Describe the issue

{sentence(report)}

{evidence(report)}

### To reproduce

{code(report)}

### Urgency

{_HARM.get(finding.verdict.verdict, "A valid model cannot be used")}; there is no deadline. Found by a fuzzer.

### Platform

{system(report)}

### OS Version

{finding.environment.get("platform", "unknown")}

### ONNX Runtime Installation

Released Package

### ONNX Runtime Version or Commit ID

{finding.environment.get("onnxruntime", "unknown")}

### ONNX Runtime API

Python

### Architecture

{machine(report)}

### Execution Provider

Default CPU

### Execution Provider Library Version

_No response_

{versions(report)}
"""
