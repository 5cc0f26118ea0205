"""Pairs of texts of which something is said: whether they belong together, how far, or of which class they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import UnitInterval
from nearfar.encoders import Embedded, LayeredText, Tokens, one_sequence, pad
from nearfar.encoders.base import evaluating
from nearfar.errors import InputError
from nearfar.heads import PairHead
from nearfar.losses.distillation import outputs_of
from nearfar.methods.base import Method
from nearfar.methods.batch import Batch, Facts
from nearfar.methods.inference import Inference, Request

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SIDES = ("text", "text_b")
ROLES = {"target": "classes", "score": "number", "pair_label": "binary"}
"""Role -> what is learned of it; the first one that the data hold. Of two classes one number is learned, the logit of
the second one."""
WORDS = {"binary": "a yes/no label", "number": "a score"}
"""What is learned, for the reader."""
BATCH = 64  # pairs that are scored at once


class JudgedPairs(Method):
    """A method that learns what the data say of pairs of texts: a class (`--target`), a number (`--score`) or whether
    they belong together (`--pair-label`). Rows of which nothing is said stay, with a label of NaN.

    `said`: the role that says it, "" for none; `labels`: of every row of the data, float (N,), on the device of the
    method; `names`: of the classes.
    """

    needs = (
        frozenset({"text", "text_b", "target"}),
        frozenset({"text", "text_b", "score"}),
        frozenset({"text", "text_b", "pair_label"}),
    )
    supervised = True
    uses_batch = False
    from_start = True
    labels: Tensor

    def __init__(self):
        super().__init__()
        self.role, self.said, self.names = SIDES[0], "pair_label", ()

    def columns(self, roles: Set[str]) -> None:
        self.said = next((role for role in ROLES if role in roles), "")

    @property
    def judgement(self) -> str:
        return judgement_of(self.said, self.names)

    @property
    def reads(self) -> tuple[str, ...]:
        return SIDES

    @property
    def needs_labels(self) -> bool:
        """Whether its loss has no use for rows of which nothing is said."""
        return True

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        """Raises InputError where the training rows say nothing, or one thing alone."""
        found, self.names = judgements_of(data, self.said)
        if self.needs_labels:
            self._check(found[rows], data)
        if len(self.names) == 1:  # nothing is told apart
            found, self.names = np.full(len(data), np.nan), ()
        self.labelled = not np.isnan(found[rows]).all()
        self.register_buffer("labels", torch.from_numpy(found), persistent=False)

    def _check(self, found: np.ndarray, data: Data) -> None:
        known, column = found[~np.isnan(found)], data.roles[self.said]
        if not len(known):
            raise InputError(f"None of the {len(found):,} training rows has a value in '{column}'.",
                             f"Check the columns of --{self.said.replace('_', '-')} and --split.")  # fmt: skip
        if np.ptp(known) == 0:
            raise InputError(f"'{column}' is {self._word(known[0])} in all {len(known):,} training rows that have a "
                             "value: there is nothing to learn.", "Name another column.")  # fmt: skip

    def _word(self, value: float) -> str:
        return f"'{self.names[int(value)]}'" if self.names else f"{value:g}"

    @property
    def outputs(self) -> int:
        return outputs_of(self.judgement, len(self.names))

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return {"learns": learned(self.judgement, self.names)}

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {role: [batch.inputs[role]] for role in SIDES}

    def sides(self, batch: Batch) -> tuple[Tokens, Tokens]:
        """The content tokens of both sides."""
        a, b = (batch.views[role][0] for role in SIDES)
        return a, b


def judgements_of(data: Data, role: str) -> tuple[np.ndarray, Sequence[str]]:
    """What the data say of each row, float64 (N,), NaN for nothing, and the names of the classes."""
    if role == "target":
        assert data.targets is not None
        codes = data.targets.astype(np.float64)
        return np.where(codes < 0, np.nan, codes), tuple(data.target_names)
    if not role:
        return np.full(len(data), np.nan), ()
    if role == "score":
        assert data.scores is not None
        return np.asarray(data.scores, np.float64), ()
    assert data.pair_labels is not None
    return np.where(data.pair_labels < 0, np.nan, data.pair_labels.astype(np.float64)), ()


def judgement_of(role: str, names: Sequence[str]) -> str:
    """ "classes", "number" or "binary": what is learned of a role with so many names of classes."""
    if role == "target":
        return "classes" if len(names) > 2 else "binary" if names else "number"
    return ROLES.get(role, "number")


def learned(judgement: str, names: Sequence[str]) -> str:
    """What is learned, in words."""
    if judgement == "classes":
        return f"{len(names)} classes"
    return f"{names[1]} or {names[0]}" if names else WORDS[judgement]


@dataclass
class PairOptions:
    """How a pair is told.

    Args:
        threshold: of two labels, the probability from which a pair is told to belong together.
    """

    threshold: UnitInterval = 0.5


class PairAnswers(Inference):
    """What a model says of pairs: a class, a number, or whether they belong together."""

    options = PairOptions

    @property
    def classifies(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.judgement == "classes"

    def of_classes(self, data: Data, rows: np.ndarray, embed: Any) -> list[str]:
        return [self.names[k] for k in self.scorer.logits(Request(data, rows, embed)).argmax(1).tolist()]

    def __init__(self, scorer: JointScorer | SideScorer, judgement: str, names: Sequence[str] = ()):
        super().__init__()
        self.scorer, self.judgement, self.names = scorer, judgement, list(names)

    def config(self) -> dict[str, Any]:
        return {"judgement": self.judgement, "names": self.names, "scorer": self.scorer.config()}

    def predict(self, request: Request, options: PairOptions) -> dict[str, Any]:
        """prediction: name of the class, number, or 0 and 1; share: of the class told; probability: of 1, and score:
        the number before it."""
        p = self.scorer.logits(request)
        if self.names:
            share = (p if p.shape[1] > 1 else torch.cat([torch.zeros_like(p), p], 1)).softmax(1)
            return {"prediction": [self.names[k] for k in share.argmax(1)], "share": share.amax(1)}
        if self.judgement == "number":
            return {"prediction": p[:, 0]}
        share = p[:, 0].sigmoid()
        return {"prediction": (share >= options.threshold).long(), "probability": share, "score": p[:, 0]}


class PairScoring(PairAnswers):
    """One number a pair: what pairs are ranked and told apart by."""

    scores_pairs = True

    def of_pairs(self, data: Data, rows: np.ndarray, embed: Any) -> Tensor:
        return self.scorer.logits(Request(data, rows, embed))[:, 0]

    def score(self, request: Request, options: Any) -> Tensor:
        return self.of_pairs(request.data, request.rows, request.embed)


def answers(scorer: JointScorer | SideScorer, judgement: str, names: Sequence[str]) -> PairAnswers:
    """Of classes no pair is more than another."""
    return (PairAnswers if names else PairScoring)(scorer, judgement, names)


class SideScorer(nn.Module):
    """A head on the vectors of both sides: those of many candidates are computed once."""

    def __init__(self, head: PairHead):
        super().__init__()
        self.head = head

    def config(self) -> dict[str, Any]:
        return self.head.config()

    def logits(self, request: Request) -> Tensor:
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        u, v = (torch.from_numpy(request.embed.raw(role, request.rows)).to(device) for role in SIDES)
        with evaluating(self):
            return self.head(u, v)


class JointReader(nn.Module):
    """Both sides in one sequence, "[CLS] a [SEP] b [SEP]", so that every token sees those of the other side.

    The vectors of the tokens get one of their side added, 0 at first. The encoder is not a part of its state.
    `length`: of the sequences of the last batch, padding included.
    """

    def __init__(self, encoder: LayeredText):
        super().__init__()
        self._encoder, self.length = (encoder,), 0
        self.side = nn.Embedding(2, encoder.table.embedding_dim)
        nn.init.zeros_(self.side.weight)

    @property
    def encoder(self) -> LayeredText:
        return self._encoder[0]

    def forward(self, a: Tokens, b: Tokens) -> Tensor:
        """Content tokens of both sides -> (n, dim) of the encoder."""
        tokens, side = one_sequence(a, b, self.encoder.special)
        self.length = tokens.ids.shape[1]
        x: Embedded = self.encoder.embedded(tokens)
        return self.encoder(x._replace(vectors=x.vectors + self.side(side)))

    def of_rows(self, data: Data, rows: np.ndarray) -> Iterator[Tensor]:
        """The same of rows of data, in evaluation mode and in batches. Raises InputError where these lack a side."""
        for role in SIDES:
            if role not in data.roles:
                raise InputError(f"This model reads two columns of texts together; {data.name} has no '{role}' here.",
                                 f"Name it: --{role.replace('_', '-')} COLUMN.")  # fmt: skip
        encoder = self.encoder
        sides = [encoder.encode_ids(data.texts(role, rows)) for role in SIDES]
        with evaluating(self, encoder):
            for start in range(0, len(rows), BATCH):
                yield self(*(pad(ids[start : start + BATCH], encoder.special.pad).to(encoder.device) for ids in sides))


class JointScorer(JointReader):
    """What both texts of a pair say in one sequence, through one linear layer."""

    def __init__(self, encoder: LayeredText, outputs: int, dropout: float = 0.1):
        super().__init__(encoder)
        self.dropout, self.last = nn.Dropout(dropout), nn.Linear(encoder.dim, outputs)

    def config(self) -> dict[str, Any]:
        return {"outputs": self.last.out_features, "dropout": self.dropout.p}

    def forward(self, a: Tokens, b: Tokens) -> Tensor:
        """Content tokens of both sides -> (n, outputs)."""
        return self.last(self.dropout(super().forward(a, b)))

    def logits(self, request: Request) -> Tensor:
        empty = self.last.weight.new_zeros(0, self.last.out_features)
        return torch.cat([empty, *self.of_rows(request.data, request.rows)])


def restored(config: Mapping[str, Any], scorer: JointScorer | SideScorer) -> PairAnswers:
    """The answers of a saved model."""
    return answers(scorer, config["judgement"], config["names"])


__all__ = [
    "JointReader",
    "JointScorer",
    "JudgedPairs",
    "PairAnswers",
    "PairScoring",
    "SideScorer",
    "answers",
    "restored",
]
