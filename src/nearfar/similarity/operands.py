"""The columns of a similarity matrix, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from nearfar.similarity.ring import Ring


@dataclass(frozen=True)
class Operand:
    """The columns of one block: keys (..., M, D) shared by all rows, or (..., N, L, D) lists of each row's own.

    `ring`: the keys are this rank's and those of the others come by. `first`: the number of the first column.
    """

    keys: Tensor
    own: bool
    ring: Ring | None = None
    first: int = 0

    @property
    def width(self) -> int:
        return self.keys.shape[-2] if self.ring is None else self.ring.total

    def columns(self, size: int | None) -> list[slice]:
        """Pieces of the columns that are here, by their numbers."""
        return [slice(c.start + self.first, c.stop + self.first) for c in slices(self.keys.shape[-2], size)]

    def here(self, columns: slice) -> slice:
        return slice(columns.start - self.first, columns.stop - self.first)

    def product(self, query: Tensor, rows: slice, columns: slice) -> Tensor:
        q, columns = query[..., rows, :], self.here(columns)
        if not self.own:
            return q @ self.keys[..., columns, :].transpose(-1, -2)
        return (self.keys[..., rows, columns, :] @ q.unsqueeze(-1)).squeeze(-1)


def slices(n: int, size: int | None) -> list[slice]:
    size = size or max(n, 1)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
