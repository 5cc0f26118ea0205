"""RandAugment (Cubuk et al., NeurIPS 2020) on a whole batch: each image gets its own operations.

The operations and their strengths are torchvision's (`transforms.v2.RandAugment`, 31 bins); the random numbers are
given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Operation = Callable[[Tensor, float, int], Tensor]


def _affine(x: Tensor, shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    return F.affine(x, angle=0.0, translate=list(shift), scale=1.0, shear=list(shear), center=[0, 0] if any(shear) else
                    None)  # fmt: skip


def _degrees(share: float) -> float:
    return float(torch.rad2deg(torch.atan(torch.tensor(share))))


OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda x, m, sign: x,
    "shear x": lambda x, m, sign: _affine(x, shear=(sign * _degrees(0.3 * m), 0.0)),
    "shear y": lambda x, m, sign: _affine(x, shear=(0.0, sign * _degrees(0.3 * m))),
    "translate x": lambda x, m, sign: _affine(x, shift=(int(sign * 150 / 331 * m * x.shape[-1]), 0)),
    "translate y": lambda x, m, sign: _affine(x, shift=(0, int(sign * 150 / 331 * m * x.shape[-2]))),
    "rotate": lambda x, m, sign: F.rotate(x, sign * 30 * m),
    "brightness": lambda x, m, sign: F.adjust_brightness(x, 1 + sign * 0.9 * m),
    "colour": lambda x, m, sign: F.adjust_saturation(x, 1 + sign * 0.9 * m),
    "contrast": lambda x, m, sign: F.adjust_contrast(x, 1 + sign * 0.9 * m),
    "sharpness": lambda x, m, sign: F.adjust_sharpness(x, 1 + sign * 0.9 * m),
    "posterise": lambda x, m, sign: F.posterize(x, 8 - round(4 * m)),
    "solarise": lambda x, m, sign: F.solarize(x, 255 * (1 - m)),
    "contrast of its own": lambda x, m, sign: F.autocontrast(x),
    "equalise": lambda x, m, sign: F.equalize(x),
}
"""Name -> (images uint8 (n, 3, h, w), magnitude in [0, 1], sign) -> images."""


def apply(images: Tensor, drawn: Tensor, magnitude: float) -> Tensor:
    """Images (n, 3, h, w) with values from 0 to 255 -> the same, float32.

    drawn: uniform numbers (n, 2 count); of each pair the first chooses the operation, the second its sign. magnitude:
    of 30, the strongest. Source: Cubuk et al., algorithm 1 (the same magnitude for all operations).
    """
    x = images.round().clamp(0, 255).to(torch.uint8)
    operations = list(OPERATIONS.values())
    for round_ in range(drawn.shape[1] // 2):
        chosen = (drawn[:, 2 * round_] * len(operations)).long().clamp(max=len(operations) - 1)
        negative = drawn[:, 2 * round_ + 1] < 0.5
        key = chosen * 2 + negative
        for one in key.unique().tolist():
            there = key == one
            x[there] = operations[one // 2](x[there], magnitude / 30, -1 if one % 2 else 1)
    return x.float()
