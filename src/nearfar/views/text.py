"""Views of texts as operations on a padded batch of token ids.

Inputs are content tokens (no bos, no eos, not cut): `encoders.tokens.pad(encoder.encode_ids(texts))`. Views come out as
the encoder's input: cut to its length, with bos and eos. A text that has a token never gives an empty view.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from nearfar.checks import Range, UnitInterval, check_fields
from nearfar.encoders.tokens import Special, Tokens, frame
from nearfar.errors import InputError
from nearfar.views.plan import Views, check_range


class TextViews(Views):
    """A plan over texts. `bind(encoder)` tells it the special ids; it must be called before the first use."""

    modality = "text"
    special: Special | None = None

    def bind(self, encoder: Any) -> "TextViews":
        self.special = encoder.special
        return self

    def view(self, tokens: Tokens, generator: torch.Generator) -> Tokens:
        """One view, still without bos and eos."""
        raise NotImplementedError

    def made(self, tokens: Tokens, generator: torch.Generator) -> list[Tokens]:
        """Both views, still without bos and eos."""
        return [self.view(tokens, generator) for _ in range(2)]

    def __call__(self, inputs: Tokens, generator: torch.Generator) -> list[Tokens]:
        """Content tokens of n texts -> two views, framed."""
        return [frame(view, self._special()) for view in self.made(inputs, generator)]

    def _special(self) -> Special:
        if self.special is None:
            raise InputError(
                f"{type(self).__name__} does not know the encoder's special tokens yet.",
                "Call views.bind(encoder) first.",
            )
        return self.special

    def _mask_id(self) -> int:
        mask = self._special().mask
        if mask is None:
            raise InputError(
                f"{type(self).__name__} masks tokens, but this encoder's tokenizer has no mask token.",
                "Set mask to 0 and use delete.",
            )
        return mask


@dataclass
class Crops(TextViews):
    """Two independent spans of one text, each with a word-level change (Izacard et al., Contriever, TMLR 2022).

    Args:
        ratio: length of a span as a share of the text, drawn uniformly (paper: 0.05 to 0.5).
        delete: probability that a token is deleted (paper: 0.1).
        mask, replace: probability that a token becomes the mask token, or a random one (paper: 0).
        shuffle: share of the positions whose tokens are permuted among themselves (paper: 0).

    A span has floor(length * ratio) tokens, at least one; its start is uniform.
    """

    ratio: tuple[float, float] = (0.05, 0.5)
    delete: UnitInterval = 0.1
    mask: UnitInterval = 0.0
    replace: UnitInterval = 0.0
    shuffle: UnitInterval = 0.0
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_range("Crops", 0, 1, ratio=self.ratio)
        check_fields(self)

    def view(self, tokens: Tokens, generator: torch.Generator) -> Tokens:
        tokens = crop(tokens, self.ratio, generator)
        if self.delete:
            tokens = delete(tokens, self.delete, generator)
        if self.mask:
            tokens = mask(tokens, self.mask, self._mask_id(), generator)
        if self.replace:
            tokens = replace(tokens, self.replace, self._special(), generator)
        if self.shuffle:
            tokens = shuffle(tokens, self.shuffle, generator)
        return tokens


@dataclass
class InverseCloze(TextViews):
    """A span of the text is the query, the rest of it the key (inverse cloze task; Lee et al., ORQA, ACL 2019).

    Args:
        ratio: length of the span as a share of the text (from, to).
        keep: probability that the span stays in the key as well, so that words in common count a little. Paper: 0.1.
        delete: probability of deleting each token of both sides.

    A text of one token is its own key.
    """

    ratio: tuple[float, float] = (0.05, 0.5)
    keep: UnitInterval = 0.1
    delete: UnitInterval = 0.0
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_range("InverseCloze", 0, 1, ratio=self.ratio)
        check_fields(self)

    def made(self, tokens: Tokens, generator: torch.Generator) -> list[Tokens]:
        span, rest = cloze(tokens, self.ratio, self.keep, generator)
        return [delete(x, self.delete, generator) for x in (span, rest)] if self.delete else [span, rest]


@dataclass
class Twice(TextViews):
    """The same tokens twice, or more often: the encoder's dropout alone makes the views differ (Gao et al., SimCSE,
    EMNLP 2021).

    Args:
        copies: how many views (paper: 2; WhitenedCSE: 3).
    """

    equal = True
    copies: Annotated[int, Range(2, 64)] = 2
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)
        self.targets = self.copies

    def made(self, tokens: Tokens, generator: torch.Generator) -> list[Tokens]:
        return [tokens] * self.copies

    def view(self, tokens: Tokens, generator: torch.Generator) -> Tokens:
        return tokens


@dataclass
class Delete(TextViews):
    """The whole text twice, each time with tokens deleted independently with probability p."""

    p: UnitInterval = 0.1
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)

    def view(self, tokens: Tokens, generator: torch.Generator) -> Tokens:
        return delete(tokens, self.p, generator)


@dataclass
class Mask(TextViews):
    """The whole text twice, each time with tokens replaced by the mask token with probability p."""

    p: UnitInterval = 0.15
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)

    def view(self, tokens: Tokens, generator: torch.Generator) -> Tokens:
        return mask(tokens, self.p, self._mask_id(), generator)


def crop(tokens: Tokens, ratio: tuple[float, float], generator: torch.Generator) -> Tokens:
    """A span of floor(length * r) tokens of each text, at least one where there is one; r uniform in `ratio`."""
    return _take_span(tokens, *_spans(tokens, ratio, generator))


def cloze(tokens: Tokens, ratio: tuple[float, float], keep: float, generator: torch.Generator) -> tuple[Tokens, Tokens]:
    """A span of each text as in `crop`, and the text without it; with it with probability `keep`, or where nothing else
    would be left."""
    start, size = _spans(tokens, ratio, generator)
    stays = uniform((len(size),), generator, size.device) < keep
    place = torch.arange(tokens.ids.shape[1], device=size.device)
    inside = (place >= start[:, None]) & (place < (start + size)[:, None])
    rest = tokens.mask & ~(inside & ~stays[:, None])
    rest = torch.where(rest.any(1, keepdim=True), rest, tokens.mask)
    return _take_span(tokens, start, size), _compact(tokens, rest)


def _spans(tokens: Tokens, ratio: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Start and size of a span of each text, (n,) each."""
    lengths = tokens.mask.sum(1)
    u = uniform((2, len(lengths)), generator, lengths.device)
    share = ratio[0] + u[0] * (ratio[1] - ratio[0])
    # float64: in float32 length * share may round up to the next whole number
    size = (lengths.double() * share.double()).floor().long().clamp(min=1).minimum(lengths)
    return (u[1].double() * (lengths - size + 1)).floor().long().minimum(lengths - size), size


def delete(tokens: Tokens, p: float, generator: torch.Generator) -> Tokens:
    """Each token is deleted with probability p; where all would go, one at random stays."""
    u = uniform(tokens.ids.shape, generator, tokens.ids.device)
    keep = (u >= p) & tokens.mask
    last = u.masked_fill(~tokens.mask, -1).argmax(1, keepdim=True)
    rescue = torch.zeros_like(keep).scatter_(1, last, True) & ~keep.any(1, keepdim=True) & tokens.mask
    return _compact(tokens, keep | rescue)


def mask(tokens: Tokens, p: float, mask_id: int, generator: torch.Generator) -> Tokens:
    """Each token becomes `mask_id` with probability p; where all would, one at random stays itself."""
    u = uniform(tokens.ids.shape, generator, tokens.ids.device)
    last = u.masked_fill(~tokens.mask, -1).argmax(1, keepdim=True)
    chosen = (u < p) & tokens.mask
    everything = (chosen | ~tokens.mask).all(1, keepdim=True)
    chosen &= ~(torch.zeros_like(chosen).scatter_(1, last, True) & everything)
    return Tokens(tokens.ids.masked_fill(chosen, mask_id), tokens.mask)


def replace(tokens: Tokens, p: float, special: Special, generator: torch.Generator) -> Tokens:
    """Each token becomes a random ordinary one with probability p (drawn specials leave the token as it is)."""
    u = uniform(tokens.ids.shape, generator, tokens.ids.device)
    other = torch.randint(special.size, tokens.ids.shape, generator=generator, device=generator.device)
    other = other.to(tokens.ids.device)
    chosen = (u < p) & tokens.mask
    for token in (special.bos, special.eos, special.pad, special.mask):
        if token is not None:
            chosen &= other != token
    return Tokens(torch.where(chosen, other, tokens.ids), tokens.mask)


def shuffle(tokens: Tokens, p: float, generator: torch.Generator) -> Tokens:
    """Positions chosen with probability p exchange their tokens among themselves; the others stay."""
    u = uniform((2, *tokens.ids.shape), generator, tokens.ids.device)
    chosen = (u[0] < p) & tokens.mask
    places = torch.arange(tokens.ids.shape[1], device=tokens.ids.device).expand_as(tokens.ids)
    there = (~chosen).long().argsort(dim=1, stable=True)  # chosen places first, in order
    random = torch.where(chosen, u[1], 1.0 + places)  # chosen places first, in random order
    return Tokens(tokens.ids.scatter(1, there, tokens.ids.gather(1, random.argsort(1))), tokens.mask)


def _take_span(tokens: Tokens, start: Tensor, size: Tensor) -> Tokens:
    width = max(1, int(size.max())) if len(size) else 1
    steps = torch.arange(width, device=start.device)
    inside = steps < size[:, None]
    index = (start[:, None] + steps).clamp(max=tokens.ids.shape[1] - 1)
    return Tokens(tokens.ids.gather(1, index).masked_fill(~inside, 0), inside)


def _compact(tokens: Tokens, keep: Tensor) -> Tokens:
    """Only the kept tokens, in order, moved to the left."""
    order = (~keep).long().argsort(dim=1, stable=True)
    return _take_span(
        Tokens(tokens.ids.gather(1, order), tokens.mask), keep.new_zeros(len(keep), dtype=torch.long), keep.sum(1)
    )


def uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers of [0, 1), drawn where the generator is."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)
