"""PixPro and PixContrast: consistency of pixels that show the same place (Xie et al., CVPR 2021).

x --two crops--> feature maps; cells whose centres lie near each other in the source image are positives
PixPro:      y = pixels propagated to the similar ones of their own view, against the teacher's x' of the other view
PixContrast: each pixel must find its positives among all pixels of the other view of the SAME image
optionally an instance branch beside it: pooled vectors through a predictor, against the teacher's
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat, PositiveFloat, Range, UnitInterval, Width
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, check_plan, register
from nearfar.momentum import Teacher, momentum_at
from nearfar.similarity import LogSumExp, Similarity, dense
from nearfar.similarity.exchange import exchange
from nearfar.views import Views, build
from nearfar.views.image import Drawn, ImageViews


def crop_coordinates(drawn: Drawn, height: int, width: int) -> Float[Tensor, "n 4"]:
    """(x_left, y_top, x_right, y_bottom) of each crop in shares of its source image of height x width pixels.

    The whole image is (0, 0, 1, 1); a crop mirrored left-right has x_left > x_right, one mirrored top-down
    y_top > y_bottom. Source: official code, card A.
    """
    if min(height, width) < 2:
        raise InputError(f"Crops of an image of {width} x {height} pixels have no coordinates.")
    x0, y0, x1, y1 = drawn.boxes.float().unbind(1)
    left, right = x0 / (width - 1), (x1 - 1) / (width - 1)
    flip = drawn.flip.to(left.device)
    top, bottom, upside = y0 / (height - 1), (y1 - 1) / (height - 1), drawn.upside.to(left.device)
    return torch.stack([torch.where(flip, right, left), torch.where(upside, bottom, top),
                        torch.where(flip, left, right), torch.where(upside, top, bottom)], 1)  # fmt: skip


def cell_centres(coordinates: Float[Tensor, "n 4"], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Centres (n, height width, 2) of the cells of a map over a crop, row by row, and each cell's diagonal (n,)."""
    left, top, right, bottom = coordinates.unbind(1)
    step_x, step_y = (right - left) / width, (bottom - top) / height
    x = left[:, None] + (torch.arange(width, device=left.device) + 0.5) * step_x[:, None]
    y = top[:, None] + (torch.arange(height, device=left.device) + 0.5) * step_y[:, None]
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    return grid.flatten(1, 2), (step_x**2 + step_y**2).sqrt()


def positive_pixels(
    a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"], height: int, width: int, *, threshold: PositiveFloat = 0.7
) -> Bool[Tensor, "n p p"]:
    """A_ij = [distance of the centres of cell i of crop a and cell j of crop b < T larger diagonal]. Constant.

    a, b: coordinates of the crops; T: 0.7 in the paper. Source: eq. 1.
    """
    centres_a, diagonal_a = cell_centres(a, height, width)
    centres_b, diagonal_b = cell_centres(b, height, width)
    distance = torch.cdist(centres_a, centres_b, compute_mode="donot_use_mm_for_euclid_dist")
    return distance / torch.maximum(diagonal_a, diagonal_b)[:, None, None] < threshold


def propagated(x: Float[Tensor, "n p c"], g: Float[Tensor, "n p c"], *, gamma: float = 2.0) -> Float[Tensor, "n p c"]:
    """y_i = sum_j max(cos(x_i, x_j), 0)^gamma g_j over all pixels of one view, i among them; a plain sum.

    Source: eq. 3 and 4 (gamma = 2). Below 1, 1e-6 under the power keeps the gradient finite.
    """
    return propagation_weights(x, gamma) @ g


def propagation_weights(x: Float[Tensor, "n p c"], gamma: float = 2.0) -> Float[Tensor, "n p p"]:
    """max(cos(x_i, x_j), 0)^gamma of the pixels of one view, in [0, 1], 1 on the diagonal. Source: eq. 3."""
    unit = F.normalize(x, dim=-1, eps=1e-12)
    s = (unit @ unit.transpose(1, 2)).clamp(min=0)
    return ((s + 1e-6) if gamma < 1 else s).pow(gamma)


def pixpro(
    y: Float[Tensor, "n p c"],
    target: Float[Tensor, "n p c"],
    positive: Bool[Tensor, "n p p"],
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """-2 mean over images of the mean cosine of y_i and target_j over the positive pairs (i, j): in [-2, 2].

    The target is a constant. An image without a positive pair counts as 0. One direction of eq. 5.
    """
    net = exchange(negatives)
    cosine = F.normalize(y, dim=-1, eps=1e-12) @ F.normalize(target.detach(), dim=-1, eps=1e-12).transpose(1, 2)
    held = positive.to(cosine.dtype)
    mean = (cosine * held).sum((1, 2)) / (held.sum((1, 2)) + 1e-6)
    return -2 * net.sum(mean.sum()) / net.count(y)


def pixcontrast(
    x: Float[Tensor, "n p c"],
    target: Float[Tensor, "n p c"],
    positive: Bool[Tensor, "n p p"],
    *,
    temperature: PositiveFloat = 0.3,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """-log of the share of the positives in the softmax over the pixels of the other view, at least 0.

    The mean over the pixels that have a positive, then over the images that have one; 0 with a graph where none
    has. The target is a constant. tau: 0.3. One direction of eq. 2.
    """
    net = exchange(negatives)
    s = Similarity(x, target.detach(), positive=dense(positive), temperature=temperature)
    near, everyone = s.reduce(LogSumExp(where=s.positive), LogSumExp())
    held = positive.any(-1)
    rows = torch.where(held, everyone - torch.where(held, near, everyone), 0)
    counts = held.sum(-1)
    total = (rows.sum(-1) / counts.clamp(min=1)).sum()
    images = net.sum((counts > 0).sum().to(rows.dtype))
    return net.sum(total) / images.clamp(min=1)


class Propagation(nn.Module):
    """The pixel propagation module: pixels (n, c, h, w) -> (n, c, h, w), smoothed over similar pixels of the view.

    Args: dim: C; gamma: sharpness; layers: l; 1x1 convolutions of the transformation g (0: none).
    """

    def __init__(self, dim: int, gamma: float = 2.0, layers: int = 1):
        super().__init__()
        if layers not in (0, 1, 2) or not gamma > 0:
            raise InputError(f"layers must be 0, 1 or 2 and gamma positive. Got {layers} and {gamma}.")
        self.gamma = gamma
        parts: list[nn.Module] = []
        for k in range(layers):
            parts += [nn.Conv2d(dim, dim, 1)]
            parts += [nn.BatchNorm2d(dim), nn.ReLU(inplace=True)] if k < layers - 1 else []
        self.transform = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        g = F.normalize(self.transform(x), dim=1, eps=1e-12)
        return propagated(pixels(x), pixels(g), gamma=self.gamma).transpose(1, 2).reshape(x.shape)


def pixels(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, h w, c)."""
    return x.flatten(2).transpose(1, 2)


def pixel_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """1x1 convolution, batch norm, ReLU, 1x1 convolution: (n, inputs, h, w) -> (n, outputs, h, w)."""
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
                         nn.Conv2d(hidden, outputs, 1))  # fmt: skip


class Branches(nn.Module):
    """Encoder with a projector on its map: pixels (n, dim, h, w); with `instance` another one, pooled: (n, dim)."""

    def __init__(self, encoder: Any, channels: int, hidden: int, dim: int, instance: bool):
        super().__init__()
        self.encoder, self.projector = encoder, pixel_mlp(channels, hidden, dim)
        self.instance = pixel_mlp(channels, hidden, dim) if instance else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.encoder.feature_map(x)
        return self.projector(found), None if self.instance is None else self.instance(found)


@register("pixpro", family="image")
class PixPro(Method):
    """Cells of two crops that show the same place agree, pixel by pixel; a teacher gives the targets.

    Args:
        pretext: propagate (PixPro) or contrast (PixContrast: positives among the pixels of the other view).
        views: two crops of an image, which may be flipped but not turned. Paper: BYOL's, with blur and solarisation.
        threshold: T; largest distance of positive cells in diagonals of a cell.
        gamma: sharpness of the propagation.
        layers: l; 1x1 convolutions before the propagation.
        temperature: tau; of PixContrast.
        instance: alpha; weight of the instance branch, 0 for none.
        momentum: m; of the teacher, rising to 1 by cosine.
        projector: width of the hidden layer of the projectors.
        dim: channels of the compared pixels.
    """

    paper = Paper(
        "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning",
        "CVPR 2021",
        "Pixels of two crops that show the same place agree, after propagation to similar pixels of their view.",
        arxiv="2011.10043",
        differs="AdamW instead of LARS unless asked for (--optimiser lars or --preset paper); warm-up from 0, "
        "not lr / 100",
    )
    needs = (frozenset({"image"}),)
    uses_batch = False
    preset_paper = {
        "views": {"name": "two-crops", "crop": (0.08, 1.0), "strength": 0.5, "saturation": 0.2, "blur": (1.0, 0.1),
                  "solarise": (0.0, 0.2)},
        "threshold": 0.7, "gamma": 2.0, "layers": 1, "temperature": 0.3, "momentum": 0.99, "projector": 4096,
        "dim": 256,
    }  # fmt: skip
    paper_training = {"optimiser": "lars", "lr": 1.0, "lr_batch": 256, "weight_decay": 1e-5, "final": 1e-6}

    def __init__(
        self,
        encoder: Encoder,
        *,
        pretext: Literal["propagate", "contrast"] = "propagate",
        views: Views | None = None,
        threshold: PositiveFloat = 0.7,
        gamma: PositiveFloat = 2.0,
        layers: Annotated[int, Range(0, 2)] = 1,
        temperature: PositiveFloat = 0.3,
        instance: NonNegativeFloat = 0.0,
        momentum: UnitInterval = 0.99,
        projector: Width = 512,
        dim: Width = 128,
    ):
        super().__init__()
        mapped: Any = encoder
        if not hasattr(mapped, "feature_map"):
            raise InputError("PixPro needs an encoder with a feature map.", "Leave out --freeze.")
        if not temperature > 0 or not threshold > 0 or instance < 0:
            raise InputError(f"temperature and threshold must be positive and instance at least 0. Got {temperature}, "
                             f"{threshold} and {instance}.")  # fmt: skip
        self.role = encoder.role
        self.plan = check_geometry(check_plan(views or build("two-crops"), encoder))
        self.pretext, self.threshold, self.temperature = pretext, threshold, temperature
        self.alpha, self.momentum = instance, momentum
        mapped = mapped.without_projection()
        self.tower = Tower(mapped)
        self.student = Branches(mapped, mapped.map_channels, projector, dim, instance > 0)
        self.teacher = Teacher(self.student)
        self.propagation = Propagation(dim, gamma, layers) if pretext == "propagate" else nn.Identity()
        self.predictor = pixel_mlp(dim, projector, dim) if instance else None

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return {}

    def make_views(self, batch: Batch) -> dict[str, list]:
        x = batch.inputs[self.role]
        height, width = x.shape[-2:]
        drawn = self.plan.draw(len(x), height, width, batch.generator())
        places = [crop_coordinates(d, height, width).to(x.device) for d in drawn[:2]]
        return {self.role: self.plan.apply(x, drawn)[:2], "places": places}

    def encode(self, batch: Batch) -> dict[str, Any]:
        found = [self.student(x) for x in batch.views[self.role]]
        made = {"pixels": [self.propagation(p) for p, _ in found]}
        if self.predictor is not None:
            made["pooled"] = [self.predictor(z).mean((2, 3)) for _, z in found]
        return made

    def before_targets(self, batch: Batch) -> None:
        self.teacher.follow(self.student, momentum_at(batch.step, batch.steps, self.momentum, schedule="cosine"))

    def targets(self, batch: Batch) -> dict[str, Any]:
        found = [self.teacher(x) for x in batch.views[self.role]]
        made = {"target pixels": [p for p, _ in found]}
        return made | ({"target pooled": [z.mean((2, 3)) for _, z in found]} if self.alpha else {})

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        found, targets = embedded["pixels"], embedded["target pixels"]
        height, width = found[0].shape[-2:]
        self.monitored = pixels(found[0]).detach().flatten(0, 1)
        here, other = batch.views["places"]
        there = positive_pixels(here, other, height, width, threshold=self.threshold)
        total = self.one_way(found[0], targets[1], there) + self.one_way(found[1], targets[0], there.transpose(1, 2))
        total = total / 2 if self.pretext == "contrast" else total
        terms: dict[str, Any] = {"pixels": total.detach(), "overlap": there.any(-1).float().mean()}
        if self.alpha:
            a, b = (pooled_consistency(p, t) for p, t in
                    zip(embedded["pooled"], reversed(embedded["target pooled"]), strict=True))  # fmt: skip
            terms["instance"] = (a + b).detach()
            total = total + self.alpha * (a + b)
        return Loss(total, terms)

    def one_way(self, x: Tensor, target: Tensor, positive: Tensor) -> Tensor:
        if self.pretext == "propagate":
            return pixpro(pixels(x), pixels(target), positive, negatives="global")
        return pixcontrast(pixels(x), pixels(target), positive, temperature=self.temperature, negatives="global")

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}


def pooled_consistency(p: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """-2 mean cosine of the predicted and the teacher's vector, over the images of all processes."""
    net = exchange("global")
    cosine = (F.normalize(p, dim=1) * F.normalize(target.detach(), dim=1)).sum(1)
    return -2 * net.sum(cosine.sum()) / net.count(p)


def check_geometry(plan: Views) -> ImageViews:
    """Raises for views whose cells cannot be traced back: several members, or turned, zoomed or shifted images."""
    if not isinstance(plan, ImageViews) or plan.members > 1 or plan.targets < 2 or turned(plan):
        raise InputError("PixPro needs two crops of one image, neither turned nor shifted.", "Use --views two-crops.")
    return plan


def turned(plan: ImageViews) -> bool:
    """Whether a box does not tell where its view lies."""
    return any(a.rotate or a.zoom or a.shift or a.randaugment for a in plan.augments(64, 64)[:2])
