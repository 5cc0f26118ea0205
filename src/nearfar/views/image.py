"""Views of images as operations on a whole uint8 batch (n, 3, H, W), each image with its own random numbers.

    drawn = augment.draw(n, height, width, generator)     # every random number, among them the crop boxes
    view = augment.apply(images, drawn)                 # float32 (n, 3, h, w) in [0, 1]

A plan (`TwoCrops`, `MultiCrop`, `Members`) makes several such views; `plan(images, generator)` does both steps.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from nearfar.checks import NonNegativeFloat, Range, ShareBelowOne, UnitInterval, check_fields
from nearfar.errors import InputError
from nearfar.views import colour, geometry, randaugment
from nearfar.views.plan import Views, check_members, check_range

Side = Annotated[int, Range(1, 8192)]
Degrees = Annotated[float, Range(0, 180)]
RandAugment = tuple[Annotated[int, Range(1, 14)], Annotated[float, Range(0, 30)]]


class Drawn(NamedTuple):
    """The random numbers of one view of n images (on the generator's device).

    boxes: int64 (n, 4), x0, y0, x1, y1 in pixels of the input (x1, y1 outside the box); flip, upside: bool (n,),
    whether the view is mirrored left-right and top-down; ops: uniform numbers of RandAugment (n, 2 count). With turns,
    zooms or shifts the box is the one before them.
    """

    boxes: Tensor
    flip: Tensor
    turn: Tensor
    zoom: Tensor
    shift: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    grey: Tensor
    blur: Tensor
    sigma: Tensor
    solarise: Tensor
    erase: Tensor
    erased: Tensor
    upside: Tensor
    ops: Tensor


@dataclass(frozen=True)
class Augment:
    """One random view of an image.

    Args:
        size: side of the view in pixels; None: as the input.
        crop: share of the image's area that a crop keeps (from, to); None: the whole image.
        ratio: width / height of a crop (from, to).
        flip: probability of mirroring left-right.
        flip_vertical: probability of mirroring top-down.
        randaugment: how many random changes of RandAugment follow the crop, and their magnitude of 30; None: none.
        rotate: largest turn to either side, in degrees.
        zoom: largest relative change of scale to either side (0.11: factor 0.89 to 1.11).
        shift: largest move to either side along each axis, as a share of the side.
        brightness, contrast, saturation: largest relative change of each (0.4: factor 0.6 to 1.4).
        hue: largest turn of the colour circle to either side (0.5 is half of it).
        jitter: probability that these four happen, in a random order.
        grey: probability of keeping only the luminance.
        blur: probability of a Gaussian blur; None: 0.5 for views of 96 pixels and more, else 0.
        sigma: width of the blur (from, to) in pixels of a view of 224; smaller views blur in proportion.
        solarise: probability of inverting the values above one half.
        erase: probability of a grey rectangle over 2 % to 20 % of the view.
    """

    size: Side | None = None
    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: UnitInterval = 0.0
    flip_vertical: UnitInterval = 0.0
    randaugment: RandAugment | None = None
    rotate: Degrees = 0.0
    zoom: ShareBelowOne = 0.0
    shift: UnitInterval = 0.0
    brightness: UnitInterval = 0.0
    contrast: UnitInterval = 0.0
    saturation: UnitInterval = 0.0
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    jitter: UnitInterval = 0.8
    grey: UnitInterval = 0.0
    blur: UnitInterval | None = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: UnitInterval = 0.0
    erase: UnitInterval = 0.0

    def __post_init__(self):
        where = type(self).__name__
        check_fields(self)
        check_range(where, 0, float("inf"), ratio=self.ratio, sigma=self.sigma)
        if self.crop is not None:
            check_range(where, 0, 1, crop=self.crop)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the view of an image of that size."""
        return (height, width) if self.size is None else (self.size, self.size)

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Drawn:
        """All random numbers for n images of height x width pixels; one row of uniform numbers an image."""
        u = torch.rand(n, 27, generator=generator, device=generator.device)
        if self.crop is None:
            boxes = geometry.full_boxes(n, height, width, u.device)
        else:
            boxes = geometry.draw_boxes(u[:, :4], height, width, self.crop, self.ratio)
        side = 2 * u - 1  # uniform in [-1, 1)
        jittered = (u[:, 5] < self.jitter).float()
        out_height, out_width = self.out_size(height, width)
        scale = min(out_height, out_width) / 224
        sigma = (self.sigma[0] + u[:, 15] * (self.sigma[1] - self.sigma[0])) * scale
        return Drawn(
            boxes=boxes,
            flip=u[:, 4] < self.flip,
            turn=torch.deg2rad(side[:, 6] * self.rotate),
            zoom=1 + side[:, 7] * self.zoom,
            shift=side[:, 8:10] * self.shift,
            brightness=1 + jittered * side[:, 10] * self.brightness,
            contrast=1 + jittered * side[:, 11] * self.contrast,
            saturation=1 + jittered * side[:, 12] * self.saturation,
            hue=jittered * side[:, 13] * self.hue,
            order=u[:, 23:27].argsort(1),
            grey=u[:, 14] < self.grey,
            blur=u[:, 16] < self._blur(out_height, out_width),
            sigma=sigma.clamp(min=0.05),
            solarise=u[:, 17] < self.solarise,
            erase=u[:, 18] < self.erase,
            erased=geometry.draw_boxes(u[:, 19:23], out_height, out_width, (0.02, 0.2), (0.3, 1 / 0.3)),
            **self._further(n, generator),
        )

    def _further(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Drawn after all others, and only where asked for, so that views without them are what they were."""
        device, count = generator.device, 0 if self.randaugment is None else self.randaugment[0]
        upside = torch.zeros(n, dtype=torch.bool, device=device)
        if self.flip_vertical:
            upside = torch.rand(n, generator=generator, device=device) < self.flip_vertical
        if not count:
            return {"upside": upside, "ops": torch.zeros(n, 0, device=device)}
        return {"upside": upside, "ops": torch.rand(n, 2 * count, generator=generator, device=device)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """uint8 (n, 3, H, W) -> float32 (n, 3, h, w) in [0, 1], with the given random numbers."""
        _check_images(images)
        x = self._geometry(images, drawn)
        for _, there in _chosen(drawn.upside, x):
            x[there] = x[there].flip(-2)
        if self.randaugment is not None:
            x = randaugment.apply(x, drawn.ops.to(x.device), self.randaugment[1])
        x = self._colours(x, drawn)
        for rows, there in _chosen(drawn.blur, x):
            x[there] = self._blurred(x[there], drawn.sigma[rows])
        for _, there in _chosen(drawn.solarise, x):
            x[there] = colour.solarise(x[there])
        for rows, there in _chosen(drawn.erase, x):
            x[there] = colour.erase(x[there], drawn.erased[rows])
        return x

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One view of each image: `apply` with fresh random numbers."""
        _check_images(images)
        height, width = images.shape[-2:]
        return self.apply(images, self.draw(len(images), height, width, generator))

    def _blur(self, height: int, width: int) -> float:
        return self.blur if self.blur is not None else (0.5 if min(height, width) >= 96 else 0.0)

    def _geometry(self, images: Tensor, drawn: Drawn) -> Tensor:
        height, width = images.shape[-2:]
        size = self.out_size(height, width)
        if self.rotate or self.zoom or self.shift:
            return geometry.affine(images, drawn.boxes, drawn.flip, size, drawn.turn, drawn.zoom, drawn.shift)
        if self.crop is not None or size != (height, width):
            return geometry.crop_resize(images, drawn.boxes, drawn.flip, size)
        x = images.float()
        return torch.where(drawn.flip.to(x.device)[:, None, None, None], x.flip(-1), x) if self.flip else x

    def _colours(self, x: Tensor, drawn: Drawn) -> Tensor:
        if not (self.grey or (self.jitter and (self.brightness or self.contrast or self.saturation or self.hue))):
            return x.mul_(1 / 255)
        return colour.mix_colours(
            x, drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue, drawn.order, drawn.grey
        )

    def _blurred(self, part: Tensor, sigma: Tensor) -> Tensor:
        kernel = max(3, int(0.1 * min(part.shape[-2:])) // 2 * 2 + 1)  # a tenth of the side, as in SimCLR
        return colour.blur(part, sigma, kernel)


class ImageViews(Views):
    """A plan over images: every view has its own `Augment`; the boxes of the crops can be had."""

    modality = "image"

    def augments(self, height: int, width: int) -> list[Augment]:
        """One Augment a view, for images of height x width pixels."""
        raise NotImplementedError

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> list[Drawn]:
        """The random numbers of each view of n items: `.boxes` and `.flip` say where each view lies in its image."""
        return [augment.draw(n, height, width, generator) for augment in self.augments(height, width)]

    def apply(self, inputs: Tensor, drawn: list[Drawn]) -> list[Tensor]:
        """The views of uint8 images (members * n, 3, H, W) with the given random numbers."""
        _check_images(inputs)
        n = check_members(len(inputs), self.members, type(self).__name__)
        augments = self.augments(inputs.shape[-2], inputs.shape[-1])
        parts = inputs.split(n) if n else [inputs] * self.members
        return [
            augment.apply(parts[v % self.members], numbers) for v, (augment, numbers) in enumerate(zip(augments, drawn))
        ]

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
        """uint8 (members * n, 3, H, W) -> float32 views (n, 3, h, w) in [0, 1]."""
        _check_images(inputs)
        n = check_members(len(inputs), self.members, type(self).__name__)
        height, width = inputs.shape[-2:]
        return self.apply(inputs, self.draw(n, height, width, generator))


def simclr_augment(
    size: int | None = None,
    crop: tuple[float, float] = (0.2, 1.0),
    flip: float = 0.5,
    strength: float = 0.5,
    grey: float = 0.2,
    blur: float | None = None,
    solarise: float = 0.0,
    saturation: float | None = None,
    flip_vertical: float = 0.0,
    randaugment: tuple[int, float] | None = None,
) -> Augment:
    """SimCLR's random view: crop, flip, colour jitter of `strength` (brightness, contrast, saturation 0.8 strength, hue
    0.2 strength, with probability 0.8), grey, blur.

    The defaults fit small images; the paper's at 224 pixels: crop (0.08, 1), strength 1, blur 0.5. saturation: a
    change of its own (BYOL: strength 0.5, saturation 0.2).
    """
    change = min(1.0, 0.8 * strength)
    return Augment(
        size=size,
        crop=crop,
        flip=flip,
        flip_vertical=flip_vertical,
        randaugment=randaugment,
        brightness=change,
        contrast=change,
        saturation=change if saturation is None else saturation,
        hue=min(0.5, 0.2 * strength),
        grey=grey,
        blur=blur,
        solarise=solarise,
    )


@dataclass(frozen=True)
class TwoCrops(ImageViews):
    """Two random views of one image (Chen et al., SimCLR, ICML 2020).

    Args:
        size: side of both views in pixels; None: as the input.
        crop: share of the area that a crop keeps (paper: 0.08 to 1 at 224 pixels; 0.2 suits small images).
        flip: probability of mirroring.
        strength: of the colour jitter (paper: 1; 0.5 for small images).
        grey: probability of losing the colour.
        blur: probability of a blur; None: 0.5 from 96 pixels on, else 0 (as in the paper). A pair of numbers gives the
            two views different ones (BYOL: 1.0, 0.1).
        solarise: probability for the two views (BYOL: 0, 0.2).
        saturation: largest change of saturation; None: as strength says (BYOL: 0.2 with strength 0.5).
        flip_vertical: probability of mirroring top-down.
        randaugment: number and magnitude (of 30) of further random changes (RandAugment), for example 2,10; None: none.
    """

    size: Side | None = None
    crop: tuple[float, float] = (0.2, 1.0)
    flip: UnitInterval = 0.5
    strength: NonNegativeFloat = 0.5
    grey: UnitInterval = 0.2
    blur: UnitInterval | tuple[UnitInterval, UnitInterval] | None = None
    solarise: tuple[UnitInterval, UnitInterval] = (0.0, 0.0)
    saturation: UnitInterval | None = None
    flip_vertical: UnitInterval = 0.0
    randaugment: RandAugment | None = None
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)
        self.augments(1, 1)

    def augments(self, height: int, width: int) -> list[Augment]:
        blurs = self.blur if isinstance(self.blur, tuple | list) else (self.blur, self.blur)
        return [
            simclr_augment(
                self.size,
                self.crop,
                self.flip,
                self.strength,
                self.grey,
                blurs[v],
                self.solarise[v],
                self.saturation,
                self.flip_vertical,
                self.randaugment,
            )
            for v in range(2)
        ]


@dataclass(frozen=True)
class MultiCrop(ImageViews):
    """Several big crops, which may be targets, and more small ones of one image (Caron et al., SwAV, NeurIPS 2020).

    Args:
        big, small: how many crops of each kind (paper: 2 and 6).
        big_scale, small_scale: shares of the area. None: the paper's (0.14, 1) and (0.05, 0.14) from 160 pixels on,
            else (0.3, 1) and (0.1, 0.3), since parts of a small image show little.
        big_size, small_size: sides in pixels. None: the input's, and 96/224 of the big one, at least 16.
        flip, strength, grey, saturation: as in `TwoCrops` (paper: strength 1, grey 0.2).
        blur: probability of a blur; None: 0.5 from 96 pixels on, else 0 (paper: 0.5). Three numbers: of the big crops
            in turn, and of the small ones (DINO: 1.0, 0.1, 0.5).
        solarise: probability for the big crops in turn (DINO: 0, 0.2); small ones have none.
    """

    big: Annotated[int, Range(1, 64)] = 2
    small: Annotated[int, Range(0, 64)] = 6
    big_scale: tuple[float, float] | None = None
    small_scale: tuple[float, float] | None = None
    big_size: Side | None = None
    small_size: Side | None = None
    flip: UnitInterval = 0.5
    strength: NonNegativeFloat = 0.5
    grey: UnitInterval = 0.2
    blur: UnitInterval | tuple[UnitInterval, UnitInterval, UnitInterval] | None = None
    solarise: tuple[UnitInterval, UnitInterval] = (0.0, 0.0)
    saturation: UnitInterval | None = None
    members: int = field(default=1, init=False)

    def __post_init__(self):
        check_fields(self)
        if self.big + self.small < 2:
            raise InputError("MultiCrop needs at least two crops in all: one crop has nothing to be compared with.")
        self.augments(32, 32)

    @property
    def targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.big

    @property
    def count(self) -> int:
        return self.big + self.small

    def augments(self, height: int, width: int) -> list[Augment]:
        side = self.big_size or min(height, width)
        photo = min(height, width) >= 160
        local = self.small_size or max(16, round(side * 96 / 224))
        common: dict[str, Any] = {
            "flip": self.flip,
            "strength": self.strength,
            "grey": self.grey,
            "saturation": self.saturation,
        }
        blur = self.blur if self.blur is not None else (0.5 if side >= 96 else 0.0)
        first, second, last = blur if isinstance(blur, tuple | list) else (blur,) * 3
        big_scale = self.big_scale or ((0.14, 1.0) if photo else (0.3, 1.0))
        small_scale = self.small_scale or ((0.05, 0.14) if photo else (0.1, 0.3))
        big = [
            simclr_augment(self.big_size, big_scale, blur=b, solarise=s, **common)
            for b, s in zip((first, second), self.solarise, strict=True)
        ]
        small = simclr_augment(local, small_scale, blur=last, **common)
        return [big[v % 2] for v in range(self.big)] + [small] * self.small


@dataclass(frozen=True)
class Members(ImageViews):
    """One view of each of k members of a group (k drawings of one thing), each changed mildly.

    Args:
        k: members an item.
        size: side in pixels; None: as the input.
        rotate: degrees to either side.  zoom: relative.  shift: share of the side.
        saturation, brightness, contrast: relative changes.
        grey: probability of losing the colour.
        flip: probability of mirroring (0: left and right may carry meaning).
        erase: probability of a grey rectangle.
    """

    k: Annotated[int, Range(1, 64)] = 2
    size: Side | None = None
    rotate: Degrees = 7.0
    zoom: ShareBelowOne = 0.11
    shift: UnitInterval = 0.06
    saturation: UnitInterval = 0.5
    brightness: UnitInterval = 0.0
    contrast: UnitInterval = 0.0
    grey: UnitInterval = 0.2
    flip: UnitInterval = 0.0
    erase: UnitInterval = 0.0

    def __post_init__(self):
        check_fields(self)
        self.augments(1, 1)

    @property
    def members(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.k

    @property
    def targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.k

    def augments(self, height: int, width: int) -> list[Augment]:
        one = Augment(
            size=self.size,
            flip=self.flip,
            rotate=self.rotate,
            zoom=self.zoom,
            shift=self.shift,
            saturation=self.saturation,
            brightness=self.brightness,
            contrast=self.contrast,
            jitter=1.0,
            grey=self.grey,
            erase=self.erase,
        )
        return [one] * self.k


@dataclass(frozen=True)
class WeakStrong(ImageViews):
    """One weak view of an image, then several strong ones (Fini et al., CLIP-rocket, TMLR 2023).

    Args:
        strong: how many strong views follow the first.
        first: how the first view is changed: weak, a crop alone; strong, as the others; plain, not at all.
        size: side of all views in pixels; None: as the input.
        weak_crop: share of the area that a weak crop keeps (paper: 0.5 to 1).
        crop: share of the area that a strong crop keeps (paper: 0.08 to 1 at 224 pixels; 0.2 suits small images).
        flip: probability of mirroring a strong view; 0 where left and right carry meaning.
        strength: of its colour jitter: brightness, contrast, saturation 0.8 strength, hue 0.2 strength (paper: 0.5).
        grey: probability that it loses the colour.
        blur: probability that it is blurred; None: 0.5 from 96 pixels on, else 0.
    """

    strong: Annotated[int, Range(0, 16)] = 2
    first: Literal["weak", "strong", "plain"] = "weak"
    size: Side | None = None
    weak_crop: tuple[float, float] = (0.5, 1.0)
    crop: tuple[float, float] = (0.2, 1.0)
    flip: UnitInterval = 0.5
    strength: NonNegativeFloat = 0.5
    grey: UnitInterval = 0.2
    blur: UnitInterval | None = None

    def __post_init__(self):
        check_fields(self)
        check_range(type(self).__name__, 0, 1, weak_crop=self.weak_crop)
        self.augments(1, 1)

    @property
    def targets(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 + self.strong

    def augments(self, height: int, width: int) -> list[Augment]:
        strong = simclr_augment(self.size, self.crop, self.flip, self.strength, self.grey, self.blur)
        weak = Augment(size=self.size, crop=self.weak_crop if self.first == "weak" else None)
        return [strong if self.first == "strong" else weak] + [strong] * self.strong


def _chosen(flags: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The chosen rows, on the flags' device and on that of x; an empty list where there are none."""
    rows = flags.nonzero()[:, 0]
    return [(rows, rows.to(x.device))] if len(rows) else []


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"Image views need a uint8 batch (n, 3, height, width). Got {images.dtype} {tuple(images.shape)} instead."
        )
