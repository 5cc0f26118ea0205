"""Embeddings across processes: every rank sees the candidates of all ranks, with exact gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.errors import InputError, did_you_mean
from nearfar.similarity.exchange.collectives import all_sum, fail_together, largest, total
from nearfar.similarity.exchange.ring import Ring

NEGATIVES = ("local", "global")
PLANS = ("auto", "gather", "ring")
# Numbers in the joined keys from which they travel instead of being held by every rank.
RING_FROM = 1 << 26
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_plan = "auto"
_warned = False


@contextmanager
def exchange_plan(name: str = "auto") -> Iterator[None]:
    """How ranks see each other's keys inside a `with` block, with the same result.

    "gather": every rank holds the keys of all. "ring": every rank holds its own, and blocks of keys and their
    gradients travel: O(N D) of the local N, slower for small batches. "auto": ring where the joined keys are large.
    All ranks must choose alike.
    """
    global _plan
    if name not in PLANS:
        raise InputError(
            f"Unknown exchange plan '{name}'.{did_you_mean(name, PLANS)}", f"Choose one of {', '.join(PLANS)}."
        )
    before, _plan = _plan, name
    try:
        yield
    finally:
        _plan = before


class _Gather(torch.autograd.Function):
    """Rows of all ranks, (sum of n_r, ...). Backward: the gradients of all ranks for the own rows, summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _all_rows(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        rank = dist.get_rank(ctx.group)
        start = sum(ctx.sizes[:rank])
        return total(grads[0], ctx.group)[start : start + ctx.sizes[rank]], None, None


def _all_rows(x: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    most = max(sizes)
    padded = x.new_zeros((most, *x.shape[1:]))
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([p[:n] for p, n in zip(parts, sizes, strict=True)])


@dataclass(frozen=True)
class Exchange:
    """`group` None: this process alone."""

    group: dist.ProcessGroup | None = None

    def gather(self, x: Tensor) -> tuple[Tensor, int]:
        """The rows of all ranks, and the number of this rank's first."""
        if self.group is None:
            return x, 0
        sizes = self.sizes(x.shape[0], x.device)
        return self._gathered(x, sizes)

    def keys(self, x: Tensor, whole: bool = False) -> tuple[Tensor, int, Ring | None]:
        """Candidates of all ranks: their keys, the number of this rank's first, and the ring where keys travel.

        whole: they are needed in one place (a part of negatives looks at them), so that they never travel. Without a
        ring the keys are those of all ranks; with one they are this rank's (see `Block.ring`).
        """
        if self.group is None:
            return x, 0, None
        sizes = self.sizes(x.shape[0], x.device)
        large = sum(sizes) * x.shape[1:].numel() >= RING_FROM
        if not whole and (_plan == "ring" or (_plan == "auto" and large)):
            ring = Ring(self.group, sizes)
            return x, ring.first(ring.rank), ring
        return *self._gathered(x, sizes), None

    def _gathered(self, x: Tensor, sizes: list[int]) -> tuple[Tensor, int]:
        rows = _Gather.apply(x, sizes, self.group)
        assert isinstance(rows, Tensor)
        return rows, sum(sizes[: dist.get_rank(self.group)])

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, with gradient."""
        return all_sum(x, self.group)

    def count(self, x: Tensor) -> int:
        """The rows of all ranks."""
        return x.shape[0] if self.group is None else sum(self.sizes(x.shape[0], x.device))

    def mean(self, rows: Tensor) -> Tensor:
        """The mean of rows (n, ...) over those of all ranks, summed over what else they have, with gradient; 0 of
        none."""
        return self.sum(rows.sum()) / max(1, self.count(rows))

    def widths(self, *inputs: Tensor) -> None:
        """Raises on every rank alike where the ranks' vectors differ in length or type."""
        if self.group is None:
            return
        known = [w for x in inputs for w in (x.shape[-1], TYPES.index(x.dtype) if x.dtype in TYPES else -1)]
        most = torch.tensor([y for w in known for y in (w, -w)], device=inputs[0].device)
        most = largest(most, self.group)
        differ = most[0::2] != -most[1::2]
        if bool(differ[1::2].any()):
            raise InputError(f"The vectors of the processes differ in type; here: {[str(x.dtype) for x in inputs]}.")
        if bool(differ.any()):
            raise InputError(f"The vectors of the processes differ in length; here: {[x.shape[-1] for x in inputs]}.")

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails inside on one rank fails on all of them, so that none waits for the others for ever."""
        problem: Exception | None = None
        try:
            yield
        except Exception as caught:
            problem = caught
        fail_together(problem, self.group, "{failed} of {world} processes refused their inputs.")

    def sizes(self, n: int, device: torch.device) -> list[int]:
        world = dist.get_world_size(self.group)
        counts = torch.zeros(world, dtype=torch.long, device=device)
        counts[dist.get_rank(self.group)] = n
        return total(counts, self.group).tolist()


def exchange(negatives: str) -> Exchange:
    """ "local": this process alone (warns once where a process group is running); "global": all ranks."""
    global _warned
    if negatives not in NEGATIVES:
        raise InputError(
            f"negatives must be 'local' or 'global'. Got '{negatives}'.{did_you_mean(negatives, NEGATIVES)}"
        )
    running = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if negatives == "global" and running:
        return Exchange(dist.group.WORLD)
    if running and not _warned:
        _warned = True
        import warnings

        warnings.warn(
            f"negatives='local' in a group of {dist.get_world_size()} processes: each anchor sees only the "
            "candidates of its own process. Pass negatives='global' to see those of all.",
            stacklevel=3,
        )
    return Exchange()
