"""Losses as functions of tensors: `loss = nearfar.losses.info_nce(query, key, temperature=0.07)`."""

from nearfar.losses.assignment import sinkhorn, swapped_prediction
from nearfar.losses.attraction import (
    attraction_weights,
    cacr,
    cacr_queue,
    cacr_targets,
    repulsion_weights,
    target_weights,
)
from nearfar.losses.bags import (
    attention_pooling,
    bag_cross_entropy,
    bag_logit_loss,
    bag_probabilities,
    ins_contrast,
    masked_scores,
    moved_prototypes,
    prototype_scores,
    pseudo_targets,
    queue_contrast,
    soft_cross_entropy,
)
from nearfar.losses.contrastive import (
    align,
    clip,
    cwcl,
    cwcl_weights,
    dcl,
    dcl_weights,
    debiased,
    hard_contrastive,
    hcl,
    info_nce,
    mil_nce,
    nt_xent,
    siglip,
    simple,
    soft_nearest_neighbour,
    sup_con,
    team_up,
    triplet,
)
from nearfar.losses.graded import cosent, cosine_regression
from nearfar.losses.graph import (
    cluster_divergence,
    graph_mlp,
    influence_matrix,
    meta_nodes,
    pamc,
    sharpened,
    soft_assignment,
)
from nearfar.losses.noncontrastive import align_uniform, barlow_twins, byol, uniformity, vicreg
from nearfar.losses.ordered import distance_weights, mixing_shares, straddling, supremix

__all__ = [
    "align", "align_uniform", "attention_pooling", "attraction_weights", "bag_cross_entropy", "bag_logit_loss",
    "bag_probabilities", "barlow_twins", "byol", "cacr", "cacr_queue", "cacr_targets", "clip", "cluster_divergence",
    "cosent", "cosine_regression", "cwcl", "cwcl_weights", "dcl", "dcl_weights", "debiased", "distance_weights",
    "graph_mlp", "hard_contrastive", "hcl", "influence_matrix", "info_nce", "ins_contrast", "masked_scores",
    "meta_nodes", "mil_nce", "mixing_shares", "moved_prototypes", "nt_xent", "pamc", "prototype_scores",
    "pseudo_targets", "queue_contrast", "repulsion_weights", "sharpened", "siglip", "simple", "sinkhorn",
    "soft_assignment", "soft_cross_entropy", "soft_nearest_neighbour", "straddling", "sup_con", "supremix",
    "swapped_prediction", "target_weights", "team_up", "triplet", "uniformity", "vicreg",
]
