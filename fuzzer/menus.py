"""What not to draw: (operator, formats) pairs that the installed version of a backend is known not to implement.

The lists are measured by `fuzz backends --matrix` and committed beside the backends; for another version than the one measured
they still steer, and whatever they avoid is drawn now and then all the same, so that new support is noticed: `fuzz coverage --out`
names what ran (see `fuzzer.coverage.newly`).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import oracles.backends

FOLDER = Path(oracles.backends.__path__[0])


def path(backend: str) -> Path:
    return FOLDER / f"{backend}.unsupported.json"


@cache
def avoided(backend: str) -> frozenset[str]:
    """Support keys (see fuzzer.grow.support_key) that a backend never ran: not implemented, or failing alone already.

    A failing operator is a finding once; after that it only hides what the rest of the network would have shown.
    """
    try:
        measured = json.loads(path(backend).read_text())
        return frozenset([*measured["unsupported"], *measured["failing"]])
    except FileNotFoundError:
        return frozenset()
