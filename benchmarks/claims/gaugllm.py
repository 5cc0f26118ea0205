"""GAugLLM: a second view of mixed texts in an edited graph, beside views that drop edges and features at random.

Modules of three libraries that import each other; their texts are docstrings and names, ten of each part are labelled
for the probe. No language model: four experts by plain rules, none of which sees a label. All arms of a host have the
same encoders of texts (128 tokens), which learn to tell neighbours in 100 steps, then 200 steps of the host over the
same convolutions. Two arms have one of the two ideas each (no edge is edited; no experts), two have a plainer mixture
(1/4 of each; without contexts), one drops as many edges at random as are edited, and the control has neither: the
original text, a quarter of the edges and of the columns dropped at random; `normalised` has cosines in the selector,
whose inner products make shares nearly one-hot. `bgrl` reads counts of words, not trained vectors.

second view: the probe on what the run does not keep, h2 over the graph without the edges that may go; h2 alone: without
convolutions. homophily: share of the edges of the second view between modules of one part. context: how far the shares
of the experts move (half the sum of the differences) where each node gets the contexts of another; 0: not heeded.

With NEARFAR_ANSWERS=FILE (node, expert, text, other) an arm is trained on a language model's answers, and `answers
alone` is a probe on the words of its readings: what its guesses at classes give away without any training.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim, Plan, arms_told, opened_for
from experiment import run as run_claim

from nearfar import evaluation
from nearfar.encoders.text_nodes import with_vectors
from nearfar.evaluation.embedding import DataEmbed
from nearfar.methods.text_experts import said_by
from nearfar.modalities.node import graph_of
from nearfar.reporting.figures import bars_svg
from nearfar.text_graphs import EXPERTS, edge_homophily, text_features
from nearfar.training.building import prepare
from nearfar.training.settings import TrainSettings

DRAWS = 5
ANSWERS = os.environ.get("NEARFAR_ANSWERS")
OPTIONS = {
    "gaugllm": "",
    "random drops": "--selector none --editing drop --edge-drop 0.25 --feature-drop 0.25",
    "features alone": "--editing none",
    "edges alone": "--selector none",
    "a quarter of each": "--selector uniform",
    "without contexts": "--selector content",
    "normalised": "--normalise true",
    "random edges": "--editing random",
    "as released": "--official true",
}
MAIN = ("gaugllm", "random drops", "features alone", "edges alone", "a quarter of each")
DROPS = ".edges 0.25 --views.edges_b 0.25 --views.features 0.25 --views.features_b 0.25"
BGRL = f"bgrl --predictor 64 --views drop --views{DROPS}"
PLAN = {"steps": 300, "batch_size": "auto", "graph_width": 64, "lr": 2e-3, "weight_decay": 1e-5, "schedule": "cosine"}
MEASURES = {"probe": ("labels", "probe"), "kNN": ("labels", "knn")}


def arms(host: str) -> dict[str, Arm]:
    shared = f"gaugllm {host} --text-tokens 128 --text-rate 5 --prediction-share 0.3333"
    made = {name: Arm(f"{shared} {options}".strip()) for name, options in OPTIONS.items()}
    if ANSWERS:
        made["answers of a language model"] = Arm(f"{shared} --experts {ANSWERS}")
    return made


def probe(data: Any, x: Any) -> float:
    """Accuracy of the probe on vectors of all nodes."""
    embed = DataEmbed(data, lambda _, items: x[[one.number for one in items]])
    return float(evaluation.task_for(data, "labels").evaluate(embed, "test").metrics["probe"])


def labels_of(data: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(next(iter(data.labels.values()))))


def views(folder: Path, data: Any) -> dict[str, float]:
    """What is not kept of a run: the probe on the second view (h2 over the base graph) and on h2 alone, homophily of
    the second view, and how far the shares heed the contexts."""
    told = json.loads((folder / "config.json").read_text())
    if told["method"] != "gaugllm":
        return {}
    settings = TrainSettings(**{**PLAN, "steps": 4, "seed": told["settings"]["seed"]})
    method: Any = prepare("gaugllm", data, settings, told["options"]).method.eval()
    method.load_state_dict(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    drawn = [method.plan.draw(method.joined, generator=torch.Generator().manual_seed(s), **method.editing)
             for s in range(DRAWS)]  # fmt: skip
    base = method.plan.base if method.editing["how"] == "verdicts" else method.joined
    with torch.no_grad():
        z = method.tower.encoder.all_nodes(with_vectors(graph_of(data), method.h2, base))
    found = {
        "second view": probe(data, z.numpy()),
        "h2 alone": probe(data, method.h2.numpy()),
        "homophily": float(np.mean([edge_homophily(edges, labels_of(data)) for edges in drawn])),
        "context": 0.0,
    }
    if method.selector in ("similarity", "concat"):
        own = method.mixed.whole()[1]
        for ids in method.mixed.ids[len(EXPERTS) :]:
            ids.insert(0, ids.pop())
        found["context"] = float((method.mixed.whole()[1] - own).abs().sum(1).mean() / 2)
    return found


def figure(out: Path, result: dict[str, Any]) -> None:
    """The probe of the main arms with both hosts, in docs/assets/methods/gaugllm.svg."""
    hosts = {"bgrl": "BGRL", "barlow": "Graph Barlow Twins"}
    values = {arm: {name: [100 * seed["probe"] for seed in result["all"][cell][arm]] for cell, name in hosts.items()}
              for arm in MAIN}  # fmt: skip
    about = "Accuracy of a linear probe on modules that were not labelled; each tick is a seed."
    (FIGURES / "gaugllm.svg").write_text(bars_svg(values, "Views of modules and their texts, by host", about))


DATA = "modules, ten of each"
CLAIM = Claim(
    slug="gaugllm",
    claim="Nodes with texts are told better where one view mixes experts' texts and edits edges by what they say than "
    "where both drop edges and features at random.",
    cells={
        "bgrl": Cell(DATA, arms("--predictor 64") | {"bgrl": Arm(BGRL, {"steps": 200})}, PLAN, MEASURES, look=views),
        "barlow": Cell(DATA, {k: v for k, v in arms("--host barlow").items() if k in MAIN}, PLAN, MEASURES, look=views),
    },
    control="random drops",
    measure="probe",
    pairs=(("features alone", "random drops"), ("gaugllm", "random edges"), ("features alone", "a quarter of each")),
)


def run(plan: Plan) -> dict[str, Any]:
    """All arms; the homophily of the graph itself; a probe on the answers of a language model, where there are some."""
    data = opened_for(CLAIM.cells["bgrl"], plan, 0)[DATA]
    whole = graph_of(data)
    joined = torch.unique(whole.edges, dim=1)
    told = [f"Homophily of the graph itself {edge_homophily(joined, labels_of(data)):.3f}."]
    if ANSWERS:
        keys = [str(key) for key in data.keys]
        said = said_by(ANSWERS, whole.texts or (), joined, keys).contents
        x = text_features([f"{a} {b}" for a, b in zip(said["IDR"], said["SAR"], strict=True)]).numpy()
        told.append(f"Words of the answers alone {probe(data, x):.3f} (probe).")

    def notes(result: dict[str, Any]) -> str:
        return " ".join([arms_told(result), *told])

    return run_claim(dataclasses.replace(CLAIM, notes=notes), plan)
