"""The table of papers names real losses, and every loss over pairs stands in it."""

import re

from nearfar import losses
from nearfar.losses.parts import parts
from tests.docs import pages

PAGE = pages.ROOT / "docs" / "losses.md"
WEIGHTS = {
    "balanced_weights",
    "centres_of",
    "cluster_weights",
    "concentration",
    "learned_weights",
    "attraction_weights",
    "repulsion_weights",
    "target_weights",
    "cwcl_weights",
    "dcl_weights",
    "meta_nodes",
    "attention_pooling",
    "attribute_terms",
    "bag_cross_entropy",
    "bag_logit_loss",
    "bag_probabilities",
    "balance_loss",
    "class_distances",
    "cocosoda_terms",
    "context_layout",
    "debcse_layout",
    "gumbel_top_k",
    "inverse_propensity",
    "log_propensity",
    "near_columns",
    "negclip_layout",
    "negative_probabilities",
    "positive_probabilities",
    "semantic_similarity",
    "distance_weights",
    "distillation_rows",
    "r_drop",
    "symmetric_kl",
    "draw_partners",
    "filtered_cosine",
    "gate_entropy",
    "gate_kl",
    "gate_overlap",
    "group_mass",
    "hide_similar",
    "released_rows",
    "similarity_mask",
    "triplet_layout",
    "group_ordering",
    "icnn_score",
    "joint_entropy",
    "kernel_uniformity",
    "jaccard",
    "margin",
    "mask_spans",
    "mask_tokens",
    "masked_lm",
    "masked_lm_rows",
    "masked_scores",
    "mean_of_known",
    "mean_score",
    "mixing_shares",
    "draw_mixture",
    "mix_rows",
    "mixture_targets",
    "mnr_plus_targets",
    "moved_prototypes",
    "pair_label_rows",
    "pair_weights",
    "prototype_scores",
    "pseudo_targets",
    "released_similarity",
    "router_loss",
    "sepclr_terms",
    "clip_rocket_terms",
    "smoothed_clip",
    "soft_cross_entropy",
    "soft_sort",
    "straddling",
    "swap_share",
    "tree_scores",
    "relaxed_mask",
    "feature_mmd",
    "kept_excess",
    "step_consistency",
    "segment_roles",
    "attribute_shares",
    "composition_scores",
    "agreed_attributes",
    "class_logits",
    "conflict",
    "dirichlet_kl",
    "evidence",
    "fused_evidence",
    "opinion",
}
OTHERS = {
    "barlow_twins",
    "barlip",
    "cross_correlation",
    "view_pairs",
    "vicreg",
    "byol",
    "bgrl",
    "graph_barlow_twins",
    "sinkhorn",
    "uniformity",
    "graph_mlp",
    "neighbour_prediction",
    "influence_matrix",
    "sharpened",
    "soft_assignment",
    "cluster_divergence",
    "attribute_loss",
    "evidential_rows",
    "pattern_margin",
}  # not over pairs, or tools of others


def test_every_pairwise_loss_stands_in_the_table():
    rows = [x for x in PAGE.read_text().split("## What a value means")[0].splitlines() if x.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(losses.__all__) - OTHERS - WEIGHTS
    assert all(f"`{name}`" in PAGE.read_text() for name in WEIGHTS)


def test_composing_lists_every_part():
    lines = (pages.ROOT / "docs" / "composing.md").read_text().splitlines()
    line = next(x for x in lines if x.startswith("| `--loss`"))
    told = line.split("|")[2].replace("of several positives", "").replace("of pairs with a score", "")
    told = set(re.findall(r"[a-z]+(?:-[a-z]+)*", told))
    assert told == {name for name, part in parts.items() if part.__module__.startswith("nearfar.")}
