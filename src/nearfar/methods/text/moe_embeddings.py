"""MoE Embeddings: one expert a domain in place of every MLP (arXiv 2401.15713).

    a, b of one domain --encoder, whose MLPs are copies: one for each domain--> mean --pooler--> z_a, z_b
    loss = MNR+ of z_a and z_b among the pairs of the batch, of all domains

Attention, norms and words are shared, an MLP learns one domain alone. The domain stands in front of the text as a token
of its own and names the expert ("domain"); or a router, taught the domain, chooses it ("router"). It must be given at
inference: a column of the data, or one domain for all (`--variant NAME`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeFloat, PositiveFloat
from nearfar.encoders import Encoder, Tokens, layered
from nearfar.errors import InputError
from nearfar.losses import balance_loss, mnr, mnr_plus, router_loss
from nearfar.methods import Batch, Loss, PairContrast, Paper, register

if TYPE_CHECKING:
    from nearfar.sources.data import Data

FIRST = {"pooler": "tanh", "temperature": 0.7, "learn_temperature": True, "router_weight": 1.0}


def exchanged(a: Tokens, b: Tokens, other: Tensor) -> tuple[Tokens, Tokens]:
    """Both sides of each pair, the wrong way round where `other` (n,) is True."""
    width = max(a.ids.shape[1], b.ids.shape[1])
    (i, m), (j, k) = ((torch.nn.functional.pad(v, (0, width - v.shape[1])) for v in x[:2]) for x in (a, b))
    turn = other[:, None]
    return (a._replace(ids=torch.where(turn, j, i), mask=torch.where(turn, k, m)),
            b._replace(ids=torch.where(turn, i, j), mask=torch.where(turn, m, k)))  # fmt: skip


def check_domains(data: Data, rows: np.ndarray, part: str, known: np.ndarray | None = None) -> None:
    """Raises InputError where rows of a part of the data have no domain, or one that is not among the known codes."""
    assert data.domains is not None
    codes, column = data.domains[rows], data.roles["domain"]
    foreign = (codes >= 0) & ~np.isin(codes, codes if known is None else known)
    others = ", ".join(data.domain_names[code] for code in np.unique(codes[foreign])[:8])
    for wrong, what in ((codes < 0, "no domain"), (foreign, f"a domain that no training row has ({others})")):
        if wrong.any():
            raise InputError(f"{int(wrong.sum()):,} of {len(rows):,} {part} rows have {what} in '{column}'.",
                             "Fill the column, or leave these rows out.")  # fmt: skip


@register("moe-embeddings", family="text")
class MoEEmbeddings(PairContrast):
    """Pairs of texts in several domains (`--domain COLUMN`), each with an MLP of its own in every layer.

    Args:
        routing: who names a text's expert: its domain; a router, one a layer, that is taught the domain; or nobody
            (none: one MLP for all, the baseline).
        token: a vector of the domain stands in place of [CLS].
        pooler: kept at inference: mlp (of the mean: layer norm, linear, tanh, linear), tanh (of the first token:
            linear, tanh) or none (the encoder's own pooling).
        objective: mnr (multiple negatives ranking: the first text finds the second among the other pairs) or mnr+ (both
            ways).
        normalise: vectors of length 1. false, as released: inner products as they are, and mnr+ aims at the largest of
            each row and column, which often is not the partner; then duplicates are not masked, and hard negatives have
            no place.
        temperature: tau; divides the similarities. auto: 0.05, or 1 of vectors that are not normalised.
        swap: which text of a pair is the first is drawn anew each time.
        router_weight: the weight of the router's loss (r).
        balance_weight: the weight of a term that spreads the router's choices.
    """

    paper = Paper(
        "Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings in Biological Databases",
        "Scientific Reports 2025",
        "Each domain has MLPs of its own beside shared attention, and names them.",
        arxiv="2401.15713",
        differs="vectors are normalised and duplicates masked unless told (the preset: as released, inner products "
        "as they are); normalised MNR+ is symmetric InfoNCE here, while its columns, which aim at the largest of a "
        "softmax over rows, rarely aim at another row than the partner; the preset is of the second generation, with "
        "--routing router of the first (pooler of the first token, a learned temperature that begins at 0.7, the "
        "router's weight 1 of its script, not 0.1 of its constructor, learning rate 1e-5); a learned temperature has "
        "five times the learning rate; cosine schedule after a warm-up of a twentieth of the run (released: one cycle "
        "with 500 steps of warm-up in the first generation, --schedule cosine --warmup 500; none is told of the "
        "second); the router's mean leaves out padding; there are as many experts as domains, in every layer, and no "
        "routing of single tokens; what the first release calls MNR compares rows with their own number and is not "
        "made; no early stopping; dropout 0.05 of the first generation is --text-dropout 0.05; no LoRA inside experts",
    )
    layered = True
    needs = (frozenset({"text", "text_b", "domain"}),)
    fixed = ("symmetric", "head", "dim", "views", "loss", "negatives")
    only_with = {**PairContrast.only_with, "router_weight": {"routing": ("router",)},
                 "balance_weight": {"routing": ("router",)}}  # fmt: skip
    preset_paper = {"routing": "domain", "token": True, "pooler": "mlp", "objective": "mnr+", "normalise": False,
                    "mask_duplicates": False}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 1e-4}
    follows = {"temperature": "normalise"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        routing: Literal["domain", "router", "none"] = "domain",
        token: bool = True,
        pooler: Literal["mlp", "tanh", "none"] = "mlp",
        objective: Literal["mnr", "mnr+"] = "mnr+",
        normalise: bool = True,
        temperature: PositiveFloat | Literal["auto"] = "auto",
        swap: bool = True,
        router_weight: NonNegativeFloat = 1.0,
        balance_weight: NonNegativeFloat = 0.0,
        **shared: Any,
    ):
        inner = layered(encoder, "'moe-embeddings'")
        if pooler != "none":
            inner.pool_by("mean" if pooler == "mlp" else "cls")
        tau = temperature if temperature != "auto" else 0.05 if normalise else 1.0
        super().__init__(inner, symmetric=objective == "mnr+", head="none", temperature=tau, **shared)
        self.tower_a.head = None if pooler == "none" else heads.pooler(inner.dim, pooler)
        self.routing, self.token, self.plus, self.normalise, self.swap = (
            routing, token, objective == "mnr+", normalise, swap)  # fmt: skip
        self.router_weight, self.balance_weight = router_weight, balance_weight

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        return ["text"]

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(cls.preset_paper) | (FIRST | {"routing": "router"} if given.get("routing") == "router" else {})

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**cls.paper_training, "lr": 1e-5 if given.get("routing") == "router" else 1e-4}

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        """Raises InputError where training rows have no domain, or all the same one, where rows that are measured have
        none of these and need one, and for hard negatives of vectors that are not normalised."""
        if not self.normalise and "negative" in data.roles:
            raise InputError(
                "Vectors that are not normalised are contrasted with the other pairs alone: hard negatives have no "
                "place there.",
                "Leave out --negative, or use --normalise true.",
            )
        check_domains(data, rows, "training")
        known = np.unique(np.asarray(data.domains)[rows])
        names = [data.domain_names[code] for code in known]
        if len(names) < 2:
            raise InputError(f"All training rows are of one domain ('{names[0]}' in '{data.roles['domain']}'): there "
                             "is nothing to route.", "Name another column with --domain, or use `pairs`.")  # fmt: skip
        if self.token or self.routing == "domain":
            for split in sorted(set(data.splits) - {"train"}):
                check_domains(data, data.splits[split], split, known)
        inner = self.tower_a.encoder
        if self.routing != "none":
            inner.add_experts(len(names), self.routing)
        if self.token or self.routing == "domain":
            inner.add_domains(names, self.token)
        place = {code: k for k, code in enumerate(known)}
        numbers = torch.tensor([place.get(code, -1) for code in range(len(data.domain_names))])
        self.register_buffer("numbers", numbers, persistent=False)

    def make_views(self, batch: Batch) -> dict[str, list]:
        made = super().make_views(batch)
        if not self.normalise:
            made.pop("negative", None)
        if self.swap:
            a, b = self.roles
            other = torch.rand(len(batch), generator=batch.generator(), device=batch.rows.device) < 0.5
            (made[a][0], made[b][0]) = exchanged(made[a][0], made[b][0], other)
        return made

    def encode(self, batch: Batch) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, role in zip("ab", self.roles, strict=True):
            out[name] = self.tower_a(batch.views[role][0])
            if self.routing == "router":
                out[f"router_{name}"] = self.tower_a.encoder.router_logits.transpose(0, 1)
        if "negative" in batch.views:
            out["negative"] = [self.tower_a(x) for x in batch.views["negative"]]
        return out

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        made = super().loss(embedded, batch) if self.normalise else self.raw(embedded["a"], embedded["b"])
        if self.routing != "router":
            return made
        assert batch.domains is not None
        logits = [embedded[f"router_{name}"].transpose(0, 1) for name in "ab"]
        router = router_loss(*logits, self.numbers[batch.domains], negatives="global")  # pyright: ignore
        balance = balance_loss(torch.cat(logits, 1), negatives="global")
        total = made.total + self.router_weight * router + self.balance_weight * balance
        return Loss(total, made.terms | {"router": router.detach(), "balance": balance.detach()})

    def raw(self, a: Tensor, b: Tensor) -> Loss:
        """The loss of vectors as they are, in the released form."""
        self.monitored = a.detach()
        form = mnr_plus if self.plus else mnr
        return Loss(form(a, b, temperature=self.temperature(), negatives="global"))
