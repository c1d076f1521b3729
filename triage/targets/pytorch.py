"""PyTorch: the form for torch.compile, and the rules it has for reports of fuzzers."""

from __future__ import annotations

import subprocess
import sys

from triage.finding import Finding
from triage.report import effect, first_line, subject
from triage.sections import Report, code, evidence, sentence, versions
from triage.targets import project

_FAILS = ("broken", "refused", "crash", "hang", "oom")


def title(finding: Finding) -> str:
    """With the component in brackets."""
    version = finding.environment.get(finding.verdict.backend, "")
    return f"[{finding.verdict.backend}] {subject(finding)}: {effect(finding)}{f' in {version}' if version else ''}"


def collected() -> str:
    """What `python -m torch.utils.collect_env` prints; empty when it does not work here."""
    try:
        done = subprocess.run([sys.executable, "-m", "torch.utils.collect_env"], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


@project("pytorch", project="pytorch/pytorch", backends=["inductor", "torch"], labels=["oncall: pt2", "topic: fuzzer"], title=title, versions=collected)
def pytorch(report: Report) -> str:
    v = report.finding.verdict
    log = f"### Error logs\n\n```\n{v.message.strip()}\n```\n\n" if v.verdict in _FAILS and first_line(v.message) else ""
    rules = "" if v.verdict in _FAILS else f"\n{_RULES}\n"
    return f"""\
### 🐛 Describe the bug

{sentence(report)}
{rules}
Ablation (`off` is `aot_eager`; the options of the other settings are in the script):

{evidence(report)}

{code(report)}

{log}### Versions

{versions(report)}
"""


_RULES = """\
As asked of fuzzers: results are compared with the same program in float64, not with eager in the same precision; no tolerance is
used but a bound on what rounding can do in the declared types; no indices are compared; the program draws no random numbers."""
