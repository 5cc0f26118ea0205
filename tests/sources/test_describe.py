import io
import json
import re

import pytest
from rich.console import Console

from nearfar.sources import open_data, show


@pytest.fixture
def pairs(tmp_path, image):
    lines = ["image,caption,kind"]
    for i in range(20):
        image(tmp_path / "p" / f"{i}.png", seed=i // 2 if i < 4 else i, size=(24, 18))
        lines.append(f'p/{i}.png,"image number {i}, one of many images [here]",k{i % 3}')
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
    assert facts["content"]["text"]["samples"][0]["value"].startswith("image number 0")


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


def test_similar_images_are_found(tmp_path):
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


@pytest.mark.parametrize(("cells", "said"), [
    (["1", "2", "", "4.5"] * 8, r"Numbers of price \(24\): 1 to 4.5, median 2, mean 2.5 \+- 1.472; 3 different; 8"),
    (["7"] * 32, r"Numbers of price \(32\): all 7"), ([""] * 32, r"Numbers of price \(0\): none; 32 rows without one"),
    (["a", "b", "b", ""] * 8, r"Classes of price \(2\): b 16, a 8; 8 rows without one"),
])  # fmt: skip
def test_what_is_to_be_learned_is_told(tmp_path, cells, said):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,price", *(f"{i * i % 7}.5,{i % 5},{cell}" for i, cell in enumerate(cells))]) + "\n")
    file = io.StringIO()
    show(open_data(path, roles={"target": "price"}), Console(file=file, width=200))
    assert re.search(said, " ".join(file.getvalue().split()))
