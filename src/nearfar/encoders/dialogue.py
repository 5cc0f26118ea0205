"""Dialogues as texts, and an encoder that knows of each token who says it, how long ago, and where in the utterance.

    "user: a room in the north"                        <|user|> a room in the north <|/user|>
    "system: the Alpha is free"     ->     [CLS]       <|system|> the alpha is free <|/system|>      [SEP]
    "user: take it"                                    <|user|> take it <|/user|>

Vectors of role, turn (counted from the last utterance back) and place (counted within the utterance) are added to
those of the tokens between the marks. [CLS] in front has none of them. Source: SPACE-2 (COLING 2022).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nearfar.encoders.texts import LayeredText, TextEncoder
from nearfar.encoders.tokens import Embedded, Tokens
from nearfar.errors import InputError
from nearfar.sources.utterances import ROLES, utterances

MARKS = tuple(f"<|{mark}{role}|>" for role in ROLES for mark in ("", "/"))
_MARK = re.compile("|".join(map(re.escape, MARKS)))


class Places(NamedTuple):
    """Of each token, int64 (n, L), -1 where it is in no utterance: role (0 the user), turn (0 the last utterance), and
    its place in the utterance (0 the mark in front)."""

    role: Tensor
    turn: Tensor
    place: Tensor

    @property
    def inside(self) -> Tensor:
        return self.role >= 0


def places_of(ids: Tensor, mask: Tensor, marks: Sequence[int]) -> Places:
    """Role, turn and place of each token, from the marks around utterances. ids, mask: (n, L); marks: the ids of
    `MARKS`. Source: SPACE-2, input representation."""
    starts, ends = ((ids[..., None] == ids.new_tensor(some)).any(-1) & mask for some in (marks[::2], marks[1::2]))
    at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    number, begun = starts.cumsum(1), torch.where(starts, at, 0).cummax(1).values
    ended = torch.where(ends, at, -1).cummax(1).values
    ended = torch.cat([ended.new_full((len(ids), 1), -1), ended[:, :-1]], 1)
    inside = (number > 0) & mask & (ended < begun)
    role = (ids.gather(1, begun) == marks[2]).long()
    turn, place = number[:, -1:] - number, at - begun
    return Places(*(torch.where(inside, x, -1) for x in (role, turn, place)))


def value_spans(words: str, values: Sequence[str]) -> list[tuple[int, int]]:
    """Where values stand in an utterance as whole words, without regard to case: (from, to) in characters."""
    found = [re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", words, re.IGNORECASE) for value in values if value]
    return [one.span() for each in found for one in each]


class DialogueText(TextEncoder):
    """An encoder of layers over dialogues, or over single utterances, whose vectors say role, turn and place.

    turns: most utterances, the last ones; utterance: most tokens of one, the first ones; length: most tokens in all,
    the last ones: the oldest utterance that does not fit loses its beginning, and one that would lose all is left out.
    What is added to the vectors is 0 at first; the positions of the encoder itself stay. Raises InputError for an
    encoder that takes fewer tokens than one utterance.
    """

    def __init__(self, encoder: LayeredText, turns: int = 16, utterance: int = 50, length: int = 256):
        super().__init__()
        self.encoder, self.turns, self.utterance = encoder, turns, utterance
        self.marks = encoder.add_tokens(MARKS)
        self.pooling_asked, self.pretrained = encoder.pooling_asked, encoder.pretrained
        self.special = encoder.special._replace(length=min(length, encoder.special.length))
        if self.room < 3:
            raise InputError(f"A dialogue of {self.special.length} tokens has room for none of its words.",
                             "Use a larger --text-length.")  # fmt: skip
        width = encoder.table.embedding_dim
        self.of_role, self.of_turn = nn.Embedding(len(ROLES), width), nn.Embedding(turns, width)
        self.of_place = nn.Embedding(utterance + 2, width)
        for table in (self.of_role, self.of_turn, self.of_place):
            nn.init.zeros_(table.weight)

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.encoder.dim

    @property
    def width(self) -> int:
        """Of the states of the tokens."""
        return self.encoder.width

    @property
    def room(self) -> int:
        """Most tokens of a dialogue, without those that stand around every text."""
        return self.special.length - self.special.frame

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [ids for ids, _ in self.marked(texts, None)]

    def marked(self, texts: Sequence[str], values: Sequence[Sequence[str]] | None) -> list[tuple[list[int], list[int]]]:
        """Ids of each dialogue, with its marks and cut as the class says; and of each id whether it belongs to one of
        the dialogue's values (0) or not (-1). values: of each text; None: nothing is looked for."""
        said = [[(role, _MARK.sub(" ", words)) for role, words in utterances(text)[-self.turns :]] for text in texts]
        flat = [words for one in said for _, words in one]
        if values is None:
            ids, hits = self.encoder.encode_ids(flat), [None] * len(flat)
        else:
            ids, spans = self.encoder.encode_spans(flat)
            wanted = [values[k] for k, one in enumerate(said) for _ in one]
            hits = [_hits(own, value_spans(words, names)) if names else None
                    for own, words, names in zip(spans, flat, wanted, strict=True)]  # fmt: skip
        parts = iter(zip(ids, hits, strict=True))
        return [self._joined([(role, *next(parts)) for role, _ in one]) for one in said]

    def _joined(self, parts: list[tuple[str, list[int], list[int] | None]]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        kinds: list[int] = []
        for role, own, hits in reversed(parts):
            own, room = own[: self.utterance], self.room - len(ids) - 2
            if room < min(1, len(own)):
                break
            first = max(0, len(own) - room)
            open_, close = self.marks[2 * ROLES.index(role) :][:2]
            ids = [open_, *own[first:], close, *ids]
            kinds = [-1, *(hits or [-1] * len(own))[first : len(own)], -1, *kinds]
        return ids, kinds

    def places(self, x: Tokens) -> Places:
        """Role, turn and place of each token."""
        return places_of(x.ids, x.mask, self.marks)

    def words(self, x: Tokens) -> Tensor:
        """bool (n, L): tokens of what is said, without the marks around it."""
        ends = (x.ids[..., None] == x.ids.new_tensor(self.marks[1::2])).any(-1)
        return (self.places(x).place > 0) & ~ends

    @property
    def tied(self) -> bool:
        """Whether its tokens are as wide as its states, so that it has scores of the vocabulary."""
        return self.encoder.table.embedding_dim == self.width

    def embedded(self, x: Tokens) -> Embedded:
        """The vectors of the tokens with what is added to them."""
        found, where = self.encoder.embedded(x), self.places(x)
        for table, at in zip((self.of_role, self.of_turn, self.of_place), where, strict=True):
            more = table(at.clamp(0, table.num_embeddings - 1)) * where.inside[..., None]
            found = found._replace(vectors=found.vectors + more)
        return found

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        return self.encoder.tokens(self.embedded(x))

    def logits(self, states: Tensor) -> Tensor:
        """Scores of the vocabulary, by the table that the tokens come from."""
        return self.encoder.logits(states)

    def forward(self, x: Tokens) -> Tensor:
        return self.encoder(self.embedded(x))

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return self.encoder.ordered_blocks()

    def recompute(self) -> bool:
        self.recomputed = self.encoder.recompute()
        return self.recomputed

    def config(self) -> dict[str, Any]:
        return {
            "modality": "text",
            "name": "dialogue",
            "of": self.encoder.config(),
            "turns": self.turns,
            "utterance": self.utterance,
            "length": self.special.length,
        }

    def save_files(self, folder: Path) -> None:
        self.encoder.save_files(folder)


def _hits(spans: Sequence[tuple[int, int]], values: Sequence[tuple[int, int]]) -> list[int]:
    return [0 if any(a < d and c < b for c, d in values) else -1 for a, b in spans]


def dialogue_from(config: Mapping[str, Any], inner: Any) -> DialogueText:
    """The encoder that `config` describes around one that is made already."""
    return DialogueText(inner, *(config[name] for name in ("turns", "utterance", "length")))
