"""A transformer of nearfar's own over the user's tokens, trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nearfar.checks import one_of
from nearfar.encoders import sentence
from nearfar.encoders.texts import LayeredText, OwnTokens, load_tokenizer
from nearfar.encoders.tokens import Embedded, Special, Tokens
from nearfar.errors import InputError

Positions = Literal["rotary", "learned"]
BASE = 10_000.0


class Size(NamedTuple):
    """Layers, width of the states, attention heads; the MLP is four times as wide as the states."""

    depth: int
    dim: int
    heads: int


SIZES = {"tiny": Size(2, 128, 4), "mini": Size(4, 256, 4), "base": Size(12, 768, 12)}


def rotations(length: int, dim: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles m / 10000^(2 i / dim) of places m and pairs i, each (length, dim / 2) (RoFormer,
    arXiv 2104.09864)."""
    rates = BASE ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return angles.cos(), angles.sin()


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs (x_i, x_{i + dim/2}) of x (..., length, dim) turned by their angles: inner products of two places then
    depend on their distance alone."""
    a, b = x.chunk(2, -1)
    cos, sin = (part.to(x.dtype) for part in turn)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); dropout on what is added."""

    def __init__(self, dim: int, heads: int, dropout: float, causal: bool, depth: int):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_attention, self.before_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        up, down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.mlp, self.dropout = nn.Sequential(up, nn.GELU(), down), nn.Dropout(dropout)
        for linear in (self.qkv, self.out, up, down):
            added = linear in (self.out, down)
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * depth) if added else 0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, mask: Tensor | None, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (n, L, dim); mask bool (n, 1, 1, L), None where every place holds a token."""
        n, length, dim = x.shape
        qkv = self.qkv(self.before_attention(x)).view(n, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = rotated(q, turn), rotated(k, turn)
        # padding stands behind the tokens, where a causal row does not look
        seen = F.scaled_dot_product_attention(q, k, v, None if self.causal else mask, is_causal=self.causal)
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(n, length, dim)))
        return x + self.dropout(self.mlp(self.before_mlp(x)))


class Transformer(OwnTokens, LayeredText):
    """Table of tokens -> `depth` pre-norm layers -> norm -> pooling, (n, dim); [CLS] in front of a text, [SEP] behind.

    positions: "rotary" (of any length) or "learned"; causal: each token sees those before it alone. dropout: of the
    table's vectors and of what each layer adds, not of the attention weights. The table scores the vocabulary as well
    (`logits`). Raises InputError for a width that the heads do not divide into even parts.
    """

    def __init__(
        self,
        tokenizer: Any,
        size: Size = SIZES["tiny"],
        dropout: float = 0.1,
        length: int = 512,
        pooling: str | Sequence[str] = "mean",
        positions: str = "rotary",
        causal: bool = False,
        name: str = "tiny",
    ):
        super().__init__()
        one_of("positions", positions, get_args(Positions))
        depth, dim, heads = size
        if dim % (2 * heads):
            raise InputError(f"{heads} heads need a width that {2 * heads} divides. Got {dim} instead.")
        if causal and "cls" in sentence.check_pooling(pooling):
            raise InputError("The first token of a causal encoder sees no other: all texts would get one vector.",
                             "Use --text-pooling lasttoken or mean.")  # fmt: skip
        self.tokenizer, self.name, self.heads, self.causal, self.positions = tokenizer, name, heads, causal, positions
        self.pooling, self.width, self.depth = sentence.check_pooling(pooling), dim, depth
        self.dim = dim * len(self.pooling)
        ids = {name: tokenizer.token_to_id(f"[{name}]") for name in ("CLS", "SEP", "PAD", "MASK")}
        self.special = Special(ids["CLS"], ids["SEP"], ids["PAD"], ids["MASK"], tokenizer.get_vocab_size(), length)
        self.table = nn.Embedding(self.special.size, dim)
        nn.init.normal_(self.table.weight, std=1 / math.sqrt(dim))
        self.places = nn.Embedding(length, dim) if positions == "learned" else None
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.02)
        self.stack = nn.ModuleList([Layer(dim, heads, dropout, causal, depth) for _ in range(depth)])
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)

    def shorten(self, length: int) -> None:
        super().shorten(length)
        if self.places is not None:
            rows = self.places.weight.detach()[: self.special.length].clone()
            self.places = nn.Embedding.from_pretrained(rows, freeze=not self.places.weight.requires_grad)

    def states(self, x: Tokens | Embedded, layers: int) -> Tensor:
        h = x.vectors if isinstance(x, Embedded) else self.table(x.ids)
        length, turn = h.shape[1], None
        if self.places is None:
            turn = rotations(length, self.width // self.heads, h.device)
        elif length > self.special.length:
            raise InputError(f"A text has {length} tokens, and there are {self.special.length} learned positions.")
        else:
            h = h + self.places.weight[:length]
        h, kept = self.dropout(h), []
        mask = None if bool(x.mask.all()) else x.mask[:, None, None]
        for i, layer in enumerate(self.stack):
            again = self.recomputed and torch.is_grad_enabled()
            h = checkpoint(layer, h, mask, turn, use_reentrant=False) if again else layer(h, mask, turn)
            if i >= self.depth - layers:
                kept.append(h)
        return self.norm(torch.stack(kept[::-1]))

    def _recompute(self) -> bool:
        return True

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "modality": "text",
            "name": self.name,
            "size": list(Size(self.depth, self.width, self.heads)),
            "dropout": self.dropout.p,
            "length": self.special.length,
            "pooling": list(self.pooling),
            "positions": self.positions,
            "causal": self.causal,
        }

    def save_files(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))


def own_from(config: Mapping[str, Any], folder: Path) -> Transformer:
    """The encoder that `config` describes, with random weights; `folder` holds its tokenizer."""
    said = ("dropout", "length", "pooling", "positions", "causal", "name")
    made = Transformer(load_tokenizer(folder), Size(*config["size"]), **{name: config[name] for name in said})
    made.restore_inserted(config)
    return made
