"""Arrays and models as Python text that gives them back bit for bit."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.printer
from onnx import numpy_helper

SMALL = 64  # elements written as numbers; more are bytes in base64
INLINE = 30_000  # characters of data in a script; more stays in the file beside it


def dtype_text(dtype: np.dtype[Any]) -> str:
    """An expression for a numpy type, those of ml_dtypes included."""
    if dtype.kind == "O":
        return "object"
    return f"np.{'bool_' if dtype.kind == 'b' else dtype.name}" if dtype.type.__module__ == "numpy" else f"ml_dtypes.{dtype.name}"


def array_text(array: np.ndarray) -> str:
    """An expression that makes exactly this array, with np, nan, inf, unpack (and ml_dtypes) in scope."""
    array = np.asarray(array)
    if array.dtype.kind in "OSU":
        return f"np.array({array.tolist()!r}, object)" + (f".reshape({array.shape})" if array.size == 0 else "")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    kind = dtype_text(array.dtype)
    flat = array.ravel()
    if array.size > 4 and np.all(flat == flat[0]) and (array.dtype.kind in "iub" or not bool(np.any(np.signbit(flat.astype(np.float64))))):
        return f"np.full({array.shape}, {_number(flat[0])}, {kind})"
    if array.size <= SMALL:
        text = f"np.array({_nested(array)}, {kind})" + (f".reshape({array.shape})" if array.size == 0 else "")
        if _same_bits(eval(text, scope()), array):  # our own text, two lines up
            return text
    return f'unpack("{base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()}", {array.shape}, {kind})'


UNPACK = """\
def unpack(text, shape, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape).copy()
"""


def scope() -> dict[str, Any]:
    """The names an expression of `array_text` may use."""
    import ml_dtypes

    def unpack(text: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape)

    return {"np": np, "ml_dtypes": ml_dtypes, "nan": np.nan, "inf": np.inf, "unpack": unpack}


def _nested(array: np.ndarray) -> str:
    if array.ndim == 0:
        return _number(array[()])
    return f"[{', '.join(_nested(row) for row in array)}]"


def _number(value: Any) -> str:
    """The shortest digits that give the value back in its own type; hex floats would not survive np.array."""
    if np.dtype(type(value)).kind == "b":
        return str(bool(value))
    if np.iscomplexobj(value):
        return repr(complex(value))
    if np.dtype(type(value)).kind in "iu" or "int" in type(value).__name__:
        return str(int(value))
    number = float(value)
    if number != number or number in (np.inf, -np.inf):
        return repr(number)
    short = str(value) if np.dtype(type(value)).itemsize in (2, 4) and np.dtype(type(value)).kind == "f" else repr(number)
    return short if "." in short or "e" in short or "n" in short else f"{short}.0"


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# models ----------------------------------------------------------------------------------------------------------------
def canonical(model: onnx.ModelProto) -> bytes:
    """Bytes that are equal for models that mean and are called the same: comments gone, every tensor stored the same way."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for field in ("doc_string", "producer_name", "producer_version", "model_version", "domain", "metadata_props"):
        copy.ClearField(field)  # type: ignore[arg-type]
    for o in copy.opset_import:
        o.domain = _plain(o.domain)
    _bare(copy.graph)
    for function in copy.functions:
        function.ClearField("doc_string")
        for o in function.opset_import:
            o.domain = _plain(o.domain)
        for node in function.node:
            _bare_node(node)
    return copy.SerializeToString(deterministic=True)


def _plain(domain: str) -> str:
    """A field that is set to nothing differs, in bytes, from one that is not set: set it always."""
    return "" if domain == "ai.onnx" else domain


def _bare(graph: onnx.GraphProto) -> None:
    for field in ("doc_string", "metadata_props"):
        graph.ClearField(field)  # type: ignore[arg-type]
    for t in graph.initializer:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t), t.name))
    graph.initializer.sort(key=lambda t: t.name)
    graph.value_info.sort(key=lambda v: v.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.ClearField("doc_string")
    for node in graph.node:
        _bare_node(node)


def _bare_node(node: onnx.NodeProto) -> None:
    node.ClearField("doc_string")
    node.ClearField("metadata_props")
    node.domain, node.name = _plain(node.domain), node.name
    for a in node.attribute:
        a.ClearField("doc_string")
        if a.type == onnx.AttributeProto.TENSOR:
            a.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(a.t)))
        for g in [a.g] if a.type == onnx.AttributeProto.GRAPH else list(a.graphs):
            _bare(g)


def model_text(model: onnx.ModelProto) -> tuple[str, Mapping[str, np.ndarray]] | None:
    """ONNX's text form and the weights that have to be added to it, or None when the text would not give the model back.

    The printer cannot write every tensor (NaN, types below 8 bits), so weights that do not survive it are taken out.
    """
    wanted = canonical(model)
    first = {t.name for t in model.graph.initializer if _unprintable(t)}
    for names in (first, {t.name for t in model.graph.initializer}):
        stripped = onnx.ModelProto()
        stripped.CopyFrom(model)
        weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in names}
        kept = [t for t in stripped.graph.initializer if t.name not in names]
        del stripped.graph.initializer[:]
        stripped.graph.initializer.extend(kept)
        for t in stripped.graph.initializer:
            _as_fields(t)
        try:
            text = onnx.printer.to_text(stripped)
            text = "\n".join(line.rstrip() for line in text.strip().splitlines())
            back = onnx.parser.parse_model(text)
            back.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
            if canonical(back) == wanted:
                return text, weights
        except (onnx.parser.ParseError, ValueError, TypeError):
            continue
    return None


def _unprintable(t: onnx.TensorProto) -> bool:
    array = numpy_helper.to_array(t)
    if array.size > SMALL or array.dtype.type.__module__ != "numpy":
        return True
    return array.dtype.kind in "fc" and not bool(np.all(np.isfinite(array)))


def _as_fields(t: onnx.TensorProto) -> None:
    """The printer writes the numbers of typed fields, and only dots for raw bytes of some types."""
    array = numpy_helper.to_array(t)
    if t.HasField("raw_data") and array.dtype.kind in "fiub":
        values = array.ravel().view(np.uint16).tolist() if array.dtype == np.float16 else array.ravel().tolist()
        t.CopyFrom(onnx.helper.make_tensor(t.name, t.data_type, list(t.dims), values)) if array.dtype != np.float16 else _half(t, values)


def _half(t: onnx.TensorProto, bits: list[int]) -> None:
    t.ClearField("raw_data")
    t.int32_data.extend(bits)


def shown(model: onnx.ModelProto, lines: int = 60) -> str:
    """Text to read, not to parse: long weights and long models are cut."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        text = onnx.printer.to_text(copy)
    except (ValueError, RuntimeError):
        text = "\n".join(f"{', '.join(n.output)} = {n.op_type}({', '.join(n.input)})" for n in model.graph.node)
    cut = [line.rstrip() if len(line) <= 300 else line[:280] + " ..." for line in text.strip().splitlines()]
    return "\n".join(cut if len(cut) <= lines else [*cut[:lines], f"... {len(cut) - lines} more lines in model.onnx"])
