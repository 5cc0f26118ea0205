"""CoCoSoDa as a method: its terms and queues, the teacher, the kinds of tokens, and the way of a user with a table."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import nearfar
from nearfar.cli import main
from nearfar.encoders.code import KINDS
from nearfar.errors import InputError
from nearfar.losses import cocosoda
from nearfar.training import building
from nearfar.training.settings import TrainSettings

VERBS = ["add", "count", "read", "sort", "merge", "find", "drop", "scale"]
NOUNS = ["rows", "files", "words", "trees", "edges", "dates"]


@pytest.fixture
def table(tmp_path):
    rows = []
    for i, verb in enumerate(VERBS):
        for j, noun in enumerate(NOUNS):
            language = ("python", "java")[(i + j) % 2]
            body = f"def {verb}_{noun}(x):\n    return {verb}(x, {i})" if language == "python" else \
                f"int {verb}{noun.title()}(int x) {{ return {verb}(x, {i}); }}"  # fmt: skip
            rows.append({"query": f"{verb} the {noun}", "code": body, "language": language})
    (tmp_path / "code.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "code.jsonl"


ROLES = {"text": "query", "text_b": "code"}


def prepared(table, domain=False, settings=None, **options):
    roles = ROLES | ({"domain": "language"} if domain else {})
    settings = {"batch_size": 8, "steps": 8, "warmup": 0, "vocabulary": 200} | (settings or {})
    return building.prepare("cocosoda", nearfar.data(table, roles=roles), TrainSettings(**settings), options)


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    made.method.before_targets(batch)
    with torch.no_grad():
        embedded |= made.method.targets(batch)
    return embedded, batch, made.method.loss(embedded, batch)


def naive(embedded, queues, t, within=True):
    terms = [("code", "text"), ("code", "text'"), ("text", "code"), ("text", "code'")]
    terms += [("code", "code'"), ("text", "text'")] if within else []
    rows = []
    for a, b in terms:
        anchors, keys, past = (normalize(x.double(), dim=1) for x in (embedded[a], embedded[b], queues[b]))
        for i in range(len(anchors)):
            logits = torch.cat([anchors[i] @ keys.T, anchors[i] @ past.T]) / t
            rows.append(logits.logsumexp(0) - logits[i])
    return torch.stack(rows).mean().item()


@pytest.mark.parametrize(("within", "official", "t"), [(True, False, 0.07), (False, True, 0.0035)])
def test_the_loss_is_the_mean_of_its_terms(table, within, official, t):
    made = prepared(table, queue=16, within=within, official=official, mask_duplicates=False)
    for number in range(3):
        embedded, batch, loss = step(made, number)
        past = {name: queue.keys for name, queue in made.method.queues.items()}
        torch.testing.assert_close(
            loss.total, cocosoda(embedded, past, within=within, temperature=t), rtol=1e-4, atol=1e-5
        )
        queues = {name: queue.keys.clone() for name, queue in made.method.queues.items()}
        assert loss.total.item() == pytest.approx(naive(embedded, queues, t, within), rel=1e-4)
        loss.total.backward()
        assert all(p.grad is None for p in made.method.teacher.parameters())
        made.method.after_step({k: v.detach() for k, v in embedded.items()}, batch)
        for name, queue in made.method.queues.items():
            place = 8 * number % 16
            torch.testing.assert_close(queue.keys[place : place + 8], embedded[name].detach())


def test_limits(table):
    made = prepared(table, queue=16, rate=0.0, momentum=0.0, temperature=100.0, mask_duplicates=False)
    made.method.eval()
    embedded, _, loss = step(made)
    assert loss.total.item() == pytest.approx(math.log(8 + 16), abs=0.02)
    torch.testing.assert_close(embedded["code'"], embedded["code"].detach())
    torch.testing.assert_close(embedded["text'"], embedded["text"].detach())


def test_the_teacher_follows_before_it_encodes(table):
    made = prepared(table, momentum=0.75)
    theta = [p.detach().clone() for p in made.method.tower.parameters()]
    step(made)
    for mine, first in zip(made.method.teacher.parameters(), theta, strict=True):
        torch.testing.assert_close(mine, first)
    with torch.no_grad():
        for p in made.method.tower.parameters():
            p += 1
    step(made, 1)
    for mine, first in zip(made.method.teacher.parameters(), theta, strict=True):
        torch.testing.assert_close(mine, 0.75 * first + 0.25 * (first + 1))


def test_augmentations_take_turns_and_code_has_kinds(table):
    made = prepared(table, rate=1.0)
    method, encoder = made.method, made.method.tower.encoder
    kind_ids = encoder.add_tokens([f"<|{k}|>" for k in KINDS])
    seen = []
    for number in range(4):
        batch = made.loader.at(number)
        views = method.make_views(batch)
        assert batch.inputs["text"].kinds is None
        plain, soft = (x.ids for x in views["text_b"])
        changed = soft[plain != soft]
        masks = (changed == encoder.special.mask).float().mean().item()
        kinds = torch.isin(changed, torch.tensor(kind_ids)).float().mean().item()
        seen.append((round(masks, 1), round(kinds, 1), len(changed.unique())))
    assert seen[0][0] > 0.6
    assert seen[1][1] == 1
    assert seen[1][2] > 2
    assert seen[2][1:] == (1.0, 1)
    assert (seen[3][0], seen[3][2]) == (1.0, 1)


def test_a_step_has_one_language_and_long_code_is_read_from_its_start(table):
    made = prepared(table, domain=True, code_length=6)
    for number in range(6):
        batch = made.loader.at(number)
        assert len(batch.domains.unique()) == 1
        whole = made.method.tower.encoder.encode_ids(texts_of(table, batch))
        for ids, row in zip(whole, batch.inputs["text_b"].ids, strict=True):
            assert row.tolist() == ids[:6]


def texts_of(table, batch):
    return nearfar.data(table, roles=ROLES | {"domain": "language"}).texts("text_b", batch.rows.numpy())


def languages(table, tmp_path, change):
    """The table with other languages: change(number of the row, its language)."""
    rows = list(map(json.loads, table.read_text().splitlines()))
    for i, row in enumerate(rows):
        row["language"] = change(i, row["language"])
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "other.jsonl"


def drawn(made, steps=30):
    return {int(row) for k in range(steps) for row in made.loader.at(k).rows}


def test_a_row_without_a_language_is_drawn_as_python(table, tmp_path):
    path = languages(
        table, tmp_path, lambda i, name: None if name == "python" and i % 3 else {"java": "Java"}.get(name, "py")
    )
    made = prepared(path, domain=True, settings={"batch_size": 4})
    whole = np.asarray(nearfar.data(path, roles=ROLES | {"domain": "language"}).splits["train"])
    assert drawn(made) == set(whole.tolist())
    assert "left_out" not in made.resolved
    first = made.loader.at(0)
    assert len({text.startswith("def") for text in texts_of(path, first)}) == 1, "of one language"


def test_languages_that_do_not_fill_a_batch_are_named(table, tmp_path):
    path = languages(table, tmp_path, lambda i, name: "ruby" if i % 12 == 3 else name)
    made = prepared(path, domain=True)
    opened = nearfar.data(path, roles=ROLES | {"domain": "language"})
    away = [r for r in opened.splits["train"] if opened.domain_names[opened.domains[r]] == "ruby"]
    assert away
    assert made.resolved["left_out"] == f"{len(away)} rows (languages that do not fill a batch: ruby)"
    assert not drawn(made) & set(away)
    with pytest.raises(InputError, match=r"column 'language' is empty in all \d+ training rows.*leave out --domain"):
        prepared(languages(table, tmp_path, lambda i, name: ""), domain=True)


@pytest.mark.parametrize("encoder", [{}, {"text_encoder": "tiny", "text_positions": "learned"}])
def test_the_model_that_is_kept_reads_no_more_than_training_did(table, tmp_path, encoder):
    long = "def f(x):\n" + "    x = x + 1\n" * 60
    options = {"text": "query", "text_b": "code", "steps": 2, "batch_size": 8, "vocabulary": 200}
    nearfar.fit("cocosoda", table, out=tmp_path / "run", code_length=20, query_length=10, **options, **encoder)
    model = nearfar.load(tmp_path / "run" / "model")
    one = model.embed_texts([long, long + "    return None\n", "def f(x):\n"])
    np.testing.assert_allclose(one[0], one[1], atol=1e-6)
    assert not np.allclose(one[0], one[2], atol=1e-3)


def test_the_preset(table):
    made = prepared(table, settings={"preset": "paper"})
    assert not made.method.mask_duplicates
    assert (made.resolved["queue"], made.method.share, made.resolved["momentum"]) == (1024, 0.15, 0.999)


def test_a_loss_names_what_is_missing():
    make = torch.Generator().manual_seed(0)
    four = {name: torch.randn(3, 5, generator=make) for name in ("code", "text", "code'", "text'")}
    assert cocosoda(four, four).isfinite()
    for vectors in ({k: x for k, x in four.items() if k != "text'"}, four | {"text'": four["text"][:2]}, {}):
        with pytest.raises(InputError, match=r"Vectors are code \(n, d\), text \(n, d\).*Got"):
            cocosoda(vectors, four)
    for queues in ({}, four | {"code": four["code"][:, :4]}, four | {"more": four["code"]}):
        with pytest.raises(InputError, match=r"Queues are code \(k, 5\)"):
            cocosoda(four, queues)


def test_errors(table, tmp_path):
    with pytest.raises(InputError, match="a frozen one has read them"):
        prepared(table, settings={"freeze": True})
    (tmp_path / "one.csv").write_text("query\n" + "\n".join(f"{v} all {n}" for v in VERBS for n in NOUNS))
    with pytest.raises(InputError, match="'cocosoda' needs"):
        nearfar.fit("cocosoda", tmp_path / "one.csv", out=tmp_path / "run")


def test_the_same_code_in_all_rows_is_named_as_the_cause_of_an_empty_split(table, tmp_path):
    rows = [json.loads(line) | {"code": "x = 1", "query": "set x"} for line in table.read_text().splitlines()]
    (tmp_path / "same.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as found:
        nearfar.fit("cocosoda", tmp_path / "same.jsonl", **ROLES, out=tmp_path / "run")
    told = str(found.value)
    assert "same.jsonl is empty: rows that share a content (the same text or text_b) stay together" in told
    assert "the 48 rows hang together in 1 part" in told
    assert "name a column of splits (--split COLUMN)" in told


def test_from_a_table_to_a_search(table, tmp_path, capsys):
    run = str(tmp_path / "run")
    words = ["fit", "cocosoda", str(table), "--text", "query", "--text-b", "code", "--domain", "language", "--task",
             "code-search", "--steps", "40", "--batch-size", "8", "--vocabulary", "200", "--out", run]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    assert main(words) == 0
    assert "MRR" in capsys.readouterr().out
    assert main(["embed", run, str(table), "--text", "query", "--text-b", "code", "--out", str(tmp_path / "i")]) == 0
    assert main(["search", str(tmp_path / "i"), "merge the files"]) == 0
    model = nearfar.load(tmp_path / "run" / "model")
    assert model.embed_texts(["<|keyword|> x", "merge"]).shape[0] == 2
