"""Apache TVM: the template for bug reports."""

from __future__ import annotations

from triage.report import expectation
from triage.sections import Report, code, evidence, sentence, versions
from triage.targets import project


@project("tvm", project="apache/tvm", backends=["tvm"], labels=["needs-triage", "type: bug"])
def tvm(report: Report) -> str:
    finding = report.finding
    area = "frontend:onnx" if finding.verdict.verdict == "refused" and any(o.stage == "load" for o in finding.outcomes) else "relax"
    return f"""\
### Expected behavior

{expectation(finding)}

### Actual behavior

{sentence(report)}

{evidence(report)}

### Environment

{finding.environment.get("platform", "unknown")}, Python {finding.environment.get("python", "unknown")}, apache-tvm {finding.environment.get("tvm", "unknown")}
(released package), target llvm. Found by a fuzzer.

{versions(report)}

### Steps to reproduce

{code(report)}

### Triage

* needs-triage
* {area}
"""
