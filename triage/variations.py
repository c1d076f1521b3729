"""Every single thing of a reduced case, changed: one decorated function per kind of thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.defs
from onnx import helper, numpy_helper

from specs.formats import BY_NAME, BY_NUMPY
from triage.draft import Draft, info
from triage.reduce_graph import outputs_inferred
from triage.reduce_values import arrays, replaced, reshaped

WIDTHS = (1, 2, 3, 8, 17)  # sizes that are tried: broadcast, small, and around a vector
FLOATS, INTEGERS = ("float16", "bfloat16", "float", "double"), ("int8", "uint8", "int32", "int64")
LARGEST = 1 << 16  # elements of a tensor that a size is made larger for


@dataclass(frozen=True)
class Variation:
    """The case with one thing changed.

    subject  what is changed, the same words for all its values; was, now: its value before and after
    drafts   ways to make the change, the first valid one counts (a size may have to change in attributes as well)
    """

    kind: str
    subject: str
    was: str
    now: str
    drafts: tuple[Draft, ...]


#: (operator, domain, attribute) -> what its values are: "=0" an exact int, "negative", "0", "1", "2+", or a word that is allowed.
Allowed = Callable[[str, str, str], Sequence[str]]
Vary = Callable[[Draft, Allowed], Iterator[Variation]]
_kinds: dict[str, Vary] = {}


def varies(kind: str) -> Callable[[Vary], Vary]:
    """Register a function that yields the variations of one kind of thing."""

    def decorate(vary: Vary) -> Vary:
        _kinds[kind] = vary
        return vary

    return decorate


def variations(draft: Draft, allowed: Allowed = lambda op, domain, attribute: ()) -> list[Variation]:
    """All of them, in the order in which a reader wants to know. Without `allowed` no attribute that is a word or a flag is varied."""
    return [v for vary in _kinds.values() for v in vary(draft, allowed)]


@varies("attribute")
def attributes(draft: Draft, allowed: Allowed) -> Iterator[Variation]:
    """Those that are given and those that have a default."""
    versions = {o.domain or "": o.version for o in draft.model.opset_import}
    for i, node in enumerate(draft.nodes):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if not onnx.defs.has(node.op_type, versions.get(domain, 1), domain) or node.op_type == "Constant":
            continue
        schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
        given = {a.name: a for a in node.attribute}
        for name, about in sorted(schema.attributes.items()):
            old = given.get(name) or (about.default_value if about.default_value.type else None)
            if old is None or old.type not in _TRIED or name == _COUNT:
                continue
            was = helper.get_attribute_value(old)
            for value in _others(was, allowed(node.op_type, domain, name)):
                model = draft.copy()
                kept = [a for a in model.graph.node[i].attribute if a.name != name]
                model.graph.node[i].ClearField("attribute")
                model.graph.node[i].attribute.extend([*kept, helper.make_attribute(name, value)])
                yield Variation("attribute", _named(draft, i, name), _text(was), _text(value), (outputs_inferred(model, draft),))


_COUNT = "num_outputs"  # another number than there are outputs is not a model, and onnx's shape inference dies of it
_TRIED = (onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT, onnx.AttributeProto.STRING, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS)


def _named(draft: Draft, i: int, name: str) -> str:
    node = draft.nodes[i]
    several = sum(n.op_type == node.op_type for n in draft.nodes) > 1
    return f"attribute {name} of {node.op_type}{f' ({node.output[0]})' if several else ''}"


def _others(was: object, allowed: Sequence[str]) -> list[object]:
    """Values an attribute could have instead; those that make no sense here are found out by who judges the case."""
    found = list[object]()
    if isinstance(was, int):
        exact = [int(c[1:]) for c in allowed if c.startswith("=")]
        near = [v for v in (0, 1, was + 1, was - 1) if v >= 0 or "negative" in allowed] if allowed else []
        found = [*(exact or near)]
    elif isinstance(was, float):
        found = [0.0, 1.0, -was, 2 * was + 0.5]
    elif isinstance(was, bytes):
        found = [w for w in allowed if w not in _CLASSES]
    elif isinstance(was, Sequence) and was:
        plain = [type(was[0])(v) for v in (0, 1)]
        found = [[v] * len(was) for v in plain] + [list(was)[::-1], [*list(was)[:-1], was[-1] + 1]]
    known = [was.decode() if isinstance(was, bytes) else list(was) if isinstance(was, Sequence) else was]
    for value in found:
        if value not in known:
            known.append(value)
    return known[1:]


_CLASSES = ("given", "default", "positive", "negative")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_text(v) for v in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@varies("type")
def types(draft: Draft, _: Allowed) -> Iterator[Variation]:
    """All tensors of one type become another."""
    used = list(dict.fromkeys(f.name for a in arrays(draft).values() if (f := BY_NUMPY.get(a.dtype))))
    for old in used:
        for new in FLOATS if old in FLOATS else INTEGERS if old in INTEGERS else ():
            if new != old:
                yield Variation("type", f"type of the {old} tensors" if len(used) > 1 else "type", old, new, (_retyped(draft, old, new),))


def _retyped(draft: Draft, old: str, new: str) -> Draft:
    model, before, after = draft.copy(), BY_NAME[old], BY_NAME[new]
    with np.errstate(all="ignore"):
        inputs = {n: a.astype(after.numpy) if a.dtype == before.numpy else a for n, a in draft.inputs.items()}
        for t in [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR)]:
            if t.data_type == before.onnx:
                t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(after.numpy), t.name))
    for v in (*model.graph.input, *model.graph.output):
        if v.type.tensor_type.elem_type == before.onnx:
            v.type.tensor_type.elem_type = after.onnx
    for node in model.graph.node:
        for a in node.attribute:
            if node.op_type in ("Cast", "RandomNormalLike") and a.name in ("to", "dtype") and a.i == before.onnx:
                a.i = after.onnx
    model.graph.ClearField("value_info")
    return Draft(model, inputs)


@varies("size")
def sizes(draft: Draft, _: Allowed) -> Iterator[Variation]:
    """Axes of one length get another one, all of them together, then one by one: where they belong together, one alone is not valid."""
    both = {n: a for n, a in arrays(draft).items() if a.dtype != object}
    axes = [(n, i) for n, a in sorted(both.items()) for i in range(a.ndim) if not (n in draft.weights and _is_shape(a))]
    for old in sorted({both[n].shape[i] for n, i in axes}):
        mine = [(n, i) for n, i in axes if both[n].shape[i] == old]
        where = ", ".join(f"axis {i} of {n}" for n, i in mine)
        for size in WIDTHS:
            if size == old or old == 0 or any(both[n].size // old * size > LARGEST for n, _ in mine):
                continue
            new = {n: _resized(a, [i for m, i in mine if m == n], size) for n, a in both.items() if any(m == n for m, _ in mine)}
            named = {n: np.where(a == old, size, a).astype(a.dtype) for n, a in both.items() if n in draft.weights and _is_shape(a) and old in a}
            ways = [reshaped(draft, new), *([reshaped(draft, {**new, **named})] if named else []), _with_attributes(reshaped(draft, new), old, size)]
            yield Variation("size", where, str(old), str(size), tuple(w for w in ways if w is not None))
            for n, i in mine if len(mine) > 1 else ():
                yield Variation("size", f"axis {i} of {n}", str(old), str(size), (reshaped(draft, {n: _resized(both[n], [i], size)}),))


def _resized(array: np.ndarray, axes: Sequence[int], size: int) -> np.ndarray:
    """Repeated from the start where it is too short."""
    for axis in axes:
        array = array.take(np.arange(size) % array.shape[axis], axis)
    return array


def _is_shape(array: np.ndarray) -> bool:
    return array.dtype == np.int64 and array.ndim == 1 and array.size <= 8


def _with_attributes(draft: Draft, old: int, size: int) -> Draft | None:
    """Attributes that name the size too: hidden_size, kernel_shape, num_outputs."""
    model, found = draft.copy(), False
    for node in model.graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.INT and a.i == old and a.name not in ("axis", "to", _COUNT):
                a.i, found = size, True
    return outputs_inferred(model, draft) if found else None


@varies("values")
def values(draft: Draft, _: Allowed) -> Iterator[Variation]:
    """What is in each tensor: the plainest contents, and its own turned round."""
    for name, array in sorted(arrays(draft).items()):
        if array.dtype == object or not array.size:
            continue
        counting = np.arange(1, array.size + 1).reshape(array.shape)
        with np.errstate(all="ignore"):
            made = {"zeros": np.zeros(array.shape), "ones": np.ones(array.shape), "1, 2, 3 ...": counting, "half of each": np.full(array.shape, 0.5)}
            new = {text: a.astype(array.dtype) for text, a in made.items() if array.dtype.kind not in "b" or text in ("zeros", "ones")}
            if array.dtype.kind == "b":
                new["the opposite of each"] = ~array
            else:
                wide = array.astype(np.float64)
                new["the negative of each"], new["twice each"] = (-wide).astype(array.dtype), (2 * wide).astype(array.dtype)
                new["half of each"] = (wide / 2).astype(array.dtype)
        seen = [array]
        for text, other in new.items():
            if not any(other.tobytes() == s.tobytes() for s in seen):
                seen.append(other)
                change = reshaped if name in draft.weights and array.dtype.kind in "iu" else replaced
                yield Variation("values", f"values of {name}", _contents(array), text, (change(draft, {name: other}),))


def _contents(array: np.ndarray) -> str:
    text = np.array2string(np.asarray(array), separator=", ", threshold=6, edgeitems=2).replace("\n", "")
    return text if len(text) <= 60 else f"{text[:56]} ..."


@varies("operand")
def operands(draft: Draft, _: Allowed) -> Iterator[Variation]:
    """A weight that is given as an input, an input that is a weight: what the optimiser may fold."""
    for name, array in sorted(arrays(draft).items()):
        model, inputs = draft.copy(), dict(draft.inputs)
        if name in draft.weights:
            kept = [t for t in model.graph.initializer if t.name != name]
            model.graph.ClearField("initializer")
            model.graph.initializer.extend(kept)
            if not any(v.name == name for v in model.graph.input):
                model.graph.input.append(info(name, array))
            inputs[name] = array
            was, now = "a weight", "an input"
        else:
            declared = [v for v in model.graph.input if v.name != name]
            model.graph.ClearField("input")
            model.graph.input.extend(declared)
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            del inputs[name]
            was, now = "an input", "a weight"
        yield Variation("operand", f"how {name} is given", was, now, (Draft(model, inputs),))


@varies("operator set")
def operator_sets(draft: Draft, _: Allowed) -> Iterator[Variation]:
    """The oldest and the newest one in which every operator is defined as it is here."""
    used = next((o for o in draft.model.opset_import if o.domain in ("", "ai.onnx")), None)
    mine = {n.op_type for n in draft.nodes if n.domain in ("", "ai.onnx")}
    if used is None or not mine or draft.model.functions or not all(onnx.defs.has(op, used.version, "") for op in mine):
        return
    since = {op: onnx.defs.get_schema(op, used.version, "").since_version for op in mine}
    later = range(used.version, onnx.defs.onnx_opset_version() + 1)
    newest = max(v for v in later if all(onnx.defs.get_schema(op, v, "").since_version == since[op] for op in mine))
    for version in sorted({max(since.values()), newest} - {used.version}):
        model = draft.copy()
        for o in model.opset_import:
            if o.domain in ("", "ai.onnx"):
                o.version = version
        model.ir_version = max(model.ir_version, int(helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)))
        yield Variation("operator set", "operator set version", str(used.version), str(version), (Draft(model, draft.inputs),))
