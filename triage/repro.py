"""`repro.py`: a script for the maintainer of the backend, who knows nothing of this project and needs nothing of it.

Exit status 1 while the defect is there, 0 when it is gone, 77 when the backend is not installed.
"""

from __future__ import annotations

import base64
import math
import textwrap
import zlib
from collections.abc import Sequence

import numpy as np

from triage.cause import WROTE
from triage.finding import Finding
from triage.forms import Form, form_for
from triage.literals import INLINE, UNPACK, array_text, model_text

DEADLY = ("crash", "hang", "oom")
WORST = 4  # elements shown beside the worst one


def repro(finding: Finding, timeout: float = 60.0, memory: int = 4 << 30) -> str:
    """The text of the script. It may read model.onnx or inputs.npz beside it when they are too large to be inline."""
    form = form_for(finding)
    data = _data(finding) if form.model else ""
    check = _deadly(finding, timeout, memory) if finding.verdict.verdict in DEADLY else _CHECKS[finding.verdict.verdict](finding)
    body = "\n\n".join(part.strip("\n") for part in (data, form.code, _earlier(finding) if form.model else "") if part.strip())
    text = f"{_head(finding, form)}\n{_imports(form, body + check)}\n\n{body}\n\n\n{check}"
    return text if form.model else text.replace("\nimport onnx.parser\n", "\n")


def _head(finding: Finding, form: Form) -> str:
    from triage.report import claim

    version = finding.environment.get(finding.verdict.backend, "")
    lines = textwrap.wrap(claim(finding, plain=True).replace("\\", "/").replace('"""', "'''"), 120)
    about = f"Found with {finding.verdict.backend} {version}." if version else ""
    status = "Exit status: 1 while this is so, 0 when it is gone, 77 when the backend is not installed."
    return '"""' + "\n".join([*lines, "", status, f"Needs {form.needs}. {about}".rstrip(), '"""', ""])


def _imports(form: Form, body: str) -> str:
    whole = body + UNPACK if "unpack(" in body else body
    names = [name for name in ("base64", "ctypes", "os", "subprocess", "time", "zlib") if f"{name}." in whole]
    plain = "".join(f"import {n}\n" for n in sorted([*names, "sys"]))
    paths = "from pathlib import Path\n" if "Path(" in body else ""
    types = "import ml_dtypes\n" if "ml_dtypes." in body else ""
    ours = "import onnx\nimport onnx.numpy_helper\nimport onnx.parser\n" if form.model else ""
    wanted = "".join(f"    {line}\n" for line in form.imports)
    special = "\ninf, nan = np.inf, np.nan\n" if ("nan" in body or "inf" in body) and form.model else ""
    unpack = f"\n\n{UNPACK}" if "unpack(" in body else ""
    return f"{plain}{paths}\n{types}import numpy as np\n{ours}\ntry:\n{wanted}except ImportError as e:\n    print(e)\n    sys.exit(77)\n{special}{unpack}"


# the model and its inputs ----------------------------------------------------------------------------------------------
def _data(finding: Finding) -> str:
    inputs = {name: array_text(array) for name, array in finding.case.inputs.items()}
    if sum(map(len, inputs.values())) <= INLINE:
        feeds = "inputs = {\n" + "".join(f"    {name!r}: {text},\n" for name, text in inputs.items()) + "}"
    else:
        feeds = _beside(finding)
    return f"{_model(finding)}\n{feeds}\n"


def _earlier(finding: Finding) -> str:
    """A model that has to run on other sizes first."""
    if not finding.case.before:
        return ""
    sets = "".join("    {" + ", ".join(f"{n!r}: {array_text(a)}" for n, a in inputs.items()) + "},\n" for inputs in finding.case.before)
    return f"""\
# The same compiled model is run on these inputs, of other sizes, first.
earlier = [
{sets}]
load_alone = load


def load(setting):
    run, last = load_alone(setting), dict(inputs)
    for others in earlier:
        inputs.update(others)
        run()
    inputs.update(last)
    return run
"""


def _beside(finding: Finding) -> str:
    """Inputs from the file next to the script; numpy stores the types of ml_dtypes as unsigned integers."""
    from triage.literals import dtype_text

    odd = {n: a for n, a in finding.case.inputs.items() if a.dtype.type.__module__ != "numpy"}
    views = "".join(f"inputs[{n!r}] = inputs[{n!r}].view({dtype_text(a.dtype)})\n" for n, a in odd.items())
    return f'inputs = dict(np.load(Path(__file__).with_name("inputs.npz")))\ninputs.pop("__formats__", None)\n{views}'.rstrip()


def _model(finding: Finding) -> str:
    """As text where that gives the same model back, else compressed, else the file beside the script."""
    found = model_text(finding.model.proto) if len(finding.case.model) < 1_000_000 else None
    if found is not None:
        text, weights = found
        added = "".join(f"model.graph.initializer.append(onnx.numpy_helper.from_array({array_text(a)}, {name!r}))\n" for name, a in weights.items())
        if len(text) + len(added) <= INLINE:
            quoted = f'"""\n{text}\n"""' if '"""' not in text and "\\" not in text else repr(text)
            return f"model = onnx.parser.parse_model({quoted})\n{added}"
    packed = base64.b64encode(zlib.compress(finding.case.model, 9)).decode()
    if len(packed) <= INLINE:
        return f'model = onnx.load_from_string(zlib.decompress(base64.b64decode("{packed}")))\n'
    return 'model = onnx.load(Path(__file__).with_name("model.onnx"))\n'


# the checks ------------------------------------------------------------------------------------------------------------
def _settings(finding: Finding) -> tuple[str, str]:
    return repr(finding.settings), repr(finding.failing)


def _values(finding: Finding) -> str:
    settings, failing = _settings(finding)
    rows = "".join(f"    ({name!r}, {at!r}, {_exact(value)}, {_exact(bound)}),\n" for name, at, value, bound in worst_elements(finding))
    return f"""\
# Output, element, value in float64 arithmetic, and the largest error that rounding can explain.
EXPECTED = [
{rows}]

wrong = []
for setting in {settings}:
    outputs = load(setting)()
    for name, at, value, bound in EXPECTED:
        got = outputs[name][at].item()
        error = abs(got - value) if got != value else 0.0
        bad = not error <= bound  # also when it is NaN
        said = f"{{setting:10}} {{name}}{{list(at)}} = {{got!r}}, float64: {{value!r}}"
        print(f"{{said}}, error {{error:.3g}}, allowed {{bound:.3g}}: {{'WRONG' if bad else 'right'}}")
        if bad and setting in {failing}:
            wrong.append(f"{{setting}}: {{name}}{{list(at)}} is {{got!r}} instead of {{value!r}}")
assert not wrong, wrong
print("The defect is gone.")
"""


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
    settings, failing = _settings(finding)
    rows = list[str]()
    for v in [finding.verdict]:
        form = finding.model.formats.get(v.output)
        want = finding.expected.get(v.output)
        rows.append(f"    {v.output!r}: ({str(form.numpy) if form else ''!r}, {list(want.shape) if want is not None else None!r}),\n")
    return f"""\
# The type and the shape that the ONNX specification gives these outputs.
EXPECTED = {{
{"".join(rows)}}}

wrong = []
for setting in {settings}:
    outputs = load(setting)()
    for name, (dtype, shape) in EXPECTED.items():
        got = np.asarray(outputs[name]) if outputs.get(name) is not None else None
        found = (str(got.dtype), list(got.shape)) if got is not None else None
        bad = found is None or (bool(dtype) and found[0] != dtype) or (shape is not None and found[1] != shape)
        print(f"{{setting:10}} {{name}} is {{found}}, should be {{(dtype, shape)}}: {{'WRONG' if bad else 'right'}}")
        if bad and setting in {failing}:
            wrong.append(f"{{setting}}: {{name}} is {{found}}")
assert not wrong, wrong
print("The defect is gone.")
"""


def _unstable(finding: Finding) -> str:
    settings, failing = _settings(finding)
    if finding.verdict.message.startswith(WROTE):
        return _WRITES.format(settings=settings, failing=failing)
    bound = finding.verdict.bound or 0.0
    return f"""\
# The same compiled model on the same inputs: no two runs may differ by more than rounding can explain.
BOUND, NAME, RUNS = {_exact(bound)}, {finding.verdict.output!r}, 50

wrong = []
for setting in {settings}:
    call = load(setting)
    runs = [np.array(call()[NAME]).astype(np.float64) for _ in range(RUNS)]
    apart = max(float(np.nanmax(np.abs(r - runs[0]), initial=0.0)) for r in runs)
    moved = any((np.isnan(r) != np.isnan(runs[0])).any() for r in runs)
    bad = moved or apart > BOUND
    print(f"{{setting:10}} {{NAME}}: {{RUNS}} runs differ by up to {{apart:.3g}}, allowed {{BOUND:.3g}}: {{'WRONG' if bad else 'right'}}")
    if bad and setting in {failing}:
        wrong.append(f"{{setting}}: runs differ by {{apart:.3g}}")
assert not wrong, wrong
print("The defect is gone.")
"""


_WRITES = """\
wrong = []
for setting in {settings}:
    call = load(setting)
    before = {{name: array.copy() for name, array in inputs.items()}}
    call()
    written = [name for name, array in inputs.items() if array.tobytes() != before[name].tobytes()]
    inputs.update(before)
    print(f"{{setting:10}} {{'WROTE into its input ' + ', '.join(written) if written else 'left its inputs alone'}}")
    if written and setting in {failing}:
        wrong.append(f"{{setting}}: wrote into {{', '.join(written)}}")
assert not wrong, wrong
print("The defect is gone.")
"""


def _fails(finding: Finding) -> str:
    settings, failing = _settings(finding)
    return f"""\
failing = []
for setting in {settings}:
    try:
        load(setting)()
        print(f"{{setting:10}} runs")
    except Exception as e:
        print(f"{{setting:10}} fails: {{type(e).__name__}}: {{str(e).strip()[:500]}}")
        if setting in {failing}:
            failing.append(setting)
assert not failing, f"a valid model fails at {{failing}}"
print("The defect is gone.")
"""


def _deadly(finding: Finding, timeout: float, memory: int) -> str:
    """Each setting runs in a child process, so that the script survives what it shows."""
    settings, failing = _settings(finding)
    kind = finding.verdict.verdict
    words = {"crash": "is killed", "hang": f"gives no answer within {timeout:g} s", "oom": f"uses more than {memory >> 20} MiB"}[kind]
    return f"""\
SECONDS, BYTES = {timeout:g}, {memory}


def watch(setting):
    \"\"\"How a child process that runs this setting ends.\"\"\"
    child = subprocess.Popen([sys.executable, __file__, setting])
    end = time.time() + SECONDS
    while child.poll() is None:
        pages = 0
        try:
            with open(f"/proc/{{child.pid}}/statm") as f:
                pages = int(f.read().split()[1])
        except (OSError, IndexError):
            pass  # not Linux, or it has just ended
        if time.time() > end or pages * 4096 > BYTES:
            child.kill()
            child.wait()
            return "hang" if time.time() > end else "oom"
        time.sleep(0.05)
    return {{0: "runs", 77: "missing", 3: "fails", 4: "oom"}}.get(child.returncode, "crash")


if len(sys.argv) > 1:
    try:
        load(sys.argv[1])()
    except MemoryError:
        sys.exit(4)
    except Exception as e:
        print(f"{{type(e).__name__}}: {{str(e).strip()[:500]}}")
        sys.exit(4 if "alloc" in str(e) else 3)
    sys.exit(0)

ends = {{setting: watch(setting) for setting in {settings}}}
for setting, how in ends.items():
    print(f"{{setting:10}} {{how}}")
if "missing" in ends.values():
    sys.exit(77)
bad = [setting for setting in {failing} if ends[setting] == "{kind}"]
assert not bad, f"{words} at {{bad}}"
print("The defect is gone.")
"""


_CHECKS = {"wrong": _values, "nonfinite": _values, "imprecise": _values, "mistyped": _types, "unstable": _unstable, "broken": _fails, "refused": _fails}
