"""CoCoSoDa: contrastive code search with soft data augmentation (Shi et al., ICSE 2023, arXiv 2204.03293).

    code c, query x --encoder theta--> C, X;   augmented c~, x~ --teacher xi, xi <- m xi + (1 - m) theta--> C', X'
    loss = mean of InfoNCE (C, X), (C, X'), (X, C), (X, C') [between code and query] and (C, C'), (X, X') [within each]

In each term the negatives are the other keys of the batch and a queue of past vectors of the key's sort, of four
queues: C, X, C', X'. The augmentation masks tokens, or replaces them by what kind of word they are
(`nearfar.views.code`).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat, PositiveInt, Range, UnitInterval
from nearfar.encoders import Encoder, Tokens, frame
from nearfar.encoders.code import KINDS, kinds_of, language_of, words_of
from nearfar.encoders.texts import TextEncoder
from nearfar.encoders.tokens import TokenStore, ordinary
from nearfar.errors import InputError
from nearfar.losses import cocosoda_terms
from nearfar.methods import Batch, Contrast, Facts, Loss, Paper, Tower, register
from nearfar.methods.contrast.views import auto_momentum
from nearfar.momentum import Teacher
from nearfar.negatives import Queue
from nearfar.samplers import OneOf, Sampler
from nearfar.views.code import SOFT, softly

if TYPE_CHECKING:
    from nearfar.sources.data import Data

TEXT, CODE = "text", "text_b"
OFFICIAL_SCALE = 20.0


def languages_of(data: Data) -> np.ndarray:
    """The language of each row's code, (N,) words; Python where the row names none."""
    names = np.array([*map(language_of, data.domain_names), "python"])
    return names[np.full(len(data), -1) if data.domains is None else np.asarray(data.domains)]


@register("cocosoda", family="text")
class CoCoSoDa(Contrast):
    """Queries (`--text`) and code (`--text-b`) find each other and their augmented copies among four queues.

    The language of the code is the row's `--domain`; a row without one is Python. Python is read by its own tokenizer;
    C, C++, Go, Java, JavaScript, PHP, Ruby, Rust and TypeScript by tree-sitter where nearfar[code] is installed; other
    languages by a lexer of what most of them share. The plan says what reads how many rows, and which languages are
    left out because they do not fill a batch.

    Args:
        temperature: T; divides the cosine.
        queue: K; past vectors in each of the four queues. auto: as the part `queue` sizes itself, at most a quarter of
            the pairs (docs/reproducibility.md, "Queues in short runs").
        momentum: m; of the teacher that encodes the augmented copies. auto: by queue, batch and steps.
        within: the terms of code against its copy, and of the query against its copy, as well.
        rate: r; share of the tokens that an augmentation chooses.
        augment: of code: the four in turn, or one of dynamic-masking, dynamic-replacement, replacement-of-kind,
            masking-of-kind. Queries: dynamic-masking.
        code_length: most tokens of code that are read, from its start. The model that is kept reads so many of any text
            (or query_length, if that is more).
        query_length: most tokens of a query that are read in training, from its start.
        alpha: each step draws one language, with probability proportional to (its share)^alpha.
        official: the released script's scale: the temperature is divided by 20 once more.
    """

    queues: Any
    teacher: Any

    paper = Paper(
        "CoCoSoDa: Effective Contrastive Learning for Code Search",
        "ICSE 2023",
        "Code, query and their softly augmented copies find each other among queues of past ones.",
        arxiv="2204.03293",
        differs="the four augmentations work as described (the released data carry no kinds, so that three of four "
        "do nothing there); six terms and T itself (the released command: four and T / 20, --within false --official; "
        "--official alone keeps six); the rate 0.15 of the preset is said of the paper and was not verified (its "
        "script: 0.1); duplicates are no negatives unless told (--mask-duplicates false); no tokens of mode in front "
        "of a text; 128 pairs a batch and 100,000 steps are --batch-size 128 --steps 100000, and no validation MRR "
        "chooses the checkpoint that is kept; the model that is kept reads of a query as much as of code; the MRR over "
        'all code of a language is --task "code-search --candidates all", where ranks beyond 1,000 count as well; '
        "fine-tuning is `pairs --symmetric false --temperature 0.05`; a warm-up of a twentieth of the run (none in the "
        "paper); kinds of words come from tree-sitter where it has the language installed, else from a general lexer",
    )
    needs = (frozenset({"text", "text_b"}),)
    preset_paper = {"temperature": 0.07, "queue": 1024, "momentum": 0.999, "rate": 0.15, "within": True, "alpha": 0.7,
                    "mask_duplicates": False}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 2e-5, "weight_decay": 0.01, "schedule": "linear", "clip_norm": 1.0}
    defaults = {"temperature": 0.07}
    fixed = ("negatives",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        queue: PositiveInt | Literal["auto"] = "auto",
        momentum: UnitInterval | Literal["auto"] = "auto",
        within: bool = True,
        rate: UnitInterval = 0.1,
        augment: Literal["in-turn", "dynamic-masking", "dynamic-replacement", "replacement-of-kind",
                         "masking-of-kind"] = "in-turn",
        code_length: Annotated[int, Range(4, 65_536)] = 256,
        query_length: Annotated[int, Range(4, 65_536)] = 128,
        alpha: NonNegativeFloat = 0.7,
        official: bool = False,
        **shared: Any,
    ):  # fmt: skip
        super().__init__(**shared)
        if not isinstance(encoder, TextEncoder):
            raise InputError("'cocosoda' changes the tokens that its encoder reads, and a frozen one has read them.",
                             "Leave out --freeze.")  # fmt: skip
        self.kind_ids = encoder.add_tokens([f"<|{name}|>" for name in KINDS])
        if encoder.special.mask is None:
            raise InputError("'cocosoda' masks tokens, but this encoder's tokenizer has no mask token.")
        encoder.shorten(max(code_length, query_length) + encoder.special.frame)
        self.tower, self.momentum = Tower(encoder), momentum
        self.teacher = Teacher(self.tower)
        self.queues = nn.ModuleDict({name: Queue(queue, random_start=True)
                                     for name in ("code", "text", "code'", "text'")})  # fmt: skip
        self.six, self.share, self.augment, self.alpha = within, rate, augment, alpha
        self.most, self.scale = {CODE: code_length, TEXT: query_length}, OFFICIAL_SCALE if official else 1.0
        self.languages: np.ndarray | None = None
        self.read_by = Counter[str]()

    @property
    def reads(self) -> tuple[str, ...]:
        return TEXT, CODE

    @property
    def paired(self) -> bool:
        return True

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where a column of languages is empty in all training rows."""
        if data.domains is None:
            return
        if (np.asarray(data.domains)[rows] < 0).all():
            raise InputError(f"The column '{data.roles['domain']}' is empty in all {len(rows):,} training rows.",
                             "Fill it with the languages of the code, or leave out --domain (Python).")  # fmt: skip
        self.languages = languages_of(data)[rows]

    def reader(self, data: Data, role: str) -> Any:
        """Tokens from the start of each text; of code with their kinds."""
        encoder, texts = self.tower.encoder, data.texts(role)
        length, kinds = min(self.most[role], encoder.special.length - encoder.special.frame), None
        if role == CODE:
            ids, spans = encoder.encode_spans(texts)
            words, how = zip(*map(words_of, texts, languages_of(data).tolist()), strict=True)
            kinds = [kinds_of(own, found) for own, found in zip(spans, words, strict=True)]
            self.read_by = Counter(how)
        else:
            ids = encoder.encode_ids(texts)
        store = TokenStore(ids, length, kinds)
        return lambda rows, rng: store.read(rows)

    def sampler(self, stage: int) -> Sampler:
        if self.languages is None:
            return super().sampler(stage)
        return OneOf(np.unique(self.languages, return_inverse=True)[1].reshape(-1), self.alpha)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        for queue in self.queues.values():
            queue.setup(self.tower.encoder.dim, self.stored_kinds(facts), facts.batch_size, facts.samples, facts.steps)
        size = self.queues["code"].capacity
        if self.momentum == "auto":
            self.momentum = auto_momentum(size, facts.batch_size, facts.steps)
        read_by = ", ".join(f"{count} rows by {how}" for how, count in self.read_by.most_common())
        return {"queue": size, "momentum": self.momentum, "kinds of words": read_by or None,
                "left_out": self.left_out(facts.batch_size)}  # fmt: skip

    def left_out(self, batch_size: int) -> str | None:
        """The rows of languages that do not fill a batch, in words."""
        known = Counter([] if self.languages is None else self.languages.tolist())
        few = {name: count for name, count in sorted(known.items()) if count < batch_size}
        return f"{sum(few.values()):,} rows (languages that do not fill a batch: {', '.join(few)})" if few else None

    def make_views(self, batch: Batch) -> dict[str, list]:
        generator, made = batch.generator(), {}
        name = SOFT[batch.step % len(SOFT)] if self.augment == "in-turn" else self.augment
        for role, how in ((TEXT, SOFT[0]), (CODE, name)):
            plain = frame(batch.inputs[role], self.tower.encoder.special)
            made[role] = [plain._replace(kinds=None), self.softened(plain, how, generator)]
        return made

    def softened(self, x: Tokens, how: Any, generator: torch.Generator) -> Tokens:
        special = self.tower.encoder.special
        ids = softly(how, x.ids, x.kinds, ordinary(x, special), kind_ids=x.ids.new_tensor(self.kind_ids),
                     mask_id=special.mask, size=special.size, rate=self.share, generator=generator)  # fmt: skip
        return Tokens(ids, x.mask)

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"code": self.tower(batch.views[CODE][0]), "text": self.tower(batch.views[TEXT][0])}

    def before_targets(self, batch: Batch) -> None:
        assert isinstance(self.momentum, float | int)
        self.teacher.follow(self.tower, float(self.momentum))

    def targets(self, batch: Batch) -> dict[str, Any]:
        return {"code'": self.teacher(batch.views[CODE][1]), "text'": self.teacher(batch.views[TEXT][1])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        options, items = self.layout_options(batch), self.items(batch)
        options["temperature"] = options["temperature"] / self.scale
        del options["extra_candidates"]
        past = {name: partial(queue.extra_candidates, items=items) for name, queue in self.queues.items()}
        layouts = cocosoda_terms(embedded, past, within=self.six, **options)
        found = {name: self.report(layout, embedded["code"], batch) for name, layout in layouts.items()}
        terms: dict[str, Tensor | float] = {name: one.total.detach() for name, one in found.items()}
        total = torch.stack([one.total for one in found.values()]).mean()
        return Loss(total, terms | next(iter(found.values())).terms)

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        self.tau.project()
        for name, queue in self.queues.items():
            queue.update(embedded[name], self.items(batch))

    def towers(self) -> dict[str, Tower]:
        return {TEXT: self.tower, CODE: self.tower}
