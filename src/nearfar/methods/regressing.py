"""What methods of a number share: the training rows' numbers, their error, a linear map from vectors to the number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.errors import InputError
from nearfar.methods.inference import Inference, Request
from nearfar.similarity.exchange import exchange

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def numbers_of(data: Data, rows: Any) -> np.ndarray:
    """float64 (n,): the target of the training rows. Raises InputError where all have the same number."""
    values = np.asarray(data.target_values)[rows]
    if np.ptp(values) == 0:
        raise InputError(
            f"The target '{data.roles['target']}' is {values[0]:g} in all {len(rows):,} training rows: there is "
            "nothing to learn from.",
            "Name another column with --target.",
        )
    return values


def absolute_error(
    predicted: Float[Tensor, "n"], values: Float[Tensor, "n"], *, negatives: str = "local"
) -> Float[Tensor, ""]:
    """Mean |predicted - values|, in [0, inf), 0 of no rows; the mean over all processes with negatives="global"."""
    return exchange(negatives).mean((predicted - values).abs())


class Regressor(Inference):
    """The number as a linear map of the vector. raw: of the vector as the encoder gives it, not of unit length."""

    def __init__(self, dim: int, raw: bool = False):
        super().__init__()
        self.linear, self.raw = nn.Linear(dim, 1), raw

    def config(self) -> dict[str, Any]:
        return {"dim": self.linear.in_features, "raw": self.raw}

    def fit(self, z: np.ndarray, y: np.ndarray) -> Regressor:
        """Ridge regression on rows z (n, dim) with the numbers y (n,); the penalty by leaving one row out."""
        from sklearn.linear_model import RidgeCV

        mean, std = z.mean(0), z.std(0)
        std = np.where(std > 1e-9, std, 1.0)
        found = RidgeCV(alphas=len(z) * np.logspace(-5, 2, 15)).fit((z - mean) / std, y)
        weight = found.coef_ / std
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight)[None])
            self.linear.bias.fill_(float(found.intercept_ - mean @ weight))
        return self

    def predict(self, request: Request, options: Any) -> dict[str, Any]:
        """prediction: the number."""
        z = torch.from_numpy(request.embed.raw(request.role, request.rows)) if self.raw else request.vectors()
        return {"prediction": self.linear(z.to(self.linear.weight.device))[:, 0]}


__all__ = ["Regressor", "absolute_error", "numbers_of"]
