"""Operators outside ONNX, declared in its own terms, so that types and attribute defaults are looked up like any other's.

They stay out of onnx's registry, which is the user's: onnx.reference refuses to start when a name occurs in two domains.

A signature is written as in ONNX's own tables: `declare("FastGelu", "X:T bias:T?", "Y:T", T=FLOATS)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import GenericAlias
from typing import Any

import onnx
from onnx.defs import OpSchema

from specs.formats import Format
from specs.schema import declared

MICROSOFT = "com.microsoft"
_KINDS: dict[Any, OpSchema.AttrType] = {
    int: OpSchema.AttrType.INT,
    float: OpSchema.AttrType.FLOAT,
    str: OpSchema.AttrType.STRING,
    list[int]: OpSchema.AttrType.INTS,
    list[float]: OpSchema.AttrType.FLOATS,
}  # fmt: skip
_OPTIONS = {"?": OpSchema.FormalParameterOption.Optional, "*": OpSchema.FormalParameterOption.Variadic}


def declare(name: str, inputs: str, outputs: str, attrs: dict[str, Any] | None = None, domain: str = MICROSOFT, **types: Sequence[Format]) -> None:
    """Declare version 1 of an operator: `name:Type` separated by spaces, `?` optional, `*` variadic; `attrs` are defaults.

    A type is one of the `types` given or literal, such as `tensor(int64)`. An attribute whose default is a Python type has
    none and may be left out.
    """
    constraints = [(variable, [f"tensor({f.name})" for f in formats], "") for variable, formats in types.items()]
    attributes = [_attribute(key, value) for key, value in (attrs or {}).items()]
    declared[domain, name] = OpSchema(
        name, domain, 1, "", inputs=_parameters(inputs), outputs=_parameters(outputs), type_constraints=constraints, attributes=attributes
    )


def _parameters(text: str) -> list[OpSchema.FormalParameter]:
    result = []
    for part in text.split():
        name, kind = part.split(":")
        option = _OPTIONS.get(kind[-1], OpSchema.FormalParameterOption.Single)
        result.append(OpSchema.FormalParameter(name, kind.rstrip("?*"), param_option=option))
    return result


def _attribute(name: str, default: Any) -> OpSchema.Attribute:
    if isinstance(default, (type, GenericAlias)):
        return OpSchema.Attribute(name, _KINDS[default], "", required=False)
    return OpSchema.Attribute(name, onnx.helper.make_attribute(name, default), "")
