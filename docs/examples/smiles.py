"""Molecules as SMILES strings: a kind of data of one's own, in one file."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from zlib import crc32

import torch
from torch import nn

from nearfar.checks import UnitInterval, Width
from nearfar.encoders import Encoder
from nearfar.modality import Modality
from nearfar.views import Views

SMILES = re.compile(r"(\[[^\]\s]+\]|Br|Cl|[BCNOPSFIbcnops]|[0-9=#$/\\%.@+\-()*:])+")
ATOM = re.compile(r"\[[^\]]+\]|Br|Cl|[A-Za-z]|\S")


class Atoms(Encoder):
    """Counts of atoms and of neighbours in the string, (n, 512), through one hidden layer."""

    modality = "smiles"

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(nn.Linear(512, dim), nn.ReLU(), nn.Linear(dim, dim))

    def prepare(self, items):
        out = torch.zeros(len(items), 512)
        for row, item in enumerate(items):
            atoms = ATOM.findall(item)
            for part in (*atoms, *map("".join, pairwise(atoms))):
                out[row, crc32(part.encode()) % 512] += 1
        return out.to(self.device)

    def forward(self, x):
        return self.net(x.log1p())

    def config(self):
        return {"modality": "smiles", "dim": self.dim}


@dataclass
class Forget(Views):
    """Two copies of a molecule's counts, each without some of them.

    Args:
        p: probability that a count is left out.
    """

    modality = "smiles"
    p: UnitInterval = 0.3
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __call__(self, inputs, generator):
        return [inputs * (torch.rand(inputs.shape, generator=generator) >= self.p) for _ in range(2)]


@dataclass
class Options:
    """The encoder of molecules.

    Args:
        smiles_dim: length of a molecule's vector.
    """

    smiles_dim: Width = 64


class Smiles(Modality):
    word, words = "molecule", "molecules"
    roles = ("smiles", "smiles_b")
    columns = {"smiles": ("smiles", "molecule", "canonical_smiles")}
    options = Options
    plans = {"forget": "smiles:Forget"}
    default_plan = "forget"
    unit = "signs"

    def looks_like(self, values):
        filled = [v for v in values if isinstance(v, str) and v.strip()]
        return bool(filled) and all(SMILES.fullmatch(v) for v in filled)

    def fault(self, value):
        return None if SMILES.fullmatch(value.strip()) else f"'{value[:40]}' is not a SMILES string"

    def encoder(self, options, data, seed):
        return Atoms(options.smiles_dim)

    def restore(self, config, folder):
        return Atoms(config["dim"])
