"""Token batches, and what views and encoders must know of a tokenizer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Tokens(NamedTuple):
    """ids int64 (n, L), right-padded; mask bool (n, L), True where there is a token. route int64 (n,): which expert
    each text takes, for encoders that are told. kinds int64 (n, L): what each token of code is (`code.KINDS`), -1 for
    none, for views that ask."""

    ids: Tensor
    mask: Tensor
    route: Tensor | None = None
    kinds: Tensor | None = None

    def to(self, device: torch.device | str) -> "Tokens":
        return Tokens(self.ids.to(device), self.mask.to(device), _to(self.route, device), _to(self.kinds, device))


class Embedded(NamedTuple):
    """Texts as vectors of their tokens, before positions: vectors (n, L, width), mask bool (n, L), end int64 (n,) the
    place of the last token; route as in `Tokens`. Vectors may be put in or changed on the way to the encoder."""

    vectors: Tensor
    mask: Tensor
    end: Tensor
    route: Tensor | None = None

    def to(self, device: torch.device | str) -> "Embedded":
        moved = [x.to(device) for x in (self.vectors, self.mask, self.end)]
        return Embedded(moved[0], moved[1], moved[2], _to(self.route, device))


def _to(x: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if x is None else x.to(device)


class Special(NamedTuple):
    """Special ids of a tokenizer. bos, eos, mask are None where it has none; size: ids lie in [0, size).

    length: the most tokens that the encoder takes, all that stands around a text included. prompt: the tokens that
    every text gets in front. seam: how many eos stand between two texts in one sequence. fill: whether every text is
    filled up to the length, with padding that the encoder sees as it sees tokens.
    """

    bos: int | None
    eos: int | None
    pad: int
    mask: int | None
    size: int
    length: int = 512
    prompt: tuple[int, ...] = ()
    seam: int = 1
    fill: bool = False

    @property
    def frame(self) -> int:
        """How many tokens stand around a text: bos, prompt and eos."""
        return self.before + (self.eos is not None)

    @property
    def before(self) -> int:
        """How many tokens stand in front of a text: bos and prompt."""
        return (self.bos is not None) + len(self.prompt)


def pad(rows: Sequence[Sequence[int]], fill: int = 0) -> Tokens:
    """Lists of ids -> Tokens, right-padded with `fill`; nothing is added or cut."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    longest = max(1, int(lengths.max())) if len(rows) else 1
    mask = torch.arange(longest) < lengths[:, None]
    ids = torch.full((len(rows), longest), fill, dtype=torch.long)
    flat = [token for row in rows for token in row]
    ids[mask] = torch.tensor(flat, dtype=torch.long)
    return Tokens(ids, mask)


def frame(tokens: Tokens, special: Special) -> Tokens:
    """Content tokens -> the encoder's input: cut to its length, bos and prompt before, eos after, right-padded (to the
    length, where the encoder wants it filled)."""
    start = special.before
    room = special.length - special.frame
    mask = tokens.mask[:, :room]
    lengths = mask.sum(1)
    width = int(lengths.max()) if len(lengths) else 0
    n, total = len(lengths), special.length if special.fill else max(1, width + special.frame)
    ids = torch.full((n, total), special.pad, dtype=torch.long, device=mask.device)
    ids[:, start : start + width] = tokens.ids[:, :width].masked_fill(~mask[:, :width], special.pad)
    if special.bos is not None:
        ids[:, 0] = special.bos
    if special.prompt:
        ids[:, start - len(special.prompt) : start] = torch.tensor(special.prompt, device=ids.device)
    if special.eos is not None:
        ids.scatter_(1, (lengths + start)[:, None], special.eos)
    places = torch.arange(total, device=mask.device)
    kinds = None
    if tokens.kinds is not None:
        kinds = torch.full_like(ids, -1)
        kinds[:, start : start + width] = tokens.kinds[:, :width].masked_fill(~mask[:, :width], -1)
    seen = torch.full_like(lengths, total) if special.fill else lengths + special.frame
    return Tokens(ids, places < seen[:, None], tokens.route, kinds)


def one_sequence(a: Tokens, b: Tokens, special: Special) -> tuple[Tokens, Tensor]:
    """Two batches of content tokens -> "[bos] a [eos] b [eos]" of each row (between them as many eos as the tokenizer
    puts: two of RoBERTa's), and the side of each place, int64 (n, L): 0 up to these eos, 1 behind them. Where both are
    too long together the longer one is cut first, as BERT has it.
    """
    start, end = special.before, int(special.eos is not None)
    seam = end * special.seam
    room = max(0, special.length - start - seam - end)
    m, k = a.mask.sum(1), b.mask.sum(1)
    m = torch.minimum(m, (room - k).clamp(min=(room + 1) // 2))
    k = torch.minimum(k, room - m)
    second = start + m + seam
    lengths = second + k + end
    place = torch.arange(max(1, int(lengths.max()) if len(lengths) else 1), device=a.ids.device)[None]
    ids = torch.full((len(lengths), place.shape[1]), special.pad, dtype=torch.long, device=a.ids.device)
    for x, first, count in ((a, start, m), (b, second, k)):
        at = place - (first if isinstance(first, int) else first[:, None])
        found = x.ids.gather(1, at.clamp(0, x.ids.shape[1] - 1).expand_as(ids))
        ids = torch.where((at >= 0) & (at < count[:, None]), found, ids)
    front = [*([] if special.bos is None else [special.bos]), *special.prompt]
    ids[:, :start] = torch.tensor(front, dtype=torch.long, device=ids.device)
    if special.eos is not None:
        between = (place >= (second - seam)[:, None]) & (place < second[:, None])
        ids = ids.masked_fill(between | (place == (lengths - 1)[:, None]), special.eos)
    return Tokens(ids, place < lengths[:, None]), (place >= second[:, None]).long()


def ordinary(tokens: Tokens, special: Special) -> Tensor:
    """bool (n, L): places of a framed batch that hold a token of the text itself: no bos, prompt, eos, padding."""
    length = tokens.mask.sum(1, keepdim=True) - int(special.eos is not None)
    place = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    return (place >= special.before) & (place < length)


class TokenStore:
    """Token ids of many texts in one flat array. A long text is read as a window of `length` tokens around a random
    place (training) or from its start. kinds: of each token, where they are known (`Tokens.kinds`)."""

    def __init__(self, lists: Sequence[Sequence[int]], length: int, kinds: Sequence[Sequence[int]] | None = None):
        self.length = length
        self.kinds = None if kinds is None else np.fromiter((k for row in kinds for k in row), dtype=np.int8)
        self.flat = np.fromiter((t for ids in lists for t in ids), dtype=np.int32)
        self.starts = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tokens:
        """Right-padded content tokens (no special ones), (n, <= length)."""
        begin, end = self.starts[rows], self.starts[rows + 1]
        spare = np.maximum(end - begin - self.length, 0)
        if rng is not None:
            begin = begin + (rng.random(len(rows)) * (spare + 1)).astype(np.int64)
        end = np.minimum(end, begin + self.length)
        cuts = list(zip(begin, end, strict=True))
        found = pad([self.flat[a:b].tolist() for a, b in cuts])
        if self.kinds is None:
            return found
        return found._replace(kinds=pad([self.kinds[a:b].tolist() for a, b in cuts], -1).ids)

    def stream(self, rows: np.ndarray, length: int) -> Callable[[np.ndarray, np.random.Generator | None], Tokens]:
        """How chunks of `length` tokens are read from the texts of the rows, one behind the other: by the places at
        which they begin."""
        flat = np.concatenate([self.flat[self.starts[r] : self.starts[r + 1]] for r in rows])

        def read(places: np.ndarray, rng: np.random.Generator | None) -> Tokens:
            return pad([flat[p : p + length].tolist() for p in places])

        return read
