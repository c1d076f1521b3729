"""Before a finding is believed: is it reproducible in fresh workers, at which settings, and is it not our own mistake?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from oracles.adjoint import Weigh
from oracles.judge import judge_outcomes
from oracles.plugin import Target, find
from oracles.pool import run
from oracles.records import Case, Outcome, Verdict
from oracles.reference import Expected
from oracles.second import second_opinion

REPEATS = 3


@dataclass(frozen=True)
class Confirmed:
    """A finding that was looked at twice.

    verdicts   of every setting of the backend, from the last repetition
    outcomes   the same, with outputs
    reproduced how many of `repeats` runs in another process gave the same verdict
    """

    case: Case
    verdict: Verdict
    verdicts: tuple[Verdict, ...]
    outcomes: tuple[Outcome, ...]
    expected: Mapping[str, Expected]
    reproduced: int
    repeats: int


def confirm(
    case: Case,
    expected: Mapping[str, Expected],
    verdict: Verdict,
    outcomes: Sequence[Outcome],
    weigh: Weigh,
    *,
    timeout: float,
    memory: int,
    repeats: int = REPEATS,
) -> Confirmed:
    """Run the case again at all settings of the backend, in another worker than found it, and ask for a second opinion on values."""
    outcome = next(o for o in outcomes if o.backend == verdict.backend and o.setting == verdict.setting)
    judged = second_opinion(case.model, case.inputs, expected, verdict, outcome, weigh)
    if judged.verdict == "ours":
        return Confirmed(case, judged, (judged,), tuple(outcomes), expected, 0, 0)
    backend = find(verdict.backend)
    if verdict.verdict in ("hang", "oom"):  # each takes the whole time limit: once more has to be enough
        repeats = 1
    settings = (
        (verdict.setting,)
        if repeats == 1
        else backend.settings
        if verdict.backend == "onnxruntime"
        else tuple(dict.fromkeys([*backend.default, verdict.setting]))
    )
    reproduced, verdicts, again = 0, list[Verdict](), list[Outcome]()
    for _ in range(repeats):
        again = run(case, [Target(verdict.backend, settings)], timeout=timeout, memory=memory)
        verdicts = judge_outcomes(expected, again, weigh)
        if verdict.verdict == "refused":  # the setting without optimisation, which tells broken from refused, may only now have been run
            verdict = judged = next((v for v in verdicts if v.setting == verdict.setting and v.verdict == "broken"), verdict)
        reproduced += any(v.setting == verdict.setting and v.verdict == verdict.verdict for v in verdicts)
    failing = [s for s in settings if any(v.setting == s and v.verdict == judged.verdict for v in verdicts)]
    if failing and failing[0] != judged.setting:
        judged = replace(judged, setting=failing[0])  # the least optimised setting that shows it
    return Confirmed(case, judged, tuple(verdicts), tuple(again), expected, reproduced, repeats)
