"""CSGCL: community-strength-enhanced graph contrastive learning (IJCAI 2023).

communities -> strengths s -> two copies that lack weak edges and features -> GCN -> head -> z_a, z_b
loss = NT-Xent over 2n nodes in which candidate j has exp(gamma_t s_j / tau) times its weight
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from nearfar.checks import NonNegativeFloat, NonNegativeInt, PositiveFloat
from nearfar.communities import team_up_weight
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import team_up
from nearfar.methods import Batch, Facts, Loss, Paper, register
from nearfar.methods.contrast.networks import GraphContrast
from nearfar.views import Views, build

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register("csgcl", family="graph")
class CSGCL(GraphContrast):
    """GRACE that keeps what strong communities are made of, and later weighs their nodes more.

    Args:
        gamma: gamma_max; the most by which the strength of a candidate's community counts. 0: never.
        start: t0; epochs (of full batches: steps) before it counts. auto: half of the run.
        rise: epochs in which gamma grows by 1 (paper: 100). auto: so many that it is full at the end.
        temperature: tau; divides the cosine.
        views: copies of the graph: communal, or drop, which knows no communities.
    """

    paper = Paper(
        "CSGCL: Community-Strength-Enhanced Graph Contrastive Learning",
        "IJCAI 2023",
        "What matters to strong communities is dropped less, and later their nodes weigh more among the negatives.",
        arxiv="2305.04658",
        differs="communities by Louvain (networkx; official default Leiden); equal scores, equal votes and votes that "
        "are not positive are dropped evenly or raised to the smallest positive one (released code: NaN); values of "
        "--preset paper are those of Wiki-CS, where half of --steps 2000 are the 1,000 epochs before strength counts; "
        "a warm-up of a twentieth of the run (official: none); the last epoch is kept, not the best printed one; "
        "loops and doubles are no edges; an emptied number is 0 once features are standardised, which numbers are "
        "unless --graph-features plain (official: 0 as it is); a step contrasts at most 8,192 nodes unless "
        "--batch-size says more (official: chunks of rows, which give the same value); RReLU draws in training, as "
        "published by its authors (official code: the mean slope)",
    )
    defaults = {"temperature": 0.6}
    fixed = ("loss", "negatives", "mask_duplicates", "learn_temperature")
    preset_paper = {
        "temperature": 0.6,
        "projector": 256,
        "gamma": 10.0,
        "start": "auto",
        "rise": 100.0,
        "views": {
            "name": "communal",
            "edges": 0.2,
            "edges_b": 0.7,
            "features": 0.1,
            "features_b": 0.2,
            "form": "dense",
        },
    }
    paper_training = {"optimiser": "adam", "lr": 0.01, "weight_decay": 1e-5, "schedule": "constant"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        gamma: NonNegativeFloat = 1.0,
        start: NonNegativeInt | Literal["auto"] = "auto",
        rise: PositiveFloat | Literal["auto"] = "auto",
        views: Views | None = None,
        **shared: Any,
    ):
        super().__init__(encoder, views=views or build("communal"), **shared)
        self.gamma, self.start, self.rise = gamma, start, rise
        self.register_buffer("strengths", torch.zeros(0), persistent=False)
        self.epoch_steps = 1

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError for a graph without edges."""
        from nearfar.modalities.node import training_graph
        from nearfar.views.network import strengths

        graph, place = training_graph(data, self.tower.encoder)
        found = strengths(graph)[1].float()
        self.strengths = torch.where(torch.from_numpy(place) >= 0, found[torch.from_numpy(place)], 0.0)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        """Raises InputError where the run ends before communities count."""
        found = super().resolve(facts)
        self.epoch_steps = facts.epoch
        epochs = max(1, facts.steps // facts.epoch)
        start = epochs // 2 if isinstance(self.start, str) else self.start
        if self.gamma and start >= epochs:
            raise InputError(f"--start {start}: the run has {epochs} epochs, so that no community ever counts.",
                             "Use a smaller --start, more --steps, or --gamma 0.")  # fmt: skip
        if isinstance(self.rise, str):
            self.rise = max(1, epochs - start) / self.gamma if self.gamma else 1.0
        self.start = start
        return found | {"start": self.start, "rise": self.rise}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        a, b = embedded["views"]
        self.monitored = a.detach()
        assert not isinstance(self.start, str)
        assert not isinstance(self.rise, str)
        epoch = batch.step // self.epoch_steps + 1
        weight = team_up_weight(epoch, start=self.start, rise=self.rise, most=self.gamma)
        strength = self.strengths.to(a.device)[batch.rows]
        total = team_up(a, b, strength, gamma=weight, temperature=float(self.temperature()), negatives="global")
        return Loss(total, {"gamma": weight})
