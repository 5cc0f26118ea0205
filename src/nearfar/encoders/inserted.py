"""What is put into the layers of a text encoder: experts in place of each MLP, a gate after each layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.encoders.tokens import Embedded, Tokens
from nearfar.errors import InputError

ROUTINGS = ("domain", "router")
MLPS = (("mlp",), ("intermediate", "output.dense"), ("ffn",), ("feed_forward",))
"""Where layers keep their MLP: ours, ModernBERT and the decoders; BERT and its kin; DistilBERT; others."""


class Route:
    """What the experts of one encoder share in a pass: the expert of each row (n,), the mask of its tokens, and the
    routers' logits, (n, experts) of each layer. Copies of the encoder begin with an empty one."""

    def __init__(self):
        self.rows: Tensor | None = None
        self.mask: Tensor | None = None
        self.logits: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Route:
        memo[id(self)] = fresh = Route()
        return fresh

    def __getstate__(self) -> dict[str, Any]:
        return Route().__dict__

    @contextmanager
    def of(self, x: Tokens | Embedded) -> Iterator[None]:
        """For one pass of `x`."""
        self.rows, self.mask, self.logits = x.route, x.mask, []
        try:
            yield
        finally:
            self.rows = self.mask = None


class Experts(nn.Module):
    """Copies of one block, of which each row of the batch passes one, with all its tokens.

    The row's expert is the one that `Tokens.route` names or, with a router G (experts, width), the highest of the
    logits, the mean of G x_t over the tokens x_t of the row; the choice passes no gradient and the output is not
    scaled. A block in two parts asks its router once, in the first. Raises InputError where rows name no expert, or one
    that is not there.
    """

    def __init__(self, block: nn.Module, experts: int, route: Route, router: int | None = None, follows: bool = False):
        super().__init__()
        self.experts = nn.ModuleList([block, *[copy.deepcopy(block) for _ in range(experts - 1)]])
        self.route, self.follows = route, follows
        self.router = None if router is None else nn.Linear(router, experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.router is not None:
            self.route.logits.append(self._mean(self.router(x)))
        rows = self.route.logits[-1].argmax(1) if self.follows or self.router is not None else self._given(len(x))
        places = [(rows == e).nonzero()[:, 0] for e in range(len(self.experts))]
        parts = [expert(x[where]) for expert, where in zip(self.experts, places) if len(where)]
        return torch.cat(parts)[torch.cat(places).argsort()] if parts else self.experts[0](x)

    def _mean(self, logits: Tensor) -> Tensor:
        """(n, L, experts) -> their mean over the tokens, (n, experts)."""
        mask = torch.ones_like(logits[..., 0], dtype=torch.bool) if self.route.mask is None else self.route.mask
        return (logits * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def _given(self, n: int) -> Tensor:
        return checked_route(self.route.rows, n, len(self.experts))


def checked_route(rows: Tensor | None, n: int, there: int) -> Tensor:
    """Which of so many experts or domains each of n texts names; InputError where they name none, or one that is not
    there."""
    if rows is None:
        raise InputError(f"This encoder has {there} experts or domains, and its texts name none.",
                         "Name the domain of all texts (--variant NAME), or the column that holds it (--domain "
                         "COLUMN); in Python tokens._replace(route=numbers).")  # fmt: skip
    if len(rows) != n or not bool(((rows >= 0) & (rows < there)).all()):
        raise InputError(f"{n} texts name {len(rows)} experts, of 0 to {there - 1}: {rows.tolist()[:8]}.")
    return rows


class Gate(nn.Module):
    """A channel gate with multiplicative Gaussian noise, after a layer (CVIB, arXiv 2303.02846).

    training: y = x (mu + exp(logvar / 2) eps), eps ~ N(0, I) drawn once for all positions of a row; evaluation: the
    channels with mu^2 / sigma^2 > 1 times mu, the others 0. Starts as mu ~ N(1, .01^2), logvar ~ N(-9, .01^2).
    """

    def __init__(self, width: int):
        super().__init__()
        self.mu = nn.Parameter(1 + 0.01 * torch.randn(width))
        self.logvar = nn.Parameter(-9 + 0.01 * torch.randn(width))

    def open(self) -> Tensor:
        """Which channels pass in evaluation, bool (width,)."""
        return self.logvar < (self.mu**2 + 1e-8).log()

    def forward(self, x: Tensor) -> Tensor:
        """(n, L, width) -> (n, L, width)."""
        if not self.training:
            return x * (self.mu * self.open())
        noise = torch.randn(len(x), 1, len(self.mu), device=x.device, dtype=self.mu.dtype)
        return x * (self.mu + (self.logvar / 2).exp() * noise)


class Gated(nn.Module):
    """A layer and the gate after it; what else is asked of it the layer answers."""

    def __init__(self, layer: nn.Module, gate: nn.Module):
        super().__init__()
        self.layer, self.gate = layer, gate

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.layer(*args, **kwargs)
        return (self.gate(out[0]), *out[1:]) if isinstance(out, tuple) else self.gate(out)


def put_experts(layers: nn.ModuleList, experts: int, route: Route, router: int | None) -> None:
    """Replaces the MLP of each layer by copies of it; router: the width of its input, for routers that are learned.

    Raises InputError for layers whose MLP is not found.
    """
    for wrapped in layers:
        layer = wrapped.layer if isinstance(wrapped, Gated) else wrapped
        assert isinstance(layer, nn.Module)
        names = next((names for names in MLPS if all(_has(layer, name) for name in names)), None)
        if names is None:
            raise InputError(f"The layers of this model ({type(layer).__name__}) keep no MLP where one is known.",
                             f"Known: {'; '.join(' + '.join(names) for names in MLPS)}.")  # fmt: skip
        for i, name in enumerate(names):
            block = layer.get_submodule(name)
            made = Experts(block, experts, route, router if i == 0 else None, follows=router is not None and i > 0)
            parent, _, last = name.rpartition(".")
            setattr(layer.get_submodule(parent), last, made)


def _has(layer: nn.Module, name: str) -> bool:
    try:
        layer.get_submodule(name)
    except AttributeError:
        return False
    return True
