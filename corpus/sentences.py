"""Errors that quote what strangers wrote (names, messages) stay one printable line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from specs.rule import UsageError

P = ParamSpec("P")
T = TypeVar("T")


def printable(text: str) -> str:
    """One line without control characters: a name in a model must not move the cursor of a terminal."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def one_sentence(f: Callable[P, T]) -> Callable[P, T]:
    """Decorate a loader: its UsageErrors become printable lines."""

    @functools.wraps(f)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return f(*args, **kwargs)
        except UsageError as e:
            raise type(e)(printable(str(e))) from None

    return checked
