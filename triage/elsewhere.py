"""Running a case in another virtual environment, with another version of the backend: a script of ours, an answer in JSON.

The environment needs numpy, onnx and the backend, nothing of this project: the script asks the backend as `repro.py` does. Each
setting runs in a process of its own, so that a crash there is an outcome here.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.helper
import onnx.shape_inference

from corpus import walk
from corpus.inputs import declared
from oracles.failures import OUT_OF_MEMORY, classify_words, tidy
from oracles.plugin import Target, find
from oracles.records import Case, Outcome
from oracles.worker import same
from specs.formats import Format
from specs.rule import UsageError
from triage.forms import Form, form_of
from triage.literals import UNPACK, array_text

START = 300.0  # seconds for imports there, beside the time limit of a case
MISSING = 77


def interpreter(path: Path) -> Path:
    """The Python of a virtual environment, given as its folder or as the executable itself. Raises UsageError."""
    for candidate in (path / "bin" / "python", path / "Scripts" / "python.exe", path):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise UsageError(f"--python {path}: is neither a virtual environment nor a Python executable")


def version(python: Path, backend: str) -> str:
    """Of the backend in that environment. Raises UsageError when it is not installed there."""
    distribution = find(backend).distribution or backend
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise UsageError(f"{python}: {distribution} is not installed there; install with: {python} -m pip install numpy onnx {distribution}")
    return done.stdout.strip()


class Elsewhere:
    """Asks the backends of another environment; called like `oracles.pool.run`."""

    def __init__(self, python: Path, timeout: float = 60.0, memory: int = 4 << 30) -> None:
        self.python, self.timeout, self.memory = interpreter(python), timeout, memory

    def __call__(self, case: Case, targets: Sequence[Target]) -> list[Outcome]:
        return [self._ask(case, t.backend, setting, form) for t in targets for form in [_form(t, case)] for setting in t.settings]

    def _ask(self, case: Case, backend: str, setting: str, form: Form) -> Outcome:
        outcome = self._once(case, backend, setting, form)
        older = for_older(case.model) if outcome.status == "unsupported" else case.model
        return outcome if older == case.model else self._once(replace(case, model=older), backend, setting, form)

    def _once(self, case: Case, backend: str, setting: str, form: Form) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="assay-elsewhere-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(case.model)
            (folder / "ask.py").write_text(script(case, form, self.memory))
            begun = time.monotonic()
            ended = self._run(folder, setting)
            said, log = _answers(folder / "answer.json"), (folder / "log").read_text(errors="replace")
        told = next((s for s in said if "error" in s or "outputs" in s), {})
        stage = "run" if any(s.get("stage") == "run" for s in said) else "load"
        seconds = time.monotonic() - begun
        if ended == MISSING:
            return Outcome(backend, setting, "missing", None, None, "load", f"{self.python}: {backend} cannot be imported there")
        if ended is None:
            return Outcome(backend, setting, "hang", None, None, stage, f"no answer within {self.timeout:g} s", seconds)
        if "error" in told:
            status, message = classify_words(told["error"], find(backend).unsupported)
            return Outcome(backend, setting, status, None, None, stage, message, seconds)
        if "outputs" not in told:
            starved = ended == -signal.SIGKILL or OUT_OF_MEMORY.search(log) is not None
            how = signal.Signals(-ended).name if ended < 0 else f"exit status {ended}"
            return Outcome(backend, setting, "oom" if starved else "crash", None, None, stage, f"{how}\n{tidy(log)}".strip(), seconds)
        forms = declared(onnx.load_from_string(case.model).graph.output)
        first, second = (_arrays(told[k], forms) for k in ("outputs", "again"))
        differs = not all(same(first[n], second[n]) for n in first)
        if told["written"]:
            return Outcome(backend, setting, "error", None, None, "run", f"wrote into its input {', '.join(told['written'])}", seconds)
        before = tuple(_arrays(s["before"], forms) for s in said if "before" in s)
        return Outcome(backend, setting, "ok", first, second if differs else None, "run", "", seconds, before)

    def _run(self, folder: Path, setting: str) -> int | None:
        """Exit status; None when the time is up."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"), "1")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | threads | {"TMPDIR": str(folder)}
        command = [self.python, "-I", "ask.py", setting, "answer.json"]
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(command, cwd=folder, env=kept, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            try:
                return child.wait(self._limit(folder, child))
            except subprocess.TimeoutExpired:
                return None
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, 9)
                    child.wait()

    def _limit(self, folder: Path, child: subprocess.Popen[bytes]) -> float:
        """The time limit begins when the imports are done, as that of a worker does."""
        end = time.monotonic() + START
        while child.poll() is None and not (folder / "answer.json").exists() and time.monotonic() < end:
            time.sleep(0.02)
        return self.timeout


def _form(target: Target, case: Case) -> Form:
    form = form_of(target.backend, case, target.settings)
    if not form.alone:
        raise UsageError(f"backend '{target.backend}' is reached through onnx-assay alone: it cannot be asked in another environment")
    return form


def script(case: Case, form: Form, memory: int) -> str:
    """What runs there."""
    feeds = "{" + ", ".join(f"{n!r}: {array_text(a)}" for n, a in case.inputs.items()) + "}"
    others = ", ".join("{" + ", ".join(f"{n!r}: {array_text(a)}" for n, a in inputs.items()) + "}" for inputs in case.before)
    types = "import ml_dtypes\n" if "ml_dtypes." in feeds + others else ""
    data = f'model = onnx.load("model.onnx")\ninputs = {feeds}\n' if form.model else ""
    wanted = "".join(f"    {line}\n" for line in ([*_ONNX, *form.imports] if form.model else form.imports))
    head = f"import base64, ctypes, json, sys, zlib\ntry:\n    import numpy as np\n{wanted}except ImportError as e:\n    print(e)\n    sys.exit({MISSING})\n"
    return f"{head}{types}inf, nan = np.inf, np.nan\n\n{UNPACK}\n{data}{form.code}\nearlier = [{others}]\n{_TAIL.format(memory=memory)}"


_ONNX = ("import onnx", "import onnx.helper", "from onnx import numpy_helper")
_TAIL = """
def plain(outputs):
    return {{name: encoded(value) for name, value in outputs.items()}}


def encoded(value):
    if value is None or isinstance(value, (list, tuple)):
        return None if value is None else [encoded(v) for v in value]
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return {{"text": [str(s) for s in array.ravel().tolist()], "shape": list(array.shape)}}
    return {{"dtype": array.dtype.name, "shape": list(array.shape), "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}}


def tell(**what):
    with open(sys.argv[2], "a") as f:
        f.write(json.dumps(what) + "\\n")


def raw(value):
    return value.tobytes() if isinstance(value, np.ndarray) else None


try:
    import resource

    now = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (now + {memory}, resource.getrlimit(resource.RLIMIT_DATA)[1]))
except (ImportError, OSError, ValueError):
    pass  # not Linux: the time limit has to do
tell(stage="load")
try:
    run = load(sys.argv[1])
    tell(stage="run")
    for others in earlier:
        tell(before=plain(run(others)))
    kept = {{name: raw(a) for name, a in inputs.items()}} if isinstance(inputs, dict) else {{}}
    first = plain(run(inputs))
    again = plain(run(inputs))
    tell(outputs=first, again=again, written=[name for name, bits in kept.items() if raw(inputs[name]) != bits])
except Exception as e:
    tell(error=f"{{type(e).__name__}}: {{e}}")
"""


def for_older(model: bytes) -> bytes:
    """The same model in the oldest operator set that defines all its operators as they are, and the oldest file format that goes with it.

    A backend refuses a format or a set that is newer than itself before it looks at the model.
    """
    proto = onnx.load_from_string(model)
    nodes = list(walk.all_nodes(proto.graph.node))
    for used in proto.opset_import if not proto.functions else ():
        mine = [n.op_type for n in nodes if n.domain in (used.domain, "ai.onnx" if not used.domain else used.domain)]
        if used.domain in ("", "ai.onnx") and all(onnx.defs.has(op, used.version, "") for op in mine):
            used.version = max((onnx.defs.get_schema(op, used.version, "").since_version for op in mine), default=used.version)
    proto.ir_version = min(proto.ir_version, int(onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model
    return proto.SerializeToString()


def _answers(path: Path) -> list[dict[str, Any]]:
    """What the script told before it ended; its last line may be cut."""
    told = list[dict[str, Any]]()
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            told.append(json.loads(line))
        except ValueError:
            break
    return told


def _arrays(told: Mapping[str, Any], forms: Mapping[str, Format | None]) -> dict[str, Any]:
    return {name: _array(value, forms.get(name)) for name, value in told.items()}


def _array(told: Any, form: Format | None) -> Any:
    if told is None or isinstance(told, list):
        return None if told is None else [_array(t, form) for t in told]
    if "text" in told:
        return np.array(told["text"], object).reshape(told["shape"])
    dtype = np.dtype(getattr(ml_dtypes, told["dtype"], None) or told["dtype"])
    array = np.frombuffer(base64.b64decode(told["data"]), dtype).reshape(told["shape"]).copy()
    return array.astype(form.numpy) if form is not None and form.name == "bfloat16" and array.dtype == np.float32 else array
