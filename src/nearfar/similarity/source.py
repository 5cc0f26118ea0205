"""What the columns of a similarity are made of: blocks of candidates, and similarities of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.exchange import Ring
from nearfar.similarity.relations import Relation, everyone


class Source:
    """A similarity of one's own: a matrix (N, M) that is asked for one tile at a time. Subclass it.

    shape: (N, M). dtype: of the tiles, at least float32; device: where they are. Defaults: those of the first of the
        `tensors()`, else float32 on the CPU.
    tile_shape: the most rows and columns of a tile. Default: the engine's. A tile that builds more than its own
        numbers (the hidden layer of a scorer of pairs) wants a small one: that is its memory.
    rounding: by how much a similarity may differ with the tile in which it stands. None: as a product of vectors does;
        0: not at all, whatever the tile.
    """

    shape: tuple[int, int]
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    tile_shape: tuple[int, int] | None = None
    rounding: float | None = None

    def tensors(self) -> Sequence[Tensor]:
        """Everything that `tile` reads and that may need a gradient. Default: nothing, all is constant."""
        return ()

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor]) -> Tensor:
        """The similarities (rows, columns), by torch operations on `tensors`, which stand for those of `tensors()`.

        It is asked again for the gradient and must answer alike: no dropout. Tensors that are read by slices
        (`x[rows]`) cost what the slice costs.
        """
        raise TypeError(f"{type(self).__name__} does not answer for tiles")


def kind(source: Source) -> tuple[torch.dtype, torch.device]:
    """Type and device of the similarities of a source."""
    held = [x for x in source.tensors() if x.is_floating_point()]
    dtype = source.dtype or (torch.promote_types(held[0].dtype, torch.float32) if held else torch.float32)
    return dtype, source.device or (held[0].device if held else torch.device("cpu"))


@dataclass(eq=False)
class Block:
    """Candidates. `keys` (..., M, D) are shared by all anchors; with `per_anchor=True` (..., N, L, D) are each
    anchor's own. A `Source` in place of keys says itself how similar anchors and candidates are.

    `ids`, `labels`: integers of the candidates, (M,) or (N, L); negative = unknown.
    `visible`: which anchors may see them at all (a relation over this block alone).
    `gradient=False` holds the keys (what the source reads) constant.
    `ring`: the keys are those of this rank, and those of the others travel (`Exchange.keys` makes it); columns are then
    numbered over all ranks, and `ids`, `labels` and relations hold the values of all.
    """

    keys: Tensor | Source | Vectors
    per_anchor: bool = False
    ids: Tensor | None = None
    labels: Tensor | None = None
    visible: Relation = field(default_factory=lambda: everyone)
    gradient: bool = True
    ring: Ring | None = None
