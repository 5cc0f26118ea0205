import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.sets.emoji import FOLDER, skin_tone


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    return open_data("emoji", cache=tmp_path_factory.mktemp("cache"))


def test_counts(emoji):
    assert len(emoji) == 4 * 3519
    assert len(np.unique(emoji.groups)) == 3519
    assert len(np.unique(emoji.units)) == 1393
    assert emoji.domain_names == ["noto", "openmoji-color", "openmoji-line", "twemoji"]
    assert set(emoji.labels) == {"category", "subcategory"}
    assert len(emoji.label_names["category"]) == 9
    assert len(set(emoji.keys)) == len(emoji)


def test_skin_tones_are_those_of_the_code_points(emoji):
    tones = dict(zip(emoji.keys, emoji.values("tone"), strict=True))
    assert tones["noto/1F44B-1F3FD"] == "medium"
    assert tones["noto/1F44B"] is None
    assert sum(t is not None for t in tones.values()) > 5000
    assert skin_tone("1F469-1F3FB-200D-1F91D-200D-1F468-1F3FF") is None, "two persons of two tones"


def test_it_speaks_many_languages(emoji):
    languages = [c for c in emoji.table.column_names if c.startswith("text")]
    assert len(languages) >= 12
    row = emoji.keys.index("twemoji/1F436")
    assert emoji.texts("name", [row]) == ["dog face"]
    assert emoji.texts("text_de", [row])[0].startswith("Hundegesicht")
    assert all(all(emoji.texts(c, np.arange(3519))) for c in languages)


def test_no_flags_no_swatches_one_emoji_once(emoji):
    codes = pq.read_table(FOLDER / "emoji.parquet")["emoji"].to_pylist()
    points = {int(p, 16) for code in codes for p in code.split("-")}
    assert not any(0x1F1E6 <= p <= 0x1F1FF or 0xE0000 <= p <= 0xE007F for p in points)
    assert not {f"1F3F{d}" for d in "BCDEF"} & set(codes)
    assert 0xFE0F not in points
    assert len(set(codes)) == len(codes) == 3519


def test_ships_small_with_licences():
    drawings = [FOLDER / f"{s}.parquet" for s in ("twemoji", "noto", "openmoji-color", "openmoji-line")]
    assert sum(f.stat().st_size for f in drawings) < 20e6
    for name in (
        "ATTRIBUTION.md",
        "NOTICE-OpenMoji.md",
        "LICENSE-OpenMoji-CC-BY-SA-4.0.txt",
        "LICENSE-Noto-Apache-2.0.txt",
    ):
        assert (FOLDER / name).stat().st_size > 300
    assert "CC-BY 4.0" in (FOLDER / "ATTRIBUTION.md").read_text()


def test_variants_and_shared_artwork_are_one_family(emoji):
    family = dict(zip(emoji.texts("group"), emoji.texts("unit"), strict=True))
    assert family["1F44B"] == family["1F44B-1F3FB"] == family["1F44B-1F3FF"]  # tones of a hand
    assert family["1F468-200D-1F373"] == family["1F469-200D-1F373"] == family["1F9D1-200D-1F373"]  # cooks
    assert family["1F49B"] == family["1F499"]  # hearts: one line drawing in every colour
    assert family["1F436"] != family["1F431"]


@pytest.mark.parametrize("split", [None, "unseen-hand"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_family_and_no_drawing_straddles(emoji, split, seed):
    data = open_data("emoji", split=split, seed=seed, cache=emoji._cache)
    parts = data.splits
    families = {name: set(data.units[rows]) for name, rows in parts.items()}
    contents = {name: set(data.content("image")[rows]) for name, rows in parts.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not families[a] & families[b]
        assert not contents[a] & contents[b]
    assert [len(families[n]) for n in ("train", "val", "test")] == [975, 209, 209]


def test_the_held_out_hand_is_never_trained_on(emoji):
    data = open_data("emoji", split="unseen-hand", cache=emoji._cache)
    styles = {name: {data.domain_names[d] for d in data.domains[rows]} for name, rows in data.splits.items()}
    assert styles["train"] == styles["val"] == {"twemoji", "openmoji-color", "openmoji-line"}
    assert styles["test"] == set(data.domain_names)
    assert {query for query, _ in data.meta["directions"]["test"]} == {"noto"}
    assert data.split_hash != emoji.split_hash
    assert data.hash == emoji.hash


def test_same_seed_same_split(emoji):
    again = open_data("emoji", cache=emoji._cache)
    other = open_data("emoji", seed=1, cache=emoji._cache)
    assert again.hash == emoji.hash
    assert again.split_hash == emoji.split_hash
    assert other.split_hash != emoji.split_hash


def test_pixels_are_those_of_the_files(emoji):
    images = emoji.images("image", 48, [0, 5000, 14075])
    for row, image in zip([0, 5000, 14075], images, strict=True):
        stored = np.asarray(Image.open(io.BytesIO(emoji.values("image", [row])[0])).convert("RGB"))
        assert np.array_equal(image.transpose(1, 2, 0), stored)
    assert emoji.image_memmap("image", 48).shape == (14076, 3, 48, 48)
    assert (images.reshape(3, -1).min(1) < 128).all()  # there is ink


def test_a_limit_keeps_whole_emoji(emoji):
    few = open_data("emoji", limit=200, cache=emoji._cache)
    assert len(few) == 200
    assert (np.bincount(few.groups) == 4).all()
    assert few.hash != emoji.hash


def test_unknown_split(emoji):
    with pytest.raises(InputError, match=r"no split or column 'unseen-hnd'.*unseen-hand"):
        open_data("emoji", split="unseen-hnd", cache=emoji._cache)


def test_other_languages_and_domains_by_role(emoji):
    data = open_data("emoji", roles={"text": "text_fr", "domain": "vendor"}, cache=emoji._cache)
    assert data.texts("text", [data.keys.index("noto/1F431")])[0].startswith("tête de chat")
    assert data.domain_names == ["noto", "openmoji", "twemoji"]
    assert data.hash != emoji.hash


def test_compositions_of_colours_are_drawn_in_their_colours():
    """The colour of most pixels, by the angle of its hue, is the one that the row says."""
    data = open_data("emoji-colours")
    told, shapes = np.array(data.values("attribute")), np.array(data.values("object"))
    assert len(told) == 108
    assert len({*zip(told, shapes, strict=True)}) == 36
    assert {"heart": 11, "circle": 9, "square": 9} | dict.fromkeys(("book", "large diamond", "small diamond")) == {
        shape: len({*told[shapes == shape]}) if (shapes == shape).sum() > 9 else None for shape in set(shapes)
    }
    hues = {"red": 0, "orange": 35, "yellow": 50, "green": 100, "blue": 210, "purple": 270}
    rows = [row for row, colour in enumerate(told) if colour in hues]
    right = 0
    for row, pixels in zip(rows, data.images("image", 48, rows), strict=True):
        r, g, b = (pixels[k].astype(float) for k in range(3))
        ink = np.ptp(pixels.astype(float), axis=0) > 90
        angle = np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b))[ink]
        hue = np.degrees(np.angle(np.exp(1j * np.radians(angle)).mean())) % 360
        near = min(hues, key=lambda name: abs((hue - hues[name] + 180) % 360 - 180))
        right += near == told[row]
    assert right >= 0.75 * len(rows)  # names by chance: a sixth
