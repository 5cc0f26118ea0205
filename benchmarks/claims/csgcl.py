"""CSGCL: copies that spare what strong communities are made of, and their strength as weight, beside the same contrast
with copies drawn evenly (GRACE).

800 digits, each joined to its 8 nearest, and the modules of three libraries that import each other; a tenth of the
nodes labelled for the probe, a tenth to choose its strength, the others measured. All arms drop edges and features at
the same mean rates (0.5 and 0.7 of the edges, 0.1 of the features, those of the paper for Photo) with the same encoder,
rate and steps. Two arms have one of the two ideas each.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

RATES = ".edges 0.5 --views.edges_b 0.7 --views.features 0.1 --views.features_b 0.1"
ARMS = {
    "csgcl": Arm(f"csgcl --temperature 0.3 --projector 64 --views communal --views{RATES}"),
    "grace": Arm(f"grace --temperature 0.3 --projector 64 --views drop --views{RATES}"),
    "copies alone": Arm(f"csgcl --temperature 0.3 --projector 64 --gamma 0 --views communal --views{RATES}"),
    "strength alone": Arm(f"csgcl --temperature 0.3 --projector 64 --views drop --views{RATES}"),
}
PLAN = {"steps": 200, "graph_width": 64, "lr": 1e-3, "weight_decay": 1e-5, "schedule": "constant"}
MEASURES = {"probe": ("labels", "probe"), "NMI": ("clustering", "nmi")}

CLAIM = Claim(
    slug="csgcl",
    claim="Nodes are told better by a probe where copies and negatives heed communities than where they are even.",
    cells={
        "digits": Cell("near digits, 800", ARMS, PLAN, MEASURES),
        "modules": Cell("modules", ARMS, PLAN, MEASURES),
    },
    control="grace",
    measure="probe",
)
