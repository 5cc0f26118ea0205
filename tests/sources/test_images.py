import io
import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nearfar.errors import InputError
from nearfar.sources import images as reading
from nearfar.sources import open_data
from nearfar.sources.images import Unreadable, decode, difference_hash, pixel_digest, plain, square

GRADIENT = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sixteen_bits_are_scaled_not_clipped():
    raw = saved(Image.fromarray(GRADIENT.astype(np.uint16) * 257))
    assert np.array_equal(np.asarray(decode(raw))[..., 0], GRADIENT)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "CMYK"])
def test_modes(mode):
    image = Image.fromarray(GRADIENT).convert(mode)
    found = decode(saved(image, "TIFF"))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_alpha_and_transparent_palette_are_laid_on_white():
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    red.putpixel((0, 0), (255, 0, 0, 255))
    for image in (red, Image.new("LA", (4, 4), (0, 0))):
        assert np.asarray(decode(saved(image)))[3, 3].tolist() == [255, 255, 255]
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(decode(saved(palette, transparency=0)))[0, 0].tolist() == [255, 255, 255]
    assert np.asarray(decode(saved(red)))[0, 0].tolist() == [255, 0, 0]


def test_exif_turns_the_image():
    image = Image.fromarray(np.dstack([GRADIENT] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = decode(saved(image, exif=exif))
    assert turned.size == image.size[::-1]
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


def test_one_content_whatever_the_file():
    image = Image.fromarray(np.dstack([GRADIENT, GRADIENT.T[:16, :16].repeat(2, 1)[:, :24], GRADIENT]))
    files = [
        saved(image),
        saved(image, "BMP"),
        saved(image, "WEBP", lossless=True),
        saved(image.convert("RGBA")),
    ]
    assert len({pixel_digest(decode(f)) for f in files}) == 1
    mirrored = decode(saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
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


def floats(folder, *ranges, kind="f4"):
    """Images of random values, each from 0 to (or between) what `ranges` say; as data."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, span in enumerate(ranges):
        low, high = span if isinstance(span, tuple) else (0, span)
        values = low + (high - low) * rng.random((32, 32))
        values[0, :2] = low, high
        Image.fromarray(values.astype(kind)).save(folder / f"{i}.tif")
    return open_data(folder)


def largest(data, size=32):
    return data.images("image", size).reshape(len(data), -1).max(1).tolist()


@pytest.mark.parametrize(("ranges", "kind", "right"), [
    ([0.49, 0.1, 0.98], "f4", [125, 26, 250]),  # one factor, not each image's own
    ([250, 0.9, 100], "f4", [250, 1, 100]),
    ([1.02, 0.5], "f4", [255, 128]),  # resampling goes a little over
    ([(-1, 1), (-1, 0)], "f4", [255, 128]),
    ([60000, 200], "f4", [233, 1]),
    ([65535, 200], "i4", [255, 1]),
    ([200, 100], "i4", [200, 100]),
    ([65535, 257 * 9, 200], "u2", [255, 9, 1]),
    ([200], "u2", [1]),
])  # fmt: skip
def test_one_factor_for_all_images(tmp_path, ranges, kind, right):
    data = floats(tmp_path / "p", *ranges, kind=kind)
    assert largest(data) == right
    assert largest(open_data(tmp_path / "p")) == right  # from the cache


def test_values_that_are_no_numbers(tmp_path):
    (tmp_path / "p").mkdir()
    values = np.full((32, 32), 0.5, "f4")
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "p" / "a.tif")
    assert np.asarray(decode(tmp_path / "p" / "a.tif"))[0, :4, 0].tolist() == [0, 255, 0, 128]


MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", MODES)
def test_the_same_pixels_by_path_bytes_and_pil(tmp_path, mode, kind):
    from nearfar.encoders import image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    try:
        raw = saved(Image.fromarray(pixels).convert(mode), kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
    except (OSError, ValueError):
        pytest.skip(f"Pillow writes no {kind} of mode {mode}")
    (tmp_path / "a.bin").write_bytes(raw)
    found = [decode(raw), decode(tmp_path / "a.bin"), plain(Image.open(io.BytesIO(raw)))]
    assert len({pixel_digest(image) for image in found}) == 1
    prepared = image("small", 16).prepare([tmp_path / "a.bin", Image.open(io.BytesIO(raw)), raw])
    assert (prepared == prepared[0]).all()
    assert (prepared[0].numpy() * 255).round().astype(np.uint8).tolist() == square(found[0], 16).tolist()


def test_a_wrong_exif_rejects_no_image():
    wrong = (b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 256, 5, 1, 38)
             + struct.pack("<HHIHH", 274, 3, 1, 6, 0)
             + bytes(4) + struct.pack("<II", 32, 1))  # fmt: skip
    image = Image.fromarray(np.dstack([GRADIENT] * 3))
    assert decode(saved(image, "JPEG", exif=wrong)).size == image.size[::-1]
    for content in (b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 50, b"nonsense"):
        assert decode(saved(image, "JPEG", exif=content)).size == image.size
        assert decode(saved(image, "PNG", exif=content)).size == image.size


def test_no_format_is_read_by_another_program(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gs", "gswin32c", "djpeg"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "evil.png").write_bytes(page)
    for source in (page, tmp_path / "evil.png"):
        with pytest.raises(Unreadable, match="not an image in a known format"):
            decode(source)
    assert not (tmp_path / "ran").exists()


def test_large_images_are_converted_in_strips(monkeypatch):
    monkeypatch.setattr(reading, "_STRIP", 100)
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 65536, (40, 30)).astype(np.uint16))
    clear = Image.fromarray(rng.integers(0, 256, (40, 30, 4), np.uint8), "RGBA")
    strips = [decode(saved(wide)), decode(saved(clear))]
    monkeypatch.setattr(reading, "_STRIP", 1 << 30)
    whole = [decode(saved(wide)), decode(saved(clear))]
    assert [pixel_digest(p) for p in strips] == [pixel_digest(p) for p in whole]
    assert np.array_equal(np.asarray(whole[0])[..., 0], np.round(np.asarray(wide) / 257))


def test_a_small_file_of_a_huge_image_is_refused(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    with pytest.raises(Unreadable, match="more than 179 million pixels; scale it down"):
        decode(bomb)


def test_squares_have_a_bound(image_folder):
    import nearfar

    with pytest.raises(InputError, match="from 1 to 4096; got 'crop' and 100000"):
        open_data(image_folder).images("image", 100_000)
    with pytest.raises(InputError, match="'image_size' must be a whole number from 8 to 4096"):
        nearfar.fit("simclr", image_folder, image_size=100_000)


def test_what_does_not_fit_the_disk_is_told_first(image_folder, monkeypatch):
    from nearfar.errors import NearfarError

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(NearfarError, match=r"need 0\.0 GB.*smaller --image-size"):
        open_data(image_folder).images("image", 32)
