"""M3CoL: mixtures of two rows, near to both partners in another modality, tell classes better than one-to-one contrast.

Digits cut into three bands with noise, 100 labels: each seed draws other rows. At equal weight 0.5, mixtures alone
against the one-to-one contrast (the same code without mixing), soft targets alone, both phases, and the classifiers
alone; the same at the paper's 0.1; the released code's targets; without classifiers on each modality. Further cells:
200 labels, three groups of numbers of tumours, images with words. `both` is the mechanism: how often the two rows of
a mixture never seen, half of each, are the two nearest of 20 in another modality (by chance 1 of 190). `alone` is the
best classifier on one modality.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim

import nearfar
from nearfar.reporting.figures import bars_svg
from nearfar.training.modelled import ModelEmbedder

MIXED, PLAIN, SOFT = "--phase 1", "--rate 0 --phase 1", "--phase 0"
BANDS = '--groups "top_*; middle_*; bottom_*"'
TUMOURS = '--groups "mean *; *error; worst *"'
NUMBERS = {"steps": 200, "batch_size": 100, "vector_width": 64, "vector_layers": 1, "optimiser": "adam", "lr": 2e-3,
           "weight_decay": 0.0, "schedule": "constant", "warmup": 0}  # fmt: skip
IMAGES = {"steps": 300, "batch_size": 64, "image_size": 32, "text_encoder": "tiny", "text_length": 24}
MEASURES = {"accuracy": ("classification", "accuracy")}


def arms(options: str, weights: tuple[float, ...] = (0.5, 0.1), further: bool = False) -> dict[str, Arm]:
    found = {}
    for w in weights:
        found |= {f"{name} {w}": Arm(f"m3col {options} --weight {w} {flags}") for name, flags in
                  (("m3col", ""), ("m3co", MIXED), ("clip", PLAIN), ("soft", SOFT))}  # fmt: skip
    found["classifiers"] = Arm(f"m3col {options} --weight 0")
    if further:
        w = weights[0]
        found["m3co, released"] = Arm(f"m3col {options} --weight {w} {MIXED} --official true")
        found["m3co, inputs"] = Arm(f"m3col {options} --weight {w} {MIXED} --mix inputs")
        found["m3co, fusion alone"] = Arm(f"m3col {options} --weight {w} {MIXED} --unimodal false")
        found["fusion alone"] = Arm(f"m3col {options} --weight 0 --unimodal false")
    return found


@torch.inference_mode()
def mechanism(folder: Path, data: Any, draws: int = 2000, candidates: int = 20) -> dict[str, float]:
    """both: the share of mixtures, half of each of two test rows, whose two nearest among so many rows in another
    modality are these two; alone: the accuracy of the best classifier on one modality."""
    model, rows = nearfar.load(folder / "model"), np.asarray(data.splits["test"])
    embed, told = ModelEmbedder(model, data), model.inference
    vectors = told.vectors_of(data, rows, embed)
    rng, hits = np.random.default_rng(0), []
    for a, b in itertools.permutations(range(len(vectors)), 2):
        for _ in range(draws // (len(vectors) * (len(vectors) - 1))):
            chosen = torch.from_numpy(rng.choice(len(rows), min(candidates, len(rows)), replace=False))
            mixed = vectors[a][chosen[:2]].mean(0, keepdim=True)
            s = torch.nn.functional.cosine_similarity(mixed, vectors[b][chosen])
            hits.append(set(s.topk(2).indices.tolist()) == {0, 1})
    found = {"both": float(np.mean(hits))}
    heads = [name for name in told.fused.places if name != "fusion"]
    right = [np.mean([told.names[k] == data.target_names[t] for k, t in
                      zip(told.fused.logits(vectors, name).argmax(1).tolist(), data.targets[rows], strict=True)])
             for name in heads]  # fmt: skip
    return found | ({"alone": float(max(right))} if right else {})


CLAIM = Claim(
    slug="m3col",
    claim="Contrast with mixtures tells classes of rows of several modalities better than one-to-one contrast.",
    cells={
        "bands": Cell("digits in bands", arms(BANDS, further=True), NUMBERS, MEASURES, look=mechanism, divided=True),
        "bands, 200": Cell("digits in bands, 200", arms(BANDS, (0.5,)), NUMBERS | {"batch_size": 200}, MEASURES,
                           look=mechanism, divided=True),
        "tumours": Cell("breast-cancer", arms(TUMOURS, (0.5,)), NUMBERS | {"batch_size": 128}, MEASURES, look=mechanism,
                        divided=True),
        "images with words": Cell("emoji with words", arms("", (0.5, 0.1)), IMAGES, MEASURES, look=mechanism,
                                    divided=True),
    },
    control="clip 0.5",
    measure="accuracy",
    method="m3co 0.5",
    seeds=8,
    pairs=[("m3co 0.5", "clip 0.5"), ("m3co 0.5", "classifiers"), ("m3co 0.5", "soft 0.5"), ("m3col 0.5", "clip 0.5"),
           ("m3co 0.1", "clip 0.1"), ("m3co 0.1", "classifiers"), ("m3co 0.5", "m3co, released"),
           ("m3co 0.5", "m3co, inputs"), ("m3co 0.5", "m3co, fusion alone"), ("classifiers", "fusion alone")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """Accuracy and mechanism of the arms at weight 0.5, in docs/assets/methods/m3col.svg."""
    shown = {"m3co 0.5": "mixtures", "m3col 0.5": "mixtures, then soft", "soft 0.5": "soft targets",
             "clip 0.5": "one to one", "classifiers": "no contrast"}  # fmt: skip
    values = {words: {name: [100 * x[name] for x in result["all"]["bands"][arm]] for name in ("accuracy", "alone")}
              for arm, words in shown.items()}  # fmt: skip
    about = "Digits cut into three bands with noise, 100 labels: all bands together, and the best band alone."
    (FIGURES / "m3col.svg").write_text(bars_svg(values, "What is contrasted beside the classifiers", about, unit=" %"))
