"""SPACE-2: tree-structured contrast of dialogues, labelled and not (COLING 2022, arXiv 2209.06638).

    dialogue --twice, other dropout--> h_1, h_2 --ten linear layers, tanh, unit length--> z_1k, z_2k
    labelled    L = mean_k weighted SupCon(z_k, f_k) + 0.1 masked LM (values of slots hidden)
    unlabelled  L = mean_k weighted SupCon(z_k, identity) + 0.1 masked LM
    f_k: how far two annotation trees agree in the k-th of ten views, nodes, edges and paths of domain - intent - slot -
    value (`nearfar.losses.tree_scores`); a step takes a batch of each sort

Dialogues of like meaning attract each other in proportion to what their trees share, one head a view. What is kept is
the encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, Range, UnitInterval, Width, one_of
from nearfar.encoders import Encoder, Tokens, frame, layered
from nearfar.encoders.dialogue import DialogueText
from nearfar.encoders.tokens import TokenStore
from nearfar.errors import InputError
from nearfar.losses import mask_spans, masked_lm_rows, mean_score, tree_contrast, tree_scores
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, register
from nearfar.methods.contrast.copies import check_dropout
from nearfar.samplers import Beside, Permutation, Sampler
from nearfar.similarity.exchange import exchange
from nearfar.sources.trees import VIEWS, tree_elements

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class Hidden(NamedTuple):
    """Dialogues with hidden tokens: ids, mask and targets (-100 where nothing is hidden), (n, L) each."""

    ids: Tensor
    mask: Tensor
    targets: Tensor


class ViewHeads(nn.Module):
    """o_k = tanh(W_k h + b_k) of each view: (n, dim) -> (n, views, outputs)."""

    def __init__(self, dim: int, views: int, outputs: int):
        super().__init__()
        self.views, self.linear = views, nn.Linear(dim, views * outputs)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(h).tanh().view(len(h), self.views, -1)


def chosen_views(names: str | None) -> tuple[str, ...]:
    """The views that "all", None or a list of names means. Raises InputError for another name."""
    if names is None or names == "all":
        return VIEWS if names else ()
    found = tuple(name.strip() for name in names.split(","))
    for name in found:
        one_of("tree_views", name, ("all", *VIEWS))
    if len(set(found)) < len(found) or "all" in found:
        raise InputError(f"--tree-views {names} names a view twice, or all beside others.",
                         f"Name some of {', '.join(VIEWS)}, or all, or none.")  # fmt: skip
    return found


@register("space2", family="text")
class Space2(Method):
    """Dialogues (`--text`) attract each other as far as their annotation trees (`--tree`) agree; those without a tree
    attract their own copy alone.

    Files of dialogues in JSON are read with their trees, one row a turn of the user. A text without roles is one
    utterance.

    Args:
        temperature: t; divides the cosine. The loss is multiplied by t / 0.07.
        tree_views: the views of the trees, one head each: all, or some of D, I, S, V, DI, IS, SV, DIS, ISV, DISV
            (paper, for continued training on intents: I); none: no heads, one mean score of all views.
        learn: of the rows with a tree and of those without, a half of each batch each; of the labelled ones alone; or
            of all as if unlabelled.
        mlm: weight of the masked-LM terms. auto: 0.1 for an encoder with tied scores, 0 for another.
        masked: share of the tokens that the masked-LM term hides where no values are known.
        dim: width of each head. auto: that of the encoder (paper).
        turns: most utterances of a dialogue that are read, the last ones (from files of dialogues 16 at most). auto:
            16, or as a model of this method that is trained on.
        utterance: most tokens of an utterance that are read, the first ones. auto: 50, or as that model.
        context: most tokens of a dialogue that are read, the last ones. auto: 256, or as that model.
    """

    paper = Paper(
        "SPACE-2: Tree-Structured Semi-Supervised Contrastive Pre-training for Task-Oriented Dialog Understanding",
        "COLING 2022",
        "Dialogues attract each other in proportion to what their annotation trees share, one head for each view.",
        arxiv="2209.06638",
        differs="elements of trees are tuples, and one is left out where a level is missing, not where a name contains "
        "'default_intent'; vectors of role, turn and place are added to the encoder's own positions (in the paper "
        "the places replace these) and begin at 0; h is what the encoder's pooling gives (paper: --text-pooling "
        "cls) and a [SEP] stands behind the last utterance; several processes contrast their batches together "
        "(official code: each its own); values are found in the text by their words; the places of an utterance "
        "whose beginning was cut are counted from what is left; a warm-up of a twentieth of the run (paper: a "
        "tenth, --warmup N); dropout 0.2 is --text-dropout 0.2; the fine-tuning on intents is `r-drop "
        "--text-encoder RUN` (without its masked-LM term); label smoothing and prompts, which no released command "
        "uses, are not made; the rows that a batch lacks of one sort are of the other; 128 dialogues of each sort "
        "and 60 epochs are --batch-size 256 --steps N; the encoder begins as it is given (paper: ConvBERT), and "
        "its data (AnPreDial, UnPreDial) are the user's own",
    )
    layered = True
    needs = (frozenset({"text", "tree"}),)
    preset_paper = {"temperature": 0.07, "tree_views": "all", "learn": "both", "mlm": 0.1, "masked": 0.15}
    paper_training = {"optimiser": "adamw", "lr": 1e-5, "schedule": "linear", "clip_norm": 5.0}
    supervised = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: PositiveFloat = 0.07,
        tree_views: str | None = "all",
        learn: Literal["both", "labelled", "unlabelled"] = "both",
        mlm: NonNegativeFloat | Literal["auto"] = "auto",
        masked: UnitInterval = 0.15,
        dim: Width | Literal["auto"] = "auto",
        turns: PositiveInt | Literal["auto"] = "auto",
        utterance: PositiveInt | Literal["auto"] = "auto",
        context: Annotated[int, Range(8, 65_536)] | Literal["auto"] = "auto",
    ):
        super().__init__()
        self.role, self.temperature, self.learn, self.masked = encoder.role, temperature, learn, masked
        self.views, self.supervised = chosen_views(tree_views), learn != "unlabelled"
        check_dropout(encoder, "space2")
        made = self.dialogues(encoder, {"turns": turns, "utterance": utterance, "context": context})
        self.tower, self.encoder = Tower(made), made
        width = made.dim if dim == "auto" else dim
        if not self.views and dim != "auto":
            raise InputError(f"--dim {dim} has no effect: --tree-views none has no heads.", "Leave one of them out.")
        self.heads = ViewHeads(made.dim, len(self.views), width) if self.views else None
        tied = made.tied and made.special.mask is not None
        self.mlm = 0.1 * tied if mlm == "auto" else mlm
        if not self.mlm and masked != 0.15:
            raise InputError(f"--masked {masked:g} has no effect: there is no masked-LM term.", "Leave it out.")
        if self.mlm and not tied:
            raise InputError("The masked-LM term needs a mask token, and vectors of tokens as wide as the states.",
                             "Use --mlm 0, or another text encoder.")  # fmt: skip
        middle = nn.Linear(made.width, made.width), nn.GELU(), nn.LayerNorm(made.width)
        self.scorer = nn.Sequential(*middle) if self.mlm else None

    @staticmethod
    def dialogues(encoder: Encoder, sizes: dict[str, int | str]) -> DialogueText:
        """The encoder around dialogues. Raises InputError for sizes beside a model that has its own."""
        asked = {name: int(size) for name, size in sizes.items() if size != "auto"}
        if not isinstance(encoder, DialogueText):
            made = {"turns": 16, "utterance": 50, "context": 256} | asked
            return DialogueText(layered(encoder, "'space2'"), made["turns"], made["utterance"], made["context"])
        for name in asked:
            raise InputError(f"--{name} {asked[name]} has no effect: the model that is trained on keeps its own.",
                             f"Leave out --{name}.")  # fmt: skip
        return encoder

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where no training row has a tree and one is asked for."""
        trees, rows = data.trees, np.asarray(rows)
        assert trees is not None
        self.labelled = np.zeros(len(data), bool)
        if self.learn != "unlabelled":
            self.labelled[rows] = [bool(trees[row]) for row in rows]
        self.parts_of_rows = rows[self.labelled[rows]], rows[~self.labelled[rows]]
        self.elements = {int(row): tree_elements(trees[row]) for row in self.parts_of_rows[0]}
        if self.learn != "unlabelled" and not self.elements:
            raise InputError(f"None of the {len(rows):,} training rows has a tree in '{data.roles['tree']}'.",
                             "Name another column with --tree, or use --learn unlabelled.")  # fmt: skip

    def reader(self, data: Data, role: str) -> Any:
        """Tokens of each dialogue, and which of them belong to the values of its tree."""
        trees, texts = data.trees or [], data.texts(role)
        values = [sorted({path[3] for path in trees[row]}) if self.labelled[row] else [] for row in range(len(texts))]
        found = self.encoder.marked(texts, values if self.mlm else None)
        store = TokenStore([ids for ids, _ in found], self.encoder.room, [kinds for _, kinds in found])
        return lambda rows, rng: store.read(rows)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return {"mlm": self.mlm, "labelled": len(self.parts_of_rows[0]), "unlabelled": len(self.parts_of_rows[1])}

    def sampler(self, stage: int) -> Sampler:
        parts = self.parts_of_rows[:1] if self.learn == "labelled" else self.parts_of_rows
        found = [Permutation().only(rows) for rows in parts if len(rows)]
        return found[0] if len(found) == 1 else Beside(*found)

    def make_views(self, batch: Batch) -> dict[str, list]:
        """The dialogues and, for the masked-LM term, the same with hidden tokens."""
        x: Tokens = frame(batch.inputs[self.role], self.encoder.special)
        return {self.role: [x._replace(kinds=None), *([self.hide(x, batch)] if self.mlm else [])]}

    def hide(self, x: Tokens, batch: Batch) -> Hidden:
        special, where = self.encoder.special, self.encoder.places(x)
        assert x.kinds is not None
        ids, targets = mask_spans(x.ids, self.encoder.words(x), x.kinds >= 0, where.turn, mask_id=special.mask or 0,
                                  size=special.size, share=self.masked, generator=batch.generator())  # fmt: skip
        marks = (ids[..., None] == ids.new_tensor(self.encoder.marks)).any(-1) & (ids != x.ids)
        return Hidden(ids.masked_fill(marks, special.mask or 0), x.mask, targets)  # no drawn token is a mark

    def encode(self, batch: Batch) -> dict[str, Any]:
        x, *hidden = batch.views[self.role]
        h = self.tower(Tokens(torch.cat([x.ids, x.ids]), torch.cat([x.mask, x.mask])))
        z = h[:, None] if self.heads is None else self.heads(h)
        made: dict[str, Any] = {"views": list(z.chunk(2))}
        return made | ({"masked_lm": self.hidden_losses(*hidden)} if hidden else {})

    def hidden_losses(self, x: Hidden) -> Tensor:
        """The sum of -log p over the hidden tokens of each dialogue, (n,)."""
        assert self.scorer is not None
        hidden = x.targets >= 0
        states, _ = self.encoder.tokens(Tokens(x.ids, x.mask))
        rows = masked_lm_rows(self.encoder.logits(self.scorer(states[hidden])), x.targets[hidden])
        return rows.new_zeros(len(x.ids)).index_add(0, hidden.nonzero()[:, 0], rows)

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z = torch.stack(embedded["views"])
        self.monitored = z[0].detach().flatten(1)
        labelled = torch.from_numpy(self.labelled[batch.rows.cpu().numpy()]).to(z.device)
        found = {}
        for name, part in (("labelled", labelled), ("unlabelled", ~labelled)):
            if exchange("global").count(batch.rows[part]):
                found[name] = self.contrast(z[:, part], batch.rows[part], name == "labelled")
                if self.mlm:
                    found[f"masked LM, {name}"] = self.masked_lm(embedded["masked_lm"], batch, part)
        total = sum((self.mlm if name.startswith("masked") else 1.0) * one for name, one in found.items())
        assert isinstance(total, Tensor)
        return Loss(total, {name: one.detach() for name, one in found.items()})

    def contrast(self, z: Tensor, rows: Tensor, labelled: bool) -> Tensor:
        """The mean over the heads, of some rows of each process (2, n, k, d)."""
        every, first = exchange("global").gather(rows)
        scores = self.scores(every.tolist()) if labelled else torch.eye(len(every)).expand(z.shape[2], -1, -1)
        own = scores[:, first : first + len(rows)].to(z.device)
        return tree_contrast(z, own, temperature=self.temperature, negatives="global").mean()

    def scores(self, rows: list[int]) -> Tensor:
        """M_k of each two of these rows, (k, n, n)."""
        trees = [self.elements[row] for row in rows]
        if not self.views:
            return mean_score(trees)[None]
        return tree_scores([[tree[VIEWS.index(name)] for name in self.views] for tree in trees])

    def masked_lm(self, losses: Tensor, batch: Batch, part: Tensor) -> Tensor:
        """The mean over the hidden tokens of some dialogues."""
        net, hidden = exchange("global"), batch.views[self.role][1].targets[part] >= 0
        return net.sum(losses[part].sum()) / net.sum(hidden.sum().float()).clamp(min=1)

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
