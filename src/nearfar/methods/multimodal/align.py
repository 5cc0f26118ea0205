"""ALIGN: image-text pairs from noisy alt-text (Jia et al., ICML 2021).

    image --encoder--> u      L = L_i2t + L_t2i, each a normalised softmax over the whole batch with smoothed targets;
    text  --encoder--> v      the temperature sigma is learned together with the weights

Scale beats cleanliness: many noisy pairs are worth more than few clean ones. The equation is `nearfar.losses.align`;
the paper's cleaning rules are `--clean align` (`nearfar.sources.cleaning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from nearfar.checks import PositiveFloat, UnitInterval
from nearfar.encoders import Encoder
from nearfar.methods import Facts, PairContrast, Paper, register


@register("align", family="multimodal")
class Align(PairContrast):
    """Image and text dual encoders with a learned temperature and smoothed targets.

    Args:
        temperature: sigma_0; start of the learned temperature. auto: 1.0 from 100,000 steps, else 0.1, since a short
            run has no time to bring it down.
        smoothing: eps; share of the target spread over all candidates.
        head: maps into the common space: linear, mlp, none, or own: those of the model that both encoders came with
            (--model). auto: own where there are such, else linear.
        dim: width of the common space.
    """

    paper = Paper(
        "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
        "ICML 2021",
        "A dual encoder learns from many noisy pairs what few clean ones cannot teach.",
        arxiv="2102.05918",
        differs="the sum of both directions as in the paper; sigma is kept in log space; identical captions "
        "are masked (--mask-duplicates false for the paper's behaviour); AdamW unless "
        "--optimiser lamb or --preset paper, which gives batch norms a trust ratio as well",
    )
    needs = (frozenset({"image", "text"}),)
    preset_paper = {"temperature": 1.0, "smoothing": 0.1, "dim": 640, "mask_duplicates": False, "head": "linear"}
    paper_training = {"optimiser": "lamb", "lr": 1e-3, "weight_decay": 1e-5, "schedule": "linear"}
    join = "sum"

    defaults = {"learn_temperature": True}
    usual_head = "linear"
    fixed = ("symmetric",)
    follows = {"smoothing": "learn_temperature"}
    of_part = {"smoothing": "loss"}

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        temperature: PositiveFloat | Literal["auto"] = "auto",
        smoothing: UnitInterval = 0.1,
        **shared: Any,
    ):
        start = 0.1 if temperature == "auto" else temperature
        loss = shared.pop("loss") or self.default_part("loss", smoothing=smoothing)
        super().__init__(encoder, encoder_b, temperature=start, loss=loss, **shared)
        self.auto_temperature = temperature == "auto"

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return super().parts(chosen) | {"loss": {"name": "smoothed", "smoothing": chosen["smoothing"]}}

    def resolve(self, facts: Facts) -> dict[str, Any]:
        found = super().resolve(facts)
        if self.auto_temperature:
            start = 1.0 if facts.steps >= 100_000 else 0.1
            with torch.no_grad():
                self.tau.log_tau.fill_(float(np.log(start)))
            found["temperature"] = start
        return found

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        return {self.tau.log_tau: 1.0 if self.facts.steps >= 100_000 else 5.0}

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        both = {"image", "text"} <= set(roles) and "group" not in roles
        return (50, "each row pairs an image with a text") if both else None
