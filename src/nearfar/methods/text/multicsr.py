"""MultiCSR: contrastively refined triplets of generated sentences (Wang et al., NAACL 2024, arXiv 2310.10962).

    stage 1: sentence s --generator--> entailment e, contradiction c --scorer--> s_e, s_c in [0, 5];  swapped where
             s_e < s_c, dropped where both are above 4
    stage 2: kept where s_e >= 3, s_c <= 3 and s_e != s_c
    stage 3: (s, e, c) --encoder, linear, tanh--> z^0, z^1, z^2;   --frozen encoder--> m^0, m^1, m^2
             InfoNCE of z^0_i among all z^1_j and z^2_j, without those whose cos(m^0_i, m_j) is above phi

Each stage removes one kind of wrong pair: an entailment that contradicts, a pair of which nobody is sure, and another
row's sentence that says the same. The rules are in `nearfar.methods.refining`, the loss is `nearfar.losses.multicsr`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar import encoders, heads
from nearfar.checks import NonNegativeFloat, PositiveInt, Range, ShareBelowOne
from nearfar.encoders import Encoder, Frozen, Tokens, frame, layered
from nearfar.encoders.base import find_model
from nearfar.encoders.tokens import TokenStore
from nearfar.errors import InputError
from nearfar.losses import released_rows, triplet_layout
from nearfar.methods import Batch, Contrast, Facts, Loss, Paper, Staged, Tower, against_targets, forward_views, register
from nearfar.methods.contrast import part_name
from nearfar.methods.refining import AT_ONCE, CURATION, TOKENS, Refining, lacks_triplets
from nearfar.samplers import Permutation, Sampler
from nearfar.similarity import ExcludedPairs

if TYPE_CHECKING:
    from nearfar.sources.data import Data

PHI = 0.95


@register("multicsr", family="text")
class MultiCSR(Staged, Contrast):
    """A sentence finds what follows from it among what follows from and contradicts all sentences, in refined triplets.

    A language model works before the first step (of --dry-run too); its answers are kept in the cache.

    Told of the training rows: no_pairs (the label says that both sides do not belong together), incomplete (a text is
    missing, or two of the three say the same), unscored, swapped, both_similar (dropped by stage 1: both above 4),
    curated_away (dropped by stage 2) and kept.

    Args:
        temperature: T; divides the cosine.
        generator: where entailments and contradictions come from: columns (--text, --text-b, --negative), documents
            (another sentence of the document, `--group`, and one of another document of the `--domain`), or the
            folder of a language model of transformers. auto: columns where the data hold them, else documents.
        contrast: weight of the noisy instruction, against which each word is decoded: from the abstract, not in the
            released code. 0: plain greedy decoding.
        scorer: where both scores in [0, 5] come from: two columns (A,B), the folder of a language model, or none, which
            leaves out stage 1's swap and stage 2. auto: score_positive,score_negative of a table of
            triplets, else the generator's model.
        generator_batch: prompts that a language model answers at once.
        generator_tokens: the most new tokens of a sentence that it writes.
        swap: stage 1 exchanges a positive that is less similar than the negative, and drops where both are above 4.
        curation: stage 2: the least score of a positive / the highest of a negative, and +gap where both must differ;
            none leaves it out.
        frozen: the frozen encoder of the mask: simcse (trained first, in this run), given (the pretrained encoder
            itself), a folder (transformers, sentence-transformers or nearfar), or none for no mask.
        frozen_share: share of the run's steps that train it, for simcse.
        stage_weights: after simcse: fresh starts from new random (or the given) weights; continue goes on.
        phi: a candidate is hidden where its cosine in the frozen encoder is above.
        official: the released loss: cross-entropy of each entry of the softmax, with hidden logits at 0.
        pooling: of a transformer and of a frozen one: cls or mean; auto: as --text-pooling or its folder says.
    """

    paper = Paper(
        "Large Language Models can Contrastively Refine their Generation for Better Sentence Representation Learning",
        "NAACL 2024",
        "Generated entailments and contradictions are scored, swapped, curated and masked before they are contrasted.",
        arxiv="2310.10962",
        differs="no language model is shipped (the paper's is Flan-T5-XL, from NLI premises or Wikipedia's sentences): "
        "--generator and --scorer take local ones, with prompts of its own; filters are the lines that --curation says "
        "(released: custom ones are ignored); triplets of which two texts say the same are left out; "
        "contrastive decoding (--contrast) is a reconstruction from the abstract, and the released code decodes "
        "greedily; the mask is cos > phi at any temperature, and hidden candidates leave the denominator (released: "
        "logits of 0 in a binary cross-entropy, --official); the frozen encoder is in evaluation mode (released: with "
        "dropout), loaded by its own class and kept from the optimiser (released: by RoBERTa's class, and handed to "
        "it), and trained in the run unless named: SimCSE on the anchors that are kept takes --frozen-share of the "
        "steps, 40 %; several processes contrast together; duplicates in a batch are no negatives; the masked-LM term, "
        "off in the released script, is left out; a warm-up of a twentieth of the run (none in the paper); batch "
        "128, 3 epochs, 32 tokens, fp16 and evaluation every 25 steps are --batch-size 128 --steps N --text-length 32 "
        "--precision 16 --val-every 25; validation does not choose the checkpoint that is kept",
    )
    needs = (frozenset({"text", "text_b", "negative"}), frozenset({"text", "group"}), frozenset({"text"}))
    preset_paper = {"temperature": 0.05, "swap": True, "curation": "3/3+gap", "phi": 0.95, "generator_batch": 16,
                    "generator_tokens": 256, "contrast": 0.0, "pooling": "cls", "stage_weights": "fresh",
                    "mask_duplicates": False}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 5e-5, "weight_decay": 0.0, "schedule": "linear", "clip_norm": 1.0}
    only_with = {**Contrast.only_with, "frozen_share": {"frozen": ("simcse",)},
                 "stage_weights": {"frozen": ("simcse",)}}  # fmt: skip
    defaults = {"temperature": 0.05}
    fixed = ("negatives",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        generator: str = "auto",
        contrast: NonNegativeFloat = 0.0,
        scorer: str | None = "auto",
        generator_batch: PositiveInt = AT_ONCE,
        generator_tokens: PositiveInt = TOKENS,
        swap: bool = True,
        curation: str | None = CURATION,
        frozen: str | None = "simcse",
        frozen_share: ShareBelowOne = 0.4,
        stage_weights: Literal["fresh", "continue"] = "fresh",
        phi: Annotated[float, Range(-1, 1)] = PHI,
        official: bool = False,
        pooling: Literal["auto", "cls", "mean"] = "auto",
        **shared: Any,
    ):
        super().__init__(**shared)
        if official and part_name(self.row_loss) != "infonce":
            raise InputError("The released loss (--official) is in place of --loss.", "Leave out one of them.")
        if not any(p.requires_grad for p in encoder.parameters()):
            raise InputError("A frozen encoder learns nothing here: the head serves training alone.",
                             "Leave out --freeze.")  # fmt: skip
        self.role, self.pooling = encoder.role, "auto" if getattr(encoder, "pooling_asked", False) else pooling
        if self.pooling != "auto":
            layered(encoder, "The option --pooling").pool_by(self.pooling)
        self.tower = Tower(encoder, heads.pooler(encoder.dim, "tanh"))
        self.refining = Refining(generator, contrast, scorer, generator_batch, generator_tokens, swap, curation)
        self.first, self.share, self.weights = frozen, frozen_share, stage_weights
        self.phi, self.official = phi, official
        self.frozen = self._frozen(encoder)

    def _frozen(self, encoder: Encoder) -> Frozen | None:
        """The frozen encoder. Raises InputError for a folder that is none, and for copies that know nothing."""
        if self.first is None:
            if self.phi != PHI:
                raise InputError(f"--phi {self.phi:g} has no effect: there is no frozen encoder.",
                                 "Leave out --phi, or --frozen none.")  # fmt: skip
            return None
        if self.first == "given" and not encoder.pretrained:
            raise InputError("The frozen encoder is the given one, which has random weights.",
                             "Name a pretrained one (--text-encoder FOLDER), or use --frozen simcse.")  # fmt: skip
        if self.first in ("simcse", "given"):
            return Frozen(copy.deepcopy(encoder))
        pooling = None if self.pooling == "auto" or find_model(self.first) else self.pooling
        return Frozen(encoders.text(self.first, pooling=pooling))

    # -- stages 1 and 2

    def prepare(self, data: Data, rows: Any) -> None:
        """Triplets, their scores, and which are kept. Raises InputError where there are none."""
        made = self.refining.of(data, np.asarray(rows), self.seed)
        self.found, self.kept, self.told = made.triplets, made.rows, made.told
        self.contents = torch.from_numpy(np.append(self.found.contents(), -1)[self.found.places])
        self.documents = None if self.found.documents is None else torch.from_numpy(self.found.documents)

    @classmethod
    def lacks(cls, data: Data) -> str:
        return lacks_triplets(data)

    # -- stage 3

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if facts.steps < len(self.stage_starts()):
            raise InputError("A run of one step is too short for two stages.", "Use more --steps.")
        pooled = getattr(self.tower.encoder, "pooling", None)
        return super().resolve(facts) | self.told | ({} if pooled is None else {"pooling": "+".join(pooled)})

    def stage_starts(self) -> list[int]:
        return self.second_from(self.share) if self.first == "simcse" else [0]

    def begin_stage(self, stage: int) -> None:
        """Freezes what SimCSE has trained."""
        assert self.frozen is not None
        self.frozen.encoder.load_state_dict(self.tower.encoder.state_dict())
        if self.weights == "fresh":
            self.renew(stage, [(self.role, self.tower)])
            self.tau.restart()

    def sampler(self, stage: int) -> Sampler:
        return Permutation().only(self.kept)

    def reader(self, data: Data, role: str) -> Any:
        """The three texts of each row from their start, and once more by the frozen encoder's own tokenizer."""
        own: list[Any] = [] if self.frozen is None or self.first in ("simcse", "given") else [self.frozen.encoder]
        stores = [TokenStore(e.encode_ids(self.found.texts), e.special.length - e.special.frame)
                  for e in (self.tower.encoder, *own)]  # fmt: skip
        places = self.found.places

        def read(rows: np.ndarray, rng: Any = None) -> list[Tokens]:
            return [store.read(side[rows]) for store in stores for side in places]

        return read

    def copies(self, batch: Batch) -> bool:
        """Whether a batch is SimCSE's."""
        return self.first == "simcse" and self.stage_of(batch.step) == 0

    def make_views(self, batch: Batch) -> dict[str, list]:
        own, frozen = batch.inputs[self.role][:3], batch.inputs[self.role][3:]
        own = own[:1] * 2 if self.copies(batch) else own
        made = {self.role: [frame(x, self.tower.encoder.special) for x in own]}
        return made | ({"frozen": [frame(x, self.frozen.special) for x in frozen]} if self.frozen is not None else {})

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"views": forward_views(self.tower, batch.views[self.role])}

    def targets(self, batch: Batch) -> dict[str, Any]:
        if self.frozen is None or self.copies(batch):
            return {}
        return {"frozen": forward_views(self.frozen, batch.views["frozen"] or batch.views[self.role])}

    def excluded(self, batch: Batch) -> ExcludedPairs:
        """Positives of an equal anchor, what is of the anchor's document (of drawn triplets hard negatives too, the own
        one among them where it was swapped), and whatever says the same as anchor or positive."""
        anchor, positive, negative = self.contents[:, batch.rows.cpu()].to(batch.rows.device)
        nothing, keys = torch.full_like(anchor, -1), torch.cat([positive, negative])
        kinds = [(anchor, keys), (positive, keys), (anchor, torch.cat([anchor, nothing]))]
        if self.documents is not None:
            own, *others = self.documents[:, batch.rows.cpu()].to(batch.rows.device)
            kinds.append((own, torch.cat(others)))
        elif batch.groups is not None:
            kinds.append((batch.groups, torch.cat([batch.groups, nothing])))
        return ExcludedPairs(kinds)

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z, options = embedded["views"], self.layout_options(batch)
        if self.copies(batch):
            return self.report(against_targets(z[:1], z, True, options), z[0], batch)
        del options["extra_candidates"]
        options["excluded"] = self.excluded(batch) if self.mask_duplicates else None
        layout = triplet_layout(z, embedded.get("frozen"), phi=self.phi, **options)
        found = self.report(layout, z[0], batch)
        if self.logged(batch):
            found.terms["hidden"] = self.hidden(layout.parts[0])
        return Loss(layout.loss(released_rows), found.terms) if self.official else found

    @torch.no_grad()
    def hidden(self, s: Any) -> Tensor:
        """The share of the candidates that are hidden."""
        return 1 - s.mask(s.visible).float().mean()

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
