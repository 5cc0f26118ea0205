"""MEOW: contrast along meta-paths with weighted negatives (SDM 2023), and AdaMEOW with learned weights (TKDE 2024).

coarse: h --GCN over the mean of all paths--> z_c       fine: f_s (h and what lies between) --GCN over each path, plain
and masked--> attention --> z_f;   u = tanh(W z_c + b), v = tanh(W z_f + b)
clusters   L = mean_i -log( e^(u_i v_i / tau) / sum_j w_ij e^(u_i v_j / tau) ) + lambda L_prototypes, w by k-means of v
learned    L = mean_i -log( e^(v_i u_i / tau) / sum_j alpha_ij e^(v_i u_j / tau) ), alpha = sigmoid(MLP(v_i + u_j))

z_f is what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, UnitInterval, Width
from nearfar.clustering import k_means
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import (
    balanced_weights,
    centres_of,
    cluster_weights,
    concentration,
    learned_weights,
    prototype_contrast,
    weighted_contrast,
)
from nearfar.metapaths import mask_entries, masked
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, register
from nearfar.samplers import Sampler, WholeSet

if TYPE_CHECKING:
    from nearfar.sources.data import Data

RESTARTS = 5
ONLY_CLUSTERS = ("prototypes", "clusters", "refresh", "concentration")


@register("meow", family="graph")
class Meow(Method):
    """Nodes of one type in two views along meta-paths; those that cluster together push each other less.

    Args:
        weighting: of the negatives: clusters (MEOW), learned (AdaMEOW), or even, which is plain decoupled InfoNCE.
        temperature: tau; divides the cosine. auto: 0.4, learned 1.
        prototypes: lambda; weight of the contrast with the centres of clusters.
        clusters: K_1,K_2,...: a number for each clustering. auto: a twentieth and a sixth of the nodes.
        refresh: steps (epochs: all nodes are in each) between two clusterings.
        concentration: of a cluster, by distance (tight ones have a small phi, as PCL means it) or by similarity, as in
            the released code, where they have a large one.
        balanced: whether learned weights are divided by their mean in each row. Without it the loss has no lower bound.
        width: hidden units of what learns weights.
        feature_mask: share of the entries of the masked copy's features that are 0.
        edge_mask: share of the edges that it lacks, of each path (0.3,0.2) or one for all.
        projector: length of the contrasted vectors. auto: as long as the encoder's.
    """

    paper = Paper(
        "Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples",
        "SDM 2023; IEEE TKDE 2024",
        "Which nodes lie between two others is one view, whether any do the other; nodes of one cluster repel less.",
        arxiv="2212.13847",
        differs="the kept encoder has running means of the whole-matrix norm and of the attention's scores, no masks "
        "and no dropout (released code: the last training pass); a node alone has the vector it has in the graph; "
        "k-means of scikit-learn until it settles (20 iterations of faiss); rows all of whose negatives have no "
        "weight leave the mean (released code: infinity); no phi is below tau / 100; a path of one step has A + I and "
        "no context; contexts count each node reached once; steps are those asked for (patience; AdaMEOW 1,200); a "
        "warm-up of a twentieth of the run (released: none); values of --preset paper are those of ACM, without its "
        "neighbours (--graph-nearest 110,700; AdaMEOW 690,690), width (--graph-width 64) and AdaMEOW's dropout "
        "(--graph-dropout 0.3)",
    )
    needs = (frozenset({"node", "node_type"}),)
    prefers = {"graph_encoder": "paths"}
    distributed = splits = False
    preset_paper = {"temperature": 0.4, "prototypes": 1.0, "clusters": "100,300", "feature_mask": 0.3,
                    "edge_mask": "0.3,0.2"}  # fmt: skip
    paper_training = {"optimiser": "adam", "lr": 7e-4, "weight_decay": 0.0, "schedule": "constant"}
    only_with = {
        **{name: {"weighting": ("clusters",)} for name in ONLY_CLUSTERS},
        **{name: {"weighting": ("learned",)} for name in ("balanced", "width")},
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        weighting: Literal["clusters", "learned", "even"] = "clusters",
        temperature: PositiveFloat | Literal["auto"] = "auto",
        prototypes: NonNegativeFloat = 1.0,
        clusters: str = "auto",
        refresh: PositiveInt = 1,
        concentration: Literal["distance", "similarity"] = "distance",
        balanced: bool = False,
        width: Width = 16,
        feature_mask: UnitInterval = 0.3,
        edge_mask: str = "0.2",
        projector: Width | Literal["auto"] = "auto",
    ):
        super().__init__()
        if getattr(encoder, "convolution", "") != "paths":
            raise InputError("MEOW goes along meta-paths, which this encoder does not know.",
                             "Use --graph-encoder paths, without --freeze.")  # fmt: skip
        made: Any = encoder
        self.role, self.weighting, self.tau, self.prototypes = encoder.modality, weighting, temperature, prototypes
        self.refresh, self.balanced, self.feature_mask = refresh, balanced, feature_mask
        self.measure: Literal["distance", "similarity"] = concentration
        self.numbers = _numbers("clusters", clusters, int) if clusters != "auto" else []
        shares = _numbers("edge_mask", edge_mask, float)
        if len(shares) not in (1, len(made.paths)) or max(shares) > 1:
            raise InputError(f"--edge-mask gives '{edge_mask}' for {len(made.paths)} paths: {', '.join(made.paths)}.",
                             "Give a share in 0..1 for all paths, or one for each.")  # fmt: skip
        self.edge_mask = shares * (len(made.paths) if len(shares) == 1 else 1)
        dim = encoder.dim if isinstance(projector, str) else projector
        self.tower = Tower(encoder, nn.Sequential(nn.Linear(encoder.dim, dim), nn.Tanh()))
        self.scorer = nn.ModuleList([nn.Linear(dim, width), nn.Linear(width, 1)]) if weighting == "learned" else None
        self.dim = dim

    def prepare(self, data: Data, rows: Any) -> None:
        """Draws the masks. Raises InputError for more clusters than nodes."""
        from nearfar.modalities.node import training_graph

        encoder = self.tower.encoder
        self.graph, _ = training_graph(data, encoder)
        count = int((self.graph.types == encoder.kind).sum())
        if count < 2:
            raise InputError(f"{count} nodes have the type '{encoder.target}'; contrast needs two.",
                             "Name another type: --graph-target TYPE.")  # fmt: skip
        self.numbers = self.numbers or [max(2, count // 20), max(2, count // 6)]
        if max(self.numbers) > count and self.weighting == "clusters":
            raise InputError(f"--clusters {max(self.numbers)}: the type '{encoder.target}' has {count} nodes.",
                             "Use fewer.")  # fmt: skip
        drawn = torch.Generator().manual_seed(self.seed)
        features = encoder.scaled(self.graph)[encoder.kind]
        self.features = mask_entries(features, self.feature_mask, drawn)
        counts = encoder.graphs_of(self.graph).counts
        self.masked = [masked(one, share, drawn) for one, share in zip(counts, self.edge_mask, strict=True)]
        if self.weighting == "clusters":
            self.register_buffer("assigned", torch.zeros(len(self.numbers), count, dtype=torch.int64))
            self.register_buffer("centres", torch.zeros(sum(self.numbers), self.dim))

    assigned: Tensor
    centres: Tensor

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if isinstance(self.tau, str):
            self.tau = 1.0 if self.weighting == "learned" else 0.4
        told = {"temperature": self.tau, "paths": ", ".join(self.tower.encoder.paths)}
        if self.weighting == "clusters":
            told["clusters"] = ",".join(map(str, self.numbers))
        return super().resolve(facts) | told

    def sampler(self, stage: int) -> Sampler:
        return WholeSet()

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: [batch.inputs[self.role]]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        graph = batch.views[self.role][0].graph
        at = graph.types.device
        views = self.tower.encoder.two_views(graph, self.features.to(at), [one.to(at) for one in self.masked])
        coarse, fine = (self.tower.project(z) for z in views)
        return {"coarse": coarse, "fine": fine}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        assert not isinstance(self.tau, str)
        u, v = embedded["coarse"], embedded["fine"]
        self.monitored = v.detach()
        if self.weighting == "learned":
            return self.with_learned(normalize(v, dim=1), normalize(u, dim=1))
        if self.weighting == "even":
            even = 1 - torch.eye(len(u), device=u.device)
            return Loss(weighted_contrast(u, v, even, temperature=self.tau))
        if batch.step % self.refresh == 0:
            self.cluster(v.detach())
        near = weighted_contrast(u, v, cluster_weights(self.assigned), temperature=self.tau)
        told = self.to_prototypes(u, v)
        return Loss(near + self.prototypes * told, {"contrast": near.detach(), "prototypes": told.detach()})

    def with_learned(self, v: Tensor, u: Tensor) -> Loss:
        """AdaMEOW: fine anchors, coarse candidates."""
        scorer: Any = self.scorer
        first, second = scorer
        alpha = learned_weights(v, u, first.weight, first.bias, second.weight[0], second.bias[0])
        chosen = balanced_weights(alpha) if self.balanced else alpha
        total = weighted_contrast(v, u, chosen, temperature=float(self.tau))
        return Loss(total, {"mean_weight": alpha.detach().mean()})

    def cluster(self, v: Tensor) -> None:
        """Clusters and centres anew."""
        unit = normalize(v, dim=1)
        for r, (k, centres) in enumerate(zip(self.numbers, self.centres.split(self.numbers), strict=True)):
            found = k_means(unit.cpu(), k, seed=self.seed, restarts=RESTARTS)
            self.assigned[r] = torch.from_numpy(found).to(v.device)
            centres.copy_(centres_of(unit, self.assigned[r], k))

    def to_prototypes(self, u: Tensor, v: Tensor) -> Tensor:
        """The contrast with centres, the mean over the clusterings."""
        total = u.new_zeros(())
        for one, centres in zip(self.assigned, self.centres.split(self.numbers), strict=True):
            phi = concentration(v, centres, one, temperature=float(self.tau), measure=self.measure)
            total = total + prototype_contrast(u, centres, one, phi) / len(self.numbers)
        return total

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if given.get("weighting") == "learned":
            return {"temperature": 1.0, "width": 16, "feature_mask": 0.3, "edge_mask": "0.2"}
        return cls.preset_paper

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        learned = {"lr": 5e-5, "weight_decay": 1e-5} if given.get("weighting") == "learned" else {}
        return {**cls.paper_training, **learned}


def _numbers(name: str, words: str, kind: type) -> list:
    """Numbers between commas. Raises InputError for other words."""
    try:
        found = [kind(part) for part in words.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < (kind is int):
        raise InputError(f"--{name.replace('_', '-')} is a list of numbers. Got '{words}'.",
                         f"For example {'100,300' if kind is int else '0.3,0.2'}.")  # fmt: skip
    return found
