"""Models that users bring, loaded without trusting them. Every defect is one sentence that names the file."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import onnx
import onnx.checker
import onnx.shape_inference
from google.protobuf.message import DecodeError

from corpus import external, limits, walk
from corpus.arrays import MEMORY, size
from corpus.sentences import one_sentence
from specs.rule import UsageError
from specs.schema import schema


@one_sentence
def load_model(path: Path | str, memory: int = MEMORY) -> onnx.ModelProto:
    """The checked model, its external data loaded. Raises UsageError when the file cannot be a valid test."""
    path = Path(path)
    model = _parse(path, _bytes(path, memory))
    check_model(path, model, memory)
    return model


@one_sentence
def check_model(path: Path, model: onnx.ModelProto, memory: int = MEMORY) -> None:
    """Everything `load_model` checks once the file is parsed; loads external data into the model."""
    _text(path, model)
    _versions(path, model)
    outside = [t for t in walk.tensors(model) if external.is_external(t)]
    needs = [limits.check_tensor(path, t, memory) for t in walk.tensors(model)]
    if sum(needs) > memory:
        raise UsageError(f"{path}: its weights need {size(sum(needs))} together; the memory limit is {size(memory)}")
    if sum(needs) > limits.PROTOBUF - (1 << 24):
        raise UsageError(f"{path}: holds {size(sum(needs))} of weights; a model with 2 GB or more cannot be handed to a compiler as one message")
    for t in outside:
        external.locate(path, t, limits.check_tensor(path, t, memory))
    _operators(path, model)
    _order(path, model.graph, set())
    for f in model.functions:
        _sorted(path, f"function '{f.name}'", list(f.node), set(f.input))
    _inferable(path, model)
    _checker(path, model, bool(outside))
    limits.check_declared(path, model, memory)
    for t in outside:
        external.read(path, t, limits.check_tensor(path, t, memory))


def _bytes(path: Path, memory: int) -> bytes:
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder without a model.onnx" if not (path / "model.onnx").exists() else f"{path}: is a folder, not an .onnx file")
        if not path.exists():
            raise UsageError(f"{path}: no such file")
        if not path.is_file():
            raise UsageError(f"{path}: is not a regular file")
        length = path.stat().st_size
        if length == 0:
            raise UsageError(f"{path}: is empty")
        if length > limits.PROTOBUF:
            raise UsageError(f"{path}: has {size(length)}; an ONNX file of 2 GB or more is not valid (larger weights belong into external data)")
        if length > memory:
            raise UsageError(f"{path}: has {size(length)}; the memory limit is {size(memory)}")
        return path.read_bytes()
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror or e})") from None


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError):
        raise UsageError(f"{path}: is not an ONNX model, or is cut off (its {size(len(data))} cannot be decoded)") from None
    if not model.HasField("graph") or not model.ir_version:
        raise UsageError(f"{path}: is not an ONNX model (it has no {'graph' if model.ir_version else 'IR version'})")
    if not model.graph.output:
        raise UsageError(f"{path}: its graph has no outputs: there is nothing to compare")
    if not model.graph.node:
        raise UsageError(f"{path}: its graph has no nodes: there is nothing to compile")
    return model


def _text(path: Path, model: onnx.ModelProto) -> None:
    """Names must be UTF-8; protobuf hands out others as bytes, which no later code expects."""
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for node in walk.all_nodes(nodes):
            for text in (node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)):
                if isinstance(text, bytes):
                    raise UsageError(f"{path}: is damaged: a name in it is not text ({text!r})")
    for graph in walk.graphs(model.graph):
        values = (*graph.input, *graph.output, *graph.value_info)
        symbols = [d.dim_param for v in values if v.type.HasField("tensor_type") for d in v.type.tensor_type.shape.dim]
        for text in (graph.name, *(v.name for v in values), *symbols, *(t.name for t in graph.initializer), *(o.domain for o in model.opset_import)):
            if isinstance(text, bytes):
                raise UsageError(f"{path}: is damaged: a name in it is not text ({text!r})")


@cache
def _newest() -> dict[str, int]:
    """The newest opset of each domain that the installed onnx knows."""
    newest = dict[str, int]()
    for s in onnx.defs.get_all_schemas_with_history():
        newest[s.domain] = max(newest.get(s.domain, 0), s.since_version)
    newest[""] = onnx.defs.onnx_opset_version()
    return newest


def _versions(path: Path, model: onnx.ModelProto) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise UsageError(f"{path}: has IR version {model.ir_version}; the installed onnx {onnx.__version__} knows up to {onnx.IR_VERSION}")
    if not model.opset_import and model.ir_version >= 3:
        raise UsageError(f"{path}: declares no opset")
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        for o in imports:
            domain = _domain(o.domain)
            if domain in _newest() and o.version > _newest()[domain]:
                known = f"the installed onnx {onnx.__version__} knows up to {_newest()[domain]}"
                raise UsageError(f"{path}: declares opset {o.version} of {domain or 'ai.onnx'}; {known}")
            if o.version < 1:
                raise UsageError(f"{path}: declares the impossible opset {o.version} of {domain or 'ai.onnx'}")


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _operators(path: Path, model: onnx.ModelProto) -> None:
    """Each node must be an operator of its opset, a function of the model, or an operator we have a meaning for."""
    local = {(_domain(f.domain), f.name): f for f in model.functions}
    main = {_domain(o.domain): o.version for o in model.opset_import}
    _known(path, list(walk.all_nodes(model.graph.node)), main, local)
    for f in model.functions:
        _known(path, list(walk.all_nodes(f.node)), {**main, **{_domain(o.domain): o.version for o in f.opset_import}}, local)
    _no_recursion(path, local)


def _known(path: Path, nodes: list[onnx.NodeProto], opsets: dict[str, int], local: dict[tuple[str, str], onnx.FunctionProto]) -> None:
    for node in nodes:
        domain = _domain(node.domain)
        if (domain, node.op_type) in local:
            continue
        if domain not in opsets and domain in _newest() and domain:
            raise UsageError(f"{path}: {label(node)} is of domain '{domain}', for which the model declares no opset")
        if schema(node.op_type, domain, opsets.get(domain, 1)) is not None:
            continue
        if domain not in _newest():
            if _has_meaning(node.op_type, domain):
                continue
            raise UsageError(f"{path}: {label(node)} is of the unknown domain '{domain}'")
        newer = schema(node.op_type, domain, _newest()[domain])
        hint = f" (it came with opset {_first(node.op_type, domain)})" if newer is not None else ""
        raise UsageError(f"{path}: {label(node)} is not an operator of opset {opsets.get(domain, 1)}{' of ' + domain if domain else ''}{hint}")


def _first(name: str, domain: str) -> int:
    return min(s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == name and s.domain == domain)


def _has_meaning(name: str, domain: str) -> bool:
    from specs.operator import find

    return find(name, domain) is not None


def _no_recursion(path: Path, local: dict[tuple[str, str], onnx.FunctionProto]) -> None:
    """A function that calls itself would be inlined without end."""
    done, active = set[tuple[str, str]](), list[tuple[str, str]]()

    def visit(key: tuple[str, str]) -> None:
        if key in active:
            raise UsageError(f"{path}: function '{key[1]}' calls itself")
        if key in done:
            return
        active.append(key)
        for node in walk.all_nodes(local[key].node):
            called = (_domain(node.domain), node.op_type)
            if called in local:
                visit(called)
        done.add(active.pop())

    for key in local:
        visit(key)


def _order(path: Path, graph: onnx.GraphProto, outer: set[str]) -> None:
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer} | {i.values.name for i in graph.sparse_initializer}
    _sorted(path, f"graph '{graph.name}'", list(graph.node), outer | own)
    known = outer | own
    for node in graph.node:
        for body in walk.bodies(node):
            _order(path, body, known)
        known = known | set(node.output)
    for o in graph.output:
        if o.name not in known:
            raise UsageError(f"{path}: output '{o.name}' is made by no node")


def _sorted(path: Path, where: str, nodes: list[onnx.NodeProto], known: set[str]) -> None:
    """Every value is made before it is read; otherwise say whether it is a cycle, the order, or a value that nothing makes."""
    made = {o for n in nodes for o in n.output if o}
    ready = set(known)
    for node in nodes:
        late = sorted(walk.reads(node) - ready)
        if late and late[0] not in made:
            raise UsageError(f"{path}: {label(node)} reads '{late[0]}', which nothing makes")
        if late:
            cycle = _cycle(nodes, known)
            if cycle:
                raise UsageError(f"{path}: {where} is cyclic: {' -> '.join([*cycle, cycle[0]])}")
            raise UsageError(f"{path}: {label(node)} reads '{late[0]}' before it is made: the nodes of {where} are not in order")
        ready.update(node.output)


def _cycle(nodes: list[onnx.NodeProto], known: set[str]) -> list[str]:
    """Names of the nodes of one cycle, at most eight; empty when there is none."""
    import networkx

    graph = networkx.DiGraph()
    maker = {o: i for i, n in enumerate(nodes) for o in n.output if o and o not in known}
    graph.add_edges_from((maker[r], i) for i, n in enumerate(nodes) for r in sorted(walk.reads(n)) if r in maker)
    try:
        return [nodes[a].name or nodes[a].op_type for a, _ in networkx.find_cycle(graph)][:8]
    except networkx.NetworkXNoCycle:
        return []


def label(node: onnx.NodeProto) -> str:
    """A node as a sentence names it."""
    return f"node '{node.name}' ({node.op_type})" if node.name else f"a {node.op_type} node"


def _inferable(path: Path, model: onnx.ModelProto) -> None:
    """The inference of onnx 1.23 kills the process where one of two operators meets an operand of which it knows no type."""
    if all(_domain(n.domain) == "" for n in walk.all_nodes(model.graph.node)):
        return
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    taken = list[onnx.NodeProto]()
    for graph in walk.graphs(bare.graph):
        risky = [n for n in graph.node if n.op_type == "RegexFullMatch" or (n.op_type == "EyeLike" and any(a.name == "dtype" for a in n.attribute))]
        taken += risky
        for n in risky:
            graph.node.remove(n)
    if not taken:
        return
    inferred = onnx.shape_inference.infer_shapes(bare)
    typed = {o for n in taken for o in n.output}
    for graph in walk.graphs(inferred.graph):
        typed |= {t.name for t in graph.initializer} | {v.name for v in (*graph.input, *graph.value_info, *graph.output) if v.type.WhichOneof("value")}
    for n in taken:
        if n.input and n.input[0] not in typed:
            raise UsageError(f"{path}: ONNX cannot infer the type of '{n.input[0]}', which {label(n)} reads; declare it in the model's value_info")


def _checker(path: Path, model: onnx.ModelProto, external_data: bool) -> None:
    try:
        # With external data the checker must see the file, to know the folder.
        onnx.checker.check_model(str(path) if external_data else model, full_check=True)
    except onnx.shape_inference.InferenceError as e:
        if "for a Constant node" not in str(e) or not _passes_with_defaults(model):
            raise UsageError(f"{path}: is not valid ONNX: {_sentence(str(e))}") from None
    except (onnx.checker.ValidationError, ValueError, TypeError, RuntimeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: is not valid ONNX: {_sentence(str(e))}") from None


def _passes_with_defaults(model: onnx.ModelProto) -> bool:
    """Strict inference looks into the body of an operator defined by a function without the attribute's default, and then rejects
    valid models (MeanVarianceNormalization without axes). With the defaults written out it accepts them."""
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    opsets = {_domain(o.domain): o.version for o in model.opset_import}
    for node in walk.all_nodes(filled.graph.node):
        found = schema(node.op_type, _domain(node.domain), opsets.get(_domain(node.domain), 1))
        given = {a.name for a in node.attribute}
        node.attribute.extend(a.default_value for a in (found.attributes.values() if found else ()) if a.default_value.type and a.name not in given)
    try:
        onnx.checker.check_model(filled, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _sentence(text: str) -> str:
    """The checker's first line, with the node it speaks of."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    node = re.search(r"Bad node spec for node\. Name:\s*(\S*)\s*OpType:\s*(\S+)", text)
    first = re.sub(r"^(\[[A-Za-z]+Error\]\s*)+", "", lines[0]) if lines else "the checker rejects it"
    return first[:300] + (f" (node '{node[1]}', {node[2]})" if node and node[2] not in first else "")
