"""GAugLLM: who says what, that no label is seen, what is kept, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nearfar
from nearfar.errors import InputError
from nearfar.methods import text_experts
from nearfar.methods.language_models import LanguageModel
from nearfar.methods.text_mixture import Selector, TextMixture, mixtures
from nearfar.modalities.node import graph_of
from nearfar.training import building, engine
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests.conftest import write_network, write_text_network
from tests.methods import language

PLAN = {"steps": 4, "val_every": 0, "progress": False, "graph_width": 16}


def made_of(data, steps=4, **options):
    settings = TrainSettings(batch_size="auto", steps=steps, val_every=0, graph_width=16)
    return building.prepare("gaugllm", data, settings, options)


def graph(data):
    whole = graph_of(data)
    return whole.texts, torch.unique(whole.edges, dim=1), [str(k) for k in data.keys]


def answers(path, rows):
    path.write_text("\n".join(json.dumps(dict(zip(("node", "expert", "text", "other"), row))) for row in rows))
    return path


# -- experts


def test_no_label_is_seen(tmp_path):
    """The same nodes with labels of others give the same texts, verdicts and weights."""
    write_text_network(tmp_path / "a")
    write_text_network(tmp_path / "b")
    lines = (tmp_path / "b" / "nodes.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    turned = [",".join([c[0], cells[k - 1][1], c[2]]) for k, c in enumerate(cells)]
    (tmp_path / "b" / "nodes.csv").write_text("\n".join([lines[0], *turned]) + "\n")
    made = [made_of(nearfar.data(tmp_path / name)).method for name in "ab"]
    assert made[0].texts == made[1].texts
    assert made[0].mixed.ids == made[1].mixed.ids
    assert all(torch.equal(x, y) for x, y in zip(*(vars(m.plan).values() for m in made), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(*(m.state_dict().values() for m in made), strict=True))


def test_a_language_model_is_asked_once(text_network_few, tmp_path, monkeypatch):
    """What is written stays where it is interrupted, and nothing is asked for twice."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    folder = language.save(tmp_path / "writer", "gpt2", length=4096)
    texts, edges, _ = graph(text_network_few)
    texts, edges = texts[:12], edges[:, (edges < 12).all(0)]
    asked = []
    said = LanguageModel._said

    def counted(self, prompts, *rest):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(list(prompts))
        return said(self, prompts, *rest)

    monkeypatch.setattr(LanguageModel, "_said", counted)
    with pytest.raises(KeyboardInterrupt):
        text_experts.by_model(texts, edges, LanguageModel(folder, 6), "red, green", 4)
    kept = {p for batch in asked for p in batch}
    monkeypatch.setattr(LanguageModel, "_said", said)
    again = []
    monkeypatch.setattr(LanguageModel, "_said", lambda self, p, *rest: (again.extend(p), said(self, p, *rest))[1])
    found = text_experts.by_model(texts, edges, LanguageModel(folder, 6), "red, green", 4)
    assert not kept & set(again)
    assert len(kept) + len(again) == 3 * 12 + int(
        ((found.plan.apart >= 0).any(1) | (found.plan.like >= 0).any(1)).sum()
    )
    assert [len(found.contents[e]) for e in ("ORI", "IDR", "SAS", "SAR")] == [12] * 4
    assert found.told["experts"] == "written by writer"
    candidates = int((found.plan.apart >= 0).sum() + (found.plan.like >= 0).sum())
    given = int(found.plan.apart_yes.sum() + found.plan.like_yes.sum())
    assert 0 <= found.told["verdicts_lacking"] <= candidates - given


def test_verdicts_are_asked_for_with_the_neighbours_that_a_node_has():
    told = text_experts.prompts("EDGE", ["a text", "b", "c"], [[1, 2], [], []], None, [7, 0, 0])[0]
    assert "It has 7 neighbours" in told
    assert "2. c" in told


@pytest.mark.parametrize("answer", ["1 0 1", "1, 0, 1", "1. 1\n2. 0\n3. 1 (alike)", " 1) 1\n 2) 0\n 3) 1"])
def test_verdicts_may_be_numbered(answer):
    assert text_experts.digits_of(answer) == ["1", "0", "1"]


def test_prompts_tell_classes_only_where_they_are_named():
    plain = text_experts.prompts("IDR", ["a text"], [[]], None)[0]
    told = text_experts.prompts("SAR", ["a text", "another"], [[1], [0]], "red, green")
    assert "red" not in plain
    assert "(red, green)" in told[0]
    assert "1. another" in told[0]
    assert len(text_experts.prompts("IDR", ["word " * 900], [[]], None)[0].split()) < 160


def test_verdicts_of_a_language_model_are_read_in_order(text_network_few, monkeypatch):
    texts, edges, _ = graph(text_network_few)
    plain = text_experts.by_words(texts, edges).plan
    many = (plain.apart >= 0).sum(1) + (plain.like >= 0).sum(1)

    class Says:
        folder = Path("someone")

        def answers(self, prompts, *, most, what):
            if what != "verdicts":
                return [f"{what} {k}" for k in range(len(prompts))]
            counted = iter(many[many > 0].tolist())
            return [" ".join("10"[k % 2] for k in range(next(counted) - 1)) for _ in prompts]  # the last is lacking

    said = text_experts.by_model(texts, edges, Says(), None, 8)  # pyright: ignore[reportArgumentType]
    assert said.told["verdicts_lacking"] == 60
    for v in range(60):
        row = [
            *said.plan.apart_yes[v][plain.apart[v] >= 0].tolist(),
            *said.plan.like_yes[v][plain.like[v] >= 0].tolist(),
        ]
        assert row == [k % 2 == 0 for k in range(len(row) - 1)] + [False]


def test_a_file_of_answers(text_network_few, tmp_path):
    texts, edges, keys = graph(text_network_few)
    near = [[int(b) for a, b in edges.T if a == v] for v in range(60)]
    hub = max(range(60), key=lambda v: len(near[v]))
    rows = [(key, e, f"{e} of {key}") for key in keys for e in ("IDR", "SAS", "SAR")]
    rows += [(keys[hub], "EDGE", "1", keys[u]) for u in near[hub][:6]] + [(keys[0], "EDGE", 0, keys[59])]
    rows += [("nobody", "IDR", "lost"), (keys[1], "ORI", "ignored"), (keys[2], "EDGE", "1", keys[near[2][0]])]
    said = text_experts.by_file(texts, edges, keys, answers(tmp_path / "a.jsonl", rows))
    assert said.contents["SAS"][7] == f"SAS of {keys[7]}"
    assert said.contents["ORI"] == list(texts)
    assert said.plan.apart[hub, :6].tolist() == near[hub][:6]
    assert said.plan.apart_yes[hub].tolist() == [True] * 6 + [False] * 4
    assert (said.plan.apart[2] == -1).all()  # one neighbour is too few to prune
    assert said.plan.like[0, 0] == 59
    assert not said.plan.like_yes.any()
    assert said.told == {"experts": "a.jsonl", "verdicts": "a.jsonl", "answers_of_other_nodes": 1}
    alone = text_experts.by_file(texts, edges, keys, answers(tmp_path / "b.jsonl", rows[:180]))
    assert alone.told == {"experts": "a.jsonl".replace("a", "b"), "verdicts": "words"}
    assert torch.equal(alone.plan.like_yes, text_experts.by_words(texts, edges).plan.like_yes)
    made = made_of(text_network_few, experts=str(tmp_path / "a.jsonl"))
    assert made.resolved["experts"] == "a.jsonl"


@pytest.mark.parametrize(("rows", "said"), [
    ([("v0", "IDR", "x")], "59 nodes have no text of IDR"),
    ([("v0", "IDX", "x")], "no expert 'IDX'.*Did you mean 'IDR'"),
    ([("v0", "IDR", "x"), ("v0", "IDR", "y")], "row 2: 'v0' has two texts of IDR"),
    ([("v0", "EDGE", "perhaps", "v1")], "the verdict is 'perhaps'"),
    ([("v0", "EDGE", "1", "v0")], "needs another node"),
    ([("v0", "EDGE", "1")], "needs another node"),
    ([("w", "IDR", "x")], "no row names a node"),
])  # fmt: skip
def test_wrong_answers(rows, said, text_network_few, tmp_path):
    with pytest.raises(InputError, match=said):
        made_of(text_network_few, experts=str(answers(tmp_path / "a.jsonl", rows)))


def test_wrong_files_and_options(text_network_few, tmp_path):
    (tmp_path / "a.csv").write_text("node,text\nv0,x\n")
    with pytest.raises(InputError, match="no column 'expert'"):
        made_of(text_network_few, experts=str(tmp_path / "a.csv"))
    with pytest.raises(InputError, match="not a table of answers"):
        made_of(text_network_few, experts="somewhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not the folder of a language model"):
        made_of(text_network_few, experts=str(tmp_path / "folder"))
    for option in ({"classes": "a, b"}, {"expert_tokens": 3}, {"expert_batch": 3}):
        with pytest.raises(InputError, match="no language model is asked"):
            made_of(text_network_few, **option)


def test_wrong_data_and_encoders(tmp_path, network_few, text_network_few):
    with pytest.raises(InputError, match="needs a column of texts"):
        made_of(network_few)
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "edges.csv").write_text("from,to\n1,2\n2,3\n")
    with pytest.raises(InputError, match="'gaugllm' needs"):
        made_of(nearfar.data(tmp_path / "g"))
    for options, said in (
        ({"graph_encoder": "rgcn"}, "have no relation"),
        ({"graph_neighbours": "5,5"}, "edits the whole graph"),
    ):
        settings = TrainSettings(batch_size="auto", steps=4, **options)
        with pytest.raises(InputError, match=said):
            building.prepare("gaugllm", text_network_few, settings, {})
    with pytest.raises(InputError, match="too short for two stages"):
        made_of(text_network_few, steps=1)
    with pytest.raises(InputError, match="momentum"):
        made_of(text_network_few, host="barlow", momentum=0.5)


# -- mixtures and stages


def test_shares_depend_on_the_context(text_network_few):
    method = made_of(text_network_few).method
    with torch.no_grad():
        for p in method.mixed.selector.parameters():
            p.mul_(0.1)
        before = method.mixed.whole()[1]
        half = len(method.mixed.ids) // 2
        method.mixed.ids[half:] = method.mixed.ids[half:][::-1]
        assert not torch.allclose(method.mixed.whole()[1], before)
        blind = made_of(text_network_few, selector="content").method.mixed
        assert len(blind.ids) == 4


@pytest.mark.parametrize("selector", ["similarity", "concat", "content", "uniform", "none"])
@pytest.mark.parametrize("plain", ["own", "shared"])
def test_selectors(selector, plain, text_network_few):
    contents = {e: [f"{e} {k}" for k in range(6)] for e in ("ORI", "IDR", "SAS", "SAR")}
    mixed, own = mixtures("small", contents, [1] * 6, selector, 0.2, own=plain == "own")
    assert (mixed is None) == (selector == "none")
    assert (own is None) == (selector != "none" and plain == "shared")
    for one, count in ((mixed, 4), (own, 1)):
        if one is not None:
            h, shares = one(torch.tensor([0, 5]))
            assert h.shape == (2, 128)
            assert shares.shape == (2, count)
            assert shares.sum(1).tolist() == pytest.approx([1, 1])
    if selector == "uniform":
        assert (shares[:, 0] == 0.25).all() or plain == "own"


def test_concat_has_twice_the_width():
    one, two = Selector("similarity", 8, 0.2), Selector("concat", 8, 0.01)
    assert one.first.weight.shape == (4, 8)
    assert two.first.weight.shape == (8, 16)
    assert one.second.weight.shape == (4, 16)
    assert two.second.weight.shape == (4, 32)


def test_equal_texts_give_their_vector():
    text = nearfar.encoders.text("small", texts=["one two", "three"])
    mixture = TextMixture(text, [["one two", "three"]] * 4, [["one"] * 2] * 4, Selector("similarity", 128, 0.2))
    with torch.no_grad():
        h = mixture.eval()(torch.tensor([0, 1]))[0]
        torch.testing.assert_close(h, text.eval()(text.prepare(["one two", "three"])))


def test_vectors_are_frozen_after_the_first_stage(text_network_few):
    """Encoders of texts and selector learn, then stay with h1 and h2, while convolutions and predictor learn."""
    made = made_of(text_network_few, steps=6)
    method, seen = made.method, {}
    start, begin = {k: v.clone() for k, v in method.state_dict().items()}, method.begin_stage

    def begun(stage):
        begin(stage)
        seen.update({k: v.clone() for k, v in method.state_dict().items()})

    method.begin_stage = begun
    engine.trainer_for(made, [], 6).fit(method, made.loader)
    end = method.state_dict()
    read = [k for k in end if k.split(".")[0] in ("mixed", "plain")]
    assert any(not torch.equal(start[k], seen[k]) for k in read)
    assert not torch.equal(start["mixed.selector.first.weight"], seen["mixed.selector.first.weight"])
    for k in [*read, "h1", "h2"]:
        assert torch.equal(seen[k], end[k]), k
    for k in ("tower.encoder.convs.0.lin.weight", "host.predictor.0.weight"):
        assert torch.equal(start[k], seen[k]), k
        assert not torch.equal(seen[k], end[k]), k
    assert seen["h1"].any()
    assert not torch.equal(seen["h1"], seen["h2"])


# -- what is kept


def test_a_kept_model_reads_texts(text_network_few, tmp_path):
    run = engine.fit("gaugllm", text_network_few, out=tmp_path / "run", **PLAN)
    model = nearfar.load(run.path / "model")
    assert model.verify() < 1e-4
    assert model.config["towers"]["node"]["preprocessing"]["features"] == "texts of the nodes"
    vectors = ModelEmbedder(model, text_network_few)("node", np.arange(60))
    other = nearfar.data(write_text_network(tmp_path / "other", n=30, seed=4))
    moved = ModelEmbedder(model, other)("node", np.arange(30))
    assert np.isfinite(moved).all()
    items = nearfar.data(write_text_network(tmp_path / "same")).modality("node").items(text_network_few, "node", [3, 4])
    np.testing.assert_allclose(model.embed(items), vectors[3:5], atol=1e-5)
    with pytest.raises(InputError, match="have no texts"):
        ModelEmbedder(model, nearfar.data(write_network(tmp_path / "numbers")))("node", np.arange(3))


def test_presets_by_host(text_network_few):
    """Texts learn at 6e-5 and the selector at 5e-6, whatever the rate of the host."""
    for host, add, rate in (("bgrl", 0.5, 5e-4), ("barlow", 0.3, 1e-3)):
        settings = TrainSettings(batch_size="auto", steps=4, preset="paper", graph_width=16)
        made = building.prepare("gaugllm", text_network_few, settings, {"host": host})
        assert made.method.editing["add"] == add
        assert made.method.optimisation.lr == rate
        assert made.method.form == "hinge"
        assert [rate * one for one in made.method.rates] == pytest.approx([6e-5, 5e-6])


@pytest.mark.parametrize("editing", ["verdicts", "random", "none", "drop"])
def test_arms_of_edges(editing, text_network_few):
    made = made_of(text_network_few, editing=editing, selector="none", feature_drop=0.3)
    batch = made.loader.at(3)
    made.method.h1.normal_()
    made.method.h2.copy_(made.method.h1)
    a, b = made.method.make_views(batch)["node"]
    joined = set(map(tuple, made.method.joined.T.tolist()))
    first, second = (set(map(tuple, x.graph.edges.T.tolist())) for x in (a, b))
    assert first < joined if editing == "drop" else first == joined
    assert (second == joined) == (editing == "none")
    assert editing not in ("random", "drop") or second < joined
    empty = [x.graph.features[0].isnan().all(0) for x in (a, b)]
    assert empty[0].any()
    assert not torch.equal(*empty)
