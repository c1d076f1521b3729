"""The kernels of an earlier state of the project, under today's harness: the backend `before`, for `fuzz gate --base`.

A process that imports this module with $FUZZ_BEFORE set ("FOLDER:ROOT", FOLDER being a copy of the repository at ROOT) finds every
kernel in the copy: shipped declarations and sources, modules on the path, and the pyproject.toml of the working directory.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

VARIABLE = "FUZZ_BEFORE"
NAME = "before"


def moved(path: Path, folder: Path, root: Path) -> Path:
    """Where a file of the repository is in the copy; itself for files outside of the repository."""
    try:
        return folder / path.resolve().relative_to(root)
    except ValueError:
        return path


def _move() -> None:
    """Point this process at the copy. Only in a worker: nothing of the kernels has been imported there yet."""
    folder, root = map(Path, os.environ[VARIABLE].split(os.pathsep))
    import oracles.kernels

    registry: Any = importlib.import_module("oracles.kernel")  # `oracles.kernel` itself is the decorator
    shipped = [moved(Path(p), folder, root) for p in oracles.kernels.__path__]
    oracles.kernels.__path__[:] = [str(p) for p in shipped]
    sources = moved(registry.SOURCES, folder, root)
    if sources.is_dir():
        registry.SOURCES = sources
    here = Path(oracles.__path__[0]).parent
    sys.path[:] = [p if Path(p or ".").resolve() == here else str(moved(Path(p or "."), folder, root)) for p in sys.path]
    told = [t for t in os.environ.get(registry.VARIABLE, "").split(os.pathsep) if t]
    os.environ[registry.VARIABLE] = os.pathsep.join(str(moved(Path(t), folder, root)) if t.endswith(".py") else t for t in told)
    at = moved(Path.cwd(), folder, root)
    if at.is_dir():
        os.chdir(at)
    places = [p for p in (at, at / "src", folder, folder / "src") if p.is_dir() and not (p / "oracles" / "plugin.py").exists()]
    sys.path[:0] = [str(p) for p in places]  # before what an editable installation would find


def register() -> None:
    """The backend, which no list shows: it exists while a gate compares with a base."""
    from oracles.backends import kernels
    from oracles.plugin import backend

    @backend(NAME, settings=["off"], reference_setting="off", under_test=False, strict=kernels.strict, requires=["torch"], warm=kernels.warm)
    def before(model: bytes, setting: str) -> kernels.Compiled:
        return kernels.kernels(model, setting)


if VARIABLE in os.environ and "oracles.kernel" not in sys.modules:
    _move()
register()
