"""The registry of operators: `op` joins a drawing, a meaning and the numerics of one ONNX operator in one place."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from specs.draw import Draw
from specs.formats import Format
from specs.numerics import ErrorRule, undecidable
from specs.rule import Rule

#: (node, *inputs) -> output or tuple of outputs; torch tensors, None for an omitted optional input.
Meaning = Callable[..., Any]
#: (node, *inputs) -> tensors that are positive where an input is outside the safe domain, by how much.
Loss = Callable[..., Sequence[Any]]
#: (node, call, args) -> outputs; evaluates sub-graphs with call(attribute_name, args) -> list of values.
Control = Callable[..., Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Operator:
    """Everything Assay knows about one ONNX operator that ONNX itself does not.

    draw     one application, from choices; None: known to `specs.run` but never generated
    meaning  the torch function, complete for all attributes and types of the schema; in float64 it is the reference
    error    rounding model and propagation: (node, policy, balls, values) -> radii (see specs.numerics)
    safe     the safe domain as losses; nothing when defined everywhere
    proxy    a meaning with usable derivatives for the input search, where the real one is flat
    together one uncertain element of an input moves all results (a scale taken from the data)
    control  for If, Loop, Scan ...: evaluates sub-graphs; then `meaning` is unused
    since    oldest opset at which it is drawn
    weight   how often it is drawn relative to others
    """

    name: str
    domain: str
    meaning: Meaning
    error: ErrorRule = undecidable
    draw: Callable[[Draw], Rule] | None = None
    safe: Loss | None = None
    proxy: Meaning | None = None
    control: Control | None = None
    since: int = 13
    weight: float = 1.0
    among: Sequence[Format] | None = None
    family: str = ""
    together: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return (self.domain, self.name)


_registry: dict[tuple[str, str], Operator] = {}
_loaded = False


def register(operator: Operator) -> Operator:
    if operator.key in _registry:
        raise ValueError(f"{operator.name}: this operator already has a spec in {_registry[operator.key].family}")
    _registry[operator.key] = operator
    return operator


def op(
    name: str,
    *,
    meaning: Meaning,
    error: ErrorRule = undecidable,
    safe: Loss | None = None,
    proxy: Meaning | None = None,
    since: int = 13,
    weight: float = 1.0,
    among: Sequence[Format] | None = None,
    domain: str = "",
    together: bool = False,
) -> Callable[[Callable[[Draw], Rule]], Operator]:
    """Decorate the drawing of an operator; returns the registered Operator.

    `among` limits the formats of the first input when drawing, if the schema allows more than the spec can use.
    """

    def decorate(draw: Callable[[Draw], Rule]) -> Operator:
        family = draw.__module__.rsplit(".", 1)[-1]
        return register(Operator(name, domain, meaning, error, draw, safe, proxy, None, since, weight, among, family, together))

    return decorate


def meaning_only(
    name: str, meaning: Meaning, *, error: ErrorRule = undecidable, proxy: Meaning | None = None, domain: str = "", control: Control | None = None
) -> Operator:
    """An operator that `specs.run` executes in models users bring, but that is not drawn (old or superseded)."""
    return register(Operator(name, domain, meaning, error, proxy=proxy, control=control, family=meaning.__module__.rsplit(".", 1)[-1]))


def unary(
    name: str,
    meaning: Callable[..., Any],
    *,
    error: ErrorRule = undecidable,
    safe: Callable[..., Any] | None = None,
    proxy: Callable[..., Any] | None = None,
    since: int = 13,
    weight: float = 1.0,
    attrs: Callable[[Draw], dict[str, Any]] | None = None,
) -> Operator:
    """One elementwise operator of one input as one line of a table.

    `meaning`, `safe` and `proxy` take the tensor alone, or (node, tensor) when `attrs` draws attributes.
    """

    def bare(f: Any) -> Any:
        if f is None or attrs is not None:
            return f
        return lambda node, x: f(x)

    def losses(node: Any, x: Any) -> list[Any]:
        return [bare(safe)(node, x)]

    def draw(g: Draw) -> Rule:
        x = g.operand(low=0)
        return Rule([x], [x], attrs(g) if attrs else {})

    draw.__doc__ = f"Elementwise {name}."
    caller = inspect.currentframe()
    family = caller.f_back.f_globals["__name__"].rsplit(".", 1)[-1] if caller is not None and caller.f_back is not None else ""
    return register(Operator(name, "", bare(meaning), error, draw, losses if safe else None, bare(proxy), None, since, weight, None, family))


def load() -> None:
    """Import every family once, so that the registry is full."""
    global _loaded
    if not _loaded:
        import specs.ops

        _loaded = True  # first: a family may look at a schema while it is imported
        for module in sorted(m.name for m in pkgutil.iter_modules(specs.ops.__path__)):
            importlib.import_module(f"specs.ops.{module}")


def operators() -> dict[tuple[str, str], Operator]:
    """All registered operators by (domain, name)."""
    load()
    return _registry


def find(name: str, domain: str = "") -> Operator | None:
    return operators().get(("" if domain == "ai.onnx" else domain, name))
