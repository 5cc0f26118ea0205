"""Calibration of each language's vectors by unlabelled sentences: a shift, a scale and a rotation onto a pivot (CCP,
arXiv 2206.03281, reconstructed).

    z -> (z - mean_l) / std_l;   then z W_l, W_l orthogonal, from pairs of sentences that are each other's nearest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.vectors import normalise

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Steps = Literal["none", "shift", "scale", "rotate"]


def shift_scale(z: np.ndarray, eps: float = 1e-12) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased standard deviation of each dimension of vectors (n, d), (d,) twice; 1 for a constant one."""
    z = np.asarray(z, np.float64)
    std = z.std(0)
    return z.mean(0), np.where(std > eps, std, 1.0)


def mutual_nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(m, 2): rows of x (n, d) and of y (k, d) that are each other's nearest by cosine."""
    s = normalise(x) @ normalise(y).T
    there, back = s.argmax(1), s.argmax(0)
    rows = np.flatnonzero(back[there] == np.arange(len(x)))
    return np.stack([rows, there[rows]], 1)


def rotation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The orthogonal W (d, d) for which x W lies nearest to y, row by row (n, d): U V^T of the SVD of x^T y."""
    u, _, v = np.linalg.svd(np.asarray(x, np.float64).T @ np.asarray(y, np.float64))
    return u @ v


def aligned(x: np.ndarray, y: np.ndarray, rounds: int = 3) -> np.ndarray:
    """The rotation (d, d) of x (n, d) onto y (k, d), whose rows are not paired: by `rotation` of the mutual nearest
    neighbours, `rounds` times, each after the last rotation."""
    w = np.eye(x.shape[1])
    for _ in range(rounds):
        pairs = mutual_nearest(x @ w, y)
        w = rotation(x[pairs[:, 0]], y[pairs[:, 1]])
    return w


def sides_of(name: str, languages: Sequence[str]) -> tuple[str, str] | None:
    """The two of the languages that the name of a pair joins ("de-en", "pt-BR_fr"), or None."""
    cuts = [(name[:i], name[i + 1 :]) for i in range(1, len(name)) if not name[i].isalnum()]
    return next(((a, b) for a, b in cuts if a in languages and b in languages), None)


class Calibrated:
    """The vectors of another `Embed`, calibrated by language, of length 1.

    What a language's vectors look like is learned from the training rows whose domain it is, at most `most` of each;
    pairs of languages are never seen. The pivot is the language with the most of them. A row to be embedded has the
    language that its domain names: the first of "de-en" for the first of `roles`, the second for the other.
    Raises InputError for a domain that names no two languages of the training rows, or one with a single row.
    """

    def __init__(self, embed: Embed, data: Data, roles: Sequence[str], steps: Steps, *, most: int = 4000):
        if data.domains is None:
            raise InputError("Calibration needs the language of each row.", "Name its column: --domain COLUMN.")
        self.embed, self.data, self.roles = embed, data, tuple(roles)
        domains, train = np.asarray(data.domains), np.asarray(data.splits["train"])
        self.rows = {name: train[domains[train] == code] for code, name in enumerate(data.domain_names)}
        self.rows = {name: rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
                     for name, rows in self.rows.items() if len(rows)}  # fmt: skip
        for name, rows in self.rows.items():
            if len(rows) < 2:
                raise InputError(f"The language '{name}' has one training sentence: nothing to calibrate by.")
        self.known = self._learned(steps)

    def _learned(self, steps: Steps) -> Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        vectors = {name: np.asarray(self.embed.raw(self.roles[0], rows), np.float64)
                   for name, rows in self.rows.items()}  # fmt: skip
        found = {}
        for name, z in vectors.items():
            mean, std = shift_scale(z)
            found[name] = mean, std if steps != "shift" else np.ones_like(std), np.eye(z.shape[1])
        if steps == "rotate":
            pivot = max(vectors, key=lambda name: len(vectors[name]))
            calm = {name: (z - found[name][0]) / found[name][1] for name, z in vectors.items()}
            found |= {name: (*found[name][:2], aligned(z, calm[pivot])) for name, z in calm.items() if name != pivot}
        return found

    def __call__(self, role: str, rows: np.ndarray) -> np.ndarray:
        z = np.asarray(self.embed.raw(role, rows), np.float64)
        codes, out = np.asarray(self.data.domains)[rows], np.empty_like(z)
        for code in np.unique(codes):
            mean, std, w = self.known[self.language(self.data.domain_names[code] if code >= 0 else "", role)]
            here = codes == code
            out[here] = (z[here] - mean) / std @ w
        return normalise(out)

    def language(self, domain: str, role: str) -> str:
        if (both := sides_of(domain, list(self.known))) is None:
            raise InputError(
                f"The domain '{domain}' names no two languages of the training rows: {', '.join(self.known)}.",
                "Name pairs by their languages (de-en), the language of the first column first; or leave out "
                "--calibrate.",
            )  # fmt: skip
        return both[self.roles.index(role)]
