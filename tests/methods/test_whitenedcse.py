"""SimCSE and WhitenedCSE as methods: what is contrasted, whitening of copies, what is kept, errors, and the way of a
user with a list of sentences."""

import json

import pytest
import torch

import nearfar
from nearfar import encoders
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses import info_nce, uniformity
from nearfar.methods.text.whitenedcse import auto_groups
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests import stopping
from tests.contract import runs
from tests.heads.test_whitening import naive
from tests.losses import reference
from tests.methods.test_contract import step

THINGS = ("river", "stone", "wall", "bird", "tree", "boat", "bridge", "cloud", "horse", "field", "door", "roof")
SIDES = ("colour", "age", "name", "song", "shape", "weight", "place", "sound")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentences") / "notes.txt"
    path.write_text("\n".join(f"a note on the {thing} and its {side}" for thing in THINGS for side in SIDES))
    return path


def prepared(data, slug, settings=None, **options):
    settings = TrainSettings(**{"batch_size": 16, "steps": 6, "warmup": 0} | (settings or {}))
    opened = nearfar.data(data)
    torch.manual_seed(1)
    encoder = encoders.text(texts=opened.texts("text"), dim=24, dropout=settings.text_dropout)
    return building.prepare(slug, opened, settings, options, ready={"text": encoder})


def drawn(batch, count, dim):
    make = batch.common_generator(1)
    return torch.stack([torch.randperm(dim, generator=make) for _ in range(count)])


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_simcse_is_infonce_of_the_first_copy_added_over_the_others(sentences, copies):
    made = prepared(sentences, "simcse", views={"copies": copies}, mask_duplicates=False)
    embedded, _, loss = step(made)
    z = [v.detach() for v in embedded["views"]]
    assert len(z) == copies
    assert not torch.equal(z[0], z[1]), "dropout tells the copies apart"
    assert all(v.abs().max() <= 1 for v in z), "tanh"
    want = sum(reference.info_nce(z[0], v, temperature=0.05) for v in z[1:])
    assert loss.total.item() == pytest.approx(want, rel=1e-5)
    assert loss.total.item() == pytest.approx(sum(info_nce(z[0], v, temperature=0.05).item() for v in z[1:]), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"groups": 24}, {"eps": 0.5}, {"differentiate": True}])
def test_whitenedcse_whitens_each_copy_with_groups_of_its_own(sentences, options):
    made = prepared(sentences, "whitenedcse", mask_duplicates=False, **options)
    embedded, batch, loss = step(made)
    method, groups = made.method, options.get("groups", 4)
    assert made.resolved["groups"] == groups
    z = [method.tower.head(naive(h.detach().double(), groups, p, options.get("eps", 0.0)).float())
         for h, p in zip(embedded["views"], drawn(batch, 3, 24), strict=True)]  # fmt: skip
    want = sum(reference.info_nce(z[0].detach(), v.detach(), temperature=0.05) for v in z[1:])
    assert loss.total.item() == pytest.approx(want, rel=1e-4)
    unit = [torch.nn.functional.normalize(v, dim=1) for v in z]
    apart = sum((unit[0] - v).square().sum(1).mean() for v in unit[1:]) / 2
    assert float(loss.terms["alignment"]) == pytest.approx(apart.item(), rel=1e-4)
    assert float(loss.terms["uniformity"]) == pytest.approx(uniformity(z[0]).item(), rel=1e-4, abs=1e-5)


def test_the_released_code_whitens_thirds_of_the_batch(sentences):
    made = prepared(sentences, "whitenedcse", mask_duplicates=False, official=True)
    embedded, batch, loss = step(made)
    rows = torch.stack([h.detach().double() for h in embedded["views"]], 1).view(48, 24)
    parts = [naive(rows[16 * b : 16 * (b + 1)], 4, p) for b, p in enumerate(drawn(batch, 3, 24))]
    z = made.method.tower.head(torch.cat(parts).float()).view(16, 3, 24).unbind(1)
    want = sum(reference.info_nce(z[0].detach(), v.detach(), temperature=0.05) for v in z[1:])
    assert loss.total.item() == pytest.approx(want, rel=1e-4)


def test_equal_copies_with_equal_groups_are_twice_one_pair(sentences):
    """One group knows no order; without dropout all copies are then the same."""
    made = prepared(sentences, "whitenedcse", groups=1, eps=0.1, mask_duplicates=False)
    made.method.eval()
    _, _, three = step(made)
    made = prepared(sentences, "whitenedcse", groups=1, eps=0.1, mask_duplicates=False, views={"copies": 2})
    made.method.eval()
    assert three.total.item() == pytest.approx(2 * step(made)[2].total.item(), rel=1e-6)


def test_a_constant_matrix_has_the_same_loss_and_another_gradient(sentences):
    found = []
    for differentiate in (False, True):
        made = prepared(sentences, "whitenedcse", differentiate=differentiate)
        torch.manual_seed(0)
        loss = step(made)[2].total
        loss.backward()
        found.append((loss.item(), made.method.tower.encoder.table.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-3)


def test_other_groups_make_positives_more_unlike(sentences):
    """Of one network, over ten batches: with groups of their own the copies of a sentence differ more than with shared
    ones."""
    made = prepared(sentences, "whitenedcse")
    apart = {"own": 0.0, "shared": 0.0}
    for number in range(10):
        batch = made.loader.at(number % 6)
        batch.step, batch.views = number, made.method.make_views(batch)
        h = [x.detach() for x in made.method.encode(batch)["views"]]
        orders = drawn(batch, 3, 24)
        for name, p in (("own", orders), ("shared", orders[:1].expand(3, -1))):
            z = [torch.nn.functional.normalize(made.method.tower.head(u), dim=1)
                 for u in nearfar.heads.whitened_views(h, p, 4)]  # fmt: skip
            apart[name] += (z[0] - z[1]).square().sum(1).mean().item()
    assert apart["own"] > 1.02 * apart["shared"]


def test_only_the_encoder_is_kept(sentences, tmp_path):
    """Vectors are those of the encoder, whatever the groups and the batch."""
    run = nearfar.fit("whitenedcse", sentences, out=tmp_path / "run", steps=4, batch_size=16, val_every=0)
    model = nearfar.load(run.path / "model")
    words = [f"the {thing} by the door" for thing in THINGS]
    together, alone = model.embed(words), model.embed(words[:1])
    torch.testing.assert_close(torch.as_tensor(together[:1]), torch.as_tensor(alone), rtol=1e-5, atol=1e-6)
    tower = model.roles["text"]
    with torch.no_grad():
        plain = tower.encoder(tower.encoder.prepare(words))
    torch.testing.assert_close(torch.as_tensor(together), torch.nn.functional.normalize(plain, dim=1))


@pytest.mark.parametrize("more", [{"micro_batch": 5}, {"accumulate": 2}, {"precision": "bf16"}])
def test_parts_of_a_batch_several_batches_and_half_precision(sentences, tmp_path, more):
    run = nearfar.fit("whitenedcse", sentences, out=tmp_path / "run", steps=2, batch_size=16, val_every=0, **more)
    lines = [json.loads(line) for line in (run.path / "curve.jsonl").read_text().splitlines()]
    assert all(torch.tensor(line["loss"]).isfinite() for line in lines)


def test_the_papers_optimiser(sentences):
    made = prepared(sentences, "whitenedcse", {"preset": "paper", "steps": 100}, groups=4)
    o = made.method.optimisation
    assert (o.optimiser, o.lr, o.weight_decay, o.schedule, o.clip_norm) == ("adamw", 1e-5, 0.0, "linear", 1.0)
    assert made.method.plan.count == 3
    assert prepared(sentences, "simcse", {"preset": "paper", "steps": 100}).method.plan.count == 2


def test_groups_of_six_channels_or_fewer():
    assert [auto_groups(d) for d in (768, 96, 128, 24, 7, 1)] == [128, 16, 32, 4, 7, 1]


def test_what_cannot_be_learned_is_told_early(sentences, tmp_path):
    def refused(match, slug="whitenedcse", data=sentences, **options):
        with pytest.raises(InputError, match=match):
            nearfar.fit(slug, data, out=tmp_path / "run", **{"batch_size": 16} | options)

    refused("--groups 7 do not divide the 128 channels of the encoder. Use --groups 32", groups=7)
    refused("A batch of 16 sentences cannot whiten groups of 128 channels. Use --batch-size 129 or more", groups=1)
    refused("copies' must be a whole number from 2 to 64", views={"name": "twice", "copies": 1})
    for slug in ("simcse", "whitenedcse"):
        refused(f"'{slug}' tells the copies of a text apart by the encoder's dropout", slug, text_dropout=0.0)
        refused(f"'{slug}' needs text", slug, "digits")
    refused("the encoder's dropout, and this encoder has none", "simcse", freeze=True)
    refused("The views 'corrupt' are for vectors", "simcse", views="corrupt")
    assert not (tmp_path / "run").exists()
    made = prepared(sentences, "simcse", {"text_dropout": 0.0}, views="delete")
    assert torch.isfinite(step(made)[2].total)


def test_from_a_list_of_sentences_to_what_is_near(sentences, tmp_path, capsys):
    """fit with its plan, embed, search, diagnose, compare and report, from the command line."""
    run, small = tmp_path / "run", ["--steps", "12", "--batch-size", "16", "--device", "cpu", "--text-encoder", "tiny"]
    assert main(["fit", "whitenedcse", str(sentences), *small, "--dry-run", "--preset", "paper"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "groups 32" in told  # of four channels; 128 of six are those of 768
    assert "optimiser adamw" in told
    assert main(["fit", "whitenedcse", str(sentences), *small, "--text-pooling", "cls", "--out", str(run)]) == 0
    assert "groups 32" in capsys.readouterr().out
    curve = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    assert {"alignment", "uniformity", "temperature", "loss"} <= set(curve[-1])
    assert main(["embed", str(run), str(sentences), "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "the song of a bird"]) == 0
    assert main(["diagnose", str(run), str(sentences)]) == 0
    assert "effective rank" in capsys.readouterr().out
    assert main(["compare", str(sentences), "--methods", "simcse,simcse --views.copies 3,whitenedcse", "--seeds", "1",
                 "--steps", "3", "--batch-size", "16", "--device", "cpu", "--val-every", "0", "--out",
                 str(tmp_path / "both")]) == 0  # fmt: skip
    assert (tmp_path / "both" / "report.html").exists()


SCRIPT = """
import nearfar

nearfar.fit(method, table, out=out, **json.loads(options))
"""


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["simcse", "whitenedcse"])
def test_two_processes_whiten_and_contrast_one_batch(slug, sentences, tmp_path, monkeypatch):
    """Without dropout, which each process draws for itself: groups alone tell the copies apart."""
    plan = {"steps": 3, "batch_size": 15, "val_every": 0, "device": "cpu", "progress": False, "optimiser": "sgd",
            "lr": 0.05, "weight_decay": 0.0}  # fmt: skip
    done = stopping.start(SCRIPT, tmp_path / "two", slug, sentences, tmp_path / "two",
                          json.dumps(plan | {"devices": 2}), 9)  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    nearfar.fit(slug, sentences, out=tmp_path / "one", **plan)
    runs.close(tmp_path / "one", tmp_path / "two")
