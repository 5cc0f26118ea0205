"""Colour changes of a whole batch: all linear ones become one 3 x 4 matrix an image, applied in one product."""

import math

import torch
from torch import Tensor

CACHED = 450_000  # numbers worked on together on a CPU: they stay in the processor's cache
LUMINANCE = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([LUMINANCE, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64)


def mix_colours(
    x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, order: Tensor, grey: Tensor
) -> Tensor:
    """x (n, 3, h, w) in [0, 255] -> [0, 1] with each image's own brightness, contrast, saturation, hue and grey.

    brightness, contrast, saturation (n,): factors, 1 = as it is. hue (n,): turns in the YIQ plane (luminance stays).
    order (n, 4): in which order the four are applied. grey bool (n,): keep only the luminance, last.
    Values are clamped once, at the end (not between the steps), so that the whole change is one matrix.
    """
    needs_mean = bool((contrast != 1).any())
    brightness, contrast, saturation, hue, order, grey = (
        t.to(x.device) for t in (brightness, contrast, saturation, hue, order, grey)
    )
    mean = x.mean((2, 3)) / 255 if needs_mean else x.new_zeros(len(x), 3)
    total = colour_matrices(mean, brightness, contrast, saturation, hue, order, grey)
    offset, matrix = total[:, :3, 3:].contiguous(), total[:, :3, :3] / 255
    return torch.bmm(matrix, x.flatten(2)).add_(offset).clamp_(0, 1).view_as(x)


def colour_matrices(
    mean: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, order: Tensor, grey: Tensor
) -> Tensor:
    """(n, 4, 4) matrices on (r, g, b, 1); mean (n, 3) is the image's mean colour, which contrast turns about."""
    n, device = len(mean), mean.device
    luminance = torch.tensor(LUMINANCE, device=device)
    eye = torch.eye(4, device=device)
    to_grey = torch.zeros(4, 4, device=device)
    to_grey[:3, :3], to_grey[3, 3] = luminance, 1
    scale = torch.diag(torch.tensor([1.0, 1, 1, 0], device=device))
    corner = torch.diag(torch.tensor([0.0, 0, 0, 1], device=device))
    steps = torch.stack(
        [
            brightness[:, None, None] * scale + corner,
            contrast[:, None, None] * scale + corner,
            saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * to_grey,
            _hue_matrices(hue),
        ],
        1,
    )  # (n, 4 changes, 4, 4)
    rows, total = torch.arange(n, device=device), eye.expand(n, 4, 4)
    mean = torch.cat([mean, mean.new_ones(n, 1)], 1)[:, :, None]
    for which in order.unbind(1):
        step = steps[rows, which]
        middle = ((total @ mean)[:, :3, 0] @ luminance) * (1 - contrast) * (which == 1)
        step[:, :3, 3] += middle[:, None]
        total = step @ total
    return torch.where(grey[:, None, None], to_grey @ total, total)


def _hue_matrices(turns: Tensor) -> Tensor:
    """(n, 4, 4): rotation of the two chroma axes of YIQ."""
    cos, sin = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()
    turned = torch.zeros(len(turns), 3, 3, device=turns.device)
    turned[:, 0, 0] = 1
    turned[:, 1, 1], turned[:, 1, 2], turned[:, 2, 1], turned[:, 2, 2] = cos, -sin, sin, cos
    there, back = _TO_YIQ.float().to(turns.device), torch.linalg.inv(_TO_YIQ).float().to(turns.device)
    out = torch.zeros(len(turns), 4, 4, device=turns.device)
    out[:, :3, :3], out[:, 3, 3] = back @ turned @ there, 1
    return out


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of every image of x (n, 3, h, w) with its own sigma (n,) in pixels; `kernel` (odd) taps.

    Edges are mirrored without repeating the edge pixel.
    """
    reach = min(kernel // 2, min(x.shape[-2:]) - 1)
    taps = torch.arange(reach + 1, device=x.device, dtype=x.dtype)
    weights = (-0.5 * (taps / sigma.to(x)[:, None]) ** 2).exp()
    weights = weights / (weights[:, :1] + 2 * weights[:, 1:].sum(1, keepdim=True))
    out = torch.empty_like(x)
    step = max(1, CACHED // x[0].numel()) if x.device.type == "cpu" and len(x) else max(1, len(x))
    for i in range(0, len(x), step):
        part = _blur_along(x[i : i + step], weights[i : i + step], -1)
        out[i : i + step] = _blur_along(part, weights[i : i + step], -2)
    return out


def _blur_along(x: Tensor, weights: Tensor, dim: int) -> Tensor:
    reach, size = weights.shape[1] - 1, x.shape[dim]
    pad = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    padded, weights = torch.nn.functional.pad(x, pad, mode="reflect"), weights[:, :, None, None, None]
    out = x * weights[:, 0]
    for t in range(1, reach + 1):
        out.addcmul_(padded.narrow(dim, reach - t, size), weights[:, t])
        out.addcmul_(padded.narrow(dim, reach + t, size), weights[:, t])
    return out


def solarise(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Values from `threshold` up are inverted."""
    return torch.where(x >= threshold, 1 - x, x)


def erase(x: Tensor, boxes: Tensor, value: float = 0.5) -> Tensor:
    """A grey rectangle in every image; boxes (n, 4): x0, y0, x1, y1 in pixels of x."""
    x0, y0, x1, y1 = boxes.to(x.device)[:, :, None].unbind(1)
    columns, rows = torch.arange(x.shape[3], device=x.device), torch.arange(x.shape[2], device=x.device)
    inside = ((rows >= y0) & (rows < y1))[:, :, None] & ((columns >= x0) & (columns < x1))[:, None, :]
    return x.masked_fill(inside[:, None], value)
