"""The information that stochastic gates let through: the penalty of a variational information bottleneck."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import accumulated


def gate_kl(mu: Float[Tensor, "d"], logvar: Float[Tensor, "d"], length: int = 1) -> Float[Tensor, ""]:
    """length / 2 times the sum over channels of log(1 + mu^2 / (e^logvar + 1e-8)): the divergence of a Gaussian gate
    from a zero-mean Gaussian whose variance is the best one, for each of `length` places.

    In [0, inf), 0 where mu is; it rises with |mu| and falls with logvar. Computed in float32 at least. Raises
    InputError for other shapes. Source: CVIB (arXiv 2303.02846), official code; Dai et al., ICML 2018.
    """
    if mu.dim() != 1 or mu.shape != logvar.shape or length < 0:
        raise InputError(f"A gate has a mean and a log-variance of each channel, (d,), and a length of 0 or more. Got "
                         f"{tuple(mu.shape)}, {tuple(logvar.shape)} and {length}.")  # fmt: skip
    mu, logvar = accumulated(mu), accumulated(logvar)
    return 0.5 * length * torch.log1p(mu.square() / (logvar.exp() + 1e-8)).sum()
