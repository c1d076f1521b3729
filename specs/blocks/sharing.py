"""One part applied several times with the same weights and the same choices: siamese branches, recursion, sides of a relation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class _Tape:
    """A net that remembers weights, inputs and choices the first time and gives the same ones afterwards."""

    def __init__(self, net: Any) -> None:
        self.net, self.opset = net, net.opset
        self.kept, self.at = list[Any](), 0

    def _same(self, make: Callable[[], Any]) -> Any:
        if self.at == len(self.kept):
            self.kept.append(make())
        self.at += 1
        return self.kept[self.at - 1]

    def __call__(self, op: str, *inputs: Any, **attrs: Any) -> Any:
        return self.net(op, *inputs, **attrs)

    def weight(self, *dims: int, **bounds: Any) -> Any:
        return self._same(lambda: self.net.weight(*dims, **bounds))

    def input(self, *dims: int) -> Any:
        return self._same(lambda: self.net.input(*dims))

    def const(self, content: Any, form: Any = None) -> Any:
        return self.net.const(content, form)

    def ints(self, content: Sequence[int]) -> Any:
        return self.net.ints(content)

    def pick(self, options: Sequence[Any]) -> Any:
        return self._same(lambda: self.net.pick(options))

    def int(self, low: int, high: int) -> int:
        return self._same(lambda: self.net.int(low, high))

    def flag(self, chance: float = 0.5) -> bool:
        return self._same(lambda: self.net.flag(chance))


def shared(net: Any, part: Callable[..., Any]) -> Callable[..., Any]:
    """`part(net, *values)` as a function of the values alone: every call uses the weights of the first one."""
    tape = _Tape(net)

    def apply(*values: Any) -> Any:
        tape.at = 0
        return part(tape, *values)

    return apply
