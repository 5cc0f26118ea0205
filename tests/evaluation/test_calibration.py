"""Calibration by language: closed forms, and vectors that are a shift, a scale and a rotation apart."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation.calibration import Calibrated, aligned, mutual_nearest, rotation, shift_scale, sides_of
from nearfar.evaluation.tasks import task_for

from .tiny import Tiny, Vectors


def turned(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_mean_and_deviation():
    z = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 2.0], [5.0, 5.0, 7.0]])
    mean, std = shift_scale(z)
    assert mean.tolist() == [3, 5, 3]
    np.testing.assert_allclose(std, [np.sqrt(8 / 3), 1, np.sqrt(26 / 3)])
    calm = (z - mean) / std
    np.testing.assert_allclose(calm[:, [0, 2]].var(0), 1)


def test_mutual_nearest_by_loops():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(25, 4))
    s = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    wanted = [[i, j] for i in range(30) for j in range(25) if s[i].argmax() == j and s[:, j].argmax() == i]
    assert mutual_nearest(x, y).tolist() == wanted


def test_a_rotation_is_found_and_keeps_the_cosines():
    x, w = np.random.default_rng(0).normal(size=(60, 6)), turned(6)
    found = rotation(x, x @ w)
    np.testing.assert_allclose(found, w, atol=1e-9)
    other = rotation(x, np.random.default_rng(1).normal(size=(60, 6)))
    np.testing.assert_allclose(other @ other.T, np.eye(6), atol=1e-9)
    np.testing.assert_allclose((x @ other) @ (x @ other).T, x @ x.T, atol=1e-9)


def test_unpaired_vectors_are_aligned_where_the_rotation_is_small():
    x = np.random.default_rng(0).normal(size=(300, 5))
    small = np.linalg.qr(np.eye(5) + 0.1 * np.random.default_rng(1).normal(size=(5, 5)))[0]
    small *= np.sign(np.diag(small))
    y = (x @ small)[np.random.default_rng(2).permutation(300)]
    np.testing.assert_allclose(aligned(x, y, rounds=5), small, atol=1e-6)


@pytest.mark.parametrize(("name", "found"), [("de-en", ("de", "en")), ("pt-BR_fr", ("pt-BR", "fr")), ("de", None),
                                             ("de-xx", None), ("", None)])  # fmt: skip
def test_names_of_pairs(name, found):
    assert sides_of(name, ["de", "en", "fr", "pt-BR"]) == found


def bitext(n=80, d=6):
    """Training rows of two languages, which say the same in another order, then pairs; German is English shifted,
    scaled and slightly turned."""
    rng = np.random.default_rng(0)
    z, scale = rng.normal(size=(3 * n, d)), np.exp(rng.normal(size=d))
    w = np.linalg.qr(np.eye(d) + 0.1 * rng.normal(size=(d, d)))[0]
    w *= np.sign(np.diag(w))
    german = z @ w.T * scale + 5
    texts = {"text": [f"a {i}" for i in range(3 * n)], "text_b": [f"b {i}" for i in range(3 * n)]}
    first = np.concatenate([z[:n], german[rng.permutation(n)], german[2 * n :]])
    codes = np.repeat([0, 1, 2], n)
    splits = {"train": np.arange(2 * n), "val": np.arange(2 * n, 3 * n), "test": np.arange(2 * n, 3 * n)}
    data = Tiny(texts, domains=codes, domain_names=["en", "de", "de-en"], splits=splits)
    return data, Vectors({"text": first, "text_b": z})


def test_the_steps_bring_translations_together():
    data, embed = bitext()
    found = [task_for(data, f"bitext --calibrate {s}").evaluate(embed, "test").primary
             for s in ("none", "shift", "scale", "rotate")]  # fmt: skip
    assert found[0] < 0.2
    assert found[2] > max(0.6, found[1])
    assert found[3] > found[2]
    assert "calibrated: rotate" in task_for(data, "bitext --calibrate rotate").describe()


def test_training_rows_of_each_language_say_its_statistics():
    data, embed = bitext()
    calm = Calibrated(embed, data, ("text", "text_b"), "scale")
    mean, std, w = calm.known["de"]
    np.testing.assert_allclose(mean, embed.vectors["text"][80:160].mean(0))
    np.testing.assert_allclose(std, embed.vectors["text"][80:160].std(0))
    assert (w == np.eye(6)).all()
    z = (embed.vectors["text"][160:] - mean) / std
    np.testing.assert_allclose(calm("text", np.arange(160, 240)), z / np.linalg.norm(z, axis=1, keepdims=True))


def test_errors():
    data, embed = bitext()
    data.domain_names[2] = "pairs"
    with pytest.raises(InputError, match="'pairs' names no two languages of the training rows: en, de"):
        task_for(data, "bitext --calibrate shift").evaluate(embed, "test")
    data.domains = None
    with pytest.raises(InputError, match="needs the language of each row"):
        task_for(data, "bitext --calibrate shift").evaluate(embed, "test")
    data, embed = bitext()
    data.splits["train"] = np.arange(81)
    with pytest.raises(InputError, match="'de' has one training sentence"):
        task_for(data, "bitext --calibrate shift").evaluate(embed, "test")
