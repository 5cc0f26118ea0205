"""CVIB: contrastive variational information bottleneck (Chang et al., Knowledge-Based Systems 2024).

    "[CLS] text [SEP]" or "[CLS] text [SEP] aspect [SEP]" --original O--> r_O --MLP--> class
                                                          --pruned P: a gate after each layer--> r_P --MLP--> class
    O: cross-entropy + lambda contrast(r_P constant, r_O)
    P: cross-entropy + lambda contrast(r_P, r_O constant) + beta KL of the gates

Gates draw noise in training and close channels of little signal in evaluation; contrast with the unpruned twin keeps
what tells a text from others. Both encoders begin alike; each network has an optimiser of its own, and P alone is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, Range, ShareBelowOne, Width
from nearfar.encoders import Encoder, LayeredText, frame, layered, one_sequence, pad
from nearfar.losses import gate_kl, info_nce
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Phase, Tower, register
from nearfar.methods.judged import SIDES, JointReader
from nearfar.methods.text_classes import Classes, class_loss, classifier, training_classes

if TYPE_CHECKING:
    from nearfar.sources.data import Data

START = 0.2  # of beta times the KL of fresh gates, where beta is auto


def mean_longest(lengths: np.ndarray, count: int) -> float:
    """The mean of the largest of `count` values drawn from `lengths` (n,): to it a batch of such texts is padded."""
    share = (np.arange(len(lengths) + 1) / len(lengths)) ** count
    return float(np.sort(lengths) @ np.diff(share))


class Network(nn.Module):
    """One of the two: an encoder, what reads the aspect beside the text, and the classifier."""

    def __init__(self, encoder: LayeredText, aspect: bool, classes: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.reader = JointReader(encoder) if aspect else None
        self.classifier = classifier(encoder.dim, classes, hidden, layers)

    def forward(self, sides: list[Any]) -> tuple[Tensor, Tensor, int]:
        """Content tokens of the text (and the aspect) -> logits, representation, padded length."""
        tokens = frame(sides[0], self.encoder.special) if self.reader is None else None
        r = self.encoder(tokens) if self.reader is None else self.reader(*sides)
        length = self.reader.length if self.reader is not None else tokens.ids.shape[1]  # pyright: ignore
        return self.classifier(self.dropout(r)), r, length


@register("cvib", family="text")
class CVIB(Method):
    """Tells classes of texts by channels that noisy gates leave open, so that shortcuts close (`--target COLUMN`).

    Args:
        contrast: the weight of the contrast between both networks (lambda); 0: there is no unpruned one.
        temperature: divides the cosine of the contrast (t).
        beta: the weight of the gates' information. Paper: 1e-7 to 2.5e-7, for 12 layers of 768. auto: such that the
            term begins at 0.2 in a usual batch.
        gates: a gate after each layer; false: a plain network.
        gate_lr: learning rate of the gates.
        bias_lr: learning rate of all biases and norms (paper: 1e-3); default that of the other weights.
        hidden: width of the classifier's layers.
        layers: how many of them.
        dropout: share of the representation that is dropped in training before the classifier.
    """

    paper = Paper(
        "Contrastive Variational Information Bottleneck for Aspect-Based Sentiment Analysis",
        "Knowledge-Based Systems 2024",
        "Noisy gates close channels of superfluous information; contrast with the unpruned twin keeps the rest.",
        arxiv="2303.02846",
        differs="the sentence encoder stands in the place of BERT with relational attention over a parse tree; the "
        "contrast takes the representation before dropout, as that variant does; the gates' learning rate follows the "
        "run's schedule instead of being halved every ten epochs; the released code drops every second batch, which is "
        "not repeated; the last weights are kept, not the best on test data; nothing is removed from the network; the "
        "preset is the authors' column for LAP14 (for REST14 --contrast 0.5 --temperature 0.1 --beta 2.5e-7 --gate-lr "
        "5e-3 --dropout 0.1); a warm-up of a twentieth of the run (released: none)",
    )
    layered = True
    needs = (frozenset({"text", "target"}),)
    target = "classes"
    measured_by = "classification"
    supervised = True
    only_with = {"beta": {"gates": (True,)}, "gate_lr": {"gates": (True,)},
                 "temperature": {"contrast": Range(0, open_low=True)}}  # fmt: skip
    preset_paper = {"contrast": 0.25, "temperature": 0.05, "beta": 1e-7, "gate_lr": 1e-2, "bias_lr": 1e-3,
                    "hidden": 300, "layers": 2, "dropout": 0.3}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 5e-5, "weight_decay": 0.0, "clip_norm": 1.0, "schedule": "constant"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        contrast: NonNegativeFloat = 0.25,
        temperature: PositiveFloat = 0.05,
        beta: NonNegativeFloat | Literal["auto"] = "auto",
        gates: bool = True,
        gate_lr: PositiveFloat = 5e-3,
        bias_lr: PositiveFloat | None = None,
        hidden: Width = 300,
        layers: PositiveInt = 2,
        dropout: ShareBelowOne = 0.1,
    ):
        super().__init__()
        self.inner, self.role, self.aspect = layered(encoder, "'cvib'"), SIDES[0], False
        self.weight, self.tau, self.beta, self.gated = contrast, temperature, beta, gates
        self.gate_lr, self.bias_lr, self.size = gate_lr, bias_lr, (hidden, layers, dropout)
        self.names: list[str] = []

    def columns(self, roles: Set[str]) -> None:
        self.aspect = SIDES[1] in roles

    @property
    def reads(self) -> tuple[str, ...]:
        return SIDES if self.aspect else SIDES[:1]

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        """Makes both networks. Raises InputError where the training rows are of one class."""
        self.names = training_classes(data, rows)
        plain = copy.deepcopy(self.inner) if self.weight > 0 else None
        own = self.aspect, len(self.names), *self.size
        self.pruned = Network(self.inner, *own)
        if self.gated:
            self.inner.add_gates()
        self.original = Network(plain, *own) if plain is not None else None
        self.lengths = self.lengths_of(data, rows[:: max(1, len(rows) // 2000)])

    def lengths_of(self, data: Data, rows: np.ndarray) -> np.ndarray:
        """Tokens of the sequence that the networks read of each row, (n,)."""
        special, read = self.inner.special, [self.inner.encode_ids(data.texts(role, rows)) for role in self.reads]
        sides = [pad([ids[: special.length] for ids in texts], special.pad) for texts in read]
        framed = one_sequence(sides[0], sides[-1], special)[0] if self.aspect else frame(sides[0], special)
        return framed.mask.sum(1).numpy()

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if self.beta == "auto":
            whole = float(self.kl(1).detach()) * mean_longest(self.lengths, facts.batch_size)
            self.beta = START / whole if whole > 0 else 0.0
        return {"beta": float(f"{self.beta:.3g}")}

    def kl(self, length: int) -> Tensor:
        """That of all gates, at so many places."""
        zero = self.pruned.classifier[0].weight.new_zeros(())  # pyright: ignore
        return sum((gate_kl(gate.mu, gate.logvar, length) for gate in self.inner.gates), zero)

    def phases(self) -> list[Phase]:
        first = [] if self.original is None else [Phase("original", [self.original], self.original_loss)]
        return [*first, Phase("pruned", [self.pruned], self.pruned_loss)]

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        lr, found = self.optimisation.lr, {}
        if self.bias_lr is not None:
            found = {p: self.bias_lr / lr for p in self.parameters() if p.dim() <= 1}
        return found | {p: self.gate_lr / lr for gate in self.inner.gates for p in gate.parameters()}

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {role: [batch.inputs[role]] for role in self.reads}

    def outputs_of(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor, int]:
        return network([batch.views[role][0] for role in self.reads])

    def original_loss(self, batch: Batch) -> Loss:
        """The unpruned network's; its representations are kept for the other, as they were before its step."""
        assert self.original is not None
        with torch.no_grad():
            pruned = self.outputs_of(self.pruned, batch)[1]
        logits, r, _ = self.outputs_of(self.original, batch)
        self.kept = r.detach()
        known = class_loss(logits, batch)
        alike = info_nce(pruned, r, temperature=self.tau, negatives="global")
        return Loss(known + self.weight * alike, {"original_class": known.detach()})

    def pruned_loss(self, batch: Batch) -> Loss:
        logits, r, length = self.outputs_of(self.pruned, batch)
        self.monitored = r.detach()
        known = total = class_loss(logits, batch)
        terms: dict[str, Tensor | float] = {"class": known.detach()}
        if self.original is not None:
            alike = info_nce(r, self.kept, temperature=self.tau, negatives="global")
            total, terms["contrast"] = total + self.weight * alike, alike.detach()
        if self.gated:
            assert isinstance(self.beta, float | int)
            information = self.beta * self.kl(length)
            open_ = torch.stack([gate.open().float().mean() for gate in self.inner.gates]).mean()
            total = total + information
            terms |= {"information": information.detach(), "open": open_}
        return Loss(total, terms)

    def towers(self) -> dict[str, Tower]:
        return dict.fromkeys(self.reads, Tower(self.inner))

    def inference(self) -> Classes:
        return Classes(self.pruned.classifier, self.names, self.pruned.reader)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> Classes:
        return Classes.restored(config, JointReader(towers[SIDES[0]].encoder) if config["aspect"] else None)
