"""Graphs whose nodes have texts: texts of experts about a node, who may be a neighbour, how experts' vectors are mixed.

texts -> expert_texts, context_texts                      what each expert says of a node, and what kind of text it is
texts, edges -> candidates -> verdicts -> EdgePlan        edges that may go, and pairs that may become edges
EdgePlan.draw                                             the edges of one epoch
logits of contents and contexts -> mixture                one vector a node

Source: GAugLLM, KDD 2024 (arXiv 2406.11945), as its card's letters A to D; functions of plain tensors and texts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from nearfar.errors import InputError

EXPERTS = {
    "ORI": "This is the text of the node as it was written.",
    "IDR": "This text reads the node from its own words alone.",
    "SAS": "This text sums up the node together with its neighbours.",
    "SAR": "This text reads the node in view of what its neighbours say.",
}
"""What each expert's text is, in a sentence: the original; independent reasoning; structure-aware summary;
structure-aware reasoning."""
TAIL = 5  # neighbours up to which a node is a tail node
MOST, LEAST = 10, 5  # candidates of a node; neighbours below which none may go
WORDS = 10  # that an expert adds or picks
PLACES = 2048  # of the hashed words of a text
_WORD = re.compile(r"[^\W\d]\w*")
_NAME = re.compile(r"\w*[^\W_]_+[^\W_]\w*|\w*[^\W\dA-Z_][A-Z]\w*")


# -- A: what is said of a node ----------------------------------------------------------------------------------------


def degrees_of(edges: Int[Tensor, "2 m"], count: int) -> Int[Tensor, " n"]:
    """How many different nodes each one points to."""
    return torch.bincount(torch.unique(edges, dim=1)[0], minlength=count)


def context_texts(expert: str, degrees: Sequence[int]) -> list[str]:
    """What kind of text an expert's is, and how many neighbours the node has: up to 5 make a tail node. Card A."""
    kinds = ("head node, with a rich structure", "tail node, with little structure")
    return [f"{EXPERTS[expert]} The node has {d} neighbours: it is a {kinds[d <= TAIL]}." for d in degrees]


def words(text: str) -> list[str]:
    """Words in lower case, in their order."""
    return _WORD.findall(text.lower())


def rarity(lists: Sequence[Sequence[str]]) -> dict[str, float]:
    """log(n / df) of each word of n texts."""
    often = Counter(word for row in lists for word in set(row))
    return {word: math.log(len(lists) / count) for word, count in often.items()}


def characteristic(text: str, rare: dict[str, float]) -> list[str]:
    """Names of code in a text (read_all, ReadAll), or, where there are fewer than three, its ten words of the highest
    tf-idf; each once, in the order of the text."""
    names = list(dict.fromkeys(_NAME.findall(text)))
    if len(names) >= 3:
        return names
    counts = Counter(words(text))
    best = sorted(counts, key=lambda word: (-counts[word] * rare[word], word))[:WORDS]
    return [word for word in counts if word in best]


def expert_texts(texts: Sequence[str], edges: Int[Tensor, "2 m"]) -> dict[str, list[str]]:
    """What four experts say of each node without a language model, from texts and edges alone.

    ORI: the text. IDR: its names of code, or its most characteristic words. SAS: the text and the ten words that most
    neighbours' texts hold. SAR: its words that a neighbour's text holds too, "" where there are none. A word in more
    than half of all texts is none of those. Source: the card's small-scale check.
    """
    lists = [words(text) for text in texts]
    sets, rare = [set(row) for row in lists], rarity(lists)
    near: list[list[int]] = [[] for _ in texts]
    for a, b in torch.unique(edges, dim=1).T.tolist():
        near[a].append(b)
    found: dict[str, list[str]] = {"ORI": list(texts), "IDR": [], "SAS": [], "SAR": []}
    for v, text in enumerate(texts):
        said = Counter(word for u in near[v] for word in sets[u] if rare[word] > math.log(2))
        most = sorted(said, key=lambda word: (-said[word], word))[:WORDS]
        found["IDR"].append(" ".join(characteristic(text, rare)))
        found["SAS"].append(" ".join(filter(None, [text, *most])))
        found["SAR"].append(" ".join(dict.fromkeys(word for word in lists[v] if word in said)))
    return found


def text_features(texts: Sequence[str]) -> Float[Tensor, "n 2048"]:
    """TF-IDF of hashed words, rows of length 1 (0 for an empty text): tf log((1 + n) / (1 + df)) + tf."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    analyzer, norm = words, None
    hashed = HashingVectorizer(n_features=PLACES, analyzer=analyzer, norm=norm, alternate_sign=False)  # pyright: ignore
    found = TfidfTransformer().fit_transform(hashed.transform(list(texts)))
    return torch.from_numpy(np.asarray(found.todense(), np.float32))


# -- D: which edges may change ----------------------------------------------------------------------------------------


def smoothed(x: Float[Tensor, "n d"], edges: Int[Tensor, "2 m"], steps: int = 2) -> Float[Tensor, "n d"]:
    """S^steps x, S = D^-1/2 (A + 1) D^-1/2: what the nodes around one are like. edges: each in both directions."""
    edges = torch.unique(edges, dim=1)
    root = (1 + torch.bincount(edges[1], minlength=len(x))).to(x.dtype).rsqrt()[:, None]
    for _ in range(steps):
        y = root * x
        x = root * y.index_add(0, edges[1], y[edges[0]])
    return x


def candidates(
    z: Float[Tensor, "n d"], edges: Int[Tensor, "2 m"], *, most: int = MOST, least: int = LEAST
) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k"]]:
    """D_v, the neighbours of lowest cosine (none for a node with fewer than `least`), and N_v, those of the other nodes
    of highest cosine; k = `most`, the first ones first, -1 behind the last.

    edges: each in both directions; one that stands twice counts once. Time n^2 d, in blocks. Source: card D.
    """
    n, unit, edges = len(z), normalize(z, dim=1), torch.unique(edges, dim=1)
    apart, like = (torch.full((n, most), -1) for _ in range(2))
    starts = torch.searchsorted(edges[0].contiguous(), torch.arange(n + 1))
    near = (unit[edges[0]] * unit[edges[1]]).sum(1)
    for v in range(n):
        own = slice(int(starts[v]), int(starts[v + 1]))
        if own.stop - own.start >= max(least, 1):
            order = near[own].argsort(stable=True)[:most]
            apart[v, : len(order)] = edges[1, own][order]
    width = min(most, n)
    for first in range(0, n, 1024):
        block = torch.arange(first, min(first + 1024, n))
        s = unit[block] @ unit.T
        s[block - first, block] = -torch.inf
        own = slice(int(starts[first]), int(starts[block[-1] + 1]))
        s[edges[0, own] - first, edges[1, own]] = -torch.inf
        value, place = s.sort(dim=1, descending=True, stable=True)
        like[block, :width] = torch.where(value[:, :width] > -torch.inf, place[:, :width], -1)
    return apart, like


def pairs_in(lists: Int[Tensor, "n k"]) -> Int[Tensor, "2 p"]:
    """The pairs (v, u) that lists name, row by row; -1 names nobody."""
    v, place = (lists >= 0).nonzero(as_tuple=True)
    return torch.stack([v, lists[v, place]])


def common_neighbours(edges: Int[Tensor, "2 m"], pairs: Int[Tensor, "2 p"], count: int) -> Int[Tensor, " p"]:
    """How many nodes are neighbours of both."""
    from scipy.sparse import csr_matrix

    a, b = torch.unique(edges, dim=1).numpy()
    adjacent = csr_matrix((np.ones(len(a), np.int64), (a, b)), shape=(count, count))
    first, second = pairs.numpy()
    both = adjacent[first].multiply(adjacent[second])
    return torch.from_numpy(np.asarray(both.sum(1)).reshape(-1).astype(np.int64))


def pair_cosines(x: Float[Tensor, "n d"], pairs: Int[Tensor, "2 p"]) -> Float[Tensor, " p"]:
    """The cosine of both vectors of each pair; 0 beside a zero vector."""
    unit = normalize(x, dim=1)
    parts = [(unit[a] * unit[b]).sum(1) for a, b in zip(*(side.split(4096) for side in pairs), strict=True)]
    return torch.cat([x.new_zeros(0), *parts])


def verdicts(text: Float[Tensor, " p"], structure: Tensor) -> Bool[Tensor, " p"]:
    """y = 1 where both scores of a pair exceed their medians over all pairs. Source: the card's small-scale check."""
    if not len(text):
        return torch.zeros(0, dtype=torch.bool)
    sides = [x.double().numpy() for x in (text, structure)]
    return torch.from_numpy(np.logical_and(*(x > np.median(x) for x in sides)))


@dataclass
class EdgePlan:
    """base: int64 (2, m), edges of the graph without those from v to D_v. apart, like: D_v and N_v, int64 (n, k).
    apart_yes, like_yes: which of them belong together, bool (n, k)."""

    base: Tensor
    apart: Tensor
    like: Tensor
    apart_yes: Tensor
    like_yes: Tensor

    def to(self, device: torch.device | str) -> EdgePlan:
        return EdgePlan(**{name: value.to(device) for name, value in self.__dict__.items()})

    def draw(
        self,
        edges: Int[Tensor, "2 m"],
        how: str,
        add: float,
        restore: float,
        generator: torch.Generator,
        official: bool = False,
    ) -> Int[Tensor, "2 e"]:
        """The edges of one epoch, from those of the graph. how: "verdicts" (`edited_edges`), "random" (as many as
        these change are dropped), or any other word: as they are."""
        if how not in ("verdicts", "random"):
            return edges
        lists = (self.apart, self.apart_yes, self.like, self.like_yes)
        edited = edited_edges(self.base, *lists, add=add, restore=restore, generator=generator, official=official)
        if how == "verdicts":
            return edited
        return random_edges(edges, sum(changed_edges(edges, edited, len(self.apart))), generator)


def base_edges(edges: Int[Tensor, "2 m"], apart: Int[Tensor, "n k"]) -> Int[Tensor, "2 b"]:
    """The edges without (v, u), u in D_v; (u, v) stays unless v is in D_u. Source: card D."""
    gone, n = pairs_in(apart), len(apart)
    return edges[:, ~torch.isin(edges[0] * n + edges[1], gone[0] * n + gone[1])]


def inspected(
    lists: Int[Tensor, "n k"], many: Int[Tensor, " n"], generator: torch.Generator, *, first: bool = False
) -> Bool[Tensor, "n k"]:
    """Which candidates are looked at: `many` of each row, drawn; first: the first ones, always the same."""
    drawn = torch.rand(lists.shape, generator=generator, device=generator.device).to(lists.device)
    key = torch.arange(lists.shape[1], device=lists.device).expand_as(lists).float() if first else drawn
    rank = key.masked_fill(lists < 0, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < many[:, None]) & (lists >= 0)


def edited_edges(
    base: Int[Tensor, "2 b"],
    apart: Int[Tensor, "n k"],
    apart_yes: Bool[Tensor, "n k"],
    like: Int[Tensor, "n k"],
    like_yes: Bool[Tensor, "n k"],
    *,
    add: float,
    restore: float,
    generator: torch.Generator,
    official: bool = False,
) -> Int[Tensor, "2 e"]:
    """The base, then (v, u) for candidates that are looked at and belong together: k_d = min(10, round(restore deg_v))
    of D_v, k_a = min(10, round(add deg_v)) of N_v, deg_v the edges of the base that leave v. Directed.

    official: as released: the first candidates always, as many of N_v as `restore` says, and what is confirmed of N_v
    is lost. Source: card D (p_add, p_del: a larger p_del keeps more edges) and "Paper vs code".
    """
    degree = torch.bincount(base[0], minlength=len(apart)).double()
    asked = [(restore * degree).round().clamp(max=MOST), ((restore if official else add) * degree).round()]
    back = inspected(apart, asked[0], generator, first=official) & apart_yes
    new = inspected(like, asked[1].clamp(max=MOST), generator, first=official) & like_yes
    parts = [base, pairs_in(apart.masked_fill(~back, -1)), pairs_in(like.masked_fill(~new, -1))]
    return torch.cat(parts[:2] if official else parts, 1)


def random_edges(edges: Int[Tensor, "2 m"], changed: int, generator: torch.Generator) -> Int[Tensor, "2 e"]:
    """The edges without `changed` of them, drawn evenly: what edited edges are compared with."""
    order = torch.randperm(edges.shape[1], generator=generator, device=generator.device).to(edges.device)
    return edges[:, order[min(changed, edges.shape[1]) :].sort().values]


def changed_edges(edges: Int[Tensor, "2 m"], edited: Int[Tensor, "2 e"], count: int) -> tuple[int, int]:
    """How many edges are gone, and how many are new, each counted once."""
    before, after = (torch.unique(x[0] * count + x[1]) for x in (edges, edited))
    return int((~torch.isin(before, after)).sum()), int((~torch.isin(after, before)).sum())


def edge_homophily(edges: Int[Tensor, "2 m"], labels: Int[Tensor, " n"]) -> float:
    """Share of the edges between nodes of one class, of those between nodes whose class is known (not -1). Raises
    InputError where there is none."""
    a, b = labels[edges[0]], labels[edges[1]]
    known = (a >= 0) & (b >= 0)
    if not bool(known.any()):
        raise InputError("No edge joins two nodes whose class is known.", "Give labels of more nodes.")
    return float((a == b)[known].double().mean())


# -- C: how experts are mixed -----------------------------------------------------------------------------------------


def similarity_logits(
    contents: Float[Tensor, "n k d"],
    contexts: Float[Tensor, "n k d"] | None,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    *,
    unit: bool = False,
) -> Float[Tensor, "n k"]:
    """a = W2 [u_1; ...; u_k] + b2 with u_i = LeakyReLU(W1 c_i + b1), and c_i x_i added to a_i.

    contexts: x, None: without them. first: W1 (h, d) and b1 (h,); second: W2 (k, k h) and b2 (k,). unit: the cosine of
    c_i and x_i in place of their inner product. Source: card C, "similarity".
    """
    u = leaky_relu(contents @ first[0].T + first[1])
    logits = u.flatten(1) @ second[0].T + second[1]
    if contexts is None:
        return logits
    c, x = (normalize(side, dim=2) for side in (contents, contexts)) if unit else (contents, contexts)
    return logits + (c * x).sum(2)


def concat_logits(
    contents: Float[Tensor, "n k d"],
    contexts: Float[Tensor, "n k d"],
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
) -> Float[Tensor, "n k"]:
    """a = W2 [u_1; ...; u_k] + b2 with u_i = LeakyReLU(W1 [c_i; x_i] + b1), W1 (h, 2d). Source: card C, "concat"."""
    return similarity_logits(torch.cat([contents, contexts], 2), None, first, second)


def expert_shares(logits: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    """alpha = softmax(a / temperature), rows of sum 1; computed in float32 at least. Source: card C (0.2; concat
    0.01)."""
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return (wide / temperature).softmax(1)


def mixture(shares: Float[Tensor, "n k"], contents: Float[Tensor, "n k d"]) -> Float[Tensor, "n d"]:
    """h = sum_i alpha_i c_i. Source: card C."""
    return (shares.to(contents.dtype)[:, :, None] * contents).sum(1)


# -- C: which nodes a node is to predict ------------------------------------------------------------------------------


def shortlist(
    edges: Int[Tensor, "2 m"],
    count: int,
    nodes: Int[Tensor, " b"],
    *,
    positives: int,
    negatives: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "b s"], Float[Tensor, "b s"], Bool[Tensor, "b s"]]:
    """Of each node the labels (nodes) that it is asked for, Y of them (1: a neighbour), and which places count:
    all neighbours where there are at most `positives`, else as many draws of them; then `negatives` draws of all nodes,
    of which neighbours and the node itself do not count. edges: sorted by their source, as `torch.unique` gives them.
    """
    code = edges[0] * count + edges[1]
    starts = torch.searchsorted(edges[0].contiguous(), torch.arange(count + 1, device=edges.device))[:, None]
    first, many = starts[nodes], starts[nodes + 1] - starts[nodes]
    drawn = torch.rand(len(nodes), positives, generator=generator, device=generator.device).to(edges.device)
    place = torch.arange(positives, device=edges.device).expand_as(drawn)
    there = place < many
    place = torch.where(many > positives, (drawn * many).long(), place)
    near = edges[1][(first + place).clamp(max=max(edges.shape[1] - 1, 0))] if edges.shape[1] else place * 0
    far = torch.randint(count, (len(nodes), negatives), generator=generator, device=generator.device).to(edges.device)
    other = ~torch.isin(nodes[:, None] * count + far, code) & (far != nodes[:, None])
    labels, valid = torch.cat([near, far], 1), torch.cat([there, other], 1)
    return labels, torch.cat([there.float(), torch.zeros_like(far).float()], 1), valid


__all__ = [
    "EXPERTS",
    "EdgePlan",
    "base_edges",
    "candidates",
    "changed_edges",
    "common_neighbours",
    "concat_logits",
    "context_texts",
    "degrees_of",
    "edge_homophily",
    "edited_edges",
    "expert_shares",
    "expert_texts",
    "inspected",
    "mixture",
    "pair_cosines",
    "pairs_in",
    "random_edges",
    "shortlist",
    "similarity_logits",
    "smoothed",
    "text_features",
    "verdicts",
]
