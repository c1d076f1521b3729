"""How a campaign draws case number i: from its settings, and from any source of choices, so that the case can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fuzzer.generate import Generated, generate_from
from fuzzer.grow import Menu
from fuzzer.menus import avoided
from fuzzer.settings import Settings
from fuzzer.shrinking import Drawn
from fuzzer.sources import Recorded, Seeded

MOST = 500  # choices more than twice as many as there were


class Drawing:
    """Case number i, from choices of any kind."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        backends = [t.backend for t in settings.targets]
        avoid = frozenset(avoided("onnxruntime")) if "onnxruntime" in backends else frozenset[str]()
        self.plain = Menu(settings.names, avoid=avoid, blocks=settings.blocks)
        self.friendly = Menu(settings.names, avoid=avoid | frozenset(k for b in backends for k in avoided(b)), blocks=settings.blocks)
        self.small = replace(self.friendly, blocks=frozenset())

    def generated(self, index: int, source: Seeded | Recorded) -> Generated:
        """Every third case is what dear backends get: they pay by the node."""
        friendly = index % 3 == 0
        most = self.settings.max_nodes
        if friendly and len(self.settings.targets) > 1:
            most = max(1, most // 2)
        nodes = 1 if most == 1 or source.choose(6) == 0 else 2 + source.choose(most - 1)
        menu = self.plain if not friendly else self.friendly if index % 36 == 0 or self.settings.blocks is not None else self.small
        origin = {"seed": self.settings.seed, "index": index, "nodes": nodes, "choices": source.trail}
        return generate_from(source, nodes, menu, origin=origin)

    def again(self, index: int, choices: Sequence[int]) -> Drawn | None:
        """The case of these choices; None when what is drawn has no safe inputs. Raises RuntimeError when the drawing does not end."""
        source = Recorded(choices, MOST + 2 * len(choices))
        made = self.generated(index, source)
        return Drawn(made.case, tuple(source.trail), tuple(source.spans)) if made.found.safe and made.network.steps else None
