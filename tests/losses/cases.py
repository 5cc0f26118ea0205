"""Every registered loss as a call on one pair of batches, for tests that must hold for all of them."""

import torch

from nearfar import losses
from nearfar.similarity.exchange import exchange

LABELS = torch.tensor([0, 1, 0, 2, 1, 1, -1, 3, 0, 2])


def of_pairs(loss, **options):
    return lambda a, b, labels, **more: loss(a, b, **options, **more)


def of_labels(loss, **options):
    return lambda a, b, labels, **more: loss(a + b, labels, **options, **more)


def of_scores(loss):
    return lambda a, b, labels, **more: loss(a, b, labels * 0.3, **more)


def of_targets(**options):
    """Both views of each row with its number; the anchor's share is 0.3 in every mixture."""

    def call(a, b, labels, mixed=False, **more):
        z = torch.cat([a, b])
        many = len(exchange(more.get("negatives", "local")).gather(z.detach())[0])
        shares = {"shares": z.new_full((len(z), many), 0.3, dtype=torch.float64)} if mixed else {}
        return losses.supremix(z, (labels.double() * 0.7).repeat(2), **options, **shares, **more)

    return call


def of_trees(a, b, labels, **more):
    """Two heads: scores that fall with the distance of labels, and 1 for equal ones."""
    every = exchange(more.get("negatives", "local")).gather(labels)[0]
    near = 1 / (1.0 + (labels[:, None] - every[None]).abs())
    views = torch.stack([a, b])[:, :, None].expand(-1, -1, 2, -1)
    return losses.tree_contrast(views, torch.stack([near, (near == 1).float()]), **more).sum()


def hydra_inputs(a, b, labels, gated):
    """Gates and second classes that follow from the labels; -1 stays unknown."""
    gates = 0.25 + (labels[:, None] + torch.arange(a.shape[1], device=labels.device)) % 3 / 4
    return a, b, gates if gated else None, labels, torch.where(labels < 0, -1, (labels + labels % 2) % 3)


def of_class_pairs(gated, **options):
    return lambda a, b, labels, **more: losses.hydra(*hydra_inputs(a, b, labels, gated), **options, **more)


def with_classes(a, b, labels):
    """Both views as queries, their keys, and a queue of five keys of the classes 0, 1, 2 and of none."""
    past_classes = torch.tensor([0, 1, 2, -1, 0], device=labels.device)
    return torch.cat([a, b]), torch.cat([b, a + b]), past(a), labels.repeat(2), past_classes


def past(a):
    """A queue of older keys for vectors like `a`."""
    make = torch.Generator().manual_seed(9)
    return (4 * torch.randn(5, a.shape[1], generator=make)).round().div(4).to(a)


def cacr_views(a, b):
    return [a, b, a + 2 * b]


# What the losses of several views are given, from a pair of batches.
VIEWS = {
    "cacr": lambda a, b: (cacr_views(a, b),),
    "cacr_queue": lambda a, b: (cacr_views(a, b), [b, a - b, a], past(a)),
    "cacr_targets": lambda a, b: (cacr_views(a, b), [b, a - b]),
    "groco": lambda a, b: (cacr_views(a, b),),
}


def of_views(name, **options):
    return lambda a, b, labels, **more: getattr(losses, name)(*VIEWS[name](a, b), **options, **more)


def sampled_columns(a, b, labels):
    """Two positive and two negative candidates of each row, their probabilities, and which negatives are there."""
    share = 0.2 + (labels % 3).double()[:, None] * 0.2
    pi = torch.cat([share, 1 - share], 1)
    there = torch.stack([labels >= 0, labels != 1], 1)
    return torch.stack([b, a], 1), pi, torch.stack([-b, -a], 1), pi.flip(1) * there, there


def of_samples(a, b, labels, negatives="local", temperature=0.3):
    _, _, columns, _, there = sampled_columns(a, b, labels)
    return losses.debcse(a, b, columns, where=there, temperature=temperature, gather=negatives)


def of_expected_samples(a, b, labels, negatives="local", temperature=0.3):
    columns = sampled_columns(a, b, labels)[:4]
    return losses.debcse_expected(a, *columns, drawn=2, temperature=temperature, gather=negatives)


def rocket_views(a, b):
    """Two local views of both sides."""
    return [a + 2 * b, a], [b, b - a]


def of_rocket(**options):
    return lambda a, b, labels, **more: losses.clip_rocket(a, b, *rocket_views(a, b), **options, **more)


def of_siamlip(a, b, labels, **more):
    (x, y), (u, v) = rocket_views(a, b)
    return losses.siamlip([a, x, y], [b, u, v], [a - b, x, x], [b, v - a, u], **more)


def of_barlip(a, b, labels, **more):
    (x, y), (u, v) = rocket_views(a, b)
    return losses.barlip([a, x, y], [b, u, v], **more)


def of_swalip(a, b, labels, **more):
    return losses.swalip(*rocket_views(a, b), **more)


# name -> (call on (a, b, labels), has in-batch negatives)
CASES = {
    "info_nce": (of_pairs(losses.info_nce), True),
    "info_nce-symmetric": (of_pairs(losses.info_nce, symmetric=True), True),
    "nt_xent": (of_pairs(losses.nt_xent), True),
    "clip": (of_pairs(losses.clip), True),
    "align": (of_pairs(losses.align), True),
    "negclip": (lambda a, b, labels, **more: losses.negclip(a, b, a - 2 * b, **more), True),
    "clip_rocket": (of_rocket(), True),
    "clip_rocket-sum": (of_rocket(mode="sum", smoothing=0.0), True),
    "swalip": (of_swalip, True),
    "dcl": (of_pairs(losses.dcl), True),
    "dcl-weighted": (of_pairs(losses.dcl, sigma=0.5), True),
    "hcl": (of_pairs(losses.hcl), True),
    "debiased": (of_pairs(losses.debiased), True),
    "hard_contrastive": (of_pairs(losses.hard_contrastive, alpha=0.3), True),
    "siglip": (of_pairs(losses.siglip, bias=-1.0), True),
    "sup_con": (of_labels(losses.sup_con), True),
    "mil_nce": (of_labels(losses.mil_nce), True),
    "triplet": (of_labels(losses.triplet), True),
    "triplet-semi-hard": (of_labels(losses.triplet, mining="semi-hard"), True),
    "cwcl": (of_pairs(losses.cwcl), True),
    "cwcl-both": (of_pairs(losses.cwcl, weighted="both"), True),
    "soft_nearest_neighbour": (of_labels(losses.soft_nearest_neighbour), True),
    "simple": (of_pairs(losses.simple), True),
    "simple-hard": (of_pairs(losses.simple, alpha=0.4), True),
    "cacr": (of_views("cacr"), True),
    "cacr-detached": (of_views("cacr", detach=True), True),
    "cacr-rbf": (of_views("cacr", repulsion="rbf", beta=0.7), True),
    "cacr-rbf-detached": (of_views("cacr", repulsion="rbf", beta=0.7, detach=True), True),
    "cacr-debiased": (of_views("cacr", tau_plus=0.1), True),
    "cacr_queue": (of_views("cacr_queue"), True),
    "cacr_queue-alone": (of_views("cacr_queue", in_batch=False, beta=3.0), True),
    "cacr_targets": (of_views("cacr_targets", temperature=0.4), True),
    "cacr_targets-euclidean": (of_views("cacr_targets", temperature=0.4, cost="euclidean"), True),
    "team_up": (lambda a, b, labels, **more: losses.team_up(a, b, labels * 0.3, **more), True),
    "align_uniform": (of_pairs(losses.align_uniform), True),
    "barlow_twins": (of_pairs(losses.barlow_twins), True),
    "vicreg": (of_pairs(losses.vicreg), True),
    "byol": (of_pairs(losses.byol), False),
    "siamlip": (of_siamlip, False),
    "barlip": (of_barlip, True),
    "groco": (of_views("groco", top_k=3), True),
    "groco-gradient": (of_views("groco", top_k=2, targets=2, steepness=4.0, detach=False), True),
    "hydra": (of_class_pairs(False), True),
    "hydra-gated": (of_class_pairs(True, reduction="anchors"), True),
    "supremix": (of_targets(window=None), True),
    "supremix-mixed": (lambda a, b, labels, **more: of_targets(window=1.5)(a, b, labels, mixed=True, **more), True),
    "ins_contrast": (lambda a, b, labels, **more: losses.ins_contrast(*with_classes(a, b, labels), **more), True),
    "queue_contrast": (lambda a, b, labels, **more: losses.queue_contrast(a, b, past(a), **more), False),
    "debcse": (of_samples, True),
    "debcse_expected": (of_expected_samples, True),
    "tree_contrast": (of_trees, True),
    "cosent": (of_scores(losses.cosent), True),
    "cosine_regression": (of_scores(losses.cosine_regression), True),
}
# Tested on their own.
PLAIN = (
    "agreed_attributes",
    "attribute_loss",
    "certain_contrast",
    "class_logits",
    "conflict",
    "dirichlet_kl",
    "evidence",
    "evidential_rows",
    "fused_evidence",
    "opinion",
    "pattern_margin",
    "draw_mixture",
    "m3co",
    "mix_rows",
    "mixture_targets",
    "soft_contrast",
    "attribute_shares",
    "composition_scores",
    "cosine_classifier",
    "mixed_pairs",
    "feature_mmd",
    "hierarchical_contrast",
    "instance_contrast",
    "kept_excess",
    "relaxed_mask",
    "segment_contrast",
    "segment_roles",
    "step_consistency",
    "temporal_contrast",
    "balanced_weights",
    "centres_of",
    "cluster_weights",
    "concentration",
    "learned_weights",
    "prototype_contrast",
    "weighted_contrast",
    "attention_pooling",
    "attraction_weights",
    "attribute_terms",
    "augmented_contrast",
    "augmented_regulariser",
    "bag_cross_entropy",
    "bgrl",
    "graph_barlow_twins",
    "bag_logit_loss",
    "bag_probabilities",
    "balance_loss",
    "ccp",
    "clip_rocket_terms",
    "cross_correlation",
    "smoothed_clip",
    "view_pairs",
    "class_distances",
    "cluster_divergence",
    "cocosoda",
    "cocosoda_terms",
    "context_layout",
    "contrast_regulariser",
    "cwcl_weights",
    "dcl_weights",
    "debcse_layout",
    "distance_weights",
    "distillation_rows",
    "draw_partners",
    "dse",
    "filtered_cosine",
    "gate_entropy",
    "gate_kl",
    "gate_overlap",
    "graph_mlp",
    "group_mass",
    "group_ordering",
    "gumbel_top_k",
    "hide_similar",
    "icnn",
    "icnn_score",
    "influence_matrix",
    "inverse_propensity",
    "joint_entropy",
    "kernel_uniformity",
    "log_propensity",
    "jaccard",
    "margin",
    "mask_spans",
    "mask_tokens",
    "masked_lm",
    "masked_lm_rows",
    "masked_scores",
    "mean_of_known",
    "mean_score",
    "meta_nodes",
    "mixing_shares",
    "mnr",
    "mnr_plus",
    "mnr_plus_targets",
    "moved_prototypes",
    "near_columns",
    "negclip_layout",
    "negative_probabilities",
    "neighbour_prediction",
    "next_item",
    "pair_contrast",
    "multicsr",
    "pair_label_rows",
    "pair_weights",
    "pamc",
    "positive_probabilities",
    "proto_cross_entropy",
    "proto_triplet",
    "prototype_scores",
    "pseudo_targets",
    "r_drop",
    "released_rows",
    "released_similarity",
    "repulsion_weights",
    "router_loss",
    "semantic_similarity",
    "tree_scores",
    "sepclr",
    "sepclr_terms",
    "sharpened",
    "similarity_mask",
    "sinkhorn",
    "soft_assignment",
    "soft_cross_entropy",
    "soft_sort",
    "straddling",
    "swap_share",
    "symmetric_kl",
    "swapped_prediction",
    "target_weights",
    "triplet_layout",
    "uniformity",
)
# Whose gradients are none of the value.
CONSTANT_WEIGHTS = (
    "dcl-weighted",
    "cacr-detached",
    "cacr-rbf-detached",
    "cacr_queue",
    "cacr_queue-alone",
    "cacr_targets",
    "cacr_targets-euclidean",
    "swalip",
    "siamlip",
    "supremix-mixed",
    "groco",
    "ins_contrast",
    "queue_contrast",
)


def batch(n=6, d=4, seed=0, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, d, dtype=torch.float64, generator=make).to(dtype) for _ in range(2))
    return a, b, LABELS[:n]
