"""Progress for commands that take longer than two seconds: a spinner on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def bar(title: str) -> Generator[Callable[[str], None], None, None]:
    """A function that shows what is being worked on."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as status:
        yield lambda what: status.update(f"{title}: {what}")
