"""LoRA: adapters alone are trained, and the finished model is a plain one with the same vectors."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar import encoders
from nearfar.cli import main
from nearfar.encoders.lora import adapted, merged
from nearfar.errors import InputError
from nearfar.models import save_model

WORDS = ["a red cat sleeps", "the blue dog runs far", "one green bird sings"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small transformer of texts as a model of nearfar."""
    torch.manual_seed(0)
    encoder = encoders.text("tiny", texts=WORDS * 20, vocabulary=120, dropout=0.0)
    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(folder, {"text": encoder, "text_b": encoder})
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rng, rows = np.random.default_rng(0), []
    for i in range(80):
        thing, act = rng.choice(["cat", "dog", "bird"]), rng.choice(["sleeps", "runs", "sings"])
        rows.append((f"the {thing} {act} {i}", f"one {thing} that {act} near {i}"))
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    return path


def perturbed(encoder):
    """Adapters that change something: B starts as zero."""
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return encoder


def test_merging_keeps_the_vectors_and_the_names():
    plain = encoders.text("tiny", texts=WORDS, vocabulary=120, dropout=0.0)
    before, names = encoders.vectors(plain, WORDS), set(plain.state_dict())
    encoder = adapted(plain, 4)
    np.testing.assert_allclose(encoders.vectors(encoder, WORDS), before, atol=1e-6)
    whole = perturbed(encoder)
    made = merged(whole)
    np.testing.assert_allclose(encoders.vectors(made, WORDS), encoders.vectors(whole, WORDS), atol=1e-5)
    assert np.abs(encoders.vectors(made, WORDS) - before).max() > 1e-3
    assert set(made.state_dict()) == names
    assert merged(made) is made


def test_by_hand_w_plus_two_b_a():
    torch.manual_seed(0)
    encoder = encoders.text("tiny", texts=WORDS, vocabulary=120, dropout=0.0)
    name = next(n for n, m in encoder.named_modules() if isinstance(m, torch.nn.Linear) and "." in n)
    weight = encoder.get_submodule(name).weight.detach().clone()
    whole = perturbed(adapted(encoder, 3))
    layer = whole.get_submodule(name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = weight.double() + 2.0 * b.double() @ a.double()
    torch.testing.assert_close(merged(whole).get_submodule(name).weight.double(), expected, rtol=0, atol=1e-6)
    trained = {n for n, p in whole.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n for n in trained)


def test_fit_trains_adapters_alone_and_saves_a_plain_model(base, pairs, tmp_path):
    run = nearfar.fit("pairs", pairs, out=tmp_path / "run", model=str(base), lora=4, steps=12, batch_size=16,
                      val_every=0)  # fmt: skip
    model = nearfar.load(run.path / "model", verify=True)
    first = nearfar.load(base)
    before, after = (m.roles["text"].encoder.state_dict() for m in (first, model))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(before[name].ndim == 2 and "table" not in name for name in changed)
    ranks = [torch.linalg.matrix_rank((after[n] - before[n]).double(), rtol=1e-3).item() for n in sorted(changed)]
    assert max(ranks) <= 4
    assert json.loads((run.path / "config.json").read_text())["resolved"]["lr"] == 2e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora", "4"], "--lora adapts a pretrained encoder; none is named"),
        (["--lora", "4", "--model", "{base}", "--freeze", "true"], "Leave one out"),
        (["--lora", "0", "--model", "{base}"], "lora"),
    ],
)
def test_wrong_uses_are_told(words, message, base, pairs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "pairs", str(pairs), "--steps", "2", *[w.format(base=base) for w in words]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_encoder_without_linear_layers_inside():
    with pytest.raises(InputError, match="the image encoder 'small' has none inside"):
        adapted(encoders.image("small"), 2)
