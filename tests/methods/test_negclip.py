"""NegCLIP as a method: where hard captions and hard images come from, what is masked, and what is refused."""

import csv
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import nearfar
from nearfar import losses
from nearfar.errors import InputError
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.methods.command_line import curve_of

NOUNS = ["dog", "cat", "cup", "tree", "boat", "lamp", "shoe", "bird"]


def scenes(folder, captions, more=(), column="wrong"):
    rng = np.random.default_rng(0)
    for i in range(len(captions)):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    with open(folder / "scenes.csv", "w", newline="") as file:
        rows = [(f"{i}.png", text, *([more[i]] if more else [])) for i, text in enumerate(captions)]
        csv.writer(file).writerows([("image", "caption", *([column] if more else [])), *rows])
    return nearfar.data(folder / "scenes.csv", roles={"image": "image", "text": "caption"}
                        | ({"negative": [column]} if more else {}))  # fmt: skip


def captions(count=60):
    rng = np.random.default_rng(1)
    return [f"the {a} on the {b} in house {i}" for i in range(count) for a, b in [rng.permutation(NOUNS)[:2]]]


def make(data, **options):
    settings = TrainSettings(batch_size=8, steps=6, warmup=0, by="columns", text_encoder="tiny", vocabulary=200)
    return building.prepare("negclip", data, settings, {"mask_duplicates": False, **options})


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch).total


def test_the_loss_is_that_of_the_four_blocks(tmp_path):
    made = make(scenes(tmp_path, captions()))
    made.method.eval()
    embedded, batch, loss = step(made)
    image, text, hard = (torch.cat(embedded[k]) for k in ("a", "b", "negative"))
    assert (len(image), len(text), len(hard)) == (16, 16, 16)
    assert loss.item() == pytest.approx(losses.negclip(image, text, hard, temperature=0.07).item(), rel=1e-5)
    assert batch.members == 2


def test_hard_captions_hold_the_words_of_their_row(tmp_path):
    data = scenes(tmp_path, captions())
    made = make(data)
    pool, rows = made.method.pool, np.asarray(data.splits["train"])
    texts = data.texts("text")
    drawn = {int(row): set() for row in rows}
    lists = made.method.lists(data, rows, np.asarray(data.content("text")))
    flat = [text for found in lists for text in found]
    for seed in range(20):
        places, ids = pool.draw(rows, np.random.default_rng(seed))
        assert (ids >= 0).all()
        for row, place in zip(rows, places, strict=True):
            assert Counter(flat[place].split()) == Counter(texts[row].split())
            assert flat[place] != texts[row]
            drawn[int(row)].add(flat[place])
    assert max(map(len, drawn.values())) > 1, "another one is drawn each time"


def test_hard_images_are_the_nearest_others(tmp_path):
    data = scenes(tmp_path, captions())
    method, rows = make(data, images=3).method, np.asarray(data.splits["train"])
    x = data.images("image", 16).astype(float)
    x = (x - x[rows].mean(0)).reshape(len(x), -1)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = z[rows] @ z[rows].T - 9 * np.eye(len(rows))
    wanted = [set(rows[line[:3]].tolist()) for line in np.argsort(-s, axis=1)]
    found = [set() for _ in rows]
    for seed in range(40):
        for place, other in enumerate(method.partner(rows, np.random.default_rng(seed))):
            found[place].add(int(other))
    assert found == wanted
    assert make(data, images=500).method.partner(rows, np.random.default_rng(0)).shape == rows.shape


def test_a_caption_of_one_word_is_counted_hidden_or_dropped(tmp_path):
    texts = [*captions(50), *(f"{a}{b}" for a, b in pairwise(NOUNS)), "quickly of", "of by"]
    data = scenes(tmp_path, texts)
    rows = np.asarray(data.splits["train"])
    single = {i for i in rows.tolist() if i >= 50}
    kept = make(data)
    assert f"{len(single)} of {len(rows)}" in kept.resolved["without"]
    _, ids = kept.method.pool.draw(rows, np.random.default_rng(0))
    lone = {int(row) for row, i in zip(rows, ids, strict=True) if i < 0}
    assert lone == {i for i in single if i < 57}, "two words can change places, one cannot"
    embedded, batch, loss = step(kept, 0)
    image, text, hard = (normalize(torch.cat(embedded[k]), dim=1) for k in ("a", "b", "negative"))
    there = batch.negatives[0] >= 0
    wanted = losses.negclip(image, text, hard[there], temperature=0.07)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    dropped = make(data, unswappable="drop")
    assert "left out" in dropped.resolved["without"]
    assert set(dropped.method.kept.tolist()) == set(rows.tolist()) - single
    assert not single & {int(r) for k in range(12) for r in dropped.loader.at(k).rows}


def test_hard_captions_of_ones_own(tmp_path):
    texts = captions()
    wrong = ["" if i % 10 == 0 else texts[i] if i % 10 == 1 else f"wrong {i}" for i in range(60)]
    data = scenes(tmp_path, texts, wrong)
    method, rows = make(data).method, np.asarray(data.splits["train"])
    assert method.hard == "own"
    lists = method.lists(data, rows, np.asarray(data.content("text")))
    assert lists == [[f"wrong {i}"] if i % 10 > 1 else [] for i in rows]
    assert make(data, hard="swapped").method.hard == "swapped"


def test_random_captions_are_those_of_others(tmp_path):
    data = scenes(
        tmp_path,
        captions(),
    )
    method, rows = make(data, hard="random", images=0).method, np.asarray(data.splits["train"])
    for seed in range(5):
        ids = method.pool.draw(rows, np.random.default_rng(seed))[1]
        assert np.isin(ids, np.asarray(data.content("text"))[rows]).all()
        assert (ids != np.asarray(data.content("text"))[rows]).all()


def test_without_hard_captions_and_images_it_is_clip(tmp_path):
    made = make(scenes(tmp_path, captions()), hard="none", images=0)
    made.method.eval()
    embedded, batch, loss = step(made)
    a, b = embedded["a"][0], embedded["b"][0]
    assert batch.members == len(embedded["a"]) == 1
    assert loss.item() == pytest.approx(losses.clip(a, b, temperature=0.07).item(), rel=1e-5)


def test_identical_captions_and_images_are_masked(tmp_path):
    texts = captions(40)
    data = scenes(tmp_path, [x for i in range(20) for x in (f"the {NOUNS[i % 4]} on the boat", f"the boat on the "
                             f"{NOUNS[i % 4]}")] + texts)  # fmt: skip
    masked, plain = (make(data, mask_duplicates=m) for m in (True, False))
    plain.method.load_state_dict(masked.method.state_dict())
    for made in (masked, plain):
        made.method.eval()
    lower = [(step(masked, k)[2].item(), step(plain, k)[2].item()) for k in range(4)]
    assert all(a <= b + 1e-6 for a, b in lower)
    assert any(a < b - 1e-3 for a, b in lower)


def test_the_scale_stays_within_1_and_100(tmp_path):
    method = make(scenes(tmp_path, captions()), temperature=0.9).method
    for value, wanted in ((3.0, 0.0), (-9.0, -np.log(100)), (-1.0, -1.0)):
        method.tau.log_tau.data.fill_(value)
        method.after_step({}, None)
        assert method.tau.log_tau.item() == pytest.approx(wanted)
    with pytest.raises(InputError, match="temperature"):
        make(scenes(tmp_path, captions()), temperature=2.0)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["the dog on the cat"] * 40, {}, "are equal"),
        ([f"{a}{b}" for a in NOUNS for b in NOUNS], {}, "has a hard caption"),
        (captions(), {"word_classes": "nowhere"}, "no folder of word classes"),
        (captions(), {"hard": "own"}, "has a hard caption"),
        (captions(), {"hard": "none", "swaps": 3}, "swaps"),
        (captions(), {"images": 0, "nearest": "pixels"}, "nearest"),
    ],
)
def test_what_cannot_be_is_told(texts, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        make(scenes(tmp_path, texts), **options)


def test_it_trains_from_the_command_line(tmp_path, capsys):
    curve = curve_of("negclip", tmp_path / "run", capsys, "--by", "columns", "--images", "2", "--micro-batch", "7")
    assert curve[-1]["step"] == 12
