"""MoCHi: negatives mixed from the hardest of a queue, against MoCo, the same without mixtures.

Every image is its own class for the loss, so hard negatives should help most where an image is to be found again.
Emoji decide (found again by another drawing); digits by another look of themselves and by their labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim, cell_folder
from shared import DIGITS, EMOJI, EMOJI_PLAN, PLAN, STRONG

from nearfar import load
from nearfar.negatives.mixing import hardest, mix_hardest, mix_query
from nearfar.reporting import map_2d
from nearfar.reporting.figures import Points, scatter_svg
from nearfar.sources import open_data
from nearfar.training.modelled import ModelEmbedder

MIXED = "--negatives mixing --negatives.hard"


def arms(views: str, size: int) -> dict[str, Arm]:
    queue = f"--negatives.size {size} --momentum 0.99 {views}"
    return {
        "mochi": Arm(f"mochi {MIXED} 32 --negatives.mixed 32 --negatives.with_query 16 {queue}"),
        "mochi, more": Arm(f"mochi {MIXED} 64 --negatives.mixed 128 --negatives.with_query 64 {queue}"),
        "moco": Arm(f"mochi --negatives queue {queue}"),
        "simclr": Arm(f"simclr {views}"),
    }  # fmt: skip


LOOK = {"another look": ("proxy", "hit@1")}
CLAIM = Claim(
    slug="mochi",
    claim="Mixed hard negatives find an image again better than MoCo, the same run without mixtures.",
    cells={
        "digits": Cell("digits", arms(STRONG, 512), PLAN, LOOK | DIGITS),
        "emoji": Cell("emoji", arms("--views members", 640), EMOJI_PLAN, EMOJI),
    },
    control="moco",
    measure="another look",
    pairs=[("mochi, more", "moco"), ("moco", "simclr")],
)


def figure(out: Path, result: dict[str, Any], queries: int = 3, hard: int = 32, mixed: int = 24) -> None:
    """A map of past keys, the hardest of some queries, and what is mixed of them; docs/assets/methods/mochi.svg."""
    data = open_data("emoji")
    model = load(cell_folder(out, "mochi", "emoji") / "mochi-s0" / "model")
    rows = np.random.default_rng(0).permutation(data.splits["train"])
    z = torch.from_numpy(ModelEmbedder(model, data)("image", rows[: 640 + queries]))
    query, keys = z[:queries], z[queries:]
    make = torch.Generator().manual_seed(0)
    places = hardest(query, keys, hard)
    near = keys[places]
    pairs = torch.randint(0, hard, (queries, mixed, 2), generator=make)
    share = torch.rand(queries, mixed, generator=make)
    groups = {
        "key of the queue": keys,
        "among the 32 hardest": keys[places.flatten().unique()],
        "mixture of two": mix_hardest(near, pairs, share).flatten(0, 1),
        "mixture with the query": mix_query(query, near, pairs[..., 0], share / 2).flatten(0, 1),
        "query": query,
    }
    ends = np.cumsum([len(x) for x in groups.values()])[:-1]
    flat = np.split(map_2d(torch.cat(list(groups.values())).numpy()), ends)
    points = [Points(name, at, 6 if name == "query" else 2.6) for name, at in zip(groups, flat, strict=True)]
    about = "Mixtures of hard keys lie among them; mixtures with the query lie between the query and its hard keys."
    (FIGURES / "mochi.svg").write_text(scatter_svg(points, "Hard negatives, real and mixed, of three drawings", about))
