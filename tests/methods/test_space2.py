"""SPACE-2 as a method: batches of both parts, scores and hidden values, its options, errors, and the way of a user."""

import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar import evaluation
from nearfar.cli import main
from nearfar.encoders import Tokens
from nearfar.encoders.dialogue import DialogueText
from nearfar.errors import InputError
from nearfar.losses import mean_score, tree_contrast
from nearfar.sources.trees import VIEWS, tree_elements
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.small import SMALL


def prepared(data, settings=None, **options):
    settings = {"batch_size": 8, "steps": 6, "warmup": 0, **SMALL} | (settings or {})
    return building.prepare("space2", data, TrainSettings(**settings), options)


def step(made, number=0):
    batch = made.loader.at(number)
    torch.manual_seed(0)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch)


def annotated(data, batch):
    return np.array([bool(data.trees[row]) for row in batch.rows.tolist()])


def test_a_batch_holds_both_parts_and_the_shorter_begins_again(dialogues_few):
    made = prepared(dialogues_few)
    lab, unlab = made.method.parts_of_rows
    assert made.loader.sampler.epoch_steps == max(len(lab), len(unlab)) // 4
    seen = []
    for k in range(made.loader.sampler.epoch_steps):
        rows = made.loader.sampler.rows(k)
        seen += rows.tolist()
        assert np.isin(rows, lab).tolist() == [True, False] * 4, "in turn, so that processes get both"
    counts = np.bincount(seen, minlength=len(dialogues_few))
    assert counts[lab].max() == 1
    assert counts[unlab].max() > 1, "again within the epoch"
    assert made.resolved["labelled"] == len(lab)


def test_the_scores_are_those_of_the_trees(dialogues_few):
    made = prepared(dialogues_few, {"batch_size": 12}, mlm=0.0)
    embedded, batch, loss = step(made)
    z, known = torch.stack(embedded["views"]), torch.from_numpy(annotated(dialogues_few, batch))
    trees = [tree_elements(dialogues_few.trees[row]) for row in batch.rows[known].tolist()]
    m = torch.eye(len(trees)).repeat(10, 1, 1)
    for k in range(10):
        for i, a in enumerate(trees):
            for j, b in enumerate(trees):
                if i != j and a[k] | b[k]:
                    m[k, i, j] = len(a[k] & b[k]) / len(a[k] | b[k])
    graded = tree_contrast(z[:, known], m).mean()
    alone = tree_contrast(z[:, ~known], torch.eye(int((~known).sum())).repeat(10, 1, 1)).mean()
    torch.testing.assert_close(loss.total, graded + alone)
    assert float(loss.terms["labelled"]) == pytest.approx(float(graded.detach()))
    assert z.shape == (2, 12, 10, 128)
    assert float(((m > 0) & (m < 1)).sum()) > 0


def test_the_views_of_the_trees_are_chosen(dialogues_few):
    for names, views in (("I", ("I",)), ("D, DISV", ("D", "DISV")), ("all", VIEWS)):
        made = prepared(dialogues_few, tree_views=names, mlm=0.0, dim=5)
        embedded, batch, loss = step(made)
        assert embedded["views"][0].shape == (8, len(views), 5)
    one, many = prepared(dialogues_few, tree_views="I", mlm=0.0), prepared(dialogues_few, mlm=0.0)
    rows = one.method.parts_of_rows[0][:9].tolist()
    assert torch.equal(one.method.scores(rows)[0], many.method.scores(rows)[VIEWS.index("I")])
    made = prepared(dialogues_few, tree_views=None, mlm=0.0, learn="labelled")
    embedded, batch, loss = step(made)
    assert embedded["views"][0].shape == (8, 1, 128)
    score = mean_score([tree_elements(dialogues_few.trees[row]) for row in batch.rows.tolist()])
    torch.testing.assert_close(loss.total, tree_contrast(torch.stack(embedded["views"]), score[None])[0])


def test_learning_of_one_part_alone(dialogues_few):
    made = prepared(dialogues_few, learn="labelled")
    _, batch, loss = step(made)
    assert annotated(dialogues_few, batch).all()
    assert set(loss.terms) == {"labelled", "masked LM, labelled"}
    made = prepared(dialogues_few, {"batch_size": 40}, learn="unlabelled")
    _, batch, loss = step(made)
    assert 0 < annotated(dialogues_few, batch).mean() < 1, "every row, whether it has a tree or not"
    assert set(loss.terms) == {"unlabelled", "masked LM, unlabelled"}
    assert not made.method.supervised
    assert prepared(dialogues_few).method.supervised


def test_values_are_hidden_in_labelled_dialogues_alone(dialogues_few):
    made = prepared(dialogues_few, {"batch_size": 24}, masked=0.0)
    batch = made.loader.at(0)
    x, hidden = made.method.make_views(batch)["text"]
    known = torch.from_numpy(annotated(dialogues_few, batch))
    chosen = hidden.targets >= 0
    assert not bool(chosen[~known].any())
    for row in known.nonzero()[:, 0].tolist():
        number = int(batch.rows[row])
        area = next(path[3] for path in dialogues_few.trees[number] if path[2] == "area")
        told = made.method.encoder.encoder.tokenizer.decode(x.ids[row][chosen[row]].tolist())
        assert area in told
    assert bool((hidden.ids[chosen] == made.method.encoder.special.mask).all())
    assert torch.equal(hidden.ids[~chosen], x.ids[~chosen])
    free = prepared(dialogues_few, {"batch_size": 24}, masked=0.9).method.make_views(batch)["text"][1]
    words = made.method.encoder.words(x)
    assert not bool((free.targets >= 0)[~words].any()), "marks and [CLS] stay"
    drawn = free.ids[free.ids != x.ids]
    assert not set(drawn.tolist()) & set(made.method.encoder.marks), "no drawn token is a mark"
    assert float((free.targets >= 0)[~known][words[~known]].float().mean()) > 0.7


def test_the_masked_lm_counts_tokens_of_its_part(dialogues_few):
    made = prepared(dialogues_few)
    made.method.eval()
    _, batch, loss = step(made)
    hidden, known = batch.views["text"][1], annotated(dialogues_few, batch)
    method, losses = made.method, {True: [], False: []}
    states, _ = method.encoder.tokens(Tokens(hidden.ids, hidden.mask))
    scores = method.encoder.logits(method.scorer(states)).log_softmax(-1)
    for row in range(8):
        for place in range(hidden.ids.shape[1]):
            target = int(hidden.targets[row, place])
            if target >= 0:
                losses[bool(known[row])].append(-scores[row, place, target].item())
    assert float(loss.terms["masked LM, labelled"]) == pytest.approx(np.mean(losses[True]), rel=1e-4)
    assert float(loss.terms["masked LM, unlabelled"]) == pytest.approx(np.mean(losses[False]), rel=1e-4)
    parts = float(loss.terms["labelled"] + loss.terms["unlabelled"])
    assert loss.total.item() == pytest.approx(parts + 0.1 * (np.mean(losses[True]) + np.mean(losses[False])), rel=1e-4)


def test_a_head_learns_nothing_of_another_view(dialogues_few):
    made = prepared(dialogues_few, mlm=0.0, learn="labelled", dim=6)
    embedded, batch, _ = step(made)
    z = torch.stack(embedded["views"]).detach().requires_grad_()
    scores = made.method.scores(batch.rows.tolist())
    (gradient,) = torch.autograd.grad(tree_contrast(z, scores)[3], z)
    assert bool((gradient[:, :, [k for k in range(10) if k != 3]] == 0).all())


def test_a_batch_of_two(dialogues_few):
    made = prepared(dialogues_few, {"batch_size": 2}, mlm=0.0)
    _, _, loss = step(made)
    assert float(loss.total) == 0, "each part has one dialogue, whose twin is all there is"


def table(path, trees):
    rows = [{"text": f"some words number {k} and {k % 7} more", "tree": tree} for k, tree in enumerate(trees)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return nearfar.data(path, roles={"tree": "tree"})


def test_errors(dialogues_few, tmp_path):
    with pytest.raises(InputError, match="looks into the layers"):
        prepared(dialogues_few, {"text_encoder": "small", "text_length": None})
    with pytest.raises(InputError, match="dropout"):
        prepared(dialogues_few, {"text_dropout": 0.0})
    with pytest.raises(InputError, match=r"tree_views .*'X'|'X'"):
        prepared(dialogues_few, tree_views="D,X")
    for names in ("D,D", "all,D"):
        with pytest.raises(InputError, match="twice, or all"):
            prepared(dialogues_few, tree_views=names)
    with pytest.raises(InputError, match=r"--masked 0\.5 has no effect"):
        prepared(dialogues_few, mlm=0.0, masked=0.5)
    same = evaluation.task_for(table(tmp_path / "same.jsonl", [[["a", "b", "c", "d"]]] * 40), "trees")
    with pytest.raises(InputError, match="there is nothing to follow"):
        same.check()
    with pytest.raises(InputError, match="no heads"):
        prepared(dialogues_few, tree_views=None, dim=8)
    data = table(tmp_path / "few.jsonl", [None] * 40)
    with pytest.raises(InputError, match=r"None of the \d+ training rows has a tree in 'tree'.*--learn unlabelled"):
        prepared(data)
    assert prepared(data, learn="unlabelled").method.elements == {}
    with pytest.raises(InputError, match=r"'space2' needs .*tree"):
        prepared(nearfar.data("emoji", limit=60))


def test_all_trees_alike_or_labelled(tmp_path):
    made = prepared(table(tmp_path / "a.jsonl", [[["a", "b", "c", "d"]]] * 40))
    _, _, loss = step(made)
    assert set(loss.terms) == {"labelled", "masked LM, labelled"}, "no unlabelled rows: nothing to draw of them"
    assert bool(loss.total.isfinite())


@pytest.mark.parametrize("form", ["fit", "micro"])
def test_the_way_of_a_user(form, dialogues_few, tmp_path):
    words = ["fit", "space2", str(dialogues_few.path), "--steps", "4", "--batch-size", "8", "--val-every", "0",
             "--text-encoder", "tiny", "--vocabulary", "200", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(words + (["--micro-batch", "3"] if form == "micro" else [])) == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["scores"]["test"]["metrics"]) == {"spearman", "intent"}
    model = nearfar.load(tmp_path / "run" / "model")
    again = nearfar.load(tmp_path / "run" / "model")
    texts = ["user: a room in the north", "user: hello\nsystem: hi\nuser: a room in the north", "a room in the north"]
    z = model.embed_texts(texts)
    np.testing.assert_allclose(z, again.embed_texts(texts))
    np.testing.assert_allclose(z[0], z[2], atol=1e-6)
    assert not np.allclose(z[0], z[1])
    if form == "fit":
        on = ["fit", "space2", str(dialogues_few.path), "--steps", "2", "--batch-size", "8", "--val-every", "0",
              "--text-encoder", str(tmp_path / "run"), "--tree-views", "I", "--out", str(tmp_path / "on")]  # fmt: skip
        assert main(on) == 0


def test_it_goes_on_from_a_model_of_its_own(dialogues_few):
    made = prepared(dialogues_few)
    again = building.methods.get("space2")(made.method.encoder, tree_views="I")
    assert again.encoder is made.method.encoder
    assert isinstance(again.encoder, DialogueText)
    with pytest.raises(InputError, match="--turns 4 has no effect"):
        building.methods.get("space2")(made.method.encoder, turns=4)
