"""Relations: two ways to compute the same, in one network.

Each side is judged on each backend against its own float64 value. With the two values equal, as checked here, a backend whose
sides are both inside their bounds agrees with itself within the sum of the two; nothing is lost by not comparing them there.
"""

from __future__ import annotations

import torch

from oracles.reference import Expected


def apart(left: Expected, right: Expected) -> str:
    """Why the sides are not equal in float64, within the errors that rounding may make of either; empty when they are.

    Undecided elements agree with everything. What is said here is a mistake of the relation, never of a backend.
    """
    a, b = left.ball.value, right.ball.value
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return ""
    if a.shape != b.shape:
        return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    room = sum((side.ball.worst for side in (left, right) if side.ball.worst is not None), torch.zeros(()))
    far = (a.double() - b.double()).abs()
    beyond = far > room + 1e-9 * torch.maximum(a.abs(), b.abs()).double()
    return f"the sides differ by {float(far[beyond].max()):g} in float64" if bool(beyond.any()) else ""
