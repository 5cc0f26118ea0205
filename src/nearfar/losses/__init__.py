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
from nearfar.losses.contrastive import (
    align,
    clip,
    cwcl,
    cwcl_weights,
    dcl,
    dcl_weights,
    debiased,
    groco,
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
from nearfar.losses.episodes import icnn, icnn_score, proto_cross_entropy, proto_triplet
from nearfar.losses.gated import (
    class_distances,
    draw_partners,
    filtered_cosine,
    gate_entropy,
    gate_overlap,
    hydra,
    pair_weights,
    released_similarity,
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
from nearfar.losses.separation import attribute_terms, joint_entropy, kernel_uniformity, sepclr, sepclr_terms
from nearfar.losses.sorting import group_mass, group_ordering, soft_sort, swap_share

__all__ = [
    "align", "align_uniform", "attraction_weights", "attribute_terms", "barlow_twins", "byol", "cacr", "cacr_queue",
    "cacr_targets", "class_distances", "clip", "cluster_divergence", "cosent", "cosine_regression", "cwcl",
    "cwcl_weights", "dcl", "dcl_weights", "debiased", "distance_weights", "draw_partners", "filtered_cosine",
    "gate_entropy", "gate_overlap", "graph_mlp", "groco", "group_mass", "group_ordering", "hard_contrastive", "hcl",
    "hydra", "icnn", "icnn_score", "influence_matrix", "info_nce", "joint_entropy", "kernel_uniformity", "meta_nodes",
    "mil_nce", "mixing_shares", "nt_xent", "pair_weights", "pamc", "proto_cross_entropy", "proto_triplet",
    "released_similarity", "repulsion_weights", "sepclr", "sepclr_terms", "sharpened", "siglip", "simple", "sinkhorn",
    "soft_assignment", "soft_nearest_neighbour", "soft_sort", "straddling", "sup_con", "supremix", "swap_share",
    "swapped_prediction", "target_weights", "team_up", "triplet", "uniformity", "vicreg",
]
