"""Crops, flips and small affine changes of a whole batch, each image with its own numbers.

Two engines give the same images (to rounding): on a CPU, larger images go one by one through the vectorised uint8
resize; small ones, and everything on an accelerator, through two batched products with interpolation matrices.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32  # images worked on together: their floats stay in the processor's cache
SMALL = 48  # up to this side (pixels) the two products are faster than one resize call an image


def draw_boxes(u: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes (n, 4) int64 x0, y0, x1, y1 (x1, y1 outside the box) from uniform numbers u (n, 4).

    The area is uniform in `scale` (shares of the image), the logarithm of width / height uniform in that part of
    `ratio` which fits into the image. (The usual way draws again where the box does not fit, which favours small
    boxes; here the area keeps its law.)
    """
    share = scale[0] + u[:, 0] * (scale[1] - scale[0])
    low = (share * width / height).log().clamp(math.log(ratio[0]), math.log(ratio[1]))
    high = (width / (share * height)).log().clamp(math.log(ratio[0]), math.log(ratio[1]))
    aspect = (low + u[:, 1] * (high - low)).exp()
    area = share * (height * width)
    w = (area * aspect).sqrt().round().clamp(1, width)
    h = (area / aspect).sqrt().round().clamp(1, height)
    x0 = (u[:, 2] * (width - w + 1)).floor().clamp(max=width - 1)
    y0 = (u[:, 3] * (height - h + 1)).floor().clamp(max=height - 1)
    return torch.stack([x0, y0, x0 + w, y0 + h], 1).long()


def full_boxes(n: int, height: int, width: int, device: torch.device) -> Tensor:
    return torch.tensor([0, 0, width, height], device=device).expand(n, 4)


def crop_resize(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Each image's box, resized to `size` (height, width) with anti-aliased bilinear weights, then flipped.

    images: uint8 (n, 3, H, W); boxes int64 (n, 4); flip bool (n,). Returns float32 (n, 3, *size) in [0, 255].
    """
    if images.device.type == "cpu" and max(*images.shape[-2:], *size) > SMALL:
        return _crop_one_by_one(images, boxes, flip, size)
    return _crop_by_products(images, boxes, flip, size)


def _crop_one_by_one(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    out = torch.empty(len(images), 3, *size, dtype=torch.uint8)
    for i, ((x0, y0, x1, y1), mirrored) in enumerate(zip(boxes.tolist(), flip.tolist())):
        part = images[i : i + 1, :, y0:y1, x0:x1]
        part = F.interpolate(part, size, mode="bilinear", antialias=True)[0]
        out[i] = part.flip(-1) if mirrored else part
    return out.float()


def _crop_by_products(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    n, _, height, width = images.shape
    boxes, flip = boxes.to(images.device), flip.to(images.device)
    rows = interpolation(boxes[:, 1], boxes[:, 3], height, size[0], torch.zeros_like(flip))
    columns = interpolation(boxes[:, 0], boxes[:, 2], width, size[1], flip).transpose(1, 2)
    out = torch.empty(n, 3, *size, device=images.device)
    step = CHUNK if images.device.type == "cpu" else n
    for i in range(0, n, max(1, step)):
        x = images[i : i + step].float()
        x = torch.bmm(x.reshape(len(x), 3 * height, width), columns[i : i + step])  # (c, 3H, w)
        x = x.view(len(x), 3, height, size[1])
        out[i : i + step] = torch.matmul(rows[i : i + step, None], x)  # (c, 3, h, w)
    return out


def interpolation(start: Tensor, stop: Tensor, n_in: int, n_out: int, mirrored: Tensor) -> Tensor:
    """Weights (n, n_out, n_in) that resize the interval [start, stop) of n_in cells to n_out cells.

    Triangular weights, widened where the interval shrinks; cells outside the interval count nothing.
    """
    start, stop = start.float(), stop.float()
    scale = ((stop - start) / n_out)[:, None]
    cells = torch.arange(n_in, device=start.device, dtype=torch.float32)
    steps = torch.arange(n_out, device=start.device, dtype=torch.float32)
    steps = torch.where(mirrored[:, None], n_out - 1 - steps, steps)
    centres = start[:, None] + (steps + 0.5) * scale - 0.5
    reach = scale.clamp(min=1)[:, :, None]
    weights = (1 - (centres[:, :, None] - cells).abs() / reach).clamp_(min=0)
    inside = (cells >= start[:, None]) & (cells < stop[:, None])
    weights *= inside[:, None, :]
    return weights / weights.sum(-1, keepdim=True)


def affine(
    images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int], turn: Tensor, zoom: Tensor, shift: Tensor
) -> Tensor:
    """Each image's box, turned about its centre, zoomed and shifted, in one bilinear sampling.

    turn (n,) in radians, counter-clockwise; zoom (n,), > 1 enlarges what is seen; shift (n, 2) moves the content right
    and down by that share of the box. Beyond the image its edge is repeated. Returns float32 (n, 3, *size) in
    [0, 255].
    """
    n, _, height, width = images.shape
    theta = _inverse_maps(boxes, flip, height, width, turn, zoom, shift).to(images.device)
    out = torch.empty(n, 3, *size, device=images.device)
    step = CHUNK if images.device.type == "cpu" else n
    for i in range(0, n, max(1, step)):
        x = images[i : i + step].float()
        grid = F.affine_grid(theta[i : i + step], [len(x), 3, *size], align_corners=False)
        out[i : i + step] = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return out


def _inverse_maps(
    boxes: Tensor, flip: Tensor, height: int, width: int, turn: Tensor, zoom: Tensor, shift: Tensor
) -> Tensor:
    """(n, 2, 3): from output coordinates to input coordinates, both in [-1, 1]."""
    x0, y0, x1, y1 = boxes.float().unbind(1)
    half = torch.stack([(x1 - x0) / 2, (y1 - y0) / 2], 1)  # pixels
    centre = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2], 1)
    cos, sin = turn.cos() / zoom, turn.sin() / zoom
    mirror = torch.where(flip, -1.0, 1.0)
    a = torch.stack(
        [
            torch.stack([cos * half[:, 0] * mirror, -sin * half[:, 1]], 1),
            torch.stack([sin * half[:, 0] * mirror, cos * half[:, 1]], 1),
        ],
        1,
    )  # (n, 2, 2), pixels
    signed = shift * 2
    offset = centre - (a @ signed[:, :, None])[:, :, 0]
    frame = a.new_tensor([2 / width, 2 / height])
    return torch.cat([a * frame[:, None], (offset * frame - 1)[:, :, None]], 2)
