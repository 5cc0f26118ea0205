"""PamC: block contrastive learning with parameter-free meta-nodes (arXiv 2209.14067).

    stage 0   x --encoder--> h --linear--> z --decoder--> x^          loss = |x - x^|^2
    k-means of z -> centres mu
    stage 1   q_ik ~ 1 / (1 + |z_i - mu_k|^2);  c_k = sum of the z of a cluster
              loss = alpha ( -mean_i log sum_j I_ij e^{tau s_ij} + mean_k log sum_l e^{tau t_kl} ) + beta KL(p || q)

Positives are neighbours, weighted by influence I; negatives are K clusters in place of N nodes. z is what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nearfar import heads
from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Width
from nearfar.clustering import k_means
from nearfar.encoders import Encoder
from nearfar.encoders.base import evaluating
from nearfar.errors import InputError
from nearfar.graphs import Graph, Nodes
from nearfar.losses import cluster_divergence, graph_mlp, influence_matrix, pamc, soft_assignment
from nearfar.methods import Batch, Facts, Inference, Loss, Paper, Request, Staged, Tower, register
from nearfar.samplers import Sampler, WholeSet

if TYPE_CHECKING:
    from nearfar.sources.data import Data

RESTARTS = 20


class Clusters(Inference):
    """The cluster of a node: argmax_k q_ik."""

    assigns = True

    def __init__(self, centres: Tensor):
        super().__init__()
        self.centres = nn.Parameter(centres, requires_grad=False)

    def config(self) -> dict[str, Any]:
        return {"clusters": self.centres.shape[0], "dim": self.centres.shape[1]}

    def shares(self, data: Data, rows: np.ndarray, embed: Any) -> Tensor:
        """q, float (n, K)."""
        z = torch.from_numpy(np.array(embed.raw("node", rows)))
        return soft_assignment(z, self.centres.to(z.device))

    def of_clusters(self, data: Data, rows: np.ndarray, embed: Any) -> np.ndarray:
        return self.shares(data, rows, embed).argmax(1).numpy()

    def predict(self, request: Request, options: Any) -> dict[str, Any]:
        """cluster: its number; share: q of it."""
        q = self.shares(request.data, request.rows, request.embed)
        return {"cluster": q.argmax(1).tolist(), "share": q.amax(1).tolist()}


@register("pamc", family="graph")
class PamC(Staged):
    """An auto-encoder, then clusters: neighbours are near, sums of clusters far from each other.

    Args:
        clusters: K. auto: as many as there are classes in the first column of labels (which is all that is seen of
            them), else 10.
        latent: d_z; length of the vectors that are clustered and kept.
        alpha: weight of the contrast; 0: the divergence alone.
        beta: weight of the divergence to the sharpened clusters; with alpha 0 too, k-means of the auto-encoder is left.
        inverse_temperature: tau; multiplies the cosine.
        order: r; steps over which neighbours count.
        cumulative: whether nearer neighbours count too (I = A + ... + A^r), or those of r steps alone.
        against: negatives: clusters, or all nodes, which is what clusters approximate, in N^2 time.
        assignment: hard: a node belongs to its likeliest cluster, as in the released code; soft: to each by its share,
            as the abstract says.
        reconstruction: share of the steps in which the auto-encoder learns, before clusters are formed.
    """

    paper = Paper(
        "Efficient Block Contrastive Learning via Parameter-Free Meta-Node Approximation",
        "preprint, 2022",
        "Negatives are sums of clusters in place of nodes, so that cost grows with edges and not with pairs of nodes.",
        arxiv="2209.14067",
        differs="two linear layers of --graph-width and a linear one to z (paper: 500, 500, 2000, 10), a decoder of "
        "two; the auto-encoder learns within the run, on all nodes at once; nothing is added in the logarithms, and "
        "clusters without a member are left out (released code: NaN); scores are those of the last step, not the best "
        "of all by labels; values of --preset paper are those of DBLP (200 epochs after the auto-encoder: --steps); a "
        "warm-up of a twentieth of each stage (official: none)",
    )
    needs = (frozenset({"node"}),)
    prefers = {"graph_encoder": "mlp", "graph_activation": "relu"}
    distributed = splits = False
    measured_by = "clustering"
    only_with = {"assignment": {"against": ("clusters",)}}
    preset_paper = {"latent": 10, "alpha": 2.0, "beta": 2.0, "inverse_temperature": 1.0, "order": 1}
    paper_training = {"optimiser": "adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant"}
    graph: Graph

    def __init__(
        self,
        encoder: Encoder,
        *,
        clusters: PositiveInt | Literal["auto"] = "auto",
        latent: Width = 10,
        alpha: NonNegativeFloat = 2.0,
        beta: NonNegativeFloat = 2.0,
        inverse_temperature: PositiveFloat = 1.0,
        order: PositiveInt = 1,
        cumulative: bool = True,
        against: Literal["clusters", "nodes"] = "clusters",
        assignment: Literal["hard", "soft"] = "hard",
        reconstruction: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.5,
    ):
        super().__init__()
        self.role, self.clusters, self.alpha, self.beta = encoder.modality, clusters, alpha, beta
        self.tau, self.order, self.cumulative = inverse_temperature, order, cumulative
        self.against, self.assignment, self.share = against, assignment, reconstruction
        self.tower = Tower(encoder, heads.linear(encoder.dim, latent), kept=True)
        made: Any = encoder
        self.inputs = sum(made.inputs)
        self.decoder = heads.mlp(latent, encoder.dim, self.inputs, norm=False)
        self.latent = latent

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError for more clusters than nodes."""
        from nearfar.modalities.node import training_graph

        self.graph, _ = training_graph(data, self.tower.encoder)
        if isinstance(self.clusters, str):
            names = next(iter(data.label_names.values()), [])
            self.clusters = len(names) or 10
        if not 1 <= self.clusters <= len(self.graph):
            raise InputError(f"--clusters {self.clusters}: the graph has {len(self.graph)} nodes.", "Use fewer.")
        self.centres = nn.Parameter(torch.zeros(self.clusters, self.latent))
        self.influence = influence_matrix(self.graph.edges, len(self.graph), order=self.order,
                                          cumulative=self.cumulative)  # fmt: skip

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return super().resolve(facts) | {"clusters": self.clusters}

    def sampler(self, stage: int) -> Sampler:
        return WholeSet()

    def stage_starts(self) -> Sequence[int]:
        return self.second_from(self.share)

    def begin_stage(self, stage: int) -> None:
        with evaluating(self), torch.no_grad():
            z = self.tower(Nodes(self.graph, torch.arange(len(self.graph))).to(self.device)).cpu()
            found = torch.from_numpy(k_means(z, len(self.centres), seed=self.seed, restarts=RESTARTS))
            for k in range(len(self.centres)):
                self.centres[k] = z[found == k].mean(0) if bool((found == k).any()) else z[k % len(z)]

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: [batch.inputs[self.role]]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"features": self.tower(batch.views[self.role][0])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z, x = embedded["features"], batch.views[self.role][0]
        self.monitored = z.detach()
        if self.stage_of(batch.step) == 0:
            total = mse_loss(self.decoder(z), self.tower.encoder.whole_features(x.graph)[x.numbers])
            return Loss(total + 0 * self.centres.sum(), {"reconstruction": total.detach()})
        q = soft_assignment(z, self.centres)
        near, apart = self.contrast(z, q), cluster_divergence(q)
        terms: dict[str, Tensor | float] = {"contrast": near.detach(), "divergence": apart.detach()}
        return Loss(self.alpha * near + self.beta * apart, terms)

    def contrast(self, z: Tensor, q: Tensor) -> Tensor:
        """The contrast of all nodes; 0 where it has no weight."""
        if not self.alpha:
            return z.new_zeros(())
        influence = self.influence.to(z.device)
        if self.against == "nodes":
            return graph_mlp(z, influence, inverse_temperature=self.tau)
        chosen = q if self.assignment == "soft" else q.detach().argmax(1)
        return pamc(z, chosen, influence, inverse_temperature=self.tau)

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> Clusters:
        return Clusters(self.centres.detach())

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> Clusters:
        return Clusters(torch.zeros(config["clusters"], config["dim"]))
