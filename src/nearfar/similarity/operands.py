"""The columns of a similarity matrix, block by block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Operand:
    """The columns of one block: keys (..., M, D) shared by all rows, or (..., N, L, D) lists of each row's own."""

    keys: Tensor
    own: bool

    @property
    def width(self) -> int:
        return self.keys.shape[-2]

    def product(self, query: Tensor, rows: slice, columns: slice) -> Tensor:
        q = query[..., rows, :]
        if not self.own:
            return q @ self.keys[..., columns, :].transpose(-1, -2)
        return (self.keys[..., rows, columns, :] @ q.unsqueeze(-1)).squeeze(-1)


def slices(n: int, size: int | None) -> list[slice]:
    size = size or max(n, 1)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
