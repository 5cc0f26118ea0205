"""Large batches on the memory of small ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearfar import processes
from nearfar.methods.batch import Batch

if TYPE_CHECKING:
    from nearfar.methods.base import Method


class Cached:
    """A large batch through the encoder on the memory of a small one, with exact gradients (gradient caching, Gao et
    al. 2021): embeddings of all parts without a graph; the loss and its gradient to the embeddings; then each part
    once more with a graph, under the same random numbers (dropout), and backward.

    Batch norm sees the parts, not the whole batch: there the gradients are those of the parts' own statistics.
    """

    def __init__(self, method: Method, batch: Batch, size: int):
        self.method = method
        count = parts_of(batch, size)
        edges = [round(k * len(batch) / count) for k in range(count + 1)]
        self.parts = [batch.part(slice(a, b)) for a, b in itertools.pairwise(edges)]
        self.states: list[Any] = []
        self.leaves: dict[str, Any] = {}

    def embedded(self) -> dict[str, Any]:
        """Embeddings of the whole batch, as leaves that collect the gradient of the loss."""
        made = []
        with torch.no_grad():
            for part in self.parts:
                self.states.append(random_state())
                made.append(self.method.encode(part))
        self.leaves = {name: _joined([m[name] for m in made]) for name in made[0]}
        return dict(self.leaves)

    def backward(self) -> None:
        """Carries the gradients of the embeddings through the encoder, part by part."""
        after, place = random_state(), 0
        for part, state in zip(self.parts, self.states, strict=True):
            set_random_state(state)
            outputs = self.method.encode(part)
            pairs = [
                (z, leaf.grad[place : place + len(part)])
                for name in outputs
                for z, leaf in zip(_listed(outputs[name]), _listed(self.leaves[name]), strict=True)
                if leaf.grad is not None and z.requires_grad
            ]
            if pairs:
                torch.autograd.backward([z for z, _ in pairs], [g for _, g in pairs])
            place += len(part)
        set_random_state(after)


def parts_of(batch: Batch, size: int) -> int:
    """How many parts of `size` items at most the share of each process makes: as many on all of them, whose encoders
    may have to compute together."""
    largest = -(-batch.everywhere // (batch.members * processes.rank_and_world()[1]))
    return -(-max(largest, len(batch)) // size)


def random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _listed(value: Any) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [_joined([p[k] for p in parts]) for k in range(len(parts[0]))]
    return torch.cat(parts).requires_grad_()
