"""Any other tracker, and a page to read."""

from __future__ import annotations

from triage.report import expectation
from triage.sections import Report, code, evidence, sentence, versions
from triage.targets import project


@project("generic")
def generic(report: Report) -> str:
    return f"""\
## What happens

{sentence(report)}

## What should happen

{expectation(report.finding)}

{evidence(report)}

## How to reproduce

{code(report)}

## Environment

{versions(report)}
"""
