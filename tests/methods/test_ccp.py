"""CCP as a method: contexts, banks of languages, the masked-LM term, errors, and the way of a user from a table."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses import ccp
from nearfar.samplers import near
from nearfar.similarity import normalise
from nearfar.training import building
from nearfar.training.settings import TrainSettings

WORDS = {"en": ["the", "file", "is", "read", "by", "this", "command", "and", "written"],
         "de": ["die", "Datei", "wird", "von", "diesem", "Befehl", "gelesen", "und", "geschrieben"]}  # fmt: skip
TINY = {"text_encoder": "tiny", "vocabulary": 60, "text_length": 16}


def write(path, documents=24, languages=("en", "de"), sentences=4, single=0):
    """Documents of sentences with an option of their own; val and test rows are pairs of both languages."""
    rng, rows = np.random.default_rng(0), []

    def sentence(language, topic, k):
        return f"-{topic} " + " ".join(rng.choice(WORDS[language], 4)) + f" {k}"

    for d in range(documents):
        language = languages[d % len(languages)]
        for k in range(1 if d < single else sentences):
            rows.append([sentence(language, f"o{d}", k), "", f"page {d}", language, "train"])
    for d in range(16):
        both = [sentence(x, f"p{d}", 0) for x in ("de", "en")]
        rows.append([*both, f"pair {d}", "de-en", ("val", "test")[d % 2]])
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["sentence", "other", "page", "language", "split"], *rows])
    return path


ROLES = {"text": "sentence", "text_b": "other", "group": "page", "domain": "language", "split": "split"}


@pytest.fixture
def data(tmp_path):
    return nearfar.data(write(tmp_path / "pages.csv"), roles=ROLES)


def prepared(data, settings=None, **options):
    settings = {"batch_size": 8, "steps": 6, "warmup": 0} | (settings or {})
    return building.prepare("ccp", data, TrainSettings(**settings), options)


def step(made, number=0):
    batch = made.loader.at(number)
    torch.manual_seed(0)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch)


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_contexts_stand_near_their_centre(radius):
    labels, rows = np.array([4, 4, 1, 1, 1, 1, -1, -1, 0]), np.array([20, 3, 5, 6, 9, 12, 7, 8, 1])
    draw, seen = near(rows, labels, radius), {int(r): set() for r in rows}
    for k in range(300):
        for row, other in zip(rows, draw(rows, np.random.default_rng(k)), strict=True):
            seen[int(row)].add(int(other))
    for label in (4, 1):
        own = sorted(rows[labels == label].tolist())
        for place, row in enumerate(own):
            assert seen[row] == {own[p] for p in range(len(own)) if 1 <= abs(p - place) <= radius}
    assert (seen[7], seen[8], seen[1]) == ({7}, {8}, {1}), "no label, or alone"


def test_batches_hold_neighbours_and_languages(data):
    made = prepared(data)
    batch = made.loader.at(0)
    centre, context = batch.rows.chunk(2)
    assert ((centre - context).abs() == 1).all()
    assert (batch.groups[: len(batch)] == batch.groups[len(batch) :]).all()
    names = [data.domain_names[k] for k in batch.domains[: len(batch)]]
    assert len(set(zip(names, batch.negative_groups.tolist(), strict=True))) == 2
    alone = prepared(data, context="itself")
    rows = alone.loader.at(0).rows
    assert torch.equal(rows[:8], rows[8:])


def test_the_method_computes_the_loss_of_its_bank(data):
    made = prepared(data, bank=12, mask_duplicates=False)
    made.method.train()
    for number in range(3):
        embedded, batch, loss = step(made, number)
        queue = made.method.negatives
        held = queue.filled
        queries = [normalise(made.method.head(h)) for h in embedded["sides"]]
        wanted = ccp(queries, embedded["keys"], queue.keys[held], languages=batch.negative_groups,
                     bank_languages=queue.negative_groups[held])  # fmt: skip
        torch.testing.assert_close(loss.total, wanted, rtol=1e-5, atol=1e-6)
        made.method.after_step({k: [x.detach() for x in v] for k, v in embedded.items()}, batch)
    assert queue.capacity == 24
    assert set(queue.negative_groups.tolist()) == {0, 1}


def test_a_key_does_not_see_the_batch(data):
    for norm, sees in (("asymmetric", False), ("batch", True)):
        made = prepared(data, norm=norm)
        made.method.train()
        embedded, batch, _ = step(made)
        before = [k.detach().clone() for k in embedded["keys"]]
        other = prepared(data, norm=norm)
        other.method.train()
        moved, batch = {"sides": [h.detach().clone() for h in embedded["sides"]]}, batch
        moved["sides"][0][3] += 1
        other.method.loss(moved, batch)
        assert torch.equal(before[0][0], moved["keys"][0][0]) != sees


def test_banks(data):
    each, shared = prepared(data, bank=10), prepared(data, bank=10, banks="shared")
    assert (each.method.negatives.groups, each.resolved["negatives.size"]) == (2, 20)
    assert (shared.method.negatives.groups, shared.resolved["negatives.size"]) == (1, 20)
    assert set(shared.loader.at(0).negative_groups.tolist()) == {0}


def test_the_masked_lm_term(data):
    made = prepared(data, TINY | {"text_dropout": 0.0}, masked=0.4)
    assert made.resolved["mlm"] == 1
    made.method.train()
    _, batch, loss = step(made)
    encoder, views, sums, count = made.method.tower.encoder, batch.views["text"], 0.0, 0
    for plain, hidden in zip(views[:2], views[2:], strict=True):
        assert torch.equal(torch.where(hidden.targets >= 0, hidden.targets, hidden.ids), plain.ids)
        for i, row in enumerate(hidden.ids):
            length = int(hidden.mask[i].sum())
            assert (hidden.targets[i, [0, *range(length - 1, len(row))]] == -100).all(), "bos, eos and padding"
            states = encoder.tokens(type(plain)(row[None], hidden.mask[i : i + 1]))[0][0]
            for place in (hidden.targets[i] >= 0).nonzero()[:, 0]:
                scores = encoder.table.weight @ states[place]
                sums += (scores.logsumexp(0) - scores[hidden.targets[i, place]]).item()
                count += 1
    assert float(loss.terms["masked LM"]) == pytest.approx(sums / count, rel=1e-4)
    plain = prepared(data, TINY | {"text_dropout": 0.0}, masked=0.4, mlm=0)
    plain.method.load_state_dict(made.method.state_dict())
    assert loss.total.item() == pytest.approx(step(plain)[2].total.item() + sums / count, rel=1e-4)


def test_micro_batches_give_the_same_step(data):
    grads = []
    for micro in (None, 3):
        made = prepared(data, TINY | {"text_dropout": 0.0}, mlm=0.5)
        torch.manual_seed(1)
        made.method.micro, made.method.loader = micro, made.loader
        made.method.train()
        batch = made.loader.at(0)
        total = made.method.training_step(batch, 0)
        total.backward()
        if made.method._cached is not None:
            made.method._cached.backward()
        grads.append({n: p.grad.clone() for n, p in made.method.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-6)


def test_the_preset(data):
    made = building.prepare("ccp", data, TrainSettings(batch_size=8, steps=6, **TINY, preset="paper"), {})
    method = made.method
    assert (float(method.temperature()), method.window, method.mlm, method.mask_duplicates) == (
        pytest.approx(0.05), 2, 1.0, False)  # fmt: skip
    assert made.resolved["negatives.size"] == 65536
    assert (made.method.optimisation.optimiser, made.method.optimisation.lr) == ("adamw", 1e-5)


def test_errors(data, tmp_path):
    with pytest.raises(InputError, match=r"No document \('page'\) of the 24 training sentences has two"):
        prepared(nearfar.data(write(tmp_path / "a.csv", single=24), roles=ROLES))
    lines = (tmp_path / "pages.csv").read_text().replace("page 3,de,", "page 3,,")
    (tmp_path / "b.csv").write_text(lines)
    with pytest.raises(InputError, match="4 of the 96 training sentences have no language"):
        prepared(nearfar.data(tmp_path / "b.csv", roles=ROLES))
    with pytest.raises(InputError, match="looks into the layers of its text encoder"):
        prepared(data, mlm=1.0)
    with pytest.raises(InputError, match="'ccp' needs"):
        prepared(nearfar.data(tmp_path / "b.csv", roles={"text": "sentence", "split": "split"}))


def test_documents_of_one_sentence_are_left_out(tmp_path):
    data = nearfar.data(write(tmp_path / "a.csv", single=6), roles=ROLES)
    made = prepared(data)
    drawn = np.concatenate([made.loader.at(k).rows.numpy() for k in range(6)])
    assert drawn.min() >= 6
    assert prepared(data, context="itself").loader.sampler.items == len(data.splits["train"])


def test_a_language_of_one_document_is_left_out(data, tmp_path):
    head, *lines = (tmp_path / "pages.csv").read_text().splitlines()
    place = head.split(",").index("language")
    own = [line for line in lines if ",page 1," in line or line.startswith("page 1,")]
    moved = [",".join([*cells[:place], "fr", *cells[place + 1 :]]) for cells in (line.split(",") for line in own)]
    (tmp_path / "one.csv").write_text("\n".join([head, *(line for line in lines if line not in own), *moved]))
    opened = nearfar.data(tmp_path / "one.csv", roles=ROLES)
    made = prepared(opened)
    assert made.resolved["left_out"] == f"{len(own):,} sentences (one document of fr)"
    drawn = np.unique(np.concatenate([made.loader.at(k).rows.numpy() for k in range(6)]))
    assert not {opened.domain_names[k] for k in np.asarray(opened.domains)[drawn]} & {"fr"}
    assert "left_out" not in prepared(opened, banks="shared").resolved
    pairs = [line for line in lines if ",pair " in line]
    (tmp_path / "alone.csv").write_text("\n".join([head, *pairs, *own]))
    with pytest.raises(InputError, match="No language has two documents"):
        prepared(nearfar.data(tmp_path / "alone.csv", roles=ROLES))


def test_from_a_table_to_translations(data, tmp_path, capsys):
    table, run = str(tmp_path / "pages.csv"), str(tmp_path / "run")
    roles = ["--text", "sentence", "--text-b", "other", "--group", "page", "--domain", "language", "--split", "split"]
    words = ["fit", "ccp", table, *roles, "--task", "bitext", "--steps", "40", "--batch-size", "16", "--out", run]
    assert main([*words, "--dry-run"]) == 0
    assert main(words) == 0
    assert "accuracy@1" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]["primary"] > 0.25
    assert main(["evaluate", run, table, *roles, "--task", "bitext --calibrate rotate"]) == 0
    assert main(["embed", run, table, *roles, "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "-p3 die Datei"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
