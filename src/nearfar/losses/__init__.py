"""Losses as functions of tensors: `loss = nearfar.losses.info_nce(query, key, temperature=0.07)`."""

from nearfar.losses.assignment import sinkhorn, swapped_prediction
from nearfar.losses.contrastive import (
    align,
    clip,
    dcl,
    debiased,
    hard_contrastive,
    hcl,
    info_nce,
    mil_nce,
    nt_xent,
    siglip,
    sup_con,
    triplet,
)
from nearfar.losses.noncontrastive import align_uniform, barlow_twins, byol, uniformity, vicreg

__all__ = [
    "align", "align_uniform", "barlow_twins", "byol", "clip", "dcl", "debiased", "hard_contrastive", "hcl", "info_nce",
    "mil_nce", "nt_xent", "siglip", "sinkhorn", "sup_con", "swapped_prediction", "triplet", "uniformity", "vicreg",
]
