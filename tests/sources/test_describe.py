import io
import json

import pytest
from rich.console import Console

from nearfar.sources import open_data, show


@pytest.fixture
def pairs(tmp_path, picture):
    lines = ["image,caption,kind"]
    for i in range(20):
        picture(tmp_path / "p" / f"{i}.png", seed=i // 2 if i < 4 else i, size=(24, 18))
        lines.append(f'p/{i}.png,"picture number {i}, one of many pictures [here]",k{i % 3}')
    (tmp_path / "p" / "7.png").write_bytes(b"")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return open_data(tmp_path / "pairs.csv", roles={"label": "kind"}, unreadable="skip")


def printed(data, width):
    buffer = io.StringIO()
    show(data, Console(file=buffer, width=width, color_system=None))
    return buffer.getvalue()


def test_describe_is_plain(pairs):
    facts = json.loads(json.dumps(pairs.describe()))
    assert facts["rows"] == 19
    assert facts["content"]["image"]["duplicates"] == 2
    assert facts["content"]["image"]["distinct"] == 17
    assert facts["content"]["image"]["sizes"]["median"] == [24, 18]
    assert facts["content"]["text"]["sizes"] == {"least": 8, "median": 8, "most": 8}
    assert facts["labels"]["kind"]["classes"] == 3
    assert sum(facts["splits"].values()) == 19
    assert len(facts["problems"]) == 1
    assert facts["hash"] == pairs.hash
    assert facts["content"]["text"]["samples"][0]["value"].startswith("picture number 0")


@pytest.mark.parametrize("width", [80, 120])
def test_show(pairs, width):
    text = printed(pairs, width)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "19 rows",
        "csv table",
        "caption",
        "you named it",
        "24x18 px",
        "[here]",
        "k0 7",
        "train",
        "1 row skipped",
        "line 9",
    ):
        assert part in text


def test_near_copies_are_found(tmp_path, written):
    base = " ".join(f"w{i}" for i in range(40))
    data = written("t.txt", f"{base}\n{base} tail\nsomething else that has nothing to do with it\n{base}\n")
    near = data.describe()["content"]["text"]["near_copies"]
    assert near["rows"] == 2
    assert near["examples"] == [["1", "2"]]
    assert data.describe()["content"]["text"]["duplicates"] == 1


def test_similar_pictures_are_found(tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    for i in range(6):
        pixels = np.kron(rng.integers(0, 250, (9, 9, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "p" / f"{i}.png")
        if i == 2:
            Image.fromarray(pixels + 1).save(tmp_path / "p" / "2b.png")
    near = open_data(tmp_path / "p").describe()["content"]["image"]["near_copies"]
    assert near["rows"] == 2
    assert near["examples"] == [["2.png", "2b.png"]]
