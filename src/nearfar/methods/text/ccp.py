"""CCP: contrastive context prediction for sentences of many languages (IJCAI 2022, arXiv 2206.03281).

    document: s_1 ... s_n;  centre s_c, context s_p with 1 <= |p - c| <= w --encoder--> h_c, h_s
    keys k = g(h), batch norm by running statistics;  queries q = g(h), batch norm by the batch;  all of length 1
    loss = mean of l(q_c, k_s, M) and l(q_s, k_c, M) + masked LM,   M: past keys of the sentence's own language

Neighbours mean similar things in every language, so each language gets a space of the same shape; a shift, a scale and
a rotation per language then align them (`nearfar.evaluation.calibration`; `--task bitext --calibrate rotate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeFloat, PositiveInt, UnitInterval, Width
from nearfar.encoders import Encoder, Features, LayeredText, Tokens, frame, layered
from nearfar.encoders.tokens import ordinary
from nearfar.errors import InputError
from nearfar.losses import context_layout, mask_tokens, masked_lm_rows
from nearfar.methods import Batch, Contrast, Facts, Loss, Paper, Tower, register
from nearfar.methods.batch import by_member
from nearfar.negatives import GroupQueue
from nearfar.samplers import Partners, Permutation, Sampler, near
from nearfar.similarity.exchange import exchange

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class Hidden(NamedTuple):
    """Texts with hidden tokens: ids, mask and targets (-100 where nothing is hidden), (n, L) each."""

    ids: Tensor
    mask: Tensor
    targets: Tensor


@register("ccp", family="text")
class CCP(Contrast):
    """A sentence finds its neighbour in the document (`--group`) among past sentences of its language (`--domain`).

    The rows of a document stand in the order of its sentences. Without a column of languages all are of one.

    Args:
        temperature: T; divides the cosine.
        bank: K; past keys of each language. auto: as the part `queue` sizes itself, at most a quarter of a language's
            sentences (docs/reproducibility.md, "Queues in short runs").
        banks: what has a bank of its own: each language, or all together (of the same size altogether).
        window: w; a context stands at most so many sentences from its centre.
        context: a neighbour of the centre, or the centre itself under other dropout (to compare with).
        norm: batch norm of the head: asymmetric (keys by running statistics), batch (both sides by the batch), running.
        in_batch: other sentences of the batch that are of the same language are negatives as well.
        detach_keys: no gradient flows through keys.
        mlm: weight of the masked-LM term. auto: 1 for a transformer whose output scores share the table of its tokens
            (--text-encoder tiny), else 0.
        masked: share of the tokens that the masked-LM term hides.
        projector: width of the hidden layer of the head, which serves training alone.
        dim: width of the contrasted vectors.
    """

    paper = Paper(
        "Unsupervised Context Aware Sentence Representation Pretraining for Multi-lingual Dense Retrieval",
        "IJCAI 2022",
        "Neighbouring sentences find each other among past ones of their language: spaces of languages become alike.",
        arxiv="2206.03281",
        differs="a reconstruction: the pre-training code was never released, so window, head, order of calls, the "
        "gradient through positive keys, sizes and weights are read from abstract and ablations; lr 1e-5 and the "
        "largest norm 2.0 of the preset are those of the released fine-tuning; sentences of one "
        "document and duplicates are no negatives unless told (--mask-duplicates false); the supervised fine-tuning "
        "of the released code is `pairs` with a hard negative (--negative COLUMN --symmetric false), by cosine and a "
        "temperature instead of the inner product, with one encoder instead of one for questions and one for passages, "
        "and a final question mark stays; MRR@100, Recall@100 and XOR-Retrieve's recall by tokens are no tasks here; "
        "BN statistics are those of each process",
    )
    needs = (frozenset({"text", "group"}),)
    preset_paper = {"temperature": 0.05, "bank": 32768, "window": 2, "norm": "asymmetric", "mlm": 1.0, "masked": 0.15,
                    "mask_duplicates": False}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 1e-5, "schedule": "linear", "clip_norm": 2.0}
    fixed = ("negatives",)
    follows = {"bank": "temperature"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        bank: PositiveInt | Literal["auto"] = "auto",
        banks: Literal["language", "shared"] = "language",
        window: PositiveInt = 1,
        context: Literal["near", "itself"] = "near",
        norm: Literal["asymmetric", "batch", "running"] = "asymmetric",
        in_batch: bool = False,
        detach_keys: bool = False,
        mlm: NonNegativeFloat | Literal["auto"] = "auto",
        masked: UnitInterval = 0.15,
        projector: Width = 512,
        dim: Width = 128,
        **shared: Any,
    ):
        super().__init__(negatives=GroupQueue(bank, in_batch=in_batch), **shared)
        self.role, self.tower = encoder.role, Tower(encoder)
        self.head = heads.AsymmetricHead(encoder.dim, projector, dim, norm)
        self.bank, self.banks, self.window, self.context, self.dim = bank, banks, window, context, dim
        self.detach_keys, self.masked = detach_keys, masked
        tied = isinstance(encoder, LayeredText) and encoder.table.embedding_dim == encoder.width
        self.mlm = float(tied) if mlm == "auto" else mlm
        if self.mlm and layered(encoder, "The masked-LM term (--mlm)").special.mask is None:
            raise InputError("The tokenizer of this encoder has no mask token for the masked-LM term.", "Use --mlm 0.")

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where no document has two sentences, no language two documents, or a sentence no language.
        A language of one document has no negatives, and is left out."""
        rows = np.asarray(rows)
        assert data.groups is not None
        self.documents = np.asarray(data.groups)[rows]
        known = np.zeros(len(rows), np.int64) if data.domains is None else np.asarray(data.domains)[rows]
        if (known < 0).any():
            raise InputError(f"{(known < 0).sum():,} of the {len(rows):,} training sentences have no language.",
                             f"Fill the column '{data.roles.get('domain')}', or leave out --domain.")  # fmt: skip
        self.languages = np.unique(known, return_inverse=True)[1].reshape(-1)
        codes, count = np.unique(self.documents, return_inverse=True, return_counts=True)[1:]
        self.rich = rows[(count[codes.reshape(-1)] > 1) | (self.context == "itself")]
        if not len(self.rich):
            raise InputError(f"No document ('{data.roles['group']}') of the {len(rows):,} training sentences has two.",
                             "Name the column of the documents: --group COLUMN.")  # fmt: skip
        of_bank = self.languages if self.banks == "language" else np.zeros_like(self.languages)
        documents = [len(np.unique(self.documents[of_bank == bank])) for bank in range(of_bank.max() + 1)]
        lone = np.flatnonzero(np.array(documents) < 2)
        if len(lone) == len(documents):
            raise InputError(f"No language has two documents ('{data.roles['group']}'): there are no negatives.",
                             "Name the column of the documents (--group COLUMN), or give more of them.")  # fmt: skip
        self.rich = self.rich[~np.isin(self.rich, rows[np.isin(of_bank, lone)])]
        if not len(self.rich):
            raise InputError("The only documents of two sentences are the only ones of their language: there are no "
                             "negatives.", "Give more documents.")  # fmt: skip
        names = [data.domain_names[known[of_bank == bank][0]] for bank in lone]
        self.lone = (
            f"{np.isin(of_bank, lone).sum():,} sentences (one document of {', '.join(names)})" if names else None
        )
        self.near = near(rows, self.documents, self.window)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        languages, queue = int(self.languages.max()) + 1, self.negatives
        assert isinstance(queue, GroupQueue)
        queue.groups = languages if self.banks == "language" else 1
        if self.banks == "shared" and self.bank != "auto":
            queue.size = int(self.bank) * languages
        return self.setup_negatives(self.dim, facts) | {"mlm": self.mlm, "left_out": self.lone}

    def sampler(self, stage: int) -> Sampler:
        draw = self.near if self.context == "near" else lambda wanted, rng: wanted
        drawn = Partners(draw, Permutation().only(self.rich))
        return drawn.within(self.languages if self.banks == "language" else np.zeros_like(self.languages))

    @property
    def members(self) -> int:
        return 2

    def make_views(self, batch: Batch) -> dict[str, list]:
        """Centre and context and, for the masked-LM term, both with hidden tokens."""
        encoder, generator = self.tower.encoder, batch.generator()
        members = by_member(batch.inputs[self.role], 2)
        sides = [x if isinstance(x, Features) else frame(x, encoder.special) for x in members]
        return {self.role: [*sides, *(self.hide(x, generator) for x in sides if self.mlm)]}

    def hide(self, x: Any, generator: torch.Generator) -> Hidden:
        special = self.tower.encoder.special
        ids, targets = mask_tokens(x.ids, ordinary(x, special), mask_id=special.mask, size=special.size,
                                   share=self.masked, generator=generator)  # fmt: skip
        return Hidden(ids, x.mask, targets)

    def encode(self, batch: Batch) -> dict[str, Any]:
        views = batch.views[self.role]
        made: dict[str, Any] = {"sides": [self.tower(x) for x in views[:2]]}
        return made | ({"masked_lm": [self.hidden_losses(x) for x in views[2:]]} if self.mlm else {})

    def hidden_losses(self, x: Hidden) -> Tensor:
        """The sum of -log p over the hidden tokens of each text, (n,)."""
        encoder, hidden = self.tower.encoder, x.targets >= 0
        states, _ = encoder.tokens(Tokens(x.ids, x.mask))
        rows = masked_lm_rows(encoder.logits(states[hidden]), x.targets[hidden])
        return rows.new_zeros(len(x.ids)).index_add(0, hidden.nonzero()[:, 0], rows)

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        sides = embedded["sides"]
        keys = None if self.head.kind == "batch" else [self.head(h, key=True) for h in sides]
        queries = [self.head(h) for h in sides]
        embedded["keys"] = keys = queries if keys is None else keys  # as they were before the statistics moved
        assert self.negatives is not None
        layout = context_layout(queries, keys, detach_keys=self.detach_keys, in_batch=self.negatives.in_batch,
                                **self.layout_options(batch))  # fmt: skip
        found = self.report(layout, queries[0], batch)
        if self.mlm:
            net, hidden = exchange("global"), [x.targets >= 0 for x in batch.views[self.role][2:]]
            count = net.sum(torch.stack([x.sum() for x in hidden]).sum().float())
            masked = net.sum(torch.stack([x.sum() for x in embedded["masked_lm"]]).sum()) / count.clamp(min=1)
            found.terms["masked LM"] = masked.detach()
            found = Loss(found.total + self.mlm * masked, found.terms)
        return found

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        self.tau.project()
        assert self.negatives is not None
        for keys in embedded["keys"]:
            self.negatives.update(keys, self.items(batch))

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
