"""The encoder of histories: a causal transformer over item ids, SASRec's, whose item table scores what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nearfar import files
from nearfar.checks import PositiveInt, ShareBelowOne, Width, checked_init
from nearfar.encoders.base import Encoder
from nearfar.errors import InputError, did_you_mean

PAD = 0
ITEMS, USERS = "items.json", "users.json"
MEND = "Copy the model's folder again."


class Histories(NamedTuple):
    """Items in the order in which they were met: ids int64 (n, l), 0 behind the last one; lengths int64 (n,)."""

    ids: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> Histories:
        return Histories(self.ids.to(device), self.lengths.to(device))

    @property
    def there(self) -> Tensor:
        """bool (n, l): places of the history, whatever stands there."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    @property
    def real(self) -> Tensor:
        """bool (n, l): places that hold an item."""
        return self.there & (self.ids != PAD)


class Layer(nn.Module):
    """norm(x + attention(x)), then norm(x + MLP(x)); dropout on the attention weights and on what is added."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.after_attention, self.after_mlp = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (n, l, dim); mask bool (n, 1, l, l): which place (last) each place sees."""
        n, length, dim = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        p = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p)
        x = self.after_attention(x + self.dropout(self.out(seen.transpose(1, 2).reshape(n, length, dim))))
        return self.after_mlp(x + self.dropout(self.down(F.gelu(self.up(x)))))


@checked_init
class HistoryEncoder(Encoder):
    """Histories -> the state at the last place (n, dim), of an empty one that of a place without an item; single items
    -> their rows of the item table (n, dim), so that the inner product of the two scores what comes next (Kang and
    McAuley, SASRec, ICDM 2018).

    items: ids of the items that are known; titles: id -> title; users: user -> ids of all that is known of them.
    dim: width of table and states. layers, heads, inner: blocks, attention heads, and width of the MLPs between.
    dropout: in training. length: latest items of a history that are read. Ids that are not known are left out of
    histories. Row 0 of the table is nothing, the last row masks an item.
    """

    modality = "interactions"

    def __init__(
        self,
        items: Sequence[str],
        dim: Width = 64,
        layers: PositiveInt = 2,
        heads: PositiveInt = 2,
        inner: Width = 256,
        dropout: ShareBelowOne = 0.5,
        length: PositiveInt = 50,
        titles: Mapping[str, str] | None = None,
        users: Mapping[str, Sequence[str]] | None = None,
    ):
        super().__init__()
        if dim % heads:
            raise InputError(f"{heads} heads need a width that they divide. Got {dim}.", "Change --history-heads.")
        self.items, self.dim, self.layers, self.heads, self.inner, self.length = (
            list(items), dim, layers, heads, inner, length)  # fmt: skip
        self.titles, self.users = dict(titles or {}), dict(users or {})
        self.index = {name: place for place, name in enumerate(self.items, 1)}
        self.table = nn.Embedding(len(self.items) + 2, dim, padding_idx=PAD)
        self.places = nn.Embedding(length, dim)
        self.norm, self.dropout = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(dropout)
        self.stack = nn.ModuleList([Layer(dim, heads, inner, dropout) for _ in range(layers)])
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.table.weight[PAD])

    @property
    def mask_id(self) -> int:
        """What stands in place of an item that is hidden."""
        return len(self.items) + 1

    @property
    def item_vectors(self) -> Tensor:
        """The table of the known items, (items, dim); item k of it has the id k + 1."""
        return self.table.weight[1:-1]

    def states(self, x: Histories) -> Tensor:
        """(n, l, dim): of each place what it and those before it say."""
        h = self.table(x.ids) + self.places.weight[: x.ids.shape[1]]
        h, length = self.dropout(self.norm(h)), x.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=h.device).tril()
        mask = causal & x.real[:, None]
        alone = torch.eye(length, dtype=torch.bool, device=h.device) & ~mask.any(2, keepdim=True)
        for layer in self.stack:
            given = h, (mask | alone)[:, None]
            again = self.recomputed and torch.is_grad_enabled()
            h = checkpoint(layer, *given, use_reentrant=False) if again else layer(*given)
        return h

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return list(self.stack)

    def recompute(self) -> bool:
        self.recomputed = True
        return True

    def forward(self, x: Histories | Tensor) -> Tensor:
        if isinstance(x, Tensor):
            return self.table(x)
        return last_state(self.states(x), x.lengths)

    def prepare(self, items: Any) -> Histories | Tensor:
        """Histories (lists of ids), or single ids. Raises InputError for a single id that is not known."""
        if not len(items) or isinstance(items[0], list | tuple):
            return self.histories([[self.index[str(i)] for i in one if str(i) in self.index] for one in items])
        return torch.tensor([self._place(item) for item in items], device=self.device)

    def _place(self, item: Any) -> int:
        if str(item) not in self.index:
            raise InputError(f"The model knows no item '{item}'.{did_you_mean(str(item), self.items[:20_000])}",
                             "Items that no training row held have no vector.")  # fmt: skip
        return self.index[str(item)]

    def histories(self, found: Sequence[Sequence[int]]) -> Histories:
        """Lists of places in the table, cut to the latest `length`, as one batch."""
        cut = [list(one)[-self.length :] for one in found]
        ids = torch.zeros(len(cut), max([1, *map(len, cut)]), dtype=torch.long)
        for row, one in enumerate(cut):
            ids[row, : len(one)] = torch.tensor(one, dtype=torch.long)
        return Histories(ids, torch.tensor([len(one) for one in cut], dtype=torch.long)).to(self.device)

    def config(self) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("dim", "layers", "heads", "inner", "length")}
        return {"modality": "interactions", "name": "sasrec", **sizes, "dropout": self.dropout.p}

    def save_files(self, folder: Path) -> None:
        files.write_json(folder / ITEMS, {"items": self.items, "titles": self.titles})
        files.write_json(folder / USERS, self.users, indent=None)


def last_state(states: Tensor, lengths: Tensor) -> Tensor:
    """The state (n, dim) of the last of `lengths` places of (n, l, dim); of the first where there is none."""
    return states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)]


def restored(config: Mapping[str, Any], folder: Path) -> HistoryEncoder:
    """The encoder that `config` describes, with random weights; `folder` holds its items."""
    named = files.read_json(folder / ITEMS, {"items": list, "titles": dict}, MEND)
    users = files.read_json(folder / USERS, {}, MEND) if (folder / USERS).exists() else {}
    sizes = {name: config[name] for name in ("dim", "layers", "heads", "inner", "length", "dropout")}
    return HistoryEncoder(named["items"], **sizes, titles=named["titles"], users=users)
