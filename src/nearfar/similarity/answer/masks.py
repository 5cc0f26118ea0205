"""Which pairs of a tile count, as factors 0 and 1 in scratch: no boolean masks in the loop of a sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.answer.classes import numbered
from nearfar.similarity.answer.normal_form import Terms
from nearfar.similarity.relations import Threshold, Tile

EXACT = 1 << 24  # integers that float32 tells apart


class Conditions:
    """The conditions of one group, made ready for the loop: factors 0 and 1 in the scratch."""

    def __init__(self, t: Terms, dtype: torch.dtype, scale: float = 1.0):
        """scale: log2(e) where the tile's similarities are given in base 2."""
        out = [x for x in t.unlisted if x.block == 0]
        self.diagonals = [start for x in out for start in x.diagonals]
        lists = [x.listed for x in out if not x.diagonals]
        self.unlisted = [torch.cat(lists, 1)] if lists else []
        pairs = [(x, torch.eq) for x in t.same] + [(x, torch.ne) for x in t.different]
        self.values = [(*_floats(x.rows, x.columns[0], dtype), test) for x, test in pairs]
        limits = [x for x in t.rest if isinstance(x, Threshold)]
        self.limits = [(x.threshold.detach() * scale, torch.ge if x.above else torch.le) for x in limits]
        self.rest = [*t.listed, *(x for x in t.rest if not isinstance(x, Threshold))]

    @property
    def masked(self) -> bool:
        return bool(self.values or self.limits or self.rest)

    def mask(self, s: Tensor, rows: slice, columns: slice, out: Tensor, work: Tensor) -> Tensor | None:
        """1 where a pair counts, listed pairs aside; read before `s` is overwritten."""
        first = True
        sides = [(row[rows, None], column[columns], test) for row, column, test in self.values]
        sides += [(s, limit[rows, None], test) for limit, test in self.limits]
        for left, right, test in sides:
            test(left, right, out=out if first else work)
            if not first:
                out.mul_(work)
            first = False
        for relation in self.rest:
            here = relation.tile(Tile(rows, 0, columns, False, s.device))
            if here.dtype != torch.bool:
                raise InputError("`where` needs a boolean relation; this one has weights.", "Pass weights as weight=.")
            out.copy_(here) if first else out.mul_(here)
            first = False
        return None if first else out

    def exponentials(self, e: Tensor, mask: Tensor | None, rows: slice, columns: slice) -> Tensor:
        """2^e in place, 0 where a pair does not count."""
        e.exp2_()
        if mask is not None:
            e.mul_(mask)
        self.clear(e, rows, columns)
        return e

    def clear(self, e: Tensor, rows: slice, columns: slice, fill: float = 0.0) -> None:
        """`fill` in place of the listed pairs that do not count."""
        for start in self.diagonals:
            offset = rows.start + start - columns.start
            if -e.shape[0] < offset < e.shape[1]:
                e.diagonal(offset).fill_(fill)
        for column in (c for lists in self.unlisted for c in lists[rows].unbind(1)):
            there = (column - columns.start)[:, None]
            place = there.clamp(0, e.shape[1] - 1)
            e.scatter_(1, place, torch.where(there == place, fill, e.gather(1, place)))


def _floats(rows: Tensor, columns: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values that are equal as floats exactly where they are equal and known."""
    assert columns is not None
    small = all(not x.is_floating_point() and (not len(x) or int(x.amax()) < EXACT) for x in (rows, columns))
    if not small:
        rows, columns = (x - 1 for x in numbered(rows, columns))
    return torch.where(rows >= 0, rows, -1).to(dtype), torch.where(columns >= 0, columns, -2).to(dtype)
