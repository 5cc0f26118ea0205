"""MEOW: contrast along meta-paths in which nodes of one cluster push each other less, beside the same contrast with
even negatives.

Modules of three libraries, joined by names that they use and by what they import of each other; a tenth of them
labelled for the probe, a tenth to choose its strength, the others measured. All arms but `grace`, which has a GCN over
all nodes, have the same encoder, rate and steps. `even` is plain decoupled InfoNCE of the same two views; `no context`
does not see which names lie between two modules; `learned` is AdaMEOW, whose loss has no lower bound, and `balanced` is
what bounds it.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

ARMS = {
    "meow": Arm("meow --refresh 20"),
    "even": Arm("meow --weighting even"),
    "no context": Arm("meow --refresh 20", {"graph_context": False}),
    "no prototypes": Arm("meow --refresh 20 --prototypes 0"),
    "learned": Arm("meow --weighting learned"),
    "balanced": Arm("meow --weighting learned --balanced true"),
    "grace": Arm("grace --projector 64", {"graph_encoder": "gcn", "graph_nearest": "all"}),
}
PLAN = {
    "steps": 100,
    "batch_size": "auto",
    "lr": 7e-4,
    "optimiser": "adam",
    "weight_decay": 0.0,
    "schedule": "constant",
    "graph_encoder": "paths",
    "graph_nearest": "100",
    "graph_width": 64,
}
MEASURES = {"probe": ("labels", "probe"), "NMI": ("clustering", "nmi")}

CLAIM = Claim(
    slug="meow",
    claim="Nodes are told better by a probe where those of one cluster repel less than where all repel alike.",
    cells={"modules": Cell("modules and names", ARMS, PLAN, MEASURES)},
    control="even",
    measure="probe",
    seeds=3,
    pairs=(("learned", "even"), ("meow", "no context"), ("meow", "grace")),
)
