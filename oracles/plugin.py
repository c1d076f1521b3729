"""Backends as plugins: one decorated function each, found in `oracles/backends` and in the entry-point group `fuzzer.backends`.

Importing this module, or listing the backends, imports no compiler: a backend file does that inside its functions.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specs.rule import UsageError

#: Inputs by name -> outputs by name. A backend that compiles at the first sight of inputs gives it an attribute `prepare`, a
#: function of the inputs that does so, for a failure there to count as a failure to load.
Compiled = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
#: (model, setting) -> the model, compiled at this setting.
Compile = Callable[[bytes, str], Compiled]
#: (model, setting) -> names of the optimisations at work; the setting "all~A~B" is "all" without A and B.
Switches = Callable[[bytes, str], Sequence[str]]
#: (model, setting) -> the steps of a compilation up to the one in which it fails; nothing when it does not fail.
Steps = Callable[[bytes, str], Sequence[str]]
#: What a message says, as a regular expression on "TypeName: message", and why it means "does not implement this".
Refusals = Sequence[tuple[str, str]]

GROUP = "fuzzer.backends"


@dataclass(frozen=True, eq=False)
class Backend:
    """One compiler, as the rest of Assay knows it.

    compile            turns a model into a callable at a setting; may raise Unsupported
    settings           all that can be asked for, simplest first
    default            those that run when the user names only the backend
    reference_setting  the one with optimisation off; None when there is no such thing
    unsupported        messages that mean "I do not implement this"
    warm               imports and first-time costs, paid when a worker starts and never counted against a time limit
    requires           modules that have to be importable; the distribution of the first gives the version
    module             where the worker finds the function again
    planted            settings that run only when they are named: broken on purpose, or kept to be compared with
    strict             it declares that every operator is computed in its own format with float32 accumulators and rounded once, and
                       that nothing is folded across operators: only then is a whole array that is further off than that `imprecise`;
                       may be a function of the outcome
    under_test         False for what exists to test Assay itself: it runs only when it is named
    tools              commands of which one has to be on the path (compilers); none needed when empty
    switches           what can be turned off one by one in a compilation, to find out which optimisation is guilty
    steps              the steps of a compilation up to the one that fails
    stages             (setting, name of a part of the compiler): this setting, which need not be one of `settings`, runs nothing behind
                       that part; the first one that shows a fault is where it is made
    defect             why a plugin could not be loaded
    """

    name: str
    compile: Compile
    settings: tuple[str, ...]
    default: tuple[str, ...]
    reference_setting: str | None
    unsupported: Refusals
    warm: Callable[[], None]
    requires: tuple[str, ...]
    distribution: str
    install: str
    module: str
    under_test: bool = True
    tools: tuple[str, ...] = ()
    switches: Switches | None = None
    defect: str = ""
    strict: bool | Callable[[Any], bool] = False
    planted: tuple[str, ...] = ()
    steps: Steps | None = None
    stages: tuple[tuple[str, str], ...] = ()

    def version(self) -> str | None:
        """Of the installed distribution, without importing it; None when it is not installed."""
        try:
            return importlib.metadata.version(self.distribution) if self.distribution else _our_version()
        except importlib.metadata.PackageNotFoundError:
            return None if self.missing() else "unknown"

    def is_strict(self, outcome: Any) -> bool:
        return self.strict(outcome) if callable(self.strict) else self.strict

    def has(self, setting: str) -> bool:
        """Whether it can be asked for, planted ones and parts that are turned off included."""
        return split(setting)[0] in (*self.settings, *self.planted)

    def available(self) -> bool:
        return not self.missing()

    def missing(self) -> str:
        """Empty when it can run here, else a sentence that says what is missing and how to install it."""
        if self.defect:
            return f"backend '{self.name}' cannot be loaded: {self.defect}"
        lacking = [m for m in self.requires if not _importable(m)]
        if not lacking and self.tools and not any(shutil.which(t) for t in self.tools):
            return f"backend '{self.name}' needs {' or '.join(self.tools)} on the path; install with: {self.install}"
        if not lacking:
            return ""
        return f"backend '{self.name}' needs {' and '.join(lacking)}, which cannot be imported here; install with: {self.install}"


@dataclass(frozen=True)
class Target:
    """A backend and the settings at which it is to run."""

    backend: str
    settings: tuple[str, ...]


_registry: dict[str, Backend] = {}
_loaded = False


def backend(
    name: str,
    *,
    settings: Sequence[str] = ("default",),
    default: Sequence[str] | None = None,
    reference_setting: str | None = None,
    unsupported: Refusals = (),
    warm: Callable[[], None] = lambda: None,
    requires: Sequence[str] = (),
    tools: Sequence[str] = (),
    switches: Switches | None = None,
    steps: Steps | None = None,
    stages: Sequence[tuple[str, str]] = (),
    distribution: str = "",
    install: str = "",
    under_test: bool = True,
    strict: bool | Callable[[Any], bool] = False,
    planted: Sequence[str] = (),
) -> Callable[[Compile], Compile]:
    """Register a function (model, setting) -> callable(inputs) -> outputs as a backend.

    The function must live in a module that a fresh process can import: that is where it runs.
    """
    chosen = tuple(settings if default is None else default)
    odd = [s for s in (*chosen, *([reference_setting] if reference_setting else [])) if s not in settings]
    if odd or not settings:
        raise ValueError(f"backend '{name}': {odd or 'no'} settings among {list(settings)}")

    def decorate(compile: Compile) -> Compile:
        known = _registry.get(name)
        if known is not None and known.module != compile.__module__:
            raise ValueError(f"backend '{name}' is already registered by {known.module}")
        distribution_of = distribution or next(iter(requires), "")
        advice = install or f"pip install {distribution_of or name}"
        table, needs = tuple(unsupported), tuple(requires)
        _registry[name] = Backend(
            name,
            compile,
            tuple(settings),
            chosen,
            reference_setting,
            table,
            warm,
            needs,
            distribution_of,
            advice,
            compile.__module__,
            under_test,
            tuple(tools),
            switches,
            strict=strict,
            planted=tuple(planted),
            steps=steps,
            stages=tuple(stages),
        )
        return compile

    return decorate


def backends() -> dict[str, Backend]:
    """All backends by name: the built-in ones, then those of installed plugins."""
    global _loaded
    if not _loaded:
        _loaded = True
        import oracles.backends

        for module in sorted(m.name for m in pkgutil.iter_modules(oracles.backends.__path__)):
            importlib.import_module(f"oracles.backends.{module}")
        for entry in importlib.metadata.entry_points(group=GROUP):
            if entry.name not in _registry:
                _load(entry)
    return _registry


def registered(name: str) -> Backend | None:
    """A backend that is already here, without looking for others: a worker loads only its own."""
    return _registry.get(name)


def installed() -> list[str]:
    """Names of the backends that are tested when the user names none: those that can run here and are not our own judges."""
    return [name for name, b in backends().items() if b.under_test and b.available()]


def find(name: str) -> Backend:
    """Raises UsageError, with the nearest name, for a backend that is not registered."""
    known = backends()
    if name not in known:
        raise UsageError(f"no backend '{name}'{_nearest(name, known)}; there are {', '.join(known)}")
    return known[name]


def parse(text: str) -> list[Target]:
    """`a,b:setting,c:*` as targets: a at its default settings, b at one (several: `b:x,b:y` or `b:x+y`), c at all.

    `b:x~A~B` is setting x without the optimisations A and B, where the backend can do that.

    Raises UsageError for an unknown backend or setting. Whether a backend is installed is not checked here.
    """
    chosen: dict[str, list[str]] = {}
    for part in (p.strip() for p in text.split(",")):
        if not part:
            raise UsageError(f"--backends '{text}': a name is missing between two commas; write for example onnxruntime:all,tvm")
        name, colon, wanted = part.partition(":")
        b = find(name)
        settings = b.default if not colon else b.settings if wanted == "*" else tuple(wanted.split("+"))
        for s in settings:
            base, off = split(s)
            if off and b.switches is None:
                raise UsageError(f"backend '{name}' has nothing that could be turned off: write {name}:{base}")
            if base not in b.settings and base not in b.planted:
                raise UsageError(f"backend '{name}' has no setting '{base}'{_nearest(base, (*b.settings, *b.planted))}; it has {', '.join(b.settings)}")
        chosen.setdefault(name, []).extend(s for s in settings if s not in chosen.get(name, []))
    return [Target(name, tuple(settings)) for name, settings in chosen.items()]


def split(setting: str) -> tuple[str, tuple[str, ...]]:
    """'all~A~B' as the setting 'all' and what is turned off in it."""
    base, *off = setting.split("~")
    return base, tuple(off)


def ask_for_time(seconds: float) -> None:
    """For what a backend has to do once and not per model, such as compiling itself: its time limit starts anew, at so many seconds.

    0: at what it usually is. Does nothing outside a worker.
    """
    if more_time is not None:
        more_time(seconds)


more_time: Callable[[float], None] | None = None  # set by the worker
#: To this a backend that can tell appends the names of the optimisations that change the model it compiles; None when nobody wants to know.
changed: list[Collection[str]] | None = None


def _nearest(word: str, known: Any) -> str:
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _load(entry: importlib.metadata.EntryPoint) -> None:
    """A plugin that cannot be imported must not take the others down: it is listed as missing, with the reason."""
    try:
        entry.load()
    except Exception as e:
        _registry[entry.name] = Backend(
            entry.name, _nothing, ("default",), ("default",), None, (), lambda: None, (), "", "", GROUP, defect=f"{type(e).__name__}: {e}"
        )


def _nothing(model: bytes, setting: str) -> Compiled:
    raise UsageError("this backend could not be loaded")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing or broken
        return False


def _our_version() -> str:
    try:
        return importlib.metadata.version("onnx-assay")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
