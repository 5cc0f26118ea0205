"""Vectors of nodes from what several experts say of them, trained to tell which nodes are neighbours."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import encoders
from nearfar.encoders import TextEncoder
from nearfar.encoders.base import evaluating
from nearfar.encoders.choosing import SCRATCH
from nearfar.text_graphs import EXPERTS, concat_logits, context_texts, expert_shares, mixture, similarity_logits

AT_ONCE = 64  # nodes


class Selector(nn.Module):
    """Shares of the experts: contents (n, k, d) and contexts (n, k, d) -> alpha (n, k).

    kind: "similarity", "concat", or "content", which does not see the contexts. unit: their cosine in place of the
    inner product.
    """

    def __init__(self, kind: str, dim: int, temperature: float, unit: bool = False, count: int = len(EXPERTS)):
        super().__init__()
        self.kind, self.temperature, self.unit = kind, temperature, unit
        wide, hidden = (2 * dim, dim) if kind == "concat" else (dim, max(1, dim // 2))
        self.first, self.second = nn.Linear(wide, hidden), nn.Linear(count * hidden, count)

    def forward(self, contents: Tensor, contexts: Tensor) -> Tensor:
        maps: Any = [(layer.weight, layer.bias) for layer in (self.first, self.second)]
        if self.kind == "concat":
            logits = concat_logits(contents, contexts, *maps)
        else:
            logits = similarity_logits(contents, None if self.kind == "content" else contexts, *maps, unit=self.unit)
        return expert_shares(logits, self.temperature)


class TextMixture(nn.Module):
    """Numbers of nodes (b,) -> their vectors h (b, d) and the shares of the experts (b, k).

    text: encoder of the texts. contents: of each expert the texts of all nodes. contexts: what these texts are, of each
    expert too; none where no selector reads them. selector: None: equal shares. `logits`: how much each of some
    nodes is expected among the neighbours.
    """

    def __init__(
        self,
        text: TextEncoder,
        contents: Sequence[Sequence[str]],
        contexts: Sequence[Sequence[str]] = (),
        selector: nn.Module | None = None,
    ):
        super().__init__()
        self.text, self.selector, self.count = text, selector, len(contents)
        self.nodes = len(contents[0])
        self.ids = [text.encode_ids(list(texts)) for texts in (*contents, *contexts)]
        self.labels = nn.Embedding(self.nodes, text.dim)
        nn.init.normal_(self.labels.weight, std=text.dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(self.nodes))

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        rows = nodes.tolist()
        read = torch.stack([self.text(self.text.build([own[k] for k in rows])) for own in self.ids], 1)
        contents, contexts = read[:, : self.count], read[:, self.count :]
        if self.selector is None:
            shares = contents.new_full((len(nodes), self.count), 1 / self.count)
        else:
            shares = self.selector(contents, contexts)
        return mixture(shares, contents), shares

    def logits(self, h: Tensor, labels: Tensor) -> Tensor:
        """h (b, d), labels (b, s) -> h_i w_j + b_j, (b, s)."""
        return (h[:, None] * self.labels(labels)).sum(2) + self.bias[labels]

    @torch.no_grad()
    def whole(self) -> tuple[Tensor, Tensor]:
        """Vectors and shares of all nodes, without dropout."""
        with evaluating(self):
            parts = [self(nodes) for nodes in torch.arange(self.nodes).split(AT_ONCE)]
        return torch.cat([h for h, _ in parts]), torch.cat([shares for _, shares in parts])


def mixtures(
    name: str, contents: Mapping[str, Sequence[str]], degrees: Sequence[int], selector: str, temperature: float,
    *, unit: bool = False, own: bool = True, length: int | None = None,
) -> tuple[TextMixture | None, TextMixture | None]:  # fmt: skip
    """What reads all experts, None for the selector "none", and what reads the original text alone with an encoder of
    its own, None where it is to share the first one's. name: of the encoder of texts; selector: "similarity", "concat",
    "content", "uniform" or "none"; degrees: neighbours of each node, which the contexts tell; length: most tokens of a
    text."""
    read = [contents[expert] for expert in EXPERTS]
    contexts = [context_texts(expert, degrees) for expert in EXPERTS] if selector in ("similarity", "concat") else []
    text = encoders.text(name, texts=list(chain(*read, *contexts)) if name in SCRATCH else None, length=length)
    plain = TextMixture(copy.deepcopy(text), [contents["ORI"]]) if own or selector == "none" else None
    if selector == "none":
        return None, plain
    chooser = None if selector == "uniform" else Selector(selector, text.dim, temperature, unit)
    return TextMixture(text, read, contexts, chooser), plain
