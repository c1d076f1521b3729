"""`repro.py`: a script for the maintainer of the backend, who knows nothing of this project and needs nothing of it.

Exit status 1 while the defect is there, 0 when it is gone, 77 when the backend is not installed. It is pasted into an issue, so
it is short: what would be long is packed, and the checks say in few lines what they look for.
"""

from __future__ import annotations

import base64
import math
import re
import textwrap
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from triage.cause import WROTE
from triage.finding import Finding
from triage.forms import WIDTH, Form, form_for
from triage.literals import INLINE, UNPACK, array_text, dtype_text, model_text

DEADLY = ("crash", "hang", "oom")
WORST = 4  # elements shown beside the worst one
LINES = 60  # of a script


def repro(finding: Finding, timeout: float = 60.0, memory: int = 4 << 30) -> str:
    """The text of the script: at most 60 lines. It may read model.onnx or inputs.npz beside it when they are too large to be inline."""
    form, text = form_for(finding), ""
    for rows, packed in ((WORST + 1, 0), (2, 1), (1, 1), (1, 2)):  # the plainest that is short enough
        text = _script(finding, form, timeout, memory, rows, packed)
        if len(text.splitlines()) <= LINES:
            return text
    return text.replace("\n\n\n", "\n\n")


def _script(finding: Finding, form: Form, timeout: float, memory: int, rows: int, packed: int) -> str:
    """rows: elements that are looked at; packed: 0 everything as text, 1 inputs in one line, 2 the model too."""
    data = _data(finding, packed) if form.model else ""
    kind = finding.verdict.verdict
    if kind in DEADLY:
        check = _deadly(finding, timeout, memory)
    else:
        check = _values(finding, rows) if kind in ("wrong", "nonfinite", "imprecise") else _CHECKS[kind](finding)
    body = "\n\n".join(part.strip("\n") for part in (data, form.code) if part.strip())
    return f"{_head(finding, form)}\n{_imports(form, body + check)}\n{body}\n\n\n{check}"


def _head(finding: Finding, form: Form) -> str:
    from triage.report import claim

    version = finding.environment.get(finding.verdict.backend, "")
    lines = textwrap.wrap(claim(finding, plain=True).replace("\\", "/").replace('"""', "'''"), WIDTH)
    about = f" Found with {finding.verdict.backend} {version}." if version else ""
    return '"""' + "\n".join([*lines, f"Exit status: 1 while this is so, 0 when it is gone, 77 without the backend. Needs {form.needs}.{about}", '"""'])


def _imports(form: Form, body: str) -> str:
    whole = body + UNPACK if "unpack(" in body else body
    plain = sorted([*(name for name in ("base64", "ctypes", "os", "subprocess", "time", "zlib") if re.search(rf"\b{name}\.", whole)), "sys"])
    lines = [f"import {', '.join(plain)}"]
    if "Path(" in body:
        lines.append("from pathlib import Path")
    lines.append("import ml_dtypes, numpy as np" if "ml_dtypes." in body else "import numpy as np")
    if form.model:
        used = [name for name in ("numpy_helper", "parser") if f"{name}." in body]
        lines += ["import onnx"] if "onnx." in body.replace("onnx.parser.", "") or not used else []
        lines += [f"from onnx import {', '.join(used)}"] if used else []
    lines += ["try:", *(f"    {line}" for line in form.imports), "except ImportError as e:", "    print(e)", "    sys.exit(77)"]
    if form.model and re.search(r"(?<![\w.\"'])(?:nan|inf)\b(?![\"'])", body):
        lines.append("inf, nan = np.inf, np.nan")
    return "\n".join(lines) + "\n" + (f"\n\n{UNPACK}\n" if "unpack(" in body else "")


# the model and its inputs ----------------------------------------------------------------------------------------------
def _data(finding: Finding, packed: int) -> str:
    model = _model(finding, packed)
    earlier = [{name: array_text(a) for name, a in inputs.items()} for inputs in finding.case.before]
    before = f"# The same compiled model is run on these inputs, of other sizes, first.\nearlier = [{', '.join(map(_feeds, earlier))}]\n" if earlier else ""
    inputs = {name: array_text(array) for name, array in finding.case.inputs.items()}
    if sum(map(len, inputs.values())) > INLINE:
        return f"{model}{_beside(finding)}\n{before}"
    if packed or len(inputs) < 2:
        return f"{model}inputs = {_feeds(inputs)}\n{before}"
    return f"{model}inputs = {{\n" + "".join(f"    {name!r}: {text},\n" for name, text in inputs.items()) + f"}}\n{before}"


def _feeds(inputs: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name!r}: {text}" for name, text in inputs.items()) + "}"


def _beside(finding: Finding) -> str:
    """Inputs from the file next to the script; numpy stores the types of ml_dtypes as unsigned integers."""
    odd = {n: a for n, a in finding.case.inputs.items() if a.dtype.type.__module__ != "numpy"}
    views = "".join(f"inputs[{n!r}] = inputs[{n!r}].view({dtype_text(a.dtype)})\n" for n, a in odd.items())
    return f'inputs = dict(np.load(Path(__file__).with_name("inputs.npz")))\ninputs.pop("__formats__", None)\n{views}'.rstrip()


def _model(finding: Finding, packed: int) -> str:
    """As text where that gives the same model back, else compressed, else the file beside the script."""
    found = model_text(finding.model.proto) if len(finding.case.model) < 1_000_000 and packed < 2 else None
    if found is not None:
        text, weights = found
        added = "".join(f"model.graph.initializer.append(numpy_helper.from_array({array_text(a)}, {name!r}))\n" for name, a in weights.items())
        if len(text) + len(added) <= INLINE:
            quoted = f'"""{_dense(text)}"""' if '"""' not in text and "\\" not in text else repr(text)
            return f"model = parser.parse_model({quoted})\n{added}"
    compressed = base64.b64encode(zlib.compress(finding.case.model, 9)).decode()
    if len(compressed) <= INLINE:
        return f'model = onnx.load_from_string(zlib.decompress(base64.b64decode("{compressed}")))\n'
    return 'model = onnx.load(Path(__file__).with_name("model.onnx"))\n'


def _dense(text: str) -> str:
    """The printer's header of four lines in one, and the closing bracket behind the last node."""
    head, sign, rest = text.partition("\n>\n")
    if not sign:
        return text
    return " ".join(line.strip() for line in head.splitlines()).replace("< ", "<") + ">\n" + rest


# the checks ------------------------------------------------------------------------------------------------------------
def _loop(finding: Finding) -> str:
    """The settings one after the other; what has to run first does."""
    first = "\n    for others in earlier:\n        run(others)" if finding.case.before else ""
    return f"for setting in {finding.settings!r}:\n    run = load(setting){first}"


def _end(finding: Finding, what: str) -> str:
    return f'assert not bad, f"{what} at {{bad}}"\nprint("The defect is gone.")\n'


def _noted(finding: Finding, condition: str) -> str:
    """Only the settings at which it was found decide; the others are shown."""
    return f"if {condition} and setting in {finding.failing!r}" if finding.failing != finding.settings else f"if {condition}"


def _values(finding: Finding, most: int) -> str:
    rows = worst_elements(finding)[:most]
    if not rows:
        return _whole(finding)
    each = [f"({name!r}, {at!r}, {_exact(value)}, {_exact(bound)})" for name, at, value, bound in rows]
    listed = each[0] if len(each) == 1 else "\n" + "".join(f"    {row},\n" for row in each)
    return f"""\
# Output, element, value in float64 arithmetic, and the largest error that rounding can explain.
EXPECTED = [{listed}]
bad = []
{_loop(finding)}
    outputs = run(inputs)
    for name, at, value, bound in EXPECTED:
        got = np.asarray(outputs[name])[at].item()
        wrong = not (got == value or abs(got - value) <= bound)  # also when it is NaN
        print(f"{{setting:10}} {{name}}{{list(at)}} = {{got!r}}, float64: {{value!r}}, allowed error {{bound:.3g}}: {{'WRONG' if wrong else 'right'}}")
        {_noted(finding, "wrong")}:
            bad.append(setting)
{_end(finding, "wrong values")}"""


def _whole(finding: Finding) -> str:
    """For values that have no error: text, sequences."""
    name = finding.verdict.output
    want = finding.expected.get(name)
    value = want.tolist() if want is not None else finding.verdict.expected
    return f"""\
NAME, EXPECTED = {name!r}, {value!r}
bad = []
{_loop(finding)}
    got = np.asarray(run(inputs)[NAME]).tolist()
    print(f"{{setting:10}} {{NAME}} = {{got}}, should be {{EXPECTED}}")
    {_noted(finding, "got != EXPECTED")}:
        bad.append(setting)
{_end(finding, "wrong values")}"""


def worst_elements(finding: Finding) -> list[tuple[str, tuple[int, ...], float | int | bool, float]]:
    """(output, element, float64 value, bound): the worst element of each failing setting, then other wrong ones of those runs."""
    rows: dict[tuple[str, tuple[int, ...]], tuple[float | int | bool, float]] = {}
    judged = [finding.verdict, *(v for v in finding.verdicts if v.is_finding and v.setting in finding.failing)]
    for v in judged:
        if v.element is not None and v.expected is not None and not isinstance(v.expected, str):
            rows.setdefault((v.output, v.element), (v.expected, v.bound or 0.0))
    for outcome in finding.outcomes:
        if outcome.setting == finding.verdict.setting and outcome.outputs is not None:
            for at, value, bound in _others(finding, np.asarray(outcome.outputs.get(finding.verdict.output))):
                rows.setdefault((finding.verdict.output, at), (value, bound))
    return [(name, at, *pair) for (name, at), pair in rows.items()][: WORST + 1]


def _others(finding: Finding, got: np.ndarray) -> Sequence[tuple[tuple[int, ...], float | int | bool, float]]:
    value = finding.expected.get(finding.verdict.output)
    if value is None or value.shape != got.shape or got.dtype == object or not got.size:
        return []
    bound = finding.bounds.get(finding.verdict.output, np.zeros(value.shape))
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - value.astype(np.float64))
        score = np.where(np.isfinite(bound) & ~(error <= bound) & (got != value), np.nan_to_num(error / np.maximum(bound, 1e-300), nan=np.inf), -1.0)
    order = np.argsort(-score.ravel(), kind="stable")[:WORST]
    indices = [tuple(int(i) for i in np.unravel_index(k, value.shape)) for k in order if score.ravel()[k] > 0]
    return [(at, value[at].item(), float(bound[at])) for at in indices]


def _exact(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _types(finding: Finding) -> str:
    v = finding.verdict
    form, want = finding.model.formats.get(v.output), finding.expected.get(v.output)
    return f"""\
NAME, DTYPE, SHAPE = {v.output!r}, {str(form.numpy) if form else ""!r}, {list(want.shape) if want is not None else None!r}  # as the ONNX specification has them
bad = []
{_loop(finding)}
    got = run(inputs).get(NAME)
    dtype, shape = (None, None) if got is None else (str(np.asarray(got).dtype), list(np.asarray(got).shape))
    print(f"{{setting:10}} {{NAME}}: type {{dtype}}, shape {{shape}}; should be {{DTYPE or 'any'}}, {{'any' if SHAPE is None else SHAPE}}")
    {_noted(finding, "(got is None or DTYPE not in ('', dtype) or SHAPE not in (None, shape))")}:
        bad.append(setting)
{_end(finding, "wrong type or shape")}"""


def _unstable(finding: Finding) -> str:
    if finding.verdict.message.startswith(WROTE):
        return _writes(finding)
    return f"""\
# The same compiled model on the same inputs: no two runs may differ by more than rounding can explain.
BOUND, NAME, RUNS = {_exact(finding.verdict.bound or 0.0)}, {finding.verdict.output!r}, 50
bad = []
{_loop(finding)}
    runs = [np.array(run(inputs)[NAME]).astype(np.float64) for _ in range(RUNS)]
    apart = max(float(np.nanmax(np.abs(r - runs[0]), initial=0.0)) for r in runs)
    moved = any((np.isnan(r) != np.isnan(runs[0])).any() for r in runs)
    print(f"{{setting:10}} {{NAME}}: {{RUNS}} runs differ by up to {{apart:.3g}}{{', some in NaN' if moved else ''}}, allowed {{BOUND:.3g}}")
    {_noted(finding, "(moved or apart > BOUND)")}:
        bad.append(setting)
{_end(finding, "runs differ")}"""


def _writes(finding: Finding) -> str:
    return f"""\
bad, before = [], {{name: array.copy() for name, array in inputs.items()}}
{_loop(finding)}
    run(inputs)
    written = [name for name, array in inputs.items() if array.tobytes() != before[name].tobytes()]
    inputs.update({{name: array.copy() for name, array in before.items()}})
    print(f"{{setting:10}} {{'WROTE into its input ' + ', '.join(written) if written else 'left its inputs alone'}}")
    {_noted(finding, "written")}:
        bad.append(setting)
{_end(finding, "inputs are written")}"""


def _fails(finding: Finding) -> str:
    first = "".join("        for others in earlier:\n            run(others)\n" for _ in finding.case.before[:1])
    return f"""\
bad = []
for setting in {finding.settings!r}:
    try:
        run = load(setting)
{first}        run(inputs)
        print(f"{{setting:10}} runs")
    except Exception as e:
        print(f"{{setting:10}} fails: {{type(e).__name__}}: {{str(e).strip()[:500]}}")
        {_noted(finding, "True").replace("True and ", "").replace("if True", "if setting")}:
            bad.append(setting)
{_end(finding, "a valid model fails")}"""


def _deadly(finding: Finding, timeout: float, memory: int) -> str:
    """Each setting runs in a child process, so that the script survives what it shows."""
    kind = finding.verdict.verdict
    words = {"crash": "is killed", "hang": f"gives no answer within {timeout:g} s", "oom": f"uses more than {memory >> 20} MiB"}[kind]
    first = "    for others in earlier:\n        run(others)\n" if finding.case.before else ""
    watch = _FED.format(memory=memory) if kind == "oom" else _TIMED.format(timeout=timeout)
    return f"""\
{watch}

if len(sys.argv) > 1:
    run = load(sys.argv[1])
{first}    run(inputs)
    sys.exit(0)
ends = {{setting: watch(setting) for setting in {finding.settings!r}}}
print(*[f"{{setting:10}} {{how}}" for setting, how in ends.items()], sep="\\n")
if "missing" in ends.values():
    sys.exit(77)
bad = [setting for setting in {finding.failing!r} if ends[setting] == "{kind}"]
{_end(finding, words)}"""


_TIMED = """\
def watch(setting):
    \"\"\"How a process of its own that runs this setting ends.\"\"\"
    try:
        code = subprocess.run([sys.executable, __file__, setting], timeout={timeout:g}).returncode
    except subprocess.TimeoutExpired:
        return "hang"
    return {{0: "runs", 1: "fails", 77: "missing"}}.get(code, "crash")
"""
_FED = """\
def watch(setting):
    \"\"\"How a process of its own that runs this setting ends; /proc tells its memory, in pages.\"\"\"
    child = subprocess.Popen([sys.executable, __file__, setting], stderr=subprocess.PIPE, text=True)
    while child.poll() is None:
        if int(Path(f"/proc/{{child.pid}}/statm").read_text().split()[1]) * 4096 > {memory}:
            child.kill()
            return "oom"
        time.sleep(0.05)
    refused = any(word in child.stderr.read() for word in ("MemoryError", "alloc"))
    return "oom" if refused else {{0: "runs", 1: "fails", 77: "missing"}}.get(child.returncode, "crash")
"""

_CHECKS = {"mistyped": _types, "unstable": _unstable, "broken": _fails, "refused": _fails}
