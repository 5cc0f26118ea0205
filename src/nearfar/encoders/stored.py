"""Images as they lie in verify.json, with which a saved model checks itself."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def noise_images(size: int, n: int = 4) -> np.ndarray:
    """Seeded blocks of colour, uint8 (n, 3, size, size)."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    steps = np.arange(size) * 8 // size
    return np.ascontiguousarray(coarse[:, :, steps][:, :, :, steps])


def to_base64(image: Tensor) -> str:
    """An image, float (3, h, w) in [0, 1], as PNG."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def from_base64(text: str) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(text)))
