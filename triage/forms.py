"""How a stand-alone script asks each backend: one function per backend, which writes Python text that defines `load(setting)`.

`load` compiles `model` and returns a function without arguments that runs it on `inputs` and returns {output: array}. What it
does must be what the backend's plugin in `oracles/backends` does; tests run both on the same cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specs.rule import Unsupported, UsageError
from triage.finding import Finding
from triage.literals import array_text


@dataclass(frozen=True)
class Form:
    """imports: lines inside `try:`, of what exit status 77 is for; needs: packages, in words; code: defines `load`."""

    imports: Sequence[str]
    needs: str
    code: str
    model: bool = True  # whether the script contains the ONNX model


_forms: dict[str, Callable[[Finding], Form]] = {}


def form(backend: str) -> Callable[[Callable[[Finding], Form]], Callable[[Finding], Form]]:
    """Register how scripts ask a backend."""

    def decorate(write: Callable[[Finding], Form]) -> Callable[[Finding], Form]:
        _forms[backend] = write
        return write

    return decorate


def form_for(finding: Finding) -> Form:
    """The form of the finding's backend; one that goes through this project for backends without their own."""
    return _forms.get(finding.verdict.backend, through_us)(finding)


_ORT_PLAIN = """\
    names = [o.name for o in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, inputs)))
"""
_ORT_BYTES = '''\
    names = [o.name for o in session.get_outputs()]
    feeds = {name: to_ort(array) for name, array in inputs.items()}
    return lambda: dict(zip(names, map(to_numpy, session.run_with_ort_values(names, feeds))))


def to_ort(array):
    """numpy lacks some of these types, so the bytes are copied in."""
    raw = onnx.numpy_helper.from_array(array)
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(raw.dims), raw.data_type, "cpu", 0)
    ctypes.memmove(value.data_ptr(), raw.raw_data, len(raw.raw_data))
    return value


def to_numpy(value):
    raw = onnx.TensorProto(data_type=value.element_type(), dims=value.shape())
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4, onnx.TensorProto.FLOAT4E2M1: 4}.get(
        raw.data_type, 8 * onnx.helper.tensor_dtype_to_np_dtype(raw.data_type).itemsize
    )
    size = (int(np.prod(value.shape())) * bits + 7) // 8
    raw.raw_data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return onnx.numpy_helper.to_array(raw)
'''


@form("onnxruntime")
def onnxruntime(finding: Finding) -> Form:
    """Plain Python API, one thread, one optimisation level."""
    plain = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}
    graph = finding.model.proto.graph
    odd = any(v.type.tensor_type.elem_type not in plain for v in (*graph.input, *graph.output) if v.type.HasField("tensor_type"))
    levels = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
    table = "".join(f'    "{s}": "{levels[s]}",\n' for s in finding.settings)
    code = f"""\
LEVELS = {{
{table}}}


def load(setting):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[setting])
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
{_ORT_BYTES if odd else _ORT_PLAIN}"""
    return Form(["import onnxruntime as ort"], "numpy, onnx and onnxruntime", code)


@form("tvm")
def tvm(finding: Finding) -> Form:
    """The importer, then the exact list of passes of each setting, then the virtual machine."""
    from oracles.backends.tvm import passes

    lists = "".join(f"    {s!r}: {' '.join(passes(finding.case.model, s))!r},\n" for s in finding.settings)
    used = {p for s in finding.settings for p in passes(finding.case.model, s)}
    special = {
        "DispatchSampling": "relax.backend.DispatchSampling()",
        "DispatchSortScan": "relax.backend.DispatchSortScan()",
        "ConvertLayout": 'relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OHWI"]})',
        "TopologicalSort": 'relax.transform.TopologicalSort(order="depth-first")',
    }
    table = "".join(f'    "{name}": lambda: {text},\n' for name, text in special.items() if name in used)
    code = f"""\
PASSES = {{
{lists}}}
SPECIAL = {{
{table}}}


def load(setting):
    module = from_onnx(model, keep_params_in_input=False)
    target = tvm.target.Target("llvm")
    passes = tvm.transform.Sequential([SPECIAL[p]() if p in SPECIAL else getattr(relax.transform, p)() for p in PASSES[setting].split()])

    @tvm.transform.module_pass(opt_level=0)
    def pipeline(module, context):
        with target:
            return passes(module)

    with tvm.transform.PassContext(opt_level=3):
        executable = tvm.compile(module, target=target, relax_pipeline=pipeline)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    weights = {{t.name for t in model.graph.initializer}}
    order = [i.name for i in model.graph.input if i.name not in weights]
    names = [o.name for o in model.graph.output]

    def call():
        results = main(*[tvm.runtime.tensor(np.asarray(inputs[name])) for name in order])
        return dict(zip(names, [to_numpy(results)] if len(names) == 1 else [to_numpy(r) for r in results]))

    return call


def to_numpy(value):
    return value.numpy() if hasattr(value, "numpy") else np.array(list(value), np.int64) if "Shape" in type(value).__name__ else np.asarray(value)
"""
    imports = ["import tvm", "from tvm import relax", "from tvm.relax.frontend.onnx import from_onnx"]
    return Form(imports, "numpy, onnx and apache-tvm", code)


@form("inductor")
def inductor(finding: Finding) -> Form:
    """The traced program as ATen calls, so that the script needs torch alone; through this project where it cannot be traced."""
    if finding.verdict.verdict == "mistyped":
        return through_us(finding)  # types that torch lacks live in wider ones: only we can tell
    try:
        return _traced(finding)
    except (Unsupported, UsageError, RuntimeError, TypeError, ValueError, KeyError):
        return through_us(finding)


def _traced(finding: Finding) -> Form:
    import torch

    from oracles.backends.inductor import OPTIONS, trace
    from specs.program import Program

    program = Program(finding.case.model)
    with torch.no_grad():
        traced = trace(program, program.feeds(finding.case.inputs))
    graph, names = traced.graph, traced.outputs
    constants = {n.target: _attribute(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"}
    if any(not isinstance(c, torch.Tensor) for c in constants.values()):
        raise Unsupported("a constant is not a tensor")
    body = re.sub(r";  [\w ,=]+ = None(?=\s*(?:#.*)?$)", "", graph.code.strip(), flags=re.MULTILINE)
    order = list(program.inputs)
    tensors = {**{str(k): v for k, v in constants.items()}}
    sets = "".join(f"        self.{name} = {_tensor_text(t)}\n" for name, t in tensors.items())
    if "fx_pytree" in body or any("." in str(k) for k in tensors):
        raise Unsupported("its signature is not plain")
    method = "\n".join("    " + line if line.strip() else "" for line in body.splitlines())
    feeds = "".join(f"    {_tensor_text(t)},  # {name}\n" for name, t in program.feeds(finding.case.inputs).items())
    options = "".join(f"    {s!r}: {OPTIONS[s]!r},\n" for s in finding.settings)
    assert order
    code = f"""\
class Program(torch.nn.Module):
    def __init__(self):
        super().__init__()
{sets or ""}
{method}


arguments = [
{feeds}]
OPTIONS = {{
{options}}}


def load(setting):
    torch.set_num_threads(1)
    torch._dynamo.reset()
    how = {{"backend": "aot_eager"}} if setting == "off" else {{"backend": "inductor", "options": {{"fx_graph_cache": False, **OPTIONS[setting]}}}}
    compiled = torch.compile(Program(), dynamic=False, fullgraph=True, **how)

    def call():
        with torch.no_grad():
            results = compiled(*[a.clone() for a in arguments])
        return dict(zip({names!r}, [r.float().numpy() if r.dtype == torch.bfloat16 else r.numpy() for r in results]))

    return call
"""
    imports = ["import torch", "from torch import device, tensor, inf, nan"]
    return Form(imports, "numpy and torch, and a C++ compiler", code, model=False)


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


def through_us(finding: Finding) -> Form:
    """For backends that only this project knows how to ask: they run in its isolated workers."""
    backend = finding.verdict.backend
    code = f"""\
# This backend is reached through onnx-assay, which turns the ONNX model into what the backend needs.
def load(setting):
    (outcome,) = run(Case(model.SerializeToString(), inputs), f"{backend}:{{setting}}")
    if outcome.status == "missing":
        print(outcome.message)
        sys.exit(77)
    if outcome.status == "oom":
        raise MemoryError(outcome.message)
    if outcome.status in ("crash", "hang"):  # it happened in a worker: end this process the same way
        os.abort() if outcome.status == "crash" else time.sleep(1e6)
    if outcome.status != "ok":
        raise RuntimeError(f"{{outcome.status}}: {{outcome.message}}")
    answers = [outcome.outputs, outcome.again or outcome.outputs]
    return lambda: answers.pop(0) if len(answers) > 1 else answers[0]
"""
    return Form(["from oracles import Case, run"], f"onnx-assay, and the backend {backend}", code)
