"""Losses as functions of tensors: `loss = nearfar.losses.info_nce(query, key, temperature=0.07)`."""

from nearfar.losses.assignment import sinkhorn, swapped_prediction
from nearfar.losses.contrastive import (
    align,
    cacr,
    clip,
    cwcl,
    dcl,
    debiased,
    hard_contrastive,
    hcl,
    info_nce,
    mil_nce,
    nt_xent,
    siglip,
    sup_con,
    team_up,
    triplet,
)
from nearfar.losses.noncontrastive import align_uniform, barlow_twins, byol, uniformity, vicreg

__all__ = [
    "align", "align_uniform", "barlow_twins", "byol", "cacr", "clip", "cwcl", "dcl", "debiased", "hard_contrastive",
    "hcl", "info_nce", "mil_nce", "nt_xent", "siglip", "sinkhorn", "sup_con", "swapped_prediction", "team_up",
    "triplet", "uniformity", "vicreg",
]
