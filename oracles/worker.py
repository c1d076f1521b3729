"""The child process: one backend, warm, answering one request after the other until it dies or its parent does.

Started as a fresh interpreter (see oracles.pool), so nothing of the parent is inherited but two file descriptors: the
connection, and a lifeline that says when the parent is gone. Standard output and error go to the file `log` in its folder; of
that only what the current setting wrote is kept, because it is the last words of native code that aborts. The file `stage`
beside it is shared memory: it tells the parent at which stage a child died, without a message per stage.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import importlib.util
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from oracles import plugin
from oracles.failures import classify, tidy, words
from oracles.records import Outcome

#: A setting followed by this asks what can be turned off in it, instead of running the model.
ASK = "?"
#: ... and by this, which of its steps fails.
STEPS = "?steps"
_F_SETSIG = 10  # fcntl.F_SETSIG, which Python names only since 3.14
_CHECK_EVERY = 64
#: Every so many requests, backends that can are asked which optimisations change the model; the environment may say how many.
LOOK = int(os.environ.get("ASSAY_LOOK", "8"))


class Stage:
    """Where this process is: one byte, b"l" or b"r", that the parent can read after our death."""

    def __init__(self, file: str) -> None:
        with Path(file).open("r+b") as f:
            self._byte = mmap.mmap(f.fileno(), 1)

    def __call__(self, stage: Literal["load", "run"]) -> None:
        self._byte[:1] = stage[:1].encode()


def main(fd: int, lifeline: int, folder: str, name: str, module: str, memory: int) -> None:
    """Serve requests (id, model, inputs, settings, again, earlier inputs) with one (id, Outcome) per setting."""
    connection, stage = Connection(fd), Stage(f"{folder}/stage")
    for inherited in (fd, lifeline):
        os.set_inheritable(inherited, False)
    _die_with_parent(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started = time.perf_counter()
    try:
        backend = _find(name, module)
        backend.warm()
    except Exception as e:  # whatever the compiler's import raises: the parent reports it as a missing backend
        connection.send(("failed", tidy(words(e))))
        return
    plugin.more_time = lambda seconds: connection.send(("wait", seconds))
    gc.collect()
    gc.freeze()
    connection.send(("ready", time.perf_counter() - started))
    served = 0
    while True:
        if served % _CHECK_EVERY == 0:
            _limit_memory(memory)
        served += 1
        try:
            request, model, inputs, settings, again, earlier = connection.recv()
        except EOFError:
            return
        for setting in settings:
            _clear_log()
            plugin.changed = [] if served % LOOK == 0 else None
            outcome = answer(backend, model, inputs, setting, again, stage, earlier)
            if plugin.changed:
                outcome = replace(outcome, changed=tuple(sorted({name for names in plugin.changed for name in names})))
            try:
                connection.send((request, outcome))
            except OSError:  # the parent is gone
                return


def answer(
    backend: plugin.Backend,
    model: bytes,
    inputs: Mapping[str, Any],
    setting: str,
    again: bool = True,
    tell: Callable[[Literal["load", "run"]], None] = lambda stage: None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Outcome:
    """Load and run one model at one setting in this process; twice when `again`, after a run on each of the `earlier` inputs."""
    stage: Literal["load", "run"] = "load"
    tell(stage)
    before = _copied(inputs)
    begun, done = time.perf_counter(), list[Mapping[str, Any]]()
    try:
        for ending, question in ((STEPS, backend.steps), (ASK, backend.switches)):
            if setting.endswith(ending):
                names = question(model, setting[: -len(ending)]) if question is not None else ()
                return Outcome(backend.name, setting, "ok", {"names": np.array(list(names), dtype=object)})
        compiled = backend.compile(model, setting)
        prepare = getattr(compiled, "prepare", None)
        if prepare is not None:
            prepare(_copied(earlier[0]) if earlier else before)
        stage = "run"
        tell(stage)
        for other in earlier:
            done.append({name: _kept(v) for name, v in compiled(_copied(other)).items()})
        first = {name: _kept(v) for name, v in compiled(before).items()}
        seconds = time.perf_counter() - begun
        second = {name: _kept(v) for name, v in compiled(before).items()} if again else first
        differs = first.keys() != second.keys() or not all(same(first[name], second[name]) for name in first)
        words_of = getattr(compiled, "words", None)
        said = "" if words_of is None else words_of()
        outcome = Outcome(backend.name, setting, "ok", first, second if differs else None, stage, said, seconds, tuple(done))
    except Exception as e:  # a backend's own failure is what we are here to capture
        status, message = classify(e, backend.unsupported)
        return Outcome(backend.name, setting, status, None, None, stage, message, time.perf_counter() - begun, tuple(done))
    touched = [name for name, a in inputs.items() if not same(a, before[name])]
    if touched:
        return Outcome(backend.name, setting, "error", None, None, "run", f"wrote into its input {', '.join(touched)}", outcome.seconds, tuple(done))
    return outcome


def same(a: Any, b: Any) -> bool:
    """Bit for bit, except that any NaN equals any NaN."""
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b) and a == b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == object:
        return a.tolist() == b.tolist()
    if a.tobytes() == b.tobytes():
        return True
    if a.dtype.kind not in "fcV":
        return False
    nan = np.isnan(a)
    return bool((nan == np.isnan(b)).all()) and a[~nan].tobytes() == b[~nan].tobytes()


def _copied(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: a.copy() if isinstance(a, np.ndarray) else a for name, a in inputs.items()}


def _kept(value: Any) -> Any:
    """A copy: a backend may hand out the same buffer at the next call. Raises TypeError for what is not numpy."""
    if isinstance(value, (list, tuple)):
        return [_kept(v) for v in value]
    if value is None or isinstance(value, (np.ndarray, np.generic, bool, int, float)):
        return None if value is None else np.array(value)
    raise TypeError(f"an output is a {type(value).__module__}.{type(value).__name__}; a backend has to answer numpy arrays")


def _find(name: str, module: str) -> plugin.Backend:
    """The backend by name; first from the module (or script) that registered it in the parent."""
    if module.endswith(".py"):
        spec = importlib.util.spec_from_file_location("__assay_plugin__", module)
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded
        spec.loader.exec_module(loaded)
    elif module != plugin.GROUP:
        importlib.import_module(module)
    known = plugin.registered(name)
    return known if known is not None else plugin.find(name)


def _die_with_parent(lifeline: int) -> None:
    """The kernel kills us when the parent's end of this pipe closes, even in the middle of native code that never returns.

    PR_SET_PDEATHSIG would not do: it also fires when merely the thread that started us ends.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _limit_memory(memory: int) -> None:
    """At most `memory` bytes of private data more than now; what a compiler maps but does not write does not count."""
    if sys.platform != "linux":
        return
    now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory, hard))


def _clear_log() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fstat(2).st_size:
        os.ftruncate(2, 0)
