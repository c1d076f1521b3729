"""How a stand-alone script asks each backend: one function per backend, which writes Python text that defines `load(setting)`.

`load` compiles `model` and returns a function from {input: array} to {output: array}. What it does must be what the backend's
plugin in `oracles/backends` does; tests run both on the same cases. The text is as short as it can be read: it is pasted into issues.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from corpus import walk
from oracles.plugin import split
from oracles.records import Case
from specs.rule import Unsupported, UsageError
from triage.finding import Finding
from triage.literals import array_text

WIDTH = 150  # characters of a line into which short ones are joined
BODY = 8  # lines of a traced program


@dataclass(frozen=True)
class Form:
    """imports: lines inside `try:`, of what exit status 77 is for; needs: packages, in words; code: defines `load`."""

    imports: Sequence[str]
    needs: str
    code: str
    model: bool = True  # whether the script contains the ONNX model
    alone: bool = True  # whether the script runs without this project


Write = Callable[[Case, Sequence[str]], Form]
_forms: dict[str, Write] = {}


def form(backend: str) -> Callable[[Write], Write]:
    """Register how scripts ask a backend: (case, settings) -> Form."""

    def decorate(write: Write) -> Write:
        _forms[backend] = write
        return write

    return decorate


def form_for(finding: Finding) -> Form:
    """The form of the finding's backend; one that goes through this project for backends without their own."""
    v = finding.verdict
    if v.backend == "inductor" and v.verdict == "mistyped":
        return through_us(v.backend)  # types that torch lacks live in wider ones: only we can tell
    return form_of(v.backend, finding.case, finding.settings)


def form_of(backend: str, case: Case, settings: Sequence[str]) -> Form:
    """How a script asks a backend about a case at these settings."""
    return _forms[backend](case, settings) if backend in _forms else through_us(backend)


_ORT_PLAIN = """\
    names = [o.name for o in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))
"""
_ORT_BYTES = """\
    names = [o.name for o in session.get_outputs()]
    return lambda inputs: dict(zip(names, map(to_numpy, session.run_with_ort_values(names, {n: to_ort(a) for n, a in inputs.items()}))))


def to_ort(array):  # numpy lacks some of these types, so the bytes are copied in
    raw = numpy_helper.from_array(array)
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(raw.dims), raw.data_type, "cpu", 0)
    ctypes.memmove(value.data_ptr(), raw.raw_data, len(raw.raw_data))
    return value


def to_numpy(value):
    raw = onnx.TensorProto(data_type=value.element_type(), dims=value.shape())
    bits = 4 if raw.data_type in (21, 22, 23) else 8 * onnx.helper.tensor_dtype_to_np_dtype(raw.data_type).itemsize  # 21 to 23: 4 bits
    size = (int(np.prod(raw.dims)) * bits + 7) // 8
    raw.raw_data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return numpy_helper.to_array(raw)
"""
_LEVELS = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL", "threads": "ORT_ENABLE_ALL",
           "flush": "ORT_ENABLE_ALL"}  # fmt: skip
_MORE = {"threads": "\n    options.intra_op_num_threads = 4 if setting == 'threads' else 1",
         "flush": "\n    if setting == 'flush':\n        options.add_session_config_entry('session.set_denormal_as_zero', '1')"}  # fmt: skip


@form("onnxruntime")
def onnxruntime(case: Case, settings: Sequence[str]) -> Form:
    """Plain Python API, one thread, one optimisation level."""
    plain = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}
    graph = onnx.load_from_string(case.model).graph
    odd = any(v.type.tensor_type.elem_type not in plain for v in (*graph.input, *graph.output) if v.type.HasField("tensor_type"))
    table = ", ".join(f'"{s}": "{_LEVELS[split(s)[0]]}"' for s in settings)
    off = ', disabled_optimizers=setting.split("~")[1:]' if any(split(s)[1] for s in settings) else ""
    more = "".join(line for name, line in _MORE.items() if any(split(s)[0] == name for s in settings))
    code = f"""\
LEVELS = {{{table}}}


def load(setting):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1{more}
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[setting])
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]{off})
{_ORT_BYTES if odd else _ORT_PLAIN}"""
    return Form(["import onnxruntime as ort"], "numpy, onnx and onnxruntime", code)


@form("tvm")
def tvm(case: Case, settings: Sequence[str]) -> Form:
    """The importer, then the exact list of passes of each setting, then the virtual machine."""
    from oracles.backends.tvm import passes

    chosen = {s: passes(case.model, s) for s in settings}
    lists = "".join(f"    {s!r}: {' '.join(names)!r},\n" for s, names in chosen.items())
    used = {p for names in chosen.values() for p in names}
    special = {
        "DispatchSampling": "relax.backend.DispatchSampling",
        "DispatchSortScan": "relax.backend.DispatchSortScan",
        "ConvertLayout": 'lambda: relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OHWI"]})',
        "TopologicalSort": 'lambda: relax.transform.TopologicalSort(order="depth-first")',
    }
    table = _filled([f'"{name}": {text},' for name, text in special.items() if name in used], "    ", " ")
    table = f"SPECIAL = {{{table.strip().rstrip(',')}}}" if table.count("\n") == 1 else f"SPECIAL = {{\n{table}}}"
    proto = onnx.load_from_string(case.model)
    order, names = [i.name for i in walk.bare_inputs(proto.graph)], [o.name for o in proto.graph.output]
    several = "main(*arguments)" if len(names) > 1 else "[main(*arguments)]"
    code = f"""\
PASSES = {{
{lists}}}
{table}


def load(setting):
    pipeline = tvm.transform.Sequential([SPECIAL.get(p, getattr(relax.transform, p, None))() for p in PASSES[setting].split()])
    with tvm.transform.PassContext(opt_level=3):
        executable = tvm.compile(from_onnx(model, keep_params_in_input=False), target=tvm.target.Target("llvm"), relax_pipeline=pipeline)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def run(inputs):
        arguments = [tvm.runtime.tensor(np.asarray(inputs[name])) for name in {order!r}]
        return dict(zip({names!r}, map(to_numpy, {several})))

    return run


def to_numpy(value):
    return value.numpy() if hasattr(value, "numpy") else np.asarray(list(value) if "Shape" in type(value).__name__ else value)
"""
    imports = ["import tvm", "from tvm import relax", "from tvm.relax.frontend.onnx import from_onnx"]
    return Form(imports, "numpy, onnx and apache-tvm", code)


@form("inductor")
def inductor(case: Case, settings: Sequence[str]) -> Form:
    """The traced program as ATen calls, so that the script needs torch alone; through this project where it cannot be traced."""
    if case.before:
        return through_us("inductor")  # a trace is of one size
    try:
        return _traced(case, settings)
    except (Unsupported, UsageError, RuntimeError, TypeError, ValueError, KeyError):
        return through_us("inductor")


def _traced(case: Case, settings: Sequence[str]) -> Form:
    import torch

    from oracles.backends.inductor import OPTIONS, SWITCHES, trace
    from specs.program import Program

    program = Program(case.model)
    feeds = program.feeds(case.inputs)
    with torch.no_grad():
        traced = trace(program, feeds)
    graph, names = traced.graph, traced.outputs
    constants = {str(n.target): _attribute(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"}
    if any(not isinstance(c, torch.Tensor) for c in constants.values()):
        raise Unsupported("a constant is not a tensor")
    if "fx_pytree" in graph.code or any("." in k for k in constants):
        raise Unsupported("its signature is not plain")
    body = re.sub(r";  [\w ,=]+ = None(?=\s*(?:#.*)?$)", "", graph.code.strip(), flags=re.MULTILINE)
    head, *lines = [line.rstrip() for line in body.splitlines() if line.strip()]
    sets = _filled([f"self.{name} = {_tensor_text(t)}" for name, t in constants.items()], "        ", "; ")
    start = f"    def __init__(self):\n        super().__init__()\n{sets}" if sets else ""
    method = "".join(f"    {line}\n" for line in lines) if len(lines) <= BODY else _short([line.strip() for line in lines], "        ", "; ")
    values = _filled([f"{_tensor_text(t)}," for t in feeds.values()], "    ", " ")
    listed = f"inputs = [{values.strip().rstrip(',')}]" if values.count("\n") <= 1 else f"inputs = [\n{values}]"
    listed += f"  # {', '.join(feeds)}" if feeds else ""
    options = ", ".join(f"{s!r}: {_options(s, OPTIONS, SWITCHES)!r}" for s in settings)
    words = [w for w in ("device", "tensor", "inf", "nan") if re.search(rf"(?<![\w.]){w}\b", body + sets + values)]
    code = f"""\
class Program(torch.nn.Module):
{start}    {head}
{method}

{listed}
OPTIONS = {{{options}}}


def load(setting):
    torch.set_num_threads(1), torch._dynamo.reset()
    how = {{"backend": "aot_eager"}} if setting == "off" else {{"backend": "inductor", "options": {{"fx_graph_cache": False, **OPTIONS[setting]}}}}
    compiled = torch.compile(Program(), dynamic=False, fullgraph=True, **how)

    @torch.no_grad()
    def run(inputs):
        results = compiled(*[a.clone() for a in inputs])
        return dict(zip({names!r}, [r.float().numpy() if r.dtype == torch.bfloat16 else r.numpy() for r in results]))

    return run
"""
    imports = ["import torch", *([f"from torch import {', '.join(words)}"] if words else [])]
    return Form(imports, "numpy and torch, and a C++ compiler", code, model=False)


def _options(setting: str, options: dict[str, dict[str, object]], switches: dict[str, dict[str, object]]) -> dict[str, object]:
    base, off = split(setting)
    return {**options[base], **{k: v for name in off for k, v in switches[name].items()}}


def _short(parts: Sequence[str], indent: str, joint: str) -> str:
    """Parts in no more lines than a method may have; those of a long program are long."""
    width, text = WIDTH, _filled(parts, indent, joint)
    while text.count("\n") > BODY:
        width *= 2
        text = _filled(parts, indent, joint, width)
    return text


def _filled(parts: Sequence[str], indent: str, joint: str, width: int = WIDTH) -> str:
    """Parts joined into as few lines as the width allows."""
    lines = list[str]()
    for part in parts:
        if lines and len(indent) + len(lines[-1]) + len(joint) + len(part) <= width:
            lines[-1] += joint + part
        else:
            lines.append(part)
    return "".join(f"{indent}{line}\n" for line in lines)


def _attribute(graph: object, path: str) -> object:
    for part in path.split("."):
        graph = getattr(graph, part)
    return graph


def _tensor_text(t: object) -> str:
    import torch

    assert isinstance(t, torch.Tensor)
    views = {torch.bfloat16: torch.int16}
    if t.dtype in views:
        return f"torch.from_numpy({array_text(t.contiguous().view(views[t.dtype]).numpy())}).view({t.dtype})"
    text = array_text(t.contiguous().numpy())
    return f"torch.from_numpy({text}.copy())" if "unpack" in text else f"torch.from_numpy({text})"


def through_us(backend: str) -> Form:
    """For backends that only this project knows how to ask: they run in its isolated workers."""
    code = f"""\
# This backend is reached through onnx-assay, which turns the ONNX model into what the backend needs.
def load(setting):
    def run(inputs):
        if id(inputs) not in answers:
            (outcome,) = ask(Case(model.SerializeToString(), inputs, {{}}, tuple(earlier)), f"{backend}:{{setting}}")
            if outcome.status == "missing":
                sys.exit(77)
            if outcome.status in ("crash", "hang"):  # it happened in a worker: end this process the same way
                os.abort() if outcome.status == "crash" else time.sleep(1e6)
            if outcome.status != "ok":
                raise (MemoryError if outcome.status == "oom" else RuntimeError)(outcome.message)
            answers[id(inputs)] = [outcome.outputs, outcome.again or outcome.outputs]
            earlier.append(inputs)
        found = answers[id(inputs)]
        return found.pop(0) if len(found) > 1 else found[0]

    answers, earlier = {{}}, []
    return run
"""
    return Form(["from oracles import Case, run as ask"], f"onnx-assay, and the backend {backend}", code, alone=False)
