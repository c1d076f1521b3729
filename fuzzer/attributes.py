"""Attribute values in classes: what coverage counts, and which classes an operator's schema allows.

ONNX's schemas give the type of an attribute, not its range: attributes.toml does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from onnx.defs import OpSchema

from specs import schema
from specs.formats import BY_ONNX
from specs.operator import Operator

OLDEST, NEWEST = 13, 26
_TABLE: dict[str, dict[str, str]] = tomllib.loads((Path(__file__).parent / "attributes.toml").read_text())
RULES, NOT = _TABLE["rules"], _TABLE["never"]


def title(op: Operator) -> str:
    """How tables and features name an operator."""
    return f"{op.domain}.{op.name}" if op.domain else op.name


@cache
def _attributes(name: str, domain: str, opset: int) -> tuple[tuple[str, Any, tuple[str, ...]], ...]:
    """(name, default, rule) of every attribute of an operator at an opset."""
    found = schema.schema(name, domain, opset)
    if found is None:
        return ()
    defaults = schema.defaults(name, domain, opset)
    return tuple((a, defaults.get(a), rule(name, domain, a)) for a, s in found.attributes.items() if s.type != OpSchema.AttrType.GRAPH)


def rule(name: str, domain: str, attribute: str) -> tuple[str, ...]:
    return tuple(_text(name, domain, attribute).removeprefix("!").split())


def _text(name: str, domain: str, attribute: str) -> str:
    """The rule for one operator of one domain, else for its name, else for the attribute."""
    keys = (f"{domain}.{name}.{attribute}", f"{name}.{attribute}", attribute)
    return next((RULES[k] for k in keys if k in RULES), "")


def classes(name: str, domain: str, opset: int, given: dict[str, Any]) -> list[str]:
    """`attribute=class` for every attribute of one application, those left out included."""
    result = list[str]()
    for attribute, default, allowed in _attributes(name, domain, opset):
        value = given.get(attribute)
        result += [f"{attribute}={c}" for c in (["absent"] if value is None else _classes(value, default, allowed))]
    return result


def _classes(value: Any, default: Any, allowed: Sequence[str]) -> list[str]:
    if "given" in allowed or isinstance(value, (np.ndarray, tuple)):
        return ["given"]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [
            "length3+" if len(value) > 2 and "length3+" in allowed else f"length{len(value)}",
            *dict.fromkeys(_element(v) for v in value if not isinstance(v, float)),
        ]
    if isinstance(value, float) or "positive" in allowed:
        return ["default" if is_default(value, default) else "negative" if value < 0 else "positive" if value else "0"]
    if any(c[0] == "@" for c in allowed):
        return [f"@{BY_ONNX[int(value)].name}" if value else "default"]
    return [f"={int(value)}"] if allowed and allowed[0][0] == "=" else [_element(value)]


def _element(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "negative" if value < 0 else "2+" if value > 1 else str(int(value))


def is_default(value: Any, default: Any) -> bool:
    """Equal as ONNX stores it: floats have 32 bits."""
    if isinstance(value, (int, float)) and isinstance(default, (int, float)):
        return isclose(value, default, rel_tol=1e-6)
    return isinstance(value, (str, list)) and value == default


def may_be_absent(op: Operator, opset: int, attribute: str) -> bool:
    """Whether an attribute can be left out, by the schema and by all that is known of the operator."""
    found = schema.schema(op.name, op.domain, opset)
    assert found is not None
    optional = not found.attributes[attribute].required and not _text(op.name, op.domain, attribute).startswith("!")
    return optional and f"{title(op)} {attribute}=absent" not in NOT


@cache
def universe(op: Operator) -> frozenset[str]:
    """Every `attribute=class` that an operator may be drawn with at the opsets drawn."""
    result = set[str]()
    for opset in range(max(OLDEST, op.since), max(NEWEST, op.since) + 1) if op.domain == "" else [1]:
        found = schema.schema(op.name, op.domain, opset)
        if found is None:
            continue
        for name, a in found.attributes.items():
            if not a.required and not _text(op.name, op.domain, name).startswith("!"):
                result.add(f"{name}=absent")
            result |= {f"{name}={c}" for r in rule(op.name, op.domain, name) for c in _expanded(r, op, opset, a)}
    return frozenset(c for c in result if f"{title(op)} {c}" not in NOT)


def _expanded(rule: str, op: Operator, opset: int, attribute: OpSchema.Attribute) -> list[str]:
    if rule == "default" and not attribute.default_value.type:
        return []
    if rule not in ("@output", "@sequence"):
        return [rule]
    found = schema.schema(op.name, op.domain, opset)
    assert found is not None
    if rule == "@sequence":
        return [f"@{t[11:-2]}" for t in found.type_constraints[0].allowed_type_strs if "string" not in t and "complex" not in t]
    return [f"@{f.name}" for f in schema.formats(op.name, op.domain, opset, found.outputs[0].type_str) if f.kind not in ("string", "complex")]
