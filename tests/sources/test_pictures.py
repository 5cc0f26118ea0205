import io

import numpy as np
import pytest
from PIL import Image

from nearfar.sources import open_data
from nearfar.sources.pictures import Unreadable, decode, difference_hash, pixel_digest, square

GRADIENT = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))


def saved(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sixteen_bits_are_scaled_not_clipped():
    raw = saved(Image.fromarray(GRADIENT.astype(np.uint16) * 257))
    assert np.array_equal(np.asarray(decode(raw))[..., 0], GRADIENT)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "CMYK"])
def test_modes(mode):
    picture = Image.fromarray(GRADIENT).convert(mode)
    found = decode(saved(picture, "TIFF"))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(picture.convert("RGB")))


def test_alpha_and_transparent_palette_are_laid_on_white():
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    red.putpixel((0, 0), (255, 0, 0, 255))
    for picture in (red, Image.new("LA", (4, 4), (0, 0))):
        assert np.asarray(decode(saved(picture)))[3, 3].tolist() == [255, 255, 255]
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(decode(saved(palette, transparency=0)))[0, 0].tolist() == [255, 255, 255]
    assert np.asarray(decode(saved(red)))[0, 0].tolist() == [255, 0, 0]


def test_exif_turns_the_picture():
    picture = Image.fromarray(np.dstack([GRADIENT] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = decode(saved(picture, exif=exif))
    assert turned.size == picture.size[::-1]
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))


def test_one_content_whatever_the_file():
    picture = Image.fromarray(np.dstack([GRADIENT, GRADIENT.T[:16, :16].repeat(2, 1)[:, :24], GRADIENT]))
    files = [
        saved(picture),
        saved(picture, "BMP"),
        saved(picture, "WEBP", lossless=True),
        saved(picture.convert("RGBA")),
    ]
    assert len({pixel_digest(decode(f)) for f in files}) == 1
    mirrored = decode(saved(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert pixel_digest(decode(files[0])) != pixel_digest(mirrored)


def test_difference_hash_survives_small_changes():
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (9, 9)), np.ones((8, 8))).clip(0, 255).astype(np.uint8)
    noisy = (pixels + rng.integers(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    other = np.kron(rng.integers(0, 255, (9, 9)), np.ones((8, 8))).astype(np.uint8)
    a, b, c = (difference_hash(Image.fromarray(p)) for p in (pixels, noisy, other))
    assert (a ^ b).bit_count() <= 2
    assert (a ^ c).bit_count() > 10


def test_square_keeps_the_aspect():
    wide = Image.new("RGB", (40, 20), (0, 0, 0))
    wide.paste((255, 0, 0), (10, 0, 30, 20))
    assert (square(wide, 10)[0] == 255).all()
    padded = square(wide, 20, "pad")
    assert padded.shape == (3, 20, 20)
    assert (padded[:, :5] == 255).all()
    assert (padded[:, -5:] == 255).all()
    assert (padded[1, 7:13] == 0).all()


def test_unreadable_says_why(tmp_path):
    for source, reason in [
        (tmp_path / "no.png", "no such file"),
        (tmp_path, "folder"),
        (b"", "empty"),
        (b"GIF89a", "damaged|known format"),
    ]:
        with pytest.raises(Unreadable, match=reason):
            decode(source)


def test_pixels_are_decoded_once(image_folder, cache):
    data = open_data(image_folder)
    mapped = data.image_memmap("image", 7)
    assert mapped.dtype == np.uint8
    assert mapped.shape == (20, 3, 7, 7)
    (file,) = (cache / "pixels").iterdir()
    stamp = file.stat().st_mtime_ns
    again = open_data(image_folder).images("image", 7, [3, 1])
    assert file.stat().st_mtime_ns == stamp
    assert np.array_equal(again, mapped[[3, 1]])
    reference = square(decode(image_folder / "cat" / "03.png"), 7)
    assert np.array_equal(again[0], reference)
    assert not np.array_equal(data.images("image", 7, fit="pad"), data.images("image", 7))
