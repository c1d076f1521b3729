"""One output against its expectation, element by element: type, shape, special values, then the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from oracles.records import FINDINGS, Outcome, Verdict
from oracles.reference import Expected
from specs.formats import Format
from specs.numerics import Ball
from specs.program import to_torch

#: (rtol, atol) of torch.testing by format: what a naive comparison would have flagged is counted as `noise`.
NAIVE = {"float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float": (1.3e-6, 1e-5), "double": (1e-7, 1e-7)}

SUSPECT = 2.0  # statistical radii beyond which an element is suspect


def compare(backend: str, setting: str, name: str, want: Expected, got: Any) -> Verdict:
    """The verdict on one output. `got` is a numpy array (a list for a sequence), None when the backend did not return it."""

    def verdict(kind: Any, **more: Any) -> Verdict:
        return Verdict(backend, setting, kind, output=name, **more)

    value, form = want.ball.value, want.format
    if got is None:
        return verdict("ok") if value is None else verdict("mistyped", message="the output is missing")
    if isinstance(value, list):
        return _sequence(backend, setting, name, want, got)
    if not isinstance(value, torch.Tensor):
        return verdict("ok" if _same(value, got) else "wrong", grade="certified")
    got = np.asarray(got)
    if form is not None and got.dtype != form.numpy and not (form.kind == "string" and got.dtype.kind in "OUS"):
        return verdict("mistyped", message=f"type {got.dtype}, declared {form.name}")
    if tuple(got.shape) != tuple(value.shape):
        if _open_shape(want, got):
            return verdict("ok", masked=1.0)
        return verdict("mistyped", message=f"shape {list(got.shape)}, expected {list(value.shape)}")
    if not value.numel():
        return verdict("ok")
    return _agreed(verdict, want, got) or _elements(verdict, want, _widened(got, form))


def _sequence(backend: str, setting: str, name: str, want: Expected, got: Any) -> Verdict:
    """The gravest verdict on an element."""
    value, worst, spread = want.ball
    if not isinstance(got, (list, tuple)) or len(got) != len(value):
        return Verdict(backend, setting, "mistyped", output=name, message=f"expected a sequence of {len(value)}")
    blank = [None] * len(value)
    elements = zip(value, worst or blank, spread or blank, got, strict=True)
    verdicts = [compare(backend, setting, name, Expected(Ball(v, w, s), want.format), g) for v, w, s, g in elements]
    order = [*FINDINGS, "noise"]
    return min(verdicts, key=lambda v: order.index(v.verdict) if v.verdict in order else len(order), default=Verdict(backend, setting, "ok", output=name))


def _open_shape(want: Expected, got: np.ndarray) -> bool:
    """Whether the number of results is undecided (NonZero, Unique, NonMaxSuppression): all elements are, or there are none."""
    value, worst = want.ball.value, want.ball.worst
    if worst is None or got.ndim != value.ndim:
        return False
    if value.numel():
        return bool((worst == torch.inf).all())
    return all(a == b or b == 0 for a, b in zip(got.shape, value.shape, strict=True))


def _widened(got: np.ndarray, form: Format | None) -> torch.Tensor:
    return to_torch(got, form, torch.float64) if form is not None else torch.as_tensor(got)


def _agreed(verdict: Any, want: Expected, got: np.ndarray) -> Verdict | None:
    """The common case in few steps: every element within both radii, nothing special among them. None: look closer."""
    value, worst, spread = want.ball
    if value.dtype not in (torch.float64, torch.int64, torch.int32, torch.uint8, torch.int8, torch.bool) or got.dtype.kind not in "fib":
        return None
    v = value.numpy()
    if worst is None or spread is None or got.dtype.kind != "f":
        return verdict("ok") if worst is None and np.array_equal(got, v) else None
    w, s = worst.numpy(), spread.numpy()
    with np.errstate(all="ignore"):
        error = np.abs(got - v)
        ratio = float((error / np.maximum(w, 1e-300)).max())
        if not ratio <= 1 or not (error <= SUSPECT * s).all():
            return None
        rtol, atol = NAIVE.get(want.format.name, (0.0, 0.0)) if want.format is not None else (0.0, 0.0)
        noise = not error.max() <= atol and not (error <= atol + rtol * np.abs(v)).all()
    masked = 0.0 if w.max() < np.inf else float(np.isinf(w).mean())
    return verdict("noise" if noise else "ok", masked=masked, ratio=ratio)


def _elements(verdict: Any, want: Expected, got: torch.Tensor) -> Verdict:
    value, worst, spread = want.ball
    form = want.format
    if not value.is_floating_point() and not value.is_complex():  # bool has no difference, and that of uint8 would wrap
        got, value = got.to(torch.int64), value.to(torch.int64)
    if worst is None and not bool((got != value).any()):
        return verdict("ok")
    bound = torch.zeros(value.shape, dtype=torch.float64) if worst is None else worst
    decided = bound < torch.inf
    masked = 1.0 - float(decided.double().mean())
    error = (got - value).abs().double()
    error = error.masked_fill((got == value), 0.0)  # equal infinities
    outside = decided & ~(error <= bound)
    if not bool(outside.any()):
        noise = bool((_naive(got, value, error, form)).any())
        if spread is not None and (suspect := _suspect(verdict, want, got, error, masked)) is not None:
            return suspect
        return verdict("noise" if noise else "ok", masked=masked, ratio=_ratio(error, bound, decided))
    special = outside & ~torch.isfinite(got) if got.is_floating_point() else torch.zeros_like(outside)
    if bool(special.any()) and form is not None:
        # An infinity is only a defect where the reference is far from overflow; a NaN wherever it is decided.
        far = special & (torch.isnan(got) | (value.abs() + bound < form.largest / 2))
        if bool(far.any()):
            at = _index(int(far.flatten().double().argmax()), value)
            return verdict("nonfinite", grade="certified", masked=masked, **_where(got, value, bound, at))
        outside = outside & ~special
        if not bool(outside.any()):
            return verdict("noise", masked=masked)
    score = torch.where(outside, error / bound.clamp(min=1e-300), torch.zeros_like(error))
    at = _index(int(score.flatten().argmax()), value)
    return verdict("wrong", grade="certified", masked=masked, ratio=float(score[at]), **_where(got, value, bound, at))


def _suspect(verdict: Any, want: Expected, got: torch.Tensor, error: torch.Tensor, masked: float) -> Verdict | None:
    """Beyond twice the statistical radius, though not beyond the certified one: `likely`, until oracles.adjoint has weighed it."""
    spread = want.ball.spread
    beyond = (spread < torch.inf) & (error > SUSPECT * spread) & torch.isfinite(got)
    if not bool(beyond.any()):
        return None
    score = torch.where(beyond, error / spread.clamp(min=1e-300), torch.zeros_like(error))
    at = _index(int(score.flatten().argmax()), score)
    return verdict("wrong", grade="likely", masked=masked, ratio=float(score[at]) / SUSPECT, **_where(got, want.ball.value, SUSPECT * spread, at))


def _naive(got: torch.Tensor, value: torch.Tensor, error: torch.Tensor, form: Format | None) -> torch.Tensor:
    rtol, atol = NAIVE.get(form.name, (0.0, 0.0)) if form is not None else (0.0, 0.0)
    return ~(error <= atol + rtol * value.abs().double())


def _ratio(error: torch.Tensor, bound: torch.Tensor, decided: torch.Tensor) -> float | None:
    ratio = torch.where(decided & (error > 0), error / bound.clamp(min=1e-300), torch.zeros_like(error))
    return float(ratio.max())


def _index(flat: int, like: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, tuple(like.shape)))


def _where(got: torch.Tensor, value: torch.Tensor, bound: torch.Tensor, at: tuple[int, ...]) -> dict[str, Any]:
    return {"element": at, "got": got[at].item(), "expected": value[at].item(), "bound": float(bound[at])}


def _same(value: Any, got: Any) -> bool:
    if isinstance(value, list):
        return isinstance(got, (list, tuple)) and len(got) == len(value) and all(_same(v, g) for v, g in zip(value, got, strict=True))
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    a, b = np.asarray(value), np.asarray(got)
    if a.shape != b.shape:
        return False
    return (
        bool((a == b).all())
        if a.dtype == object or a.dtype.kind in "USb"
        else bool(np.allclose(a.astype(np.float64), b.astype(np.float64), 1e-2, 1e-3, equal_nan=True))
    )


def differ(outcome: Outcome, name: str, want: Expected) -> Verdict | None:
    """`unstable` when two runs of the same compiled model on the same inputs differ by more than twice the bound."""
    assert outcome.outputs is not None and outcome.again is not None
    first, second, value = outcome.outputs.get(name), outcome.again.get(name), want.ball.value
    if (
        not isinstance(value, torch.Tensor)
        or not isinstance(first, np.ndarray)
        or not isinstance(second, np.ndarray)
        or first.shape != second.shape
        or tuple(first.shape) != tuple(value.shape)
    ):
        return None
    a, b = _widened(first, want.format).double(), _widened(second, want.format).double()
    bound = 2 * want.ball.worst if want.ball.worst is not None else torch.zeros_like(a)
    apart = (a - b).abs().masked_fill((a == b) | (torch.isnan(a) & torch.isnan(b)), 0.0)
    outside = (bound < torch.inf) & ~(apart <= bound)
    if not bool(outside.any()):
        return None
    at = _index(int(outside.flatten().double().argmax()), a)
    return Verdict(
        outcome.backend,
        outcome.setting,
        "unstable",
        "certified",
        name,
        at,
        a[at].item(),
        b[at].item(),
        float(bound[at]),
        message="two runs of the same compiled model differ",
    )
