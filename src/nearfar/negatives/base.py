"""What a part that supplies negatives promises."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nearfar.similarity import Block

parts: dict[str, type[Negatives]] = {}


class Negatives(nn.Module):
    """Further candidates beside (or instead of) the other items of the batch.

    in_batch: whether the other keys of the batch are negatives as well.
    A *mark* is an integer that says what an item is (content, group...); items with an equal mark of one kind hide
    from each other. `marks` are LongTensors (n, kinds), -1 where unknown.
    """

    in_batch: bool = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parts.setdefault(cls.__name__.lower(), cls)  # a namesake of one's own does not displace a built-in one

    @property
    def capacity(self) -> int:
        """How many keys it keeps."""
        return 0

    def setup(self, dim: int, kinds: int, batch_size: int, samples: int) -> None:
        """Sizes what depends on the data. Called once, before the first step or before a state is loaded."""

    def blocks(self, items: Tensor, marks: Tensor) -> Sequence[Block]:
        """Blocks for anchors `items` (N,) of the batch whose `marks` are (n, kinds)."""
        raise TypeError(f"{type(self).__name__} makes no blocks")

    def update(self, keys: Tensor, marks: Tensor) -> None:
        """After the optimiser step: the step's keys (n, D), detached, and their marks."""
