"""CoOp: what is learned, kept and read again, and that its recipe is that of the method it is compared with."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar import methods
from nearfar.cli import main
from nearfar.errors import InputError
from tests.compositions import write_shapes
from tests.methods.test_csp import MODEL, logits_of, setup


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), each=10)


@pytest.fixture(scope="module")
def clip(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("clip") / "run"
    nearfar.fit("align", table, out=out, steps=20, batch_size=16, val_every=0, image_size=16, lr=2e-3, **MODEL)
    return out


@pytest.fixture(scope="module")
def coop(table, clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("coop") / "run"
    words = ["--model", str(clip), "--steps", "12", "--batch-size", "32", "--lr", "0.01", "--val-every", "0"]
    assert main(["fit", "coop", str(table), "--out", str(out), *words]) == 0
    return out


def test_the_preset_is_that_of_csp_but_for_its_dropout():
    csp, coop = methods.get("csp"), methods.get("coop")
    assert {"dropout": 0.3, **coop.preset_paper} == csp.preset_paper
    assert "dropout" not in coop.preset_paper
    assert coop.preset_paper["views"]["flip"] == 0.5
    assert coop.paper_training == csp.paper_training
    assert coop.prefers == csp.prefers


@pytest.mark.parametrize(("context", "tokens"), [("a photo of", 3), ("a", 1), ("of a photo of", 4)])
def test_the_context_has_as_many_vectors_as_tokens(context, tokens, shapes_few):
    method = setup("coop", shapes_few, context=context).method
    assert method.prompts.context.shape[0] == tokens
    assert [name for name, p in method.named_parameters() if p.requires_grad] == ["prompts.context"]


def test_the_gradient_of_the_context_is_the_sum_over_the_prompts_of_all_pairs(shapes_few):
    """A context of its own for each prompt: their gradients add up to that of the shared one."""
    made = setup("coop", shapes_few)
    method, encoder = made.method, made.method.tower_b.encoder
    batch = made.loader.at(0)
    batch.views = method.make_views(batch)
    method.loss(method.encode(batch), batch).total.backward()
    e, prompts, count = encoder.table.weight.detach(), method.prompts, len(method.pairs)
    own = prompts.context.detach().expand(count, -1, -1).clone().requires_grad_()
    names = [*prompts.attributes, *prompts.objects]
    found = []
    for k, (a, o) in enumerate(method.pairs.tolist()):
        words = [e[encoder.encode_ids([names[i]])[0]].mean(0) for i in (a, len(prompts.attributes) + o)]
        frame = encoder.embedded(encoder.build([[0] * (prompts.context.shape[0] + 2)]))
        sequence = torch.stack([e[encoder.special.bos], *own[k], *words, e[encoder.special.eos]])
        found.append(method.tower_b.embed(frame._replace(vectors=sequence[None]))[0])
    images = method.encode(batch)["images"]
    cosine = torch.nn.functional.cosine_similarity(images[:, None], torch.stack(found)[None], dim=2)
    torch.nn.functional.cross_entropy(100 * cosine, method.of[batch.rows]).backward()
    torch.testing.assert_close(prompts.context.grad, own.grad.sum(0), rtol=1e-3, atol=1e-4)
    assert own.grad.abs().sum((1, 2)).min() > 0


def test_the_learned_context_is_kept_and_read_again(coop, clip, table):
    """Scores from the saved context, the tower's own table and layers, and the table file."""
    model = nearfar.load(coop / "model")
    encoder, head = model.roles["text"].encoder, model.roles["text"].head
    inference, e = model.inference, encoder.table.weight.detach()
    plain = e[encoder.encode_ids(["a photo of"])[0]]
    assert (inference.prompts.context - plain).abs().max() > 1e-3, "learned"
    names = [*inference.prompts.attributes, *inference.prompts.objects]
    for name, row in zip(names, inference.prompts.words, strict=True):
        assert torch.equal(row, e[encoder.encode_ids([name])[0]].mean(0)), "names stay"
    for ours, theirs in zip(model.roles["text"].parameters(), nearfar.load(clip / "model").roles["text"].parameters(),
                            strict=True):  # fmt: skip
        assert torch.equal(ours, theirs)
    with open(table) as file:
        rows = list(csv.DictReader(file))[:5]
    images = model.embed_images([table.parent / row["image"] for row in rows]).astype(np.float64)
    found = nearfar.predict(coop, table, compositions="red disc, blue bar", top=2)
    with torch.no_grad():
        for k, name in enumerate(("red disc", "blue bar")):
            words = [e[encoder.encode_ids([word])[0]].mean(0) for word in name.split()]
            frame = encoder.embedded(encoder.build([[0] * 5]))
            sequence = torch.stack([e[encoder.special.bos], *inference.prompts.context, *words, e[encoder.special.eos]])
            t = encoder(frame._replace(vectors=sequence[None]))
            t = (t if head is None else head(t))[0].double().numpy()
            wanted = 100 * images @ t / np.linalg.norm(t)
            for i in range(len(rows)):
                place = "" if found.columns["prediction"][i] == name else "_2"
                assert found.columns[f"score{place}"][i] == pytest.approx(wanted[i], abs=1e-3), (k, i)
    scores = json.loads((coop / "scores.json").read_text())["scores"]["test"]["metrics"]
    again = nearfar.evaluate(coop, table)["rows"][0]["metrics"]
    assert again == pytest.approx(scores, abs=1e-6)


def test_images_without_captions_and_rows_without_an_attribute(clip, table):
    """The text tower reads prompts alone: the data need no column of texts."""
    with open(table) as file:
        rows = list(csv.DictReader(file))
    bare = table.parent / "ohne Text.csv"
    with open(bare, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Bild", "Farbe (ä)", "Ding", "Teil"])
        for k, row in enumerate(rows):
            new = (row["attribute"], row["object"]) in (("red", "bar"), ("blue", "ring"))
            part = "train" if k % 6 and not new else ("val", "test")[k // 20 % 2]
            colour = {"grey": "grün", "green": "GRÜN.hell"}.get(row["attribute"], row["attribute"])
            writer.writerow([row["image"], "" if k % 7 == 0 else colour, row["object"], part])
    roles = {"image": "Bild", "attribute": "Farbe (ä)", "object": "Ding", "split": "Teil"}
    out = bare.parent / "bare"
    run = nearfar.fit("coop", bare, **roles, model=str(clip), steps=2, batch_size=16, out=out, val_every=0)
    data = nearfar.data(bare, roles=roles)
    left = sum(not data.values("attribute")[i] for i in data.splits["train"])
    assert left > 0
    assert f"({left} training rows without one are left out)" in run.plan["resolved"]["compositions"]
    model = nearfar.load(out / "model", verify=True)
    assert model.inference.attributes == ["blue", "grün", "grün hell", "red"]
    assert set(nearfar.predict(out, data).columns) >= {"prediction", "score", "seen"}


def test_it_learns(shapes_few):
    made = setup("coop", shapes_few)
    method = made.method.train()
    optimiser = torch.optim.Adam([method.prompts.context], 0.03)
    before, true = logits_of(made)
    ce = torch.nn.functional.cross_entropy
    for _ in range(30):
        batch = made.loader.at(0)
        batch.views = method.make_views(batch)
        optimiser.zero_grad()
        method.loss(method.encode(batch), batch).total.backward()
        optimiser.step()
    assert ce(logits_of(made)[0], true) < ce(before, true) - 0.05


def test_what_is_refused(shapes_few):
    with pytest.raises(InputError, match="not trained together"):
        setup("coop", shapes_few, untrained=False)
    with pytest.raises(InputError, match="no token"):
        setup("coop", shapes_few, context="")
    with pytest.raises(InputError, match="dropout"):
        setup("coop", shapes_few, dropout=0.3)
