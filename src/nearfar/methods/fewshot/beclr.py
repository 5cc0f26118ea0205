"""BECLR: batch-enhanced contrastive few-shot learning (Poulakakis-Daktylidis and Jamali-Rad, ICLR 2024).

    x --two views, patches masked--> encoder, projector --> z --predictor--> p        (student)
    x --the same views-------------> encoder, projector --> t                          (EMA teacher)
    p, z, t each keep a memory of balanced clusters; every row is joined by k neighbours of its own memory
    loss = -1/2 [mean cos(p_1, t_2) + mean cos(p_2, t_1)] + lambda log mean exp(cos(u_i, u_j) / T),   u = [z_1; z_2]

At inference a few rows with labels classify all others: class prototypes are carried onto them by optimal transport
(`nearfar predict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeInt, PositiveFloat, PositiveInt, PositiveShare, UnitInterval, Width
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.memories import ClusteredMemory, memory_rows
from nearfar.methods import (
    Batch,
    Facts,
    Inference,
    Loss,
    Method,
    Paper,
    Tower,
    check_plan,
    default_views,
    forward_views,
    register,
)
from nearfar.methods.classifying import FewShotInference
from nearfar.momentum import Teacher, momentum_at
from nearfar.similarity import LogSumExp, Similarity, diagonal, listed, normalise
from nearfar.similarity.exchange import exchange
from nearfar.views import Views

KINDS = ("predicted", "projected", "targets")


def attraction(p: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], *, negatives: str = "local") -> Float[Tensor, ""]:
    """L_pos = -1/2 [mean cos(p_1, t_2) + mean cos(p_2, t_1)], in [-1, 1]; t is a constant. p_v, t_v: (n, d)."""
    net = exchange(negatives)
    cosine = [(normalise(a) * normalise(b.detach())).sum(1) for a, b in zip(p, reversed(t), strict=True)]
    total = torch.stack(cosine).mean(0).sum()
    return -net.sum(total) / net.count(p[0])


def repulsion(z: tuple[Tensor, Tensor], *, temperature: float = 2.0, negatives: str = "local") -> Float[Tensor, ""]:
    """L_neg = log 1/2n sum_i 1/(2n-2) sum_{j not in {i, pair(i)}} e^{cos(u_i, u_j) / T}, u = [z_1; z_2] (2n, d).

    The mean over the anchors stands inside the logarithm. 1/T where all rows are equal; 0 with one item.
    """
    net = exchange(negatives)
    u, n = torch.cat(z), len(z[0])
    keys, offset = net.gather(u)
    pair = (torch.arange(2 * n, device=u.device) + n) % (2 * n) + offset
    s = Similarity(
        u,
        keys,
        positive=listed(pair),
        itself=diagonal(2 * n, offset, u.device),
        temperature=temperature,
        group=net.group,
    )
    others = len(keys) - 2
    if others < 1:
        return u.sum() * 0
    rows = s.reduce(LogSumExp(where=s.negative))
    return s.log_mean_exp(rows - torch.log(rows.new_tensor(float(others))))


def masked(images: Tensor, patch: int, share: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Images (n, 3, h, w) with random patches set to zero, a share drawn from `share` for each image."""
    n, _, height, width = images.shape
    rows, columns = -(-height // patch), -(-width // patch)
    u = torch.rand(n, rows * columns + 1, generator=generator, device=generator.device).to(images.device)
    count = ((share[0] + (share[1] - share[0]) * u[:, -1]) * rows * columns).long()
    hidden = u[:, :-1].argsort(1).argsort(1) < count[:, None]
    grid = hidden.view(n, 1, rows, columns).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return images.masked_fill(grid[..., :height, :width], 0)


def auto_clusters(facts: Facts) -> int:
    """200 at the paper's scale; one for every twenty items below it."""
    return min(200, max(2, facts.items // 20))


def auto_scale(facts: Facts, clusters: int) -> int:
    """40 rows a cluster at the paper's scale; less where the memory would hold more than half the items."""
    return min(40, max(4, facts.items // (2 * clusters)))


@register("beclr", family="fewshot")
class BECLR(Method):
    """Every row of the batch is joined by neighbours from a memory of balanced clusters; a teacher gives the targets.

    Args:
        views: what is contrasted; the first two views are used. Paper: two crops with RandAugment, flipped both ways.
        temperature: T; of the spreading term.
        weight: lambda; of the spreading term.
        clusters: K; prototypes of each memory. auto: 200, or one for every twenty items.
        scale: rows of a memory for each cluster. auto: 40, or fewer for small data.
        neighbours: k; bank rows that join each row of the batch. auto: 5, or 3 where a cluster holds fewer than 15.
        memory_start: share of the run after which the batch is enhanced.
        recluster: share of the run between two clusterings of a memory; 0 for none after the first.
        restarts: beginnings of each clustering (k-means), of which the best is kept; more cost as many times as much
            for nearly the same clusters.
        eps: entropy weight of the balanced assignment.
        momentum: m; of the teacher, rising to 1 by cosine.
        spread_over: student, both (student's first view and teacher's second), or teacher: which rows are spread.
        mask_ratio: share of the student's image that is masked, from and to.
        patch: side of a masked patch in pixels; 0 for none. auto: 16 from 96 pixels on, else none.
        projector: width of the projection head (three layers).
        dim: width of the compared vectors; the predictor narrows to a quarter of it.
        official: reproduce two faults of the released code (rows assigned to far prototypes; neighbours that are
            arbitrary rows).
    """

    paper = Paper(
        "BECLR: Batch Enhanced Contrastive Few-Shot Learning",
        "ICLR 2024",
        "Rows from a memory of balanced clusters stand in for class-mates; optimal transport mends the prototypes.",
        arxiv="2402.02444",
        differs="rows are assigned to near prototypes and neighbours come from their cluster, as described; the "
        "released code does neither (--official). No negatives from the memory (off in the paper). AdamW unless asked",
    )
    needs = (frozenset({"any"}),)
    preset_paper = {"views": {"name": "two-crops", "strength": 0.5, "saturation": 0.2, "blur": 0.5,
                              "flip_vertical": 0.5, "randaugment": (2, 10)},
                    "temperature": 2.0, "weight": 0.1, "clusters": 200, "scale": 40, "neighbours": 5,
                    "memory_start": 0.15, "recluster": 0.15, "restarts": 10, "momentum": 0.995,
                    "mask_ratio": (0.05, 0.25), "patch": 16, "projector": 512, "dim": 512}  # fmt: skip
    paper_training = {
        "optimiser": "sgd",
        "lr": 0.3,
        "lr_batch": 256,
        "weight_decay": 1e-4,
        "final": 1e-6 / 0.3,
        "decay_all": True,
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        temperature: PositiveFloat = 2.0,
        weight: UnitInterval = 0.1,
        clusters: PositiveInt | Literal["auto"] = "auto",
        scale: PositiveInt | Literal["auto"] = "auto",
        neighbours: NonNegativeInt | Literal["auto"] = "auto",
        memory_start: UnitInterval = 0.15,
        recluster: PositiveShare = 0.15,
        restarts: PositiveInt = 1,
        eps: PositiveFloat = 0.05,
        momentum: UnitInterval = 0.995,
        spread_over: Literal["student", "both", "teacher"] = "student",
        mask_ratio: tuple[UnitInterval, UnitInterval] = (0.05, 0.25),
        patch: PositiveInt | Literal["auto"] = "auto",
        projector: Width = 256,
        dim: Width = 128,
        official: bool = False,
    ):
        super().__init__()
        if mask_ratio[0] > mask_ratio[1]:
            raise InputError(f"The option 'mask_ratio' must be two shares (from, to). Got {tuple(mask_ratio)} instead.")
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        if self.plan.targets < 2:
            raise InputError("BECLR needs two whole views of each item.", "Use --views two-crops.")
        self.tower = Tower(encoder, heads.mlp(encoder.dim, projector, dim, layers=3, last_norm=True))
        self.predictor = heads.predictor(dim, max(2, dim // 4))
        self.teacher = Teacher(self.tower)
        self.temperature, self.weight, self.momentum, self.dim = temperature, weight, momentum, dim
        self.memory_start, self.recluster, self.spread_over = memory_start, recluster, spread_over
        self.mask_ratio, self.patch = (float(mask_ratio[0]), float(mask_ratio[1])), patch
        self.wanted = {"clusters": clusters, "scale": scale, "neighbours": neighbours}
        self.k = 0
        memory = {"eps": eps, "restarts": restarts, "official": official}
        self.memories = torch.nn.ModuleDict({kind: ClusteredMemory(**memory) for kind in KINDS})

    @property
    def members(self) -> int:
        return self.plan.members

    def resolve(self, facts: Facts) -> dict[str, Any]:
        wanted = self.wanted
        clusters = auto_clusters(facts) if wanted["clusters"] == "auto" else int(wanted["clusters"])
        scale = auto_scale(facts, clusters) if wanted["scale"] == "auto" else int(wanted["scale"])
        self.k = (5 if scale >= 15 else 3) if wanted["neighbours"] == "auto" else int(wanted["neighbours"])
        size = memory_rows(clusters, scale, 2 * facts.batch_size)
        for kind in KINDS:
            self.memory(kind).setup(self.dim, clusters, size)
        values = {"clusters": clusters, "scale": scale, "neighbours": self.k}
        return {name: v for name, v in values.items() if wanted[name] == "auto"} | {"memory": size}

    def memory(self, kind: str) -> ClusteredMemory:
        """The memory of "predicted", "projected" or "targets"."""
        found = self.memories[kind]
        assert isinstance(found, ClusteredMemory)
        return found

    def make_views(self, batch: Batch) -> dict[str, list]:
        generator = batch.generator()
        views = self.plan(batch.inputs[self.role], generator)[:2]
        patch = self.patch_of(views[0])
        if not patch:
            return {self.role: views}
        return {self.role: views, "masked": [masked(x, patch, self.mask_ratio, generator) for x in views]}

    def patch_of(self, view: Any) -> int:
        if not isinstance(view, Tensor) or view.dim() != 4:
            return 0
        return (16 if min(view.shape[-2:]) >= 96 else 0) if self.patch == "auto" else int(self.patch)

    def encode(self, batch: Batch) -> dict[str, Any]:
        z = forward_views(self.tower, batch.views.get("masked", batch.views[self.role]))
        return {"projected": z, "predicted": [self.predictor(x) for x in z]}

    def targets(self, batch: Batch) -> dict[str, Any]:
        return {"targets": forward_views(self.teacher, batch.views[self.role])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        self.monitored = embedded["projected"][0].detach()
        self.remember(embedded, batch)
        rows = {kind: self.enhanced(kind, embedded[kind], batch) for kind in KINDS}
        z, t = rows["projected"], rows["targets"]
        spread = {"student": z, "both": (z[0], t[1].detach()), "teacher": t}[self.spread_over]
        near = attraction(rows["predicted"], t, negatives="global")
        far = repulsion(spread, temperature=self.temperature, negatives="global")
        used = self.memory("targets").labels.unique()
        return Loss(near + self.weight * far, {"attraction": near.detach(), "repulsion": far.detach(),
                                               "clusters_used": float((used >= 0).sum())})  # fmt: skip

    @torch.no_grad()
    def remember(self, embedded: dict[str, Any], batch: Batch) -> None:
        """The memories take the rows of all processes, so that they stay equal everywhere."""
        net = exchange("global")
        every = max(1, round(self.recluster * batch.steps)) if self.recluster else 0
        items = net.gather(batch.rows[: len(batch)].repeat(2))[0]
        for kind in KINDS:
            memory = self.memory(kind)
            if every and batch.step and batch.step % every == 0 and batch.accumulation_step == 0 and bool(memory.ready):
                memory.cluster(batch.step)
            memory.update(net.gather(torch.cat(embedded[kind]).detach())[0], items, seed=batch.step)

    def enhanced(self, kind: str, views: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Both views (n, D), each followed by its rows' k neighbours once the memory is in use: (n (1 + k), D)."""
        memory = self.memory(kind)
        if not self.k or batch.step < self.memory_start * batch.steps or not bool(memory.ready):
            return views[0], views[1]
        a, b = (torch.cat([normalise(x), memory.neighbours(x, self.k).flatten(0, 1).to(x.dtype)]) for x in views[:2])
        return a, b

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        self.teacher.follow(self.tower, momentum_at(batch.step, batch.steps, self.momentum, schedule="cosine"))

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> Inference:
        return FewShotInference()

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> Inference:
        return FewShotInference(**config)
