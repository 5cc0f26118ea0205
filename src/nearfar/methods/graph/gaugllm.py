"""GAugLLM: augmentation of graphs with texts in the space of language (KDD 2024).

    stage 0   T_0..T_3, what experts say of a node --text encoder--> c_k;   what kinds of text these are --> x_k
              alpha = softmax(a(c, x) / tau),  h2 = sum_k alpha_k c_k --> which nodes are neighbours;   T_0 --> h1 alike
    stage 1   (h1, edges) and (h2, edges edited by verdicts) --GCN--> contrast by a host: BGRL or graph Barlow Twins

The texts and verdicts are made before the first step, h1 and h2 are frozen after stage 0. The GCN over h1 is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from nearfar.checks import PositiveFloat, PositiveInt, Range, ShareBelowOne, UnitInterval, Width
from nearfar.encoders import Encoder
from nearfar.encoders.network import GraphEncoder
from nearfar.encoders.text_nodes import TextNodes, text_vectors, with_vectors
from nearfar.encoders.texts import TextLength
from nearfar.errors import InputError
from nearfar.graphs import Nodes
from nearfar.losses import neighbour_prediction
from nearfar.methods import Batch, Facts, Loss, Paper, Staged, Tower, forward_views, register
from nearfar.methods.contrast.networks import Bootstrap, Decorrelation
from nearfar.methods.text_experts import AT_ONCE, TOKENS, said_by
from nearfar.methods.text_mixture import TextMixture, mixtures
from nearfar.text_graphs import degrees_of, shortlist
from nearfar.views.network import drop_edges, mask_features

if TYPE_CHECKING:
    from nearfar.sources.data import Data

TEMPERATURES = {"similarity": 0.2, "content": 0.2, "concat": 0.01}
POSITIVES = 16  # neighbours of a node that a step asks for
NO_TEXTS = "needs a column of texts of the nodes"


@register("gaugllm", family="graph")
class GAugLLM(Staged):
    """A node as it is written, and as experts see it in a graph that was edited by what texts and structure say.

    Numbers that are known of the nodes are not read. A language model works before the first step (of --dry-run too);
    its answers are kept in the cache, so that none is asked for twice.

    Args:
        host: how both views are contrasted: bgrl or barlow (graph Barlow Twins).
        experts: who says what: words (no language model: names of code or characteristic words; the text and frequent
            words of its neighbours; words shared with them; verdicts by words and common neighbours), the folder of a
            language model of transformers, or a file of answers (node, expert, text, other).
        classes: names of classes, between commas, among which IDR and SAR of a language model may choose, which is then
            told what the labels are called; none: it is told of none.
        expert_tokens: the most new tokens of a text that it writes.
        expert_batch: prompts that it answers at once.
        text_model: encoder of the texts: small (a mean of word vectors), tiny (a transformer), minilm, or the folder of
            a pretrained one.
        text_tokens: the most tokens of a text that it reads; none: as many as it takes.
        selector: similarity (c_k x_k added to the logits), concat ([c_k; x_k]), content (without the contexts), uniform
            (alpha = 1/4), or none (no experts: h2 = h1).
        temperature: of alpha; auto: 0.2, concat 0.01.
        normalise: the cosine of c_k and x_k in place of their inner product, with which alpha is nearly one-hot.
        plain: h1: own, from an encoder of texts that sees the original text alone; shared, from the experts' encoder.
        prediction_share: share of the steps in which encoders of texts and selector learn to tell neighbours.
        prediction: hinge (squared, as GIANT has it), or logistic.
        text_batch: nodes of a step of it.
        negative_nodes: nodes drawn for each, beside its neighbours.
        text_rate: multiple of the learning rate for encoders of texts and what they predict with.
        selector_rate: that for the selector.
        editing: edges of the second view: verdicts, random (as many as verdicts change are dropped), none, or drop,
            where both views lack edges that are drawn evenly.
        edge_drop: share of the edges that each view lacks with drop.
        add: p_add; share of a node's degree that is looked at of its candidates for edges.
        restore: p_del; share that is looked at of those taken from it. More keeps more.
        feature_drop: p_x; probability that a column of h1, and one of h2, is emptied in a step.
        official: as released: candidates are not drawn but always the first, and confirmed additions are lost.
        momentum: m; of BGRL's teacher at the start, rising to 1 by cosine.
        predictor: width of its predictor's hidden layer.
        teacher: its start: fresh, from weights of its own, or copy, of the encoder.
    """

    paper = Paper(
        "GAugLLM: Improving Graph Contrastive Learning for Text-Attributed Graphs with Large Language Models",
        "KDD 2024",
        "One view is a node's text in its graph, the other what experts say of it in a graph that they have edited.",
        arxiv="2406.11945",
        differs="no language model is shipped (the paper's is Mistral), and prompts, lists of candidates and their "
        "similarity were not released: prompts are the library's own (a reconstruction), and candidates are by cosine "
        "of TF-IDF smoothed over two steps; IDR and SAR of a language model guess a class, which is supervision if it "
        "knows their names (--classes); neighbours are told among drawn nodes (GIANT: a tree of labels with hard "
        "negatives), all nodes have weights; one optimiser: text encoders and selector have multiples of --lr, a "
        "schedule over stage 0 and its warm-up (released: 200 steps; the selector's rate is constant by mistake); "
        "the view that is kept is the first (released: the better one of both by test labels); nothing is predicted "
        "in between, so batch norm learns to the end (released with Barlow Twins: frozen from the first evaluation); "
        "GraphCL is not a host (released: a discriminator drawn anew at each call); official leaves out the verdicts "
        "read as ids of nodes before GIANT; rates are those of BGRL, and with --host barlow of GBT; --graph-layers 1 "
        "--graph-width 512 (barlow: 2, 256 or 512) and 50 of 500 epochs of warm-up are the paper's",
    )
    needs = (frozenset({"node", "features"}),)
    prefers = {"graph_norm": "batch"}
    distributed = splits = uses_batch = False
    preset_paper = {"selector": "similarity", "normalise": False, "plain": "own", "prediction": "hinge",
                    "text_batch": 32, "text_rate": 0.12, "selector_rate": 0.01, "add": 0.5, "restore": 0.5,
                    "feature_drop": 0.0, "momentum": 0.99, "predictor": 512, "teacher": "fresh"}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 5e-4, "weight_decay": 1e-5, "schedule": "cosine"}
    only_with = {
        **{name: {"host": ("bgrl",)} for name in ("momentum", "predictor", "teacher")},
        **{name: {"editing": ("verdicts", "random")} for name in ("add", "restore", "official")},
        "edge_drop": {"editing": ("drop",)},
        "normalise": {"selector": ("similarity",)},
        "temperature": {"selector": tuple(TEMPERATURES)},
        "selector_rate": {"selector": tuple(TEMPERATURES)},
        "plain": {"selector": (*TEMPERATURES, "uniform")},
    }
    h1: Tensor
    h2: Tensor
    joined: Tensor

    def __init__(
        self, encoder: Encoder, *, host: Literal["bgrl", "barlow"] = "bgrl", experts: str = "words",
        classes: str | None = None, expert_tokens: PositiveInt = TOKENS, expert_batch: PositiveInt = AT_ONCE,
        text_model: str = "small", text_tokens: TextLength | None = None,
        selector: Literal["similarity", "concat", "content", "uniform", "none"] = "similarity",
        temperature: PositiveFloat | Literal["auto"] = "auto", normalise: bool = False,
        plain: Literal["own", "shared"] = "own",
        prediction_share: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.5,
        prediction: Literal["hinge", "logistic"] = "hinge", text_batch: PositiveInt = 32,
        negative_nodes: PositiveInt = 16, text_rate: PositiveFloat = 1.0, selector_rate: PositiveFloat = 1.0,
        editing: Literal["verdicts", "random", "none", "drop"] = "verdicts", edge_drop: ShareBelowOne = 0.25,
        add: UnitInterval = 0.5, restore: UnitInterval = 0.5, feature_drop: ShareBelowOne = 0.0, official: bool = False,
        momentum: UnitInterval = 0.99, predictor: Width = 512, teacher: Literal["fresh", "copy"] = "fresh",
    ):  # fmt: skip
        super().__init__()
        self.like, self.role = (checked_encoder(encoder),), encoder.modality  # as no module: what is kept replaces it
        self.asked = {"classes": classes, "most": expert_tokens, "at_once": expert_batch}
        self.experts, self.text_model, self.selector, self.unit = experts, text_model, selector, normalise
        self.text_tokens = text_tokens
        self.temperature = TEMPERATURES.get(selector, 1.0) if isinstance(temperature, str) else temperature
        self.own, self.share, self.form = plain == "own", prediction_share, prediction
        self.text_batch, self.negatives, self.rates = text_batch, negative_nodes, (text_rate, selector_rate)
        self.editing = {"how": editing, "add": add, "restore": restore, "official": official}
        self.host_name, self.bootstrap = host, (predictor, momentum, teacher == "fresh")
        self.feature_drop, self.edge_drop = feature_drop, edge_drop if editing == "drop" else 0.0
        self.plan: Any = None

    # -- before the first step

    def prepare(self, data: Data, rows: Any) -> None:
        """Texts, verdicts and what learns from them. Raises InputError for nodes without texts or edges."""
        from nearfar.modalities.node import training_graph

        graph, place = training_graph(data, self.like[0])
        if graph.texts is None:
            raise InputError(f"gaugllm {NO_TEXTS}; those of {data.name} are numbers.", "Name one: --features COLUMN.")
        if not graph.edges.shape[1]:
            raise InputError(f"The nodes of {data.name} that are trained on have no edge.", "Give more of them.")
        keys = [str(key) for key, number in zip(data.values(self.role), place, strict=True) if number >= 0]
        joined = torch.unique(graph.edges, dim=1)
        said = said_by(self.experts, graph.texts, joined, keys, **self.asked)
        self.texts, self.plan = graph.texts, said.plan
        self.register_buffer("joined", joined, persistent=False)
        degrees = degrees_of(joined, len(graph)).tolist()
        self.mixed, self.plain = mixtures(self.text_model, said.contents, degrees, self.selector, self.temperature,
                                          unit=self.unit, own=self.own, length=self.text_tokens)  # fmt: skip
        reader: Any = self.plain or self.mixed
        self.tower = Tower(TextNodes.over(self.like[0], reader.text.dim))
        self.kept = Tower(TextNodes(self.like[0], reader.text, self.tower.encoder))
        self.host = Bootstrap(self.tower, *self.bootstrap) if self.host_name == "bgrl" else Decorrelation()
        for name in ("h1", "h2"):
            self.register_buffer(name, torch.zeros(len(graph), reader.text.dim))
        self.told = said.told | {"edges": joined.shape[1], "edges_of_base": said.plan.base.shape[1],
                                 "confirmed_old": int(said.plan.apart_yes.sum()),
                                 "confirmed_new": int(said.plan.like_yes.sum())}  # fmt: skip

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if facts.steps < 2:
            raise InputError("A run of one step is too short for two stages.", "Use more --steps.")
        found = {"temperature": self.temperature} if self.selector in TEMPERATURES else {}
        return super().resolve(facts) | found | self.told

    @classmethod
    def lacks(cls, data: Data) -> str:
        from nearfar.sources.networks import texts_of

        return NO_TEXTS if data.derived(texts_of) is None else ""

    # -- the two stages

    def stage_starts(self) -> Sequence[int]:
        return self.second_from(self.share)

    def readers(self) -> list[TextMixture]:
        """What learns in stage 0."""
        return [one for one in (self.mixed, self.plain) if one is not None]

    def begin_stage(self, stage: int) -> None:
        """Makes h1 and h2, which are frozen from here on."""
        self.h1.copy_(text_vectors(self.kept.encoder.text, self.texts))
        self.h2.copy_(self.h1 if self.mixed is None else self.mixed.whole()[0])

    def learn(self, stage: int) -> None:
        """Only what belongs to a stage has gradients in it."""
        for module in self.readers():
            module.requires_grad_(stage == 0)
        for module in (self.tower, getattr(self.host, "predictor", None)):
            if module is not None:
                module.requires_grad_(stage == 1)

    def make_views(self, batch: Batch) -> dict[str, list]:
        stage, drawn = self.stage_of(batch.step), batch.generator()
        self.learn(stage)
        nodes = batch.inputs[self.role]
        if stage == 0:
            some = torch.randperm(len(nodes), generator=drawn, device=drawn.device)[: self.text_batch]
            chosen = nodes.numbers[some]
            return {self.role: [chosen, *shortlist(self.joined, len(nodes.graph), chosen, positives=POSITIVES,
                                                   negatives=self.negatives, generator=drawn)]}  # fmt: skip
        plan = self.plan = self.plan.to(self.joined.device)
        edges = plan.draw(self.joined, generator=drawn, **self.editing)
        graphs = [with_vectors(nodes.graph, self.h1), with_vectors(nodes.graph, self.h2, edges)]
        if self.edge_drop:
            graphs = [drop_edges(graph, 1 - self.edge_drop, drawn) for graph in graphs]
        if self.feature_drop:
            graphs = [mask_features(graph, self.feature_drop, drawn) for graph in graphs]
        return {self.role: [Nodes(graph, nodes.numbers) for graph in graphs]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        views = batch.views[self.role]
        if self.stage_of(batch.step) == 0:
            read = [reader(views[0]) for reader in self.readers()]
            return {"read": [h for h, _ in read], "shares": read[0][1]}
        z = forward_views(self.tower, views)
        return {"views": z} | self.host.predicted(z)

    def inside(self, batch: Batch) -> Batch:
        """The batch as one of its stage."""
        step, steps = self.within(batch.step)
        return dataclasses.replace(batch, step=step, steps=steps)

    def before_targets(self, batch: Batch) -> None:
        if self.stage_of(batch.step) == 1:
            self.host.before_targets(self.tower, self.inside(batch))

    def targets(self, batch: Batch) -> dict[str, Any]:
        return self.host.targets(batch.views[self.role]) if self.stage_of(batch.step) == 1 else {}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        if self.stage_of(batch.step) == 1:
            self.monitored = embedded["views"][0].detach()
            return Loss(self.host.loss(embedded))
        self.monitored = embedded["read"][0].detach()
        labels, targets, valid = batch.views[self.role][1:]
        told = [neighbour_prediction(reader.logits(h, labels), targets, valid, form=self.form)
                for reader, h in zip(self.readers(), embedded["read"], strict=True)]  # fmt: skip
        return Loss(torch.stack(told).sum(), {"largest_share": embedded["shares"].detach().amax(1).mean()})

    def scaled_parameters(self) -> dict[Any, float]:
        text, selector = self.rates
        rates = {p: text for reader in self.readers() for p in reader.parameters()}
        chooser = None if self.mixed is None else self.mixed.selector
        return rates | ({} if chooser is None else dict.fromkeys(chooser.parameters(), selector))

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.kept if self.plan is not None else Tower(self.like[0])}

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if given.get("host") != "barlow":
            return cls.preset_paper
        own = {k: v for k, v in cls.preset_paper.items() if k not in ("momentum", "predictor", "teacher")}
        return own | {"add": 0.3, "restore": 0.7, "text_rate": 0.06, "selector_rate": 0.005}  # of 1e-3

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**cls.paper_training, **({"lr": 1e-3} if given.get("host") == "barlow" else {})}


def checked_encoder(encoder: Any) -> GraphEncoder:
    """The encoder. Raises InputError for one that is frozen, or reads more than vectors and edges, or drawn parts."""
    if getattr(encoder, "convolution", "paths") in ("paths", "rgcn"):
        raise InputError("gaugllm needs convolutions over vectors of texts; edges that it adds have no relation.",
                         "Use --graph-encoder gcn, sage, gat or mlp, without --freeze.")  # fmt: skip
    if encoder.fanout is not None:
        raise InputError("gaugllm edits the whole graph, of which --graph-neighbours draws parts.",
                         "Use --graph-neighbours all.")  # fmt: skip
    return encoder
