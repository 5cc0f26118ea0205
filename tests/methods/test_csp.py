"""CSP and CoOp: equations against loops written from the card, its invariants, and the methods end to end."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses.primitives import cosine_logits
from nearfar.methods.composing import CompositionOptions, split_names
from nearfar.methods.prompting import (
    ComposedInference,
    Prompts,
    composed,
    composition_logits,
    composition_loss,
    name_vectors,
)
from nearfar.methods.tower import Tower
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.compositions import COLOURS, write_shapes
from tests.encoders.test_two_towers import folders, open_clip_folder  # noqa: F401

MODEL = {"text_encoder": "tiny", "text_causal": True, "text_pooling": "lasttoken", "text_length": 12, "vocabulary": 120}


def setup(slug, data, seed=0, **options):
    settings = TrainSettings(batch_size=16, steps=6, warmup=0, seed=seed, **MODEL)
    return building.prepare(slug, data, settings, {"untrained": True, **options})


def logits_of(made):
    """Of the first batch among the compositions of training rows."""
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    images = made.method.encode(batch)["images"]
    prompts = made.method.prompts.of(made.method.pairs)
    return composition_logits(images, prompts, made.method.scale).detach(), made.method.of[batch.rows]


# -- equations


def test_names_are_means_of_their_tokens_and_sequences_are_put_together():
    torch.manual_seed(0)
    table = torch.randn(9, 4, dtype=torch.float64)
    ids = [[3], [1, 2, 5]]
    made = name_vectors(table, ids)
    assert torch.equal(made[0], table[3])
    assert torch.allclose(made[1], (table[1] + table[2] + table[5]) / 3)
    template, words = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    for pairs in ([[0, 3], [1, 4]], [[0, 1, 3]]):
        found = composed(template, words, torch.tensor(pairs), 4)
        for k, pair in enumerate(pairs):
            for position in range(7):
                inside = 0 <= position - 4 < len(pair)
                wanted = words[pair[position - 4]] if inside else template[position]
                assert torch.equal(found[k, position], wanted)


def naive_loss(images, prompts, true, scale):
    total = 0.0
    for x, y in zip(images, true.tolist(), strict=True):
        z = [scale * float(x @ t) / max(float(x.norm() * t.norm()), 1e-12) for t in prompts]
        top = max(z)
        total += top + float(np.log(sum(np.exp(v - top) for v in z))) - z[y]
    return total / len(images)


def test_the_loss_is_a_cross_entropy_of_scaled_cosines():
    torch.manual_seed(1)
    images, prompts = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    true = torch.tensor([0, 3, 1, 1, 2])
    for scale in (1.0, 20.0, 1e-3):
        found = composition_loss(images, prompts, true, scale).item()
        assert found == pytest.approx(naive_loss(images, prompts, true, scale), rel=1e-5)
    s = composition_logits(images, prompts, 7.0)
    assert s.abs().max() <= 7
    assert torch.allclose(s, composition_logits(images * 3.0, prompts * 0.2, 7.0))
    order = torch.tensor([2, 0, 3, 1])
    moved = composition_loss(images, prompts[order], torch.argsort(order)[true], 7.0)
    assert moved.item() == pytest.approx(composition_loss(images, prompts, true, 7.0).item())
    assert torch.autograd.gradcheck(lambda a, b: composition_logits(a, b, 3.0), (images, prompts))


def test_hard_inputs():
    x, t = torch.randn(3, 4), torch.randn(2, 4)
    true = torch.zeros(3, dtype=torch.long)
    zero = torch.zeros(3, 4, requires_grad=True)
    composition_loss(zero, t, true).backward()
    assert torch.isfinite(zero.grad).all()
    assert composition_loss(x, t[:1], true).item() == pytest.approx(0, abs=1e-6)
    assert composition_loss(x[:0], t, true[:0]).item() == 0
    assert torch.isfinite(composition_loss(x.half(), t.half(), true, 100.0))
    wide = torch.randn(4, 3)
    same = composition_loss(wide.T, t, true, 5.0)  # not contiguous
    assert same.item() == pytest.approx(composition_loss(wide.T.contiguous(), t, true, 5.0).item(), rel=1e-5)


def test_mixed_precision_leaves_the_logits_whole():
    """bfloat16 tells 64 from 64.5 at best; logits are in single precision."""
    torch.manual_seed(0)
    x, t = torch.randn(6, 16), torch.randn(5, 16)
    exact = composition_logits(x.double(), t.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, told = composition_logits(x, t), cosine_logits(x, t, 0.01)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(told.double(), exact, rtol=1e-4, atol=1e-3)
    assert composition_logits(x.bfloat16(), t.bfloat16()).dtype == torch.float32


# -- the method


@pytest.mark.parametrize(("slug", "learned"), [("csp", "prompts.words"), ("coop", "prompts.context")])
def test_only_the_words_change(slug, learned, shapes_few):
    made = setup(slug, shapes_few)
    method = made.method.train()
    assert [n for n, p in method.named_parameters() if p.requires_grad] == [learned]
    assert not any(part.training for tower in method.towers().values() for part in tower.modules())
    before = {k: v.clone() for k, v in method.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 0.01)
    batch = made.loader.at(0)
    batch.views = method.make_views(batch)
    method.loss(method.encode(batch), batch).total.backward()
    optimiser.step()
    assert [k for k, v in method.state_dict().items() if not torch.equal(v, before[k])] == [learned]


def test_words_of_no_training_pair_get_no_gradient(shapes_few):
    made = setup("csp", shapes_few, dropout=0.0)
    method, batch = made.method, made.loader.at(0)
    with torch.no_grad():
        method.pairs[method.pairs[:, 0] == 0, 0] = 1  # no pair has the first attribute any more
    batch.views = method.make_views(batch)
    method.loss(method.encode(batch), batch).total.backward()
    grad = method.prompts.words.grad.abs().sum(1)
    assert grad[0] == 0
    assert (grad[1:] > 0).all()


def test_csp_coop_and_hard_prompts_begin_alike(shapes_few):
    csp, coop = setup("csp", shapes_few), setup("coop", shapes_few)
    (a, true), (b, _) = logits_of(csp), logits_of(coop)
    assert torch.equal(a, b)
    encoder = csp.method.tower_b.encoder
    names = csp.method.trained_on.found.names
    assert all(
        len(ids) == 1
        for ids in encoder.encode_ids([*csp.method.trained_on.found.attributes, *csp.method.trained_on.found.objects])
    )
    prompts = [
        f"a photo of {attribute} {item}"
        for ((attribute,), item), seen in zip(names, csp.method.trained_on.seen, strict=True)
        if seen
    ]
    batch = csp.loader.at(0)
    batch.views = csp.method.make_views(batch)
    with torch.no_grad():
        hard = csp.method.tower_b.embed(encoder.prepare(prompts))
    images = csp.method.encode(batch)["images"]
    torch.testing.assert_close(composition_logits(images, hard, 100.0), a, rtol=1e-4, atol=1e-3)
    captions = shapes_few.texts("text", batch.rows.numpy())
    assert [prompts[k] for k in true.tolist()] == captions


def test_dropout_drops_elements_of_the_whole_table_in_training_alone(shapes_few):
    method = setup("csp", shapes_few, dropout=0.5).method
    torch.manual_seed(0)
    dropped = method.train().vocabulary()
    torch.manual_seed(0)
    mask = torch.nn.functional.dropout(torch.ones_like(method.prompts.words), 0.5)
    assert torch.equal(dropped, method.prompts.words * mask)
    assert torch.equal(method.eval().vocabulary(), method.prompts.words)
    assert torch.equal(setup("csp", shapes_few, dropout=0.0).method.train().vocabulary(), method.prompts.words)


def test_what_stands_behind_the_end_has_no_influence(shapes_few):
    method = setup("csp", shapes_few).method
    encoder, prompts = method.tower_b.encoder, method.prompts
    x = encoder.embedded(encoder.build([[*prompts.prefix, *prompts.prefix[-1:] * 2]]))
    longer = type(x)(torch.cat([x.vectors, torch.randn(1, 3, x.vectors.shape[2])], 1),
                     torch.cat([x.mask, torch.zeros(1, 3, dtype=torch.bool)], 1), x.end)  # fmt: skip
    torch.testing.assert_close(encoder(longer), encoder(x))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_transformers_take_learned_words(kind, folders):  # noqa: F811
    same_as_its_own_prompts(nearfar.load(folders / kind))


def test_towers_of_open_clip_take_learned_words(open_clip_folder):  # noqa: F811
    same_as_its_own_prompts(nearfar.load(open_clip_folder[0]))


def same_as_its_own_prompts(model):
    tower = model.roles["text"]
    encoder = tower.encoder
    names = [one for one in ("red", "blue", "square", "a", "of") if len(encoder.encode_ids([f" {one}"])[0]) == 1]
    prompts = Prompts(tower, names[:2], names[2:] or names[:1], "a photo of")
    with torch.no_grad():  # byte pairs know words by the blank in front of them
        rows = [encoder.encode_ids([f" {one}"])[0][0] for one in (*prompts.attributes, *prompts.objects)]
        prompts.words.copy_(encoder.table.weight[torch.tensor(rows)])
        made = prompts.of(torch.tensor([[0, 0]]))
        whole = encoder.build([[*prompts.prefix, rows[0], rows[len(prompts.attributes)]]])
        torch.testing.assert_close(made, tower.embed(whole))
    prompts.learn("words")
    prompts.of(torch.tensor([[0, 0]])).sum().backward()
    touched = prompts.words.grad.abs().sum(1) > 0
    assert touched.nonzero()[:, 0].tolist() == [0, len(prompts.attributes)]


# -- end to end


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), each=12)


@pytest.fixture(scope="module")
def clip(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("clip") / "run"
    nearfar.fit("align", table, out=out, steps=60, batch_size=32, val_every=0, image_size=16, lr=2e-3, **MODEL)
    return out


@pytest.fixture(scope="module")
def csp(table, clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("csp") / "run"
    words = ["--model", str(clip), "--steps", "30", "--batch-size", "32", "--lr", "0.01", "--val-every", "0"]
    assert main(["fit", "csp", str(table), "--out", str(out), *words]) == 0
    return out


def test_the_model_scores_compositions_as_the_equations_say(csp, clip, table):
    """From the saved tensors, the tower's own layers and the table file."""
    model, before = nearfar.load(csp / "model"), nearfar.load(clip / "model")
    assert json.loads((csp / "scores.json").read_text())["scores"]["test"]["primary_name"] == "auc"
    plan = json.loads((csp / "config.json").read_text())
    assert "adam " in plan["resolved"]["optimiser"] + " "
    assert plan["resolved"]["warmup"] == 0
    for ours, theirs in zip(model.roles["text"].parameters(), before.roles["text"].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    inference: ComposedInference = model.inference
    encoder, head = model.roles["text"].encoder, model.roles["text"].head
    theta, attributes, objects = inference.prompts.words, inference.prompts.attributes, inference.prompts.objects
    assert attributes == sorted(COLOURS)
    with open(table) as file:
        rows = list(csv.DictReader(file))[:6]
    found = nearfar.predict(csp, table, top=20)
    prefix = encoder.encode_ids(["a photo of"])[0]
    images = model.embed_images([table.parent / row["image"] for row in rows]).astype(np.float64)
    with torch.no_grad():
        for i, image in enumerate(images):
            scores = {}
            for a, attribute in enumerate(attributes):
                for o, item in enumerate(objects):
                    e = encoder.table.weight
                    vectors = [e[encoder.special.bos], *(e[k] for k in prefix), theta[a], theta[len(attributes) + o],
                               e[encoder.special.eos]]  # fmt: skip
                    whole = encoder.embedded(encoder.build([[*prefix, prefix[0], prefix[0]]]))
                    t = encoder(whole._replace(vectors=torch.stack(vectors)[None]))
                    t = (t if head is None else head(t))[0].double().numpy()
                    scores[f"{attribute} {item}"] = 100 * image @ t / np.linalg.norm(t)
            told = [found.columns["prediction" if k == 0 else f"prediction_{k + 1}"][i] for k in range(20)]
            got = [found.columns["score" if k == 0 else f"score_{k + 1}"][i] for k in range(20)]
            assert set(told) == set(scores)
            np.testing.assert_allclose(got, [scores[one] for one in told], atol=1e-3)
            assert got == sorted(got, reverse=True)
    seen = {one for one, flag in zip(inference.known, inference.seen, strict=True) if flag}
    flags = found.columns["seen"]
    assert [flag == (tuple_of(one) in seen) for one, flag in zip(found.columns["prediction"], flags, strict=True)]
    assert not all(flags)


def tuple_of(words):
    attribute, item = words.split()
    return (attribute,), item


def test_predict_from_the_command_line(csp, table, tmp_path, capsys):
    out = tmp_path / "told.csv"
    words = ["--compositions", "red disc, Green_Ring, big box"]
    assert main(["predict", str(csp), str(table), "--out", str(out), *words]) == 2
    assert "'big box' is no composition" in capsys.readouterr().err
    words = ["--compositions", "red disc, Green_Ring, red green box", "--bias", "3", "--on", "test"]
    assert main(["predict", str(csp), str(table), "--out", str(out), *words]) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["prediction"] for row in rows} <= {"red disc", "green ring", "red green box"}
    assert set(rows[0]) == {"key", "prediction", "score", "seen"}


def test_a_comparison_of_all_methods_leaves_it_out(shapes_few, tmp_path):
    from nearfar.training.comparing import chosen

    said = []
    task = nearfar.evaluation.task_for(shapes_few)
    found = chosen(shapes_few, task, TrainSettings(), "all", said.append)
    assert not {"csp", "coop"} & {one.slug for one in found}
    assert any(line.startswith("csp: left out (it starts from a trained image-text model") for line in said)
    assert {"simclr", "align"} <= {one.slug for one in found}


def test_names_are_split_where_they_are_known():
    assert split_names("old dark", ["dark", "old"]) == ["old", "dark"]
    assert split_names("very old dark", ["very old", "old", "dark"]) == ["very old", "dark"]
    assert split_names("old dark", ["dark"]) == []


def test_compare_with_its_siblings(clip, table, tmp_path, capsys):
    words = ["--methods", "csp,coop", "--model", str(clip), "--steps", "4", "--batch-size", "32", "--seeds", "1"]
    assert main(["compare", str(table), "--out", str(tmp_path / "c"), "--json", *words]) == 0
    rows = {row["slug"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {"csp", "coop", "pretrained", "chance", "pixels", "hog"} <= set(rows)
    metrics = {slug: row["seeds"][0]["metrics"] for slug, row in rows.items()}
    assert [rows[slug]["label"] for slug in ("csp", "coop")] == ["csp (sees labels)", "coop (sees labels)"]
    assert metrics["pretrained"]["auc"] > metrics["chance"]["auc"]
    hard = nearfar.evaluate(clip, table)["rows"][0]["metrics"]
    assert metrics["pretrained"] == pytest.approx(hard, abs=1e-6)  # the towers as they are, by hard prompts


def test_several_attributes_are_trained_and_told(clip, tmp_path):
    table = write_shapes(tmp_path, each=8, second=True)
    options = {"model": str(clip), "attribute": "attribute,size", "steps": 4, "batch_size": 16, "val_every": 0}
    run = nearfar.fit("csp", table, out=tmp_path / "run", **options)
    assert 0 <= run.scores["test"]["metrics"]["higher order"] <= 1
    inference = nearfar.load(tmp_path / "run" / "model").inference
    assert inference.read("big red disc") == (("big", "red"), "disc")
    assert inference.named(CompositionOptions("seen").compositions) == inference.trained_on()


# -- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"untrained": False}, "not trained together"),
        ({"context": "a photo of one of the many things that a hand can hold up"}, "reads 12 tokens; a prompt .* has"),
        ({"context": ""}, "no token"),
        ({"scale": 0.0}, "scale"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_options(options, words, shapes_few):
    with pytest.raises(InputError, match=words):
        setup("csp", shapes_few, **options)


def test_data_that_lack_what_it_needs(emoji_few, shapes_few, table, tmp_path, clip):
    with pytest.raises(InputError, match=r"--attribute COLUMN .*--object COLUMN"):
        setup("csp", emoji_few)
    with pytest.raises(InputError, match="Leave out --freeze"):
        building.prepare("csp", shapes_few, TrainSettings(freeze=True, **MODEL), {"untrained": True})
    with pytest.raises(InputError, match=r"has no texts .* --model FOLDER"):
        setup("csp", nearfar.data(table, roles={"text": None}))
    split = write_shapes(tmp_path, each=6, split=lambda c, s, n: "test" if c == "red" else "val" if n % 2 else "train")
    with pytest.raises(InputError, match="attribute 'red'"):
        building.prepare("csp", nearfar.data(split), TrainSettings(model=str(clip)), {})


def test_a_model_tells_only_what_it_knows(csp, tmp_path):
    other = write_shapes(tmp_path, each=4)
    other.write_text(other.read_text().replace(",grey,", ",violet,"))
    with pytest.raises(InputError, match="knows no attribute 'violet'"):
        nearfar.evaluate(csp, other)
    tower = nearfar.load(csp / "model").roles["text"]
    with pytest.raises(InputError, match="takes none"):
        Prompts(Tower(torch.nn.Identity()), ["red"], ["disc"])
    assert Prompts(tower, ["red"], ["disc"]).words.shape[0] == 2
