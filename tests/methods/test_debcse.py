"""DebCSE as a method: its stages, candidates and draws, a step written from the card, errors, and the way of a user."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import nearfar
from nearfar import encoders
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.methods.micro_batches import Cached
from nearfar.methods.sentence_candidates import CHANGED, SentenceCandidates
from nearfar.surface import words
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings
from tests.losses.test_propensity import naive as naive_probabilities
from tests.methods.test_one_step import LR, Naive, stepped, without_dropout
from tests.test_surface import naive_distance

THINGS = ("river", "stone", "wall", "bird", "tree", "boat", "bridge", "cloud", "horse", "field")
SIDES = ("colour", "age", "name", "song", "shape", "weight")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """60 sentences, six of each page, and two that stand twice."""
    rows = [(f"a note on the {side} of some {thing} in {k % 4} words", thing) for thing in THINGS
            for k, side in enumerate(SIDES)]  # fmt: skip
    rows += [(rows[0][0].upper(), "again"), (rows[7][0], "again")]
    path = tmp_path_factory.mktemp("debcse") / "notes.csv"
    path.write_text("\n".join(["note,page", *(f"{text},{page}" for text, page in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def teacher(table, tmp_path_factory):
    """The folder of a SimCSE model on the same table."""
    run = nearfar.fit("simcse", table, text="note", out=tmp_path_factory.mktemp("teacher") / "run", steps=20,
                      batch_size=16, vocabulary=200, val_every=0, progress=False)  # fmt: skip
    return str(run.path)


def prepared(table, settings=None, roles=None, **options):
    settings = TrainSettings(**{"batch_size": 16, "steps": 8, "warmup": 0, "vocabulary": 200} | (settings or {}))
    return building.prepare("debcse", nearfar.data(table, roles={"text": "note"} | (roles or {})), settings, options)


def begun(table, settings=None, roles=None, **options):
    """At the first step of the second stage."""
    made = prepared(table, settings, roles, **options)
    made.method.before_draw(made.method.stage_starts()[-1])
    return made


def step(made, number=4):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch)


# -- candidates


def candidates(**options):
    texts = [f"{a} {b} tells {c}" for a in "abcd" for b in "efg" for c in ("x", "y")] + ["", "one", "A E TELLS X"]
    texts[5], apart = texts[4], np.array([*range(26), 0])  # one that others see twice
    apart[5] = 4
    return texts, apart, SentenceCandidates(texts, [apart], np.arange(27) // 3, **{"negatives": 8} | options)


def test_candidates_are_others_and_each_stands_once():
    texts, apart, made = candidates()
    vectors = torch.randn(27, 6, generator=torch.Generator().manual_seed(0))
    made.find_nearest(vectors)
    places = np.arange(27)
    found, away = made.of_positives(places), made.of_negatives(places)
    assert found.rows.shape == found.surface.shape == (27, made.positives) == (27, 8)
    unit = normalize(vectors, dim=1)
    for i in range(27):
        corpus = [j for j in found.rows[i].tolist() if j >= 0]
        negatives = [j for j in away.rows[i].tolist() if j >= 0]
        assert len({apart[j] for j in corpus + negatives}) == len(corpus) + len(negatives)
        written = [found.changed[i, k] for k in range(4) if found.rows[i, k] == CHANGED]
        assert len(set(written)) == len(written)
        assert all(apart[j] != apart[i] for j in corpus + negatives)
        own = set(range(3 * (i // 3), 3 * (i // 3) + 3)) - {i}
        document = [j for j in found.rows[i, 4:6].tolist() if j >= 0]
        assert {*document} <= own
        order = (-(unit @ unit[i])).argsort().tolist()
        seen, wanted = {apart[i], *apart[document]}, []
        for j in order:
            if apart[j] not in seen and len(wanted) < 2:
                wanted.append(j)
                seen.add(apart[j])
        assert found.rows[i, 6:].tolist() == wanted
        for k in range(4):
            if found.rows[i, k] == CHANGED:
                text = found.changed[i, k]
                assert words(text.casefold()) != words(texts[i].casefold())
                assert {*words(text)} <= {*words(texts[i])}
        for side in (found, away):
            for k, row in enumerate(side.rows[i].tolist()):
                other = side.text(i, k)
                x, y = (words(t.casefold()) for t in (texts[i], other))
                if row != -1:
                    wanted = 1 - naive_distance(x, y) / max(len(x), len(y), 1)
                    assert side.surface[i, k] == pytest.approx(wanted)
    assert (found.rows[24, :4] == -1).all(), "nothing changes an empty text"
    again = candidates()[2]
    assert again.of_positives(places).changed == made.of_positives(places).changed
    assert candidates(seed=3)[2].of_positives(places).changed != found.changed


def test_a_sentence_without_candidates_is_its_own_positive():
    made = SentenceCandidates(["a", "b", ""], [np.arange(3)], changes=1, nearest=0, negatives=2)
    found = made.of_positives(np.arange(3))
    assert found.rows[2].tolist() == [-1, -1, -1, 2]
    assert found.rows[0].tolist() == [-1, CHANGED, -1, -1], "one word can only be repeated"
    assert found.changed[0, 1] == "a a"
    assert sorted(made.of_negatives(np.arange(3)).rows[0].tolist()) in ([-1, 1], [-1, 2])


# -- stages


def test_the_first_stage_is_simcse_and_its_encoder_the_frozen_teacher(table):
    made = prepared(table, teacher_share=0.25, mask_duplicates=False)
    method = made.method
    assert made.resolved["teacher_steps"] == 2
    assert method.steps_of_stages() == [(0, 2), (2, 8)]
    embedded, _, loss = step(made, 0)
    z = embedded["views"]
    assert len(z) == 2
    assert loss.total.item() == pytest.approx(nearfar.losses.info_nce(*z, temperature=0.05).item(), rel=1e-5)
    first = copy.deepcopy(method.tower.state_dict())
    with torch.no_grad():
        for p in method.tower.parameters():
            p += 0.1
    method.before_draw(1)
    assert int(method.stage) == 0
    trained = copy.deepcopy(method.tower.encoder.state_dict())
    method.before_draw(2)
    assert int(method.stage) == 1
    assert all(torch.equal(x, trained[k]) for k, x in method.guide.state_dict().items())
    own = method.tower.encoder.state_dict()
    assert all(torch.equal(x, first[f"encoder.{k}"]) for k, x in own.items()), "the student begins anew"
    _, _, loss = step(made, 2)
    loss.total.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.guide.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.tower.parameters())


def test_the_student_may_continue_and_the_teacher_may_follow(table):
    made = prepared(table, {"steps": 20, "batch_size": 8}, stage_weights="continue", refresh=True)
    method, epoch = made.method, made.method.facts.epoch
    assert 3 <= epoch <= 7
    method.before_draw(10)
    assert all(torch.equal(x, method.guide.state_dict()[k]) for k, x in method.tower.encoder.state_dict().items())
    before, nearest = method.meanings.vectors, method.nearest.clone()
    with torch.no_grad():
        method.tower.encoder.table.weight.mul_(torch.rand(method.tower.encoder.table.weight.shape))
    for number in range(11, 10 + epoch):
        method.before_draw(number)
        assert method.meanings.vectors is before
    method.before_draw(10 + epoch)
    assert not torch.equal(method.meanings.vectors, before)
    assert torch.equal(method.guide.table.weight, method.tower.encoder.table.weight)
    assert torch.equal(method.nearest, nearest)


# -- draws


def test_a_fresh_student_starts_with_the_first_temperature(table):
    made = prepared(table, learn_temperature=True)
    with torch.no_grad():
        made.method.tau.log_tau += 1
    made.method.before_draw(made.method.stage_starts()[-1])
    assert made.method.tau().item() == pytest.approx(0.05)


def test_draws_follow_seed_and_step_and_change_with_the_epoch(table):
    made, again = (begun(table, drawn=2) for _ in range(2))
    batch, other = made.loader.at(4), again.loader.at(4)
    one, two = made.method.make_views(batch), again.method.make_views(other)
    assert one.keys() == two.keys() == {"text", "rows", "pi", "told", "vectors"}
    for name in ("rows", "pi"):
        assert all(torch.equal(x, y) for x, y in zip(one[name], two[name], strict=True))
    assert len(one["text"]) == 4
    taken = {}
    for number in range(4, 40):
        batch = made.loader.at(number)
        views = made.method.make_views(batch)
        for row, key in zip(batch.rows.tolist(), views["rows"][1].tolist(), strict=True):
            taken.setdefault(row, set()).add(tuple(key))
            assert len({*key} - {-1}) == len([k for k in key if k >= 0])
    assert sum(len(x) > 1 for x in taken.values()) > 40, "new negatives each time"


def test_nothing_beyond_the_thresholds_is_drawn(table):
    made = begun(table, positive_threshold=0.3, negative_threshold=0.4, drawn=3)
    vectors = made.method.meanings.vectors
    unit = normalize(vectors.double(), dim=1)
    some = 0
    for number in range(4, 12):
        batch = made.loader.at(number)
        views = made.method.make_views(batch)
        place = made.method.place[batch.rows]
        for i, row in enumerate(views["rows"][1]):
            for k in row[row >= 0].tolist():
                some += 1
                assert unit[place[i]] @ unit[k] <= 0.4 + 1e-6
        s = (unit[place] * normalize(views["vectors"][1][:, 0].double(), dim=1)).sum(1)
        told = views["told"][0]
        assert (s[told[:, 2] == 0] >= 0.3 - 1e-6).all()
    assert some > 50


@pytest.mark.parametrize("weighting", ["semantic", "uniform"])
def test_controls_ignore_the_surface(table, weighting):
    made = begun(table, weighting=weighting, expected=True)
    batch = made.loader.at(4)
    views = made.method.make_views(batch)
    own = normalize(views["vectors"][0].double(), dim=1)[:, None]
    for side, sign, t, theta in ((0, 1, 0.1, 0.5), (1, -1, 0.5, 0.8)):
        there = views["rows"][side] != -1
        s = (own * normalize(views["vectors"][1 + side].double(), dim=2)).sum(2).clamp(0, 1)
        fits = there if weighting == "uniform" else there & ((s >= theta) if sign > 0 else (s <= theta))
        some = fits.any(1)
        x = sign * s / t if weighting == "semantic" else s * 0
        wanted = torch.where(fits, x, -math.inf)[some].softmax(1)
        torch.testing.assert_close(views["pi"][side][some], wanted, rtol=1e-5, atol=1e-6)


# -- the loss


class FromTheCard(Naive):
    """A step of the second stage, everything from texts: similarities, probabilities, draws, loss."""

    run, warmup = 8, 1

    def __init__(self, method, made, texts):
        super().__init__(method, made)
        self.texts = texts
        with torch.no_grad():
            g = torch.cat([normalize(method.guide(method.guide.prepare([x])), dim=1) for x in texts])
        self.mean = g.mean(0)
        self.g = g - self.mean

    def meaning(self, text):
        with torch.no_grad():
            return normalize(self.method.guide(self.method.guide.prepare([text])), dim=1)[0] - self.mean

    def side(self, i, found, name):
        """Texts and probabilities of the candidates of one anchor (the row `i` of what was found)."""
        texts, a, s, held = [], [], [], [k for k, row in enumerate(found.rows[i].tolist()) if row != -1]
        for k in held:
            row = int(found.rows[i, k])
            text = found.changed[i, k] if row == CHANGED else self.texts[row]
            x, y = (words(t.casefold()) for t in (self.texts[self.places[i]], text))
            a.append(1 - naive_distance(x, y) / max(len(x), len(y), 1))
            s.append(float(torch.cosine_similarity(self.g[self.places[i]], self.meaning(text), dim=0).clamp(0, 1)))
            texts.append(text)
        pi = torch.zeros(found.rows.shape[1], dtype=torch.float64)
        pi[held] = torch.tensor(naive_probabilities(name, a, s), dtype=torch.float64)
        return dict(zip(held, texts, strict=True)), pi

    def loss(self, batch, step):
        self.places, draw = self.method.place[batch.rows].tolist(), batch.generator()
        columns = []
        for name, find, count in (("positive", self.method.candidates.of_positives, 1),
                                  ("negative", self.method.candidates.of_negatives, 2)):  # fmt: skip
            found = find(np.array(self.places))
            u = torch.rand(found.rows.shape, generator=draw, dtype=torch.float64)
            for i in range(len(batch)):
                texts, pi = self.side(i, found, name)
                score = pi.log() - (-u[i].log()).log()
                order = [k for k in score.argsort(descending=True).tolist() if pi[k] > 0][:count]
                columns.append([texts[k] for k in order])
        n, tower = len(batch), self.method.tower
        anchors = normalize(tower(tower.encoder.prepare([self.texts[p] for p in self.places])), dim=1)
        flat = [text for texts in columns for text in texts]
        keys = normalize(tower(tower.encoder.prepare(flat)), dim=1)
        rows = [torch.logsumexp(keys @ z / 0.05, 0) - keys[i] @ z / 0.05 for i, z in enumerate(anchors)]
        assert all(len(texts) == 1 for texts in columns[:n])
        return torch.stack(rows).mean()


def test_steps_from_the_card_give_the_same_parameters(table, teacher):
    settings = {"batch_size": 8, "steps": 8, "warmup": 1, "optimiser": "sgd", "lr": LR, "weight_decay": 0.01,
                "val_every": 0}  # fmt: skip
    made = prepared(table, settings, {"group": "page"}, teacher=teacher, drawn=2, mask_duplicates=False)
    without_dropout(made.method)
    begun = copy.deepcopy(made.method)
    engine.trainer_for(made, [], 3).fit(made.method, made.loader)
    made.loader.start = 0
    begun.candidates = made.method.candidates
    arm = FromTheCard(begun.train(), made, made.method.candidates.texts)
    stepped(arm, made)
    for name, p in made.method.named_parameters():
        expected = dict(begun.named_parameters())[name]
        torch.testing.assert_close(p, expected.detach(), rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    first = made.method.survey.fresh(0).table.weight
    assert (made.method.tower.encoder.table.weight - first).abs().max() > 2e-4


def test_equal_texts_and_rows_of_one_group_are_no_negatives(table):
    made = begun(table, {"batch_size": 40}, {"group": "page"}, drawn=2)
    method = made.method.eval()
    embedded, batch, loss = step(made)
    z = [normalize(v.double(), dim=1) for v in embedded["views"]]
    places, (p, q) = method.place[batch.rows], batch.views["rows"]
    content, group = (torch.from_numpy(x) for x in method.candidates.apart)
    assert q.ge(0).any()

    def alike(i, row):
        return row >= 0 and (content[row] == content[places[i]] or group[row] == group[places[i]])

    rows, hidden = [], 0
    for i in range(len(batch)):
        terms = [z[1][i] @ z[0][i] / 0.05]
        for j in range(len(batch)):
            for h, column in enumerate([p[j, 0], q[j, 0], q[j, 1]]):
                if (h == 0 and (j == i or alike(i, places[j]))) or (h > 0 and column < 0) or alike(i, column):
                    hidden += h > 0 and column >= 0
                    continue
                terms.append(z[1 + h][j] @ z[0][i] / 0.05)
        rows.append(torch.stack(terms).logsumexp(0) - terms[0])
    assert hidden > 20
    assert loss.total.item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-4)


@pytest.mark.parametrize("expected", [False, True])
def test_columns_that_mean_the_same_to_the_teacher_are_hidden(table, expected):
    plain, masked = (begun(table, expected=expected, mask_similar=m, negative_threshold=0.2) for m in (False, True))
    (a, _, before), (b, _, after) = step(plain), step(masked)
    assert len(a["views"]) == len(b["views"]) == (1 + 6 + 16 if expected else 3)
    assert after.total < before.total
    assert after.total.isfinite()


@pytest.mark.parametrize("options", [{}, {"expected": True, "pool": 4}])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(table, options):
    made = begun(table, {"batch_size": 10}, **options)
    method = made.method
    without_dropout(method)
    batch = made.loader.at(4)
    batch.views = method.make_views(batch)
    found = {}
    for size in (10, 4):
        method.zero_grad()
        cached = Cached(method, batch, size)
        method.loss(cached.embedded(), batch).total.backward()
        cached.backward()
        found[size] = [p.grad.clone() for p in method.tower.parameters()]
    for x, y in zip(*found.values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


# -- errors and use


def test_errors(table, tmp_path):
    for options, message in (
        ({"teacher": "given"}, "random weights"),
        ({"teacher": "nowhere"}, "'nowhere' is none of simcse"),
        ({"changes": 0, "nearest": 0}, "may be no positive"),
        ({"teacher": "given", "teacher_share": 0.3}, "--teacher-share 0.3 has no effect"),
        ({"weighting": "semantic", "eps": 0.5}, "--eps 0.5 has no effect"),
        ({"weighting": "uniform", "positive_threshold": 0.1}, "--positive-threshold 0.1 has no effect"),
        ({"positive_threshold": 1.5}, "positive_threshold"),
        ({"pool": 0}, "pool"),
    ):
        with pytest.raises(InputError, match=message):
            prepared(table, **options)
    with pytest.raises(InputError, match="too few for teacher and student"):
        prepared(table, {"steps": 1})
    with pytest.raises(InputError, match="dropout"):
        prepared(table, {"text_dropout": 0.0})
    with pytest.raises(InputError, match="dropout"):
        prepared(table, {"freeze": True})
    (tmp_path / "one.csv").write_text("note\n" + "the same words here\n" * 40)
    with pytest.raises(InputError, match="hold one sentence"):
        prepared(tmp_path / "one.csv", {"batch_size": 4})


def test_the_preset_is_the_card(table):
    made = prepared(table, {"preset": "paper"})
    method = made.method
    assert method.temperature().item() == pytest.approx(0.05)
    assert method.of_positives == {"surface_temperature": 0.2, "eps": 0.01, "temperature": 0.1, "threshold": 0.5}
    assert method.of_negatives == {"surface_temperature": 0.2, "eps": 0.01, "temperature": 0.5, "threshold": 0.8}
    assert (method.sizes["negatives"], method.drawn, method.centre) == (16, 1, False)
    assert method.candidates.positives == 6
    assert begun(table, roles={"unit": "page"}).method.candidates.positives == 8
    assert (method.optimisation.optimiser, method.optimisation.lr) == ("adamw", 3e-5)


def test_from_a_table_to_a_search(table, teacher, tmp_path, capsys):
    run = str(tmp_path / "run")
    words = ["fit", "debcse", str(table), "--text", "note", "--unit", "page", "--steps", "30", "--batch-size", "16",
             "--vocabulary", "200", "--out", run]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    assert "teacher_steps" in capsys.readouterr().out
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert {"positive surface", "positive meaning", "no negative"} <= lines[-1].keys()
    assert "positive surface" not in lines[0]
    assert len(json.loads((tmp_path / "run" / "stages.json").read_text())["stages"]) == 2
    given = ["fit", "debcse", str(table), "--text", "note", "--teacher", teacher, "--steps", "6", "--batch-size", "16"]
    assert main([*given, "--vocabulary", "200", "--out", str(tmp_path / "given")]) == 0
    assert main(["embed", run, str(table), "--text", "note", "--out", str(tmp_path / "i")]) == 0
    assert main(["search", str(tmp_path / "i"), "the colour of a bird"]) == 0
    assert main(["compare", str(table), "--text", "note", "--methods", "debcse,simcse", "--seeds", "1", "--steps", "8",
                 "--batch-size", "16", "--vocabulary", "200", "--out", str(tmp_path / "both")]) == 0  # fmt: skip
    assert encoders.text(tmp_path / "run").pretrained
