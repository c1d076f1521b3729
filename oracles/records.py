"""The frozen records that pass between rooms: Case -> Outcome -> Verdict. Ids are content hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

Status = Literal["ok", "unsupported", "error", "crash", "hang", "oom", "missing"]
VerdictName = Literal[
    "ok", "noise", "unsupported", "ours", "refused", "broken", "mistyped", "nonfinite", "imprecise", "wrong", "unstable", "crash", "hang", "oom"
]
Grade = Literal["certified", "likely"]

#: Verdicts that are findings, gravest first.
FINDINGS: tuple[VerdictName, ...] = ("crash", "hang", "oom", "wrong", "nonfinite", "unstable", "mistyped", "broken", "refused", "imprecise")


@dataclass(frozen=True)
class Case:
    """A model and one set of inputs. `origin` says how to make it again: run seed, index, recorded choices, spec digest.

    `before` holds inputs, of other sizes, on which the same compiled model is run first.
    """

    model: bytes
    inputs: Mapping[str, np.ndarray]
    origin: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[Mapping[str, np.ndarray], ...] = ()

    @cached_property
    def id(self) -> str:
        """16 hex digits of a hash of the model and the inputs."""
        digest = hashlib.blake2b(self.model, digest_size=8)
        for inputs in (self.inputs, *self.before):
            for name in sorted(inputs):
                a = inputs[name]
                digest.update(f"{name}:{a.dtype}:{a.shape}".encode())
                digest.update(repr(a.tolist()).encode() if a.dtype == object else np.ascontiguousarray(a).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What one backend at one setting made of one case.

    status   "ok": `outputs` is there; "unsupported": the backend says it does not implement this; "error": it raised;
             "crash", "hang", "oom": the worker died or had to be killed; "missing": the backend is not installed
    stage    "load" (import, compile) or "run"
    again    outputs of a second run of the same compiled model, only when they are not bit-identical to `outputs`
    message  the backend's own words, first lines
    before   outputs for the inputs that were run before, as far as it got
    changed  names of the optimisations that changed the model; None when nobody looked, or the backend cannot tell
    """

    backend: str
    setting: str
    status: Status
    outputs: Mapping[str, Any] | None = None
    again: Mapping[str, Any] | None = None
    stage: Literal["load", "run"] = "run"
    message: str = ""
    seconds: float = 0.0
    before: tuple[Mapping[str, Any], ...] = ()
    changed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """One judgement of one output (or of a whole run, `output` empty) of one backend at one setting.

    element  index of the worst element; got, expected, bound: there; ratio = |got - expected| / bound
    masked   share of the output's elements that are undecided and were not compared
    """

    backend: str
    setting: str
    verdict: VerdictName
    grade: Grade | None = None
    output: str = ""
    element: tuple[int, ...] | None = None
    got: float | int | str | None = None
    expected: float | int | str | None = None
    bound: float | None = None
    ratio: float | None = None
    masked: float = 0.0
    message: str = ""

    @property
    def is_finding(self) -> bool:
        return self.verdict in FINDINGS
