"""MultiCSR as a method: sources of triplets, stages, the frozen encoder, errors, and the way of a user from a table."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses import multicsr
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.conftest import write_triplets
from tests.methods.language import save

TINY = {"text_encoder": "tiny", "vocabulary": 200, "text_length": 24}


def prepared(data, settings=None, **options):
    settings = {"batch_size": 8, "steps": 10, "warmup": 0} | (settings or {})
    return building.prepare("multicsr", data, TrainSettings(**settings), options)


def step(made, number):
    batch = made.loader.at(number)
    torch.manual_seed(0)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    with torch.no_grad():
        embedded |= made.method.targets(batch)
    return embedded, batch, made.method.loss(embedded, batch)


def texts(made, number=9):
    """The three texts of each row of a batch."""
    found = made.method.found
    rows = made.loader.at(number).rows.numpy()
    return [[found.texts[k] if k >= 0 else "" for k in found.places[:, row]] for row in rows]


def test_wrong_order_is_set_right(triplets_few):
    made, told = prepared(triplets_few), None
    told = made.resolved
    assert told["triplets"] == "columns"
    assert told["scores"] == "score_positive,score_negative"
    train = np.asarray(triplets_few.splits["train"])
    assert told["swapped"] == int((train % 5 == 0).sum())
    assert told["kept"] == len(train)
    for anchor, positive, negative in texts(made):
        assert anchor.split()[1] in positive
        assert anchor.split()[1] not in negative
    raw = prepared(triplets_few, scorer=None)
    assert raw.resolved["scores"] == "none (no swap, no curation)"
    assert "swapped" not in raw.resolved
    assert any(a.split()[1] not in p for a, p, _ in texts(raw))
    curated = prepared(triplets_few, curation="4/1")
    assert 0 < curated.resolved["kept"] < len(train)
    assert curated.resolved["kept"] + curated.resolved["curated_away"] == len(train)
    assert curated.loader.sampler.items == curated.resolved["kept"]


@pytest.mark.parametrize("official", [False, True])
def test_the_method_computes_the_masked_loss(triplets_few, official):
    made = prepared(triplets_few, phi=0.3, official=official, mask_duplicates=False)
    made.method.begin_stage(1)
    made.method.train()
    embedded, batch, loss = step(made, 9)
    wanted = multicsr(*embedded["views"], embedded["frozen"], phi=0.3, official=official)
    torch.testing.assert_close(loss.total, wanted)
    assert loss.terms["hidden"] > 0
    assert not any(x.requires_grad for x in embedded["frozen"])
    assert len(batch) == 8
    plain = prepared(triplets_few, frozen=None, official=official, mask_duplicates=False)
    embedded, _, loss = step(plain, 9)
    torch.testing.assert_close(loss.total, multicsr(*embedded["views"], official=official))
    assert "frozen" not in embedded


def test_the_frozen_encoder_is_that_of_the_first_stage(triplets_few):
    made = prepared(triplets_few, frozen_share=0.5)
    method = made.method
    assert method.stage_starts() == [0, 5]
    embedded, _, _ = step(made, 0)
    assert len(embedded["views"]) == 2
    assert len(step(made, 5)[0]["views"]) == 3
    with torch.no_grad():
        method.tower.encoder.table.weight.add_(0.5)
    trained = {k: v.clone() for k, v in method.tower.encoder.state_dict().items()}
    method.begin_stage(1)
    method.train()
    assert not method.frozen.encoder.training
    assert method.tower.encoder.training
    for name, value in method.frozen.encoder.state_dict().items():
        assert torch.equal(value, trained[name])
    assert not torch.equal(method.tower.encoder.table.weight, trained["table.weight"])
    assert torch.equal(step(made, 9)[0]["frozen"][0], step(made, 9)[0]["frozen"][0]), "no dropout"
    going_on = prepared(triplets_few, stage_weights="continue").method
    before = going_on.tower.encoder.table.weight.clone()
    going_on.begin_stage(1)
    assert torch.equal(going_on.tower.encoder.table.weight, before)


def test_a_frozen_model_of_its_own_reads_with_its_own_tokens(triplets_few, tmp_path):
    run = nearfar.fit("simcse", triplets_few, steps=4, batch_size=8, val_every=0, vocabulary=60, progress=False,
                      out=tmp_path / "first", **{k: v for k, v in TINY.items() if k != "vocabulary"})  # fmt: skip
    made = prepared(triplets_few, frozen=str(run.path))
    assert made.method.stage_starts() == [0]
    embedded, _, _ = step(made, 0)
    model = nearfar.load(run.path / "model")
    rows = texts(made, 0)
    for k, found in enumerate(embedded["frozen"]):
        wanted = torch.as_tensor(model.embed_texts([row[k] for row in rows]))
        torch.testing.assert_close(torch.nn.functional.normalize(found, dim=1), wanted, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in made.method.frozen.parameters())


def test_duplicates_are_no_negatives(tmp_path):
    lines = ["anchor,positive,negative"]
    for k in range(12):
        last = "one cat lives there,a cat is there"
        lines.append(f"the cat in house {k},{last if k == 11 else f'a cat is there,no pet lives here {k}'}")
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    data = nearfar.data(tmp_path / "a.csv")
    data.splits = {"train": np.arange(12), "val": np.arange(0), "test": np.arange(0)}
    for masked in (True, False):
        made = prepared(data, {"batch_size": 12}, frozen=None, mask_duplicates=masked)
        embedded, _, loss = step(made, 0)
        said = texts(made, 0)
        words = [row[side] for side in (1, 2) for row in said]
        z, total = [torch.nn.functional.normalize(x, dim=1) for x in embedded["views"]], 0.0
        for i in range(12):
            a = torch.cat([z[1] @ z[0][i], z[2] @ z[0][i]]) / 0.05
            keep = [j for j in range(24) if not masked or j == i or words[j] != said[i][1]]
            total = total + a[keep].logsumexp(0) - a[i]
        torch.testing.assert_close(loss.total, total / 12, rtol=1e-4, atol=1e-5)


def write_documents(path, documents=12, sentences=3):
    with open(path, "w", newline="") as file:
        rows = [[f"word{d} is number {k} of its kind", f"page {d}", f"area {d % 2}"]
                for d in range(documents) for k in range(sentences)]  # fmt: skip
        csv.writer(file).writerows([["sentence", "page", "area"], *rows, ["alone stands this one", "page x", "area 0"]])
    return path


def test_documents(tmp_path):
    roles = {"text": "sentence", "group": "page", "domain": "area"}
    made = prepared(nearfar.data(write_documents(tmp_path / "a.csv"), roles=roles), {"batch_size": 4})
    assert made.resolved["triplets"] == "documents"
    assert made.resolved["kept"] + made.resolved["incomplete"] == len(made.rows)
    for anchor, positive, negative in texts(made):
        a, p, n = (int(x.split()[0].removeprefix("word")) for x in (anchor, positive, negative))
        assert (a, anchor == positive) == (p, False)
        assert a != n
        assert a % 2 == n % 2, "of the same area"


def test_sentences_of_the_own_document_are_no_negatives(tmp_path):
    data = nearfar.data(write_documents(tmp_path / "a.csv"), roles={"text": "sentence", "group": "page"})
    made = prepared(data, {"batch_size": 12}, frozen=None)
    embedded, _, loss = step(made, 0)
    z, total = [torch.nn.functional.normalize(x, dim=1) for x in embedded["views"]], 0.0
    page = [[text.split()[0] for text in row] for row in texts(made, 0)]
    candidates = [row[side] for side in (1, 2) for row in page]
    assert any(candidates[12 + j] == row[0] for row in page for j in range(12))
    for i, row in enumerate(page):
        a = torch.cat([z[1] @ z[0][i], z[2] @ z[0][i]]) / 0.05
        keep = [j for j in range(24) if j == i or candidates[j] != row[0]]
        total = total + a[keep].logsumexp(0) - a[i]
    torch.testing.assert_close(loss.total, total / 12, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_columns_triplets(tmp_path):
    """Beside drawn or written sentences the columns speak of others."""
    rows = write_documents(tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text(
        "\n".join([rows[0] + ",score_positive,score_negative", *(f"{r},1,5" for r in rows[1:])])
    )
    data = nearfar.data(tmp_path / "b.csv", roles={"text": "sentence", "group": "page"})
    made = prepared(data, {"batch_size": 4})
    assert made.resolved["scores"] == "none (no swap, no curation)"
    assert "swapped" not in made.resolved
    with pytest.raises(InputError, match=r"names columns, which score triplets of columns; .* from documents"):
        prepared(data, scorer="score_positive,score_negative")
    folder = str(save(tmp_path / "model", "gpt2"))
    with pytest.raises(InputError, match=r"names columns, .* from a language model"):
        prepared(data, scorer="score_positive,score_negative", generator=folder)


def test_tables_without_a_triplet(tmp_path):
    def refused(message, *rows, roles=None, **options):
        (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
        with pytest.raises(InputError, match=message):
            prepared(nearfar.data(tmp_path / "a.csv", roles=roles), **options)

    pages = {"text": "text", "group": "page"}
    refused(
        r"all \d+ training rows are of one document", "text,page", *(f"the cat {k},a" for k in range(20)), roles=pages
    )
    refused(r"each of the \d+ training rows is a document of its own", "text,page",
            *(f"the cat {k},p{k}" for k in range(20)), roles=pages)  # fmt: skip
    empty = [f"the cat {k},a cat {k}," for k in range(20)]
    refused(r"'negative' is empty in all \d+ training rows", "text,text_b,negative", *empty,
            roles={"text": "text", "text_b": "text_b", "negative": ["negative"]})  # fmt: skip
    head = "anchor,positive,negative,score_positive,score_negative"
    refused("none has two unlike its sentence", head, *(f"the cat {k},a cat {k},A  cat {k},1,2" for k in range(20)))
    refused("'score_positive' and 'score_negative' of .* are nowhere both filled", head,
            *(f"the cat {k},a cat {k},no pet {k},," for k in range(20)))  # fmt: skip
    alike = [f"the cat {k},a cat {k},no pet {k},4.5,4.6" for k in range(20)]
    refused("keep all without --scorer: --swap false --curation none", head, *alike)
    every = prepared(nearfar.data(tmp_path / "a.csv"), swap=False, curation=None)
    assert every.resolved["kept"] == len(every.rows)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_language_model_writes_and_scores(tmp_path, kind, monkeypatch):
    """Random weights write nonsense: what counts is that every sentence gets its answers, and how they are taken."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    folder = str(save(tmp_path / "model", kind))
    (tmp_path / "a.csv").write_text("sentence\n" + "\n".join(f"The cat sleeps in house {k}." for k in range(12)) + "\n")
    data = nearfar.data(tmp_path / "a.csv", roles={"text": "sentence"})
    made = prepared(data, {"batch_size": 2}, generator=folder, scorer=None, generator_batch=4, generator_tokens=10)
    assert made.resolved["triplets"] == "written by model"
    found = made.method.found
    rows = made.rows[found.whole[made.rows]]
    assert len(rows) == made.resolved["kept"] > 1
    other = prepared(
        data, {"batch_size": 2}, generator=folder, scorer=None, generator_batch=4, generator_tokens=10, contrast=1.0
    )
    assert other.method.found.texts != found.texts
    with pytest.raises(InputError, match=r"None of the \d+ triplets has two scores"):
        prepared(data, {"batch_size": 2}, generator=folder, generator_batch=4, generator_tokens=10)


def test_the_preset(triplets_few):
    made = building.prepare("multicsr", triplets_few, TrainSettings(batch_size=8, steps=10, preset="paper", **TINY), {})
    method, o = made.method, made.method.optimisation
    assert method.refining.lines == (3, 3, True)
    assert (float(method.temperature()), method.phi, method.official, method.mask_duplicates) == (
        pytest.approx(0.05), 0.95, False, False)  # fmt: skip
    assert method.tower.encoder.pooling == method.frozen.encoder.pooling == ("cls",)
    assert (o.optimiser, o.lr, o.schedule, o.weight_decay, o.clip_norm) == ("adamw", 5e-5, "linear", 0, 1.0)
    asked = TrainSettings(batch_size=8, steps=10, preset="paper", **TINY, text_pooling="mean")
    kept = building.prepare("multicsr", triplets_few, asked, {})
    assert kept.method.tower.encoder.pooling == ("mean",), "what the user names stays"
    assert kept.resolved["pooling"] == "mean"


def test_errors(triplets_few, tmp_path):
    for options, message in (
        ({"frozen": "given"}, "has random weights"),
        ({"frozen": "nowhere"}, "There is no text encoder 'nowhere'"),
        ({"frozen": None, "phi": 0.5}, "--phi 0.5 has no effect"),
        ({"frozen": None, "frozen_share": 0.5}, "no effect with --frozen"),
        ({"scorer": None, "curation": "4/2"}, "have no effect: the triplets have no scores"),
        ({"scorer": None, "swap": False}, "have no effect: the triplets have no scores"),
        ({"contrast": 0.5}, "no language model writes the triplets"),
        ({"generator_tokens": 64}, "--generator-tokens 64 has no effect: no language model writes"),
        ({"generator_batch": 4}, "--generator-batch 4 has no effect: no language model is asked"),
        ({"scorer": str(tmp_path), "swap": False, "curation": None}, "no effect with --swap false --curation none"),
        ({"generator": "documents"}, "says of no sentence from which document"),
        ({"generator": "nowhere"}, "is not the folder of a language model"),
        ({"curation": "5/0"}, "Stage 2 drops all"),
        ({"curation": "4.5/1"}, r"larger than the 10 training items"),
        ({"pooling": "cls"}, "looks into the layers"),
        ({"official": True, "loss": "dcl"}, "is in place of --loss"),
    ):
        with pytest.raises(InputError, match=message):
            prepared(triplets_few, {"batch_size": 40}, **options)
    with pytest.raises(InputError, match="too short for two stages"):
        prepared(triplets_few, {"steps": 1})
    rows = [line.rsplit(",", 2)[0] for line in write_triplets(tmp_path / "a.csv").read_text().splitlines()]
    (tmp_path / "b.csv").write_text("\n".join(row.rsplit(",", 1)[0] for row in rows) + "\n")
    alone = nearfar.data(tmp_path / "b.csv")
    with pytest.raises(InputError, match=r"multicsr needs triplets \(--text-b, --negative\), documents"):
        prepared(alone)
    assert "needs triplets" in building.methods.get("multicsr").lacks(alone)
    assert not building.methods.get("multicsr").lacks(triplets_few)
    labelled = [f"{rows[0]},label", *(f"{row},{k % 2}" for k, row in enumerate(rows[1:]))]
    (tmp_path / "c.csv").write_text("\n".join(labelled) + "\n")
    halved = nearfar.data(tmp_path / "c.csv", roles={"pair_label": "label"})
    made = prepared(halved)
    assert made.resolved["no_pairs"] + made.resolved["kept"] == len(made.rows)


def test_from_a_table_to_vectors(tmp_path, capsys):
    table, run = str(write_triplets(tmp_path / "triplets.csv")), str(tmp_path / "run")
    words = ["fit", "multicsr", table, "--steps", "80", "--batch-size", "16", "--lr", "3e-3", "--out", run]
    assert main([*words, "--dry-run"]) == 0
    assert main(words) == 0
    said = json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]
    assert said["swapped"] > 0
    assert said["kept"] > 60
    assert "swapped" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]["primary"] > 0.5
    assert len(json.loads((tmp_path / "run" / "stages.json").read_text())["stages"]) == 2
    assert main(["evaluate", run, table]) == 0
    assert main(["embed", run, table, "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "the cat sleeps"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    both = ["compare", table, "--methods", "multicsr,pairs,simcse", "--steps", "6", "--batch-size", "8"]
    assert main([*both, "--out", str(tmp_path / "both")]) == 0
