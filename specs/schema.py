"""What ONNX itself knows about an operator at an opset: schema, type constraints, attribute defaults. Cached, never copied."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
import onnx.defs

from specs.formats import BY_NAME, Format

#: Schemas of operators outside ONNX by (domain, name); see specs.contrib.
declared: dict[tuple[str, str], onnx.defs.OpSchema] = {}


@cache
def schema(name: str, domain: str = "", opset: int = 26) -> onnx.defs.OpSchema | None:
    """The schema in force at this opset, None for an operator that neither ONNX nor specs.contrib defines."""
    if domain not in ("", "ai.onnx.ml") and (domain, name) not in declared:
        from specs.operator import load

        load()  # the families declare them: asked before that, the answer kept would be None
    if (domain, name) in declared:
        return declared[domain, name]
    try:
        return onnx.defs.get_schema(name, max_inclusive_version=opset, domain=domain)
    except onnx.defs.SchemaError:
        return None


@cache
def defaults(name: str, domain: str, opset: int) -> dict[str, Any]:
    """Attribute defaults by name; None for attributes that have none. Do not change the result."""
    from specs.program import attribute

    found = schema(name, domain, opset)
    if found is None:
        return {}
    return {k: attribute(a.default_value) if a.default_value.type else None for k, a in found.attributes.items()}


@cache
def formats(name: str, domain: str, opset: int, variable: str) -> tuple[Format, ...]:
    """The tensor formats a type variable (or a literal type such as "tensor(int64)") allows at this opset."""
    found = schema(name, domain, opset)
    assert found is not None
    allowed = next((c.allowed_type_strs for c in found.type_constraints if c.type_param_str == variable), [variable])
    names = [t[7:-1] for t in allowed if t.startswith("tensor(")]
    return tuple(BY_NAME[n] for n in names if n in BY_NAME)


def type_variable(name: str, domain: str, opset: int, position: int) -> str:
    """The type variable of an input; the last formal input stands for all further ones when it is variadic."""
    found = schema(name, domain, opset)
    assert found is not None
    return found.inputs[min(position, len(found.inputs) - 1)].type_str
