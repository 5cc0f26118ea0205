"""Image encoders: a small convolutional one, and every architecture of timm."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nearfar.checks import PositiveInt, Range, WidthOrNone, checked
from nearfar.encoders.base import Encoder, load_into, load_tensors, tower_tensors
from nearfar.errors import InputError, did_you_mean
from nearfar.modalities.image import names_folder

ORIENTATIONS = 6
Grid = Annotated[int, Range(1, 8)]
"""Parts a side of the last map that "small" averages."""
GRID = 1
CHANNELS = {"rgb": 3, "orientation": 3 + ORIENTATIONS}


class ImageEncoder(Encoder):
    """Float images (n, 3, H, W) in [0, 1] -> vectors (n, dim); normalises its input itself."""

    modality = "image"
    size: int
    channels: str
    mean: Tensor
    std: Tensor

    def _set_input(self, size: int, channels: str, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size, self.channels = size, channels
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _input(self, x: Tensor) -> Tensor:
        plain = (x - self.mean) / self.std
        return plain if self.channels == "rgb" else torch.cat([plain, orientation_channels(x)], 1)

    def feature_map(self, x: Tensor, layer: int | None = None) -> Tensor:
        """(n, C, h, w): the last map before pooling, or the one after a layer, counted from 1 to `layers`."""
        raise NotImplementedError

    def with_maps(self, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The vectors (n, dim) and the maps (n, C, h, w) after some layers, in the order given; of a network of tokens
        behind its last norm."""
        return self(x), [self.feature_map(x, layer) for layer in layers]

    def channels_of(self, layers: Sequence[int]) -> list[int]:
        """C of the maps that `with_maps` gives."""
        training = self.training
        with torch.no_grad():
            maps = self.eval().with_maps(torch.zeros(1, 3, self.size, self.size, device=self.device), layers)[1]
        self.train(training)
        return [x.shape[1] for x in maps]

    @property
    def layers(self) -> int:
        """How many layers have a map."""
        raise NotImplementedError

    def check_layer(self, layer: int | None) -> None:
        """Raises InputError for a layer that the encoder lacks."""
        if layer is not None and not 1 <= layer <= self.layers:
            raise InputError(f"This encoder has maps after its layers 1 to {self.layers}. Got layer {layer}.")

    @property
    def map_channels(self) -> int:
        """C of the feature map."""
        training = self.training
        with torch.no_grad():
            found = self.eval().feature_map(torch.zeros(1, 3, self.size, self.size, device=self.device))
        self.train(training)
        return found.shape[1]

    def without_projection(self) -> "ImageEncoder":
        """The same encoder without what stands after the pooling, for methods that train its map alone."""
        return self

    def prepare(self, items: Any) -> Tensor:
        """Images -> float32 (n, 3, size, size) in [0, 1].

        items: a uint8 batch (n, 3, H, W), array or tensor, or a list of paths, PIL images and uint8 arrays (H, W, 3).
        Transparent parts are laid on white; the short side is resized to `size`, then the centre is cut out.
        """
        if isinstance(items, np.ndarray | Tensor) and items.ndim == 4:
            batch = torch.from_numpy(np.array(items)) if isinstance(items, np.ndarray) else items
            if batch.dtype != torch.uint8 or batch.shape[1] != 3:
                raise InputError(
                    f"A batch of images must be uint8 (n, 3, H, W). Got {batch.dtype} {tuple(batch.shape)} instead."
                )
            if tuple(batch.shape[-2:]) != (self.size, self.size):
                batch = torch.stack([_to_tensor(x, self.size) for x in batch.permute(0, 2, 3, 1).numpy()])
        else:
            batch = torch.stack([_to_tensor(item, self.size) for item in items])
        return batch.to(self.device).float() / 255


class SmallImage(ImageEncoder):
    """Four 3x3 convolutions (32, 64, 128, 192 channels), each with batch norm and ReLU, the first three with 2x2
    pooling; the average of each of `grid` x `grid` parts of the map, which keeps where things are; linear to `dim`, or
    with dim=0 nothing after the averages (192 grid^2 numbers). Takes any height and width from 8 pixels on.

    Pooling stands before the norm, which then has a quarter of the work.
    """

    widths = (32, 64, 128, 192)

    def __init__(self, size: int = 32, channels: str = "rgb", dim: int = 256, grid: int = GRID):
        super().__init__()
        self._set_input(size, channels, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        layers, before = [], CHANNELS[channels]
        for i, width in enumerate(self.widths):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False)]
            layers += [nn.MaxPool2d(2)] if i < 3 else []
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.body = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.grid = grid
        self.out: nn.Module = nn.Linear(before * grid**2, dim) if dim else nn.Identity()
        self.dim = dim or before * grid**2

    @property
    def layers(self) -> int:
        return len(self.widths)

    def feature_map(self, x: Tensor, layer: int | None = None) -> Tensor:
        if min(x.shape[-2:]) < 8:
            raise InputError(
                f"The small image encoder needs images of at least 8 x 8 pixels. Got {tuple(x.shape[-2:])} instead."
            )
        self.check_layer(layer)
        ends = [i + 1 for i, part in enumerate(self.body) if isinstance(part, nn.ReLU)]
        body = self.body if layer is None else self.body[: ends[layer - 1]]
        return body(self._input(x).contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.feature_map(x))

    def pooled(self, found: Tensor) -> Tensor:
        parts = found.mean((2, 3)) if self.grid == 1 else F.adaptive_avg_pool2d(found, self.grid).flatten(1)
        return self.out(parts)

    def ordered_blocks(self) -> Sequence[nn.Module]:
        starts = [i for i, part in enumerate(self.body) if isinstance(part, nn.Conv2d)]
        return [self.body[a:b] for a, b in itertools.pairwise([*starts, len(self.body)])]

    def with_maps(self, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        for layer in layers:
            self.check_layer(layer)
        maps, found = {}, self._input(x).contiguous(memory_format=torch.channels_last)
        for part in self.body:
            found = part(found)
            if isinstance(part, nn.ReLU):
                maps[len(maps) + 1] = found
        return self.pooled(found), [maps[layer] for layer in layers]

    def without_projection(self) -> "SmallImage":
        self.out, self.dim, self.grid = nn.Identity(), self.widths[-1], 1
        return self

    def config(self) -> dict[str, Any]:
        dim = 0 if isinstance(self.out, nn.Identity) else self.dim
        return {
            "modality": "image",
            "name": "small",
            "size": self.size,
            "channels": self.channels,
            "dim": dim,
            "grid": self.grid,
        }


class TimmImage(ImageEncoder):
    """An architecture of timm without its classifier; its own input normalisation."""

    def __init__(self, name: str, size: int | None = None, channels: str = "rgb"):
        super().__init__()
        import timm

        if not timm.is_model(name):
            models = timm.list_models()
            raise InputError(
                f"timm has no model '{name}'.{did_you_mean(name, ['small', *models])}",
                "See timm.list_models(), or use 'small'.",
            )
        self.name = name
        self.model, self.arguments = _create(name, size, CHANNELS[channels])
        given: Any = self.model.pretrained_cfg
        self._set_input(size or given["input_size"][-1], channels, given["mean"], given["std"])
        self.dim = self._measure()

    def _measure(self) -> int:
        training = self.model.training
        try:
            with torch.no_grad():
                dim = self.model.eval()(torch.zeros(1, CHANNELS[self.channels], self.size, self.size)).shape[1]
        except Exception as error:
            raise InputError(
                f"'{self.name}' cannot take images of {self.size} x {self.size} pixels: {error}",
                "Choose another size.",
            ) from error
        self.model.train(training)
        return dim

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self._input(x))

    def stages(self, coarse: bool = False) -> list[list[nn.Parameter]]:
        """As timm groups them."""
        return timm_stages(self.model, coarse)

    def recompute(self) -> bool:
        turn_on = getattr(self.model, "set_grad_checkpointing", None)
        try:
            if turn_on is not None:
                turn_on(True)
        except AssertionError:  # timm's answer of an architecture without
            turn_on = None
        self.recomputed = turn_on is not None
        return self.recomputed

    @property
    def layers(self) -> int:
        return len(self.model.feature_info) if hasattr(self.model, "forward_intermediates") else 1

    def feature_map(self, x: Tensor, layer: int | None = None) -> Tensor:
        self.check_layer(layer)
        if layer is not None and hasattr(self.model, "forward_intermediates"):
            return self.model.forward_intermediates(self._input(x), indices=[layer - 1], intermediates_only=True)[0]
        features = self.model.forward_features(self._input(x))
        if features.ndim == 3:  # tokens (n, T, C)
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            h, w = _grid(tokens.shape[1], x.shape[-2], x.shape[-1], self.name)
            return tokens.transpose(1, 2).unflatten(2, (h, w))
        if getattr(self.model, "output_fmt", None) is not None and str(self.model.output_fmt).endswith("NHWC"):
            return features.permute(0, 3, 1, 2)
        return features

    def with_maps(self, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        if not layers or not hasattr(self.model, "forward_intermediates"):
            return super().with_maps(x, layers)
        for layer in layers:
            self.check_layer(layer)
        order = sorted(set(layers))
        model: Any = self.model
        last, maps = model.forward_intermediates(self._input(x), indices=[k - 1 for k in order], norm=True)
        return model.forward_head(last), [maps[order.index(layer)] for layer in layers]

    def config(self) -> dict[str, Any]:
        return {"modality": "image", "name": self.name, "size": self.size, "channels": self.channels, "dim": self.dim}


def timm_stages(model: nn.Module, coarse: bool) -> list[list[nn.Parameter]]:
    """The parameters of a model of timm by depth, as its `group_matcher` says; none where it has no such."""
    from timm.models._manipulate import group_with_matcher

    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        return []
    parameters, behind = dict(model.named_parameters()), "\n"  # the name of no parameter: it lands behind all groups
    names: Any = [*parameters.items(), (behind, None)]
    place: Any = group_with_matcher(names, matcher(coarse=coarse), reverse=True)
    found: list[list[nn.Parameter]] = [[] for _ in range(place[behind] + 1)]
    for name, p in parameters.items():
        found[place[name]].append(p)
    return found


@checked
def image(
    name: str = "small",
    size: PositiveInt | None = None,
    weights: str | Path | None = None,
    channels: str = "rgb",
    dim: WidthOrNone = 256,
    grid: Grid | None = None,
) -> ImageEncoder:
    """An image encoder with random weights, or with those of a local file.

    Args:
        name: "small" (`SmallImage`), any name of timm.list_models(), or the folder of a model of transformers that
            takes images (CLIP, SigLIP, ViT...), which has a size and weights of its own.
        size: side of the images in pixels; None: 32 for "small", else the architecture's own.
        weights: a .safetensors file, or a torch file of tensors, of that architecture; a classifier in it is left out.
            Or the folder of a nearfar model (or of its run) with such an encoder.
        channels: "rgb", or "orientation", which adds six channels of gradient orientation to the input.
        dim: length of the vectors of "small"; 0 for its pooled features (192 grid^2).
        grid: "small" averages its last map over grid x grid parts before the linear layer; 1 averages all of it, which
            forgets where things are. None: 1; more helped on some sets and not on others (docs/claims.md).

    Raises InputError for an unknown name, a size that the architecture cannot take, and weights that do not fit.
    """
    if channels not in CHANNELS:
        raise InputError(
            f"There are no input channels '{channels}'.{did_you_mean(channels, CHANNELS)}",
            f"Known: {', '.join(CHANNELS)}.",
        )
    if size is not None and size < 8:
        raise InputError(f"The 'size' of an image encoder must be at least 8 pixels. Got {size} instead.")
    if names_folder(name):
        from nearfar.encoders.two_towers import of_options

        return of_options(name, size, weights, channels, grid)
    small = name == "small"
    if grid is not None and not small:
        raise InputError(
            f"'grid' is an option of the encoder 'small'; '{name}' pools its map in its own way.",
            "Leave it out, or use 'small'.",
        )
    encoder = SmallImage(size or 32, channels, dim, grid or GRID) if small else TimmImage(name, size, channels)
    if weights is not None:
        whole = small or Path(weights).is_dir()  # a file of timm's names the parts of its model
        found = tower_tensors(weights, "image") if Path(weights).is_dir() else load_tensors(weights)
        load_into(encoder if whole else encoder.model, found, weights)  # pyright: ignore[reportArgumentType]
        encoder.pretrained = True
    return encoder


def orientation_channels(x: Tensor) -> Tensor:
    """Gradient orientation of images (n, 3, H, W) in [0, 1] as six channels (n, 6, H, W), each 0 or more.

    Channel b is |g| max(cos 2(theta - pi b / 6), 0): theta is the direction of the luminance gradient, modulo pi, and
    |g| its length, divided by its mean over 5 x 5 pixels (so that faint outlines count like strong ones).
    """
    grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    gy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    length = (gx * gx + gy * gy + 1e-8).sqrt()
    share = length * (F.avg_pool2d(length, 5, 1, 2, count_include_pad=False) + 0.05).reciprocal()
    cos2, sin2 = (gx * gx - gy * gy) / length.square() * share, 2 * gx * gy / length.square() * share
    angles = 2 * torch.pi * torch.arange(ORIENTATIONS, device=x.device, dtype=x.dtype).view(-1, 1, 1) / ORIENTATIONS
    return (cos2 * angles.cos() + sin2 * angles.sin()).relu()


def _create(name: str, size: int | None, channels: int) -> tuple[Any, dict[str, Any]]:
    """The timm model and what it was told of the input's size, which only some architectures want to know."""
    import timm

    for options in [{"img_size": size, "dynamic_img_size": True}, {"img_size": size}] if size else []:
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels, **options), options
        except TypeError:
            continue
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"'{name}' cannot be built for images of {size} pixels: {error}",
                "Choose a multiple of its patch size.",
            ) from error
    return timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels), {}


def _grid(tokens: int, height: int, width: int, name: str) -> tuple[int, int]:
    h = max(1, round((tokens * height / width) ** 0.5))
    if tokens % h:
        raise InputError(f"The {tokens} tokens of '{name}' form no grid: it has no feature map.")
    return h, tokens // h


def _to_tensor(item: Any, size: int) -> Tensor:
    """One image, decoded and cut as those of data sets are, so that a served image equals a trained one."""
    from nearfar.sources.images import Unreadable, decode, plain, square

    if isinstance(item, np.ndarray | Tensor):
        array = np.asarray(item)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (3, 4) or not array.size:
            raise InputError(
                f"An image as an array must be uint8 (H, W, 3), and not empty. Got {array.dtype} {array.shape} instead."
            )
        item = Image.fromarray(array)
    if not isinstance(item, Image.Image | bytes | str | Path):
        raise InputError(
            f"{item!r:.60} ({type(item).__name__}) is not an image.", "Give PIL images, uint8 arrays or paths."
        )
    try:
        image = plain(item) if isinstance(item, Image.Image) else decode(item)
    except Unreadable as error:
        name = "The image" if isinstance(item, bytes) else item
        raise InputError(f"{name} cannot be read as an image: {error}.") from error
    return torch.from_numpy(square(image, size))
