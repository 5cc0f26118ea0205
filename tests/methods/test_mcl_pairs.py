"""MCL over pairs: stages of two towers, the locked one, a first stage that is given, and what is refused."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import nearfar
from nearfar.encoders import Joined, image, text
from nearfar.errors import InputError
from nearfar.methods.multimodal.mcl_pairs import PairsInStages
from nearfar.similarity import normalise
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings

OPTIONS = {"stages": 1, "clusters": 2, "dim": 16}
STEPS = 6


def run(data, out, slug="mcl-pairs", **more):
    settings = {"steps": STEPS, "batch_size": 16, "val_every": 0, "save_every": 2} | more
    return fit(slug, data, out=out, progress=False, **settings)


@pytest.fixture(scope="module")
def emoji_pairs(emoji_few):
    """Its images with their names as pairs."""
    return emoji_few


@pytest.fixture(scope="module")
def ready(emoji_pairs, tmp_path_factory):
    """A model of pairs: what a checkpoint is."""
    return run(emoji_pairs, tmp_path_factory.mktemp("ready") / "run", "pairs", steps=3, dim=16, by="columns")


def stepped(data, count, **options):
    settings = TrainSettings(batch_size=16, steps=STEPS, warmup=0)
    made = building.prepare("mcl-pairs", data, settings, OPTIONS | options)
    told, states = [], []
    optimiser = torch.optim.SGD(made.method.parameters(), 0.1)
    made.method.survey.say = told.append
    for batch in made.loader:
        torch.manual_seed(batch.random_seed)
        batch.views = made.method.make_views(batch)
        embedded = made.method.encode(batch)
        optimiser.zero_grad()
        made.method.loss(embedded, batch).total.backward()
        optimiser.step()
        states.append({k: v.clone() for k, v in made.method.state_dict().items()})
        if batch.step == count - 1:
            break
    return made, batch, states, told


def test_the_finished_model_holds_both_stages_of_both_towers(emoji_pairs, tmp_path):
    done = run(emoji_pairs, tmp_path / "run", **OPTIONS)
    model = nearfar.load(done.path / "model")
    texts = emoji_pairs.texts("text")[:3]
    images = list(emoji_pairs.images("image", 32, np.arange(3)).transpose(0, 2, 3, 1))
    vectors = {"text": model.embed_texts(texts), "image": model.embed_images(images)}
    for role, made in vectors.items():
        tower = model.roles[role]
        assert isinstance(tower.encoder, Joined)
        assert made.shape == (3, 2 * 16)
        items = tower.encoder.prepare(texts if role == "text" else images)
        with torch.no_grad():
            each = [head(part(items)) for part, head in zip(tower.encoder.parts, tower.encoder.heads)]
        assert_close(torch.from_numpy(made), normalise(torch.cat(each, 1)), atol=1e-5, rtol=1e-5)
        assert (each[0] - each[1]).abs().max() > 1e-3
    assert model.verify() < 1e-4


def test_negatives_share_the_cluster_of_the_image(emoji_pairs):
    made, batch, _, told = stepped(emoji_pairs, STEPS)
    place = {int(r): k for k, r in enumerate(made.rows)}
    groups = made.method.negative_groups()
    assert len({int(groups[place[int(r)]]) for r in batch.rows}) == 1
    assert told
    assert "groups of" in told[0]


def test_a_locked_tower_stays_and_the_other_begins_anew(emoji_pairs):
    *_, states, _ = stepped(emoji_pairs, STEPS, locked=True)
    before, after = states[STEPS // 2 - 1], states[-1]
    b = [k for k in before if k.startswith("tower_b.")]
    assert all(torch.equal(before[k], after[k]) for k in b), "to the bit, running averages too"
    assert not torch.equal(states[0][b[-1]], before[b[-1]]), "trained in stage 0"
    a = "tower_a.encoder.out.weight"
    assert (before[a] - after[a]).abs().max() > 1e-3
    assert all(torch.equal(after["past.0.1." + k.removeprefix("tower_b.")], before[k]) for k in b)


def test_a_ready_model_is_stage_zero(emoji_pairs, ready, tmp_path):
    folder = ready.path / "model"
    done = run(emoji_pairs, tmp_path / "run", first=str(folder), **OPTIONS)
    theirs, model = nearfar.load(folder), nearfar.load(done.path / "model")
    for role in ("image", "text"):
        first, tower = model.roles[role].encoder.parts[0], theirs.roles[role]
        state = tower.encoder.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
        head = model.roles[role].encoder.heads[0].state_dict()
        assert all(torch.equal(value, tower.head.state_dict()[name]) for name, value in head.items())
    made, _, states, told = stepped(emoji_pairs, 1, first=str(folder))
    assert made.method.stage_starts() == [0], "all steps are the second stage's"
    assert len(told) == 1
    assert int(states[0]["stage"]) == 1
    assert len(set(made.method.negative_groups().tolist())) == 2


def test_a_given_encoder_of_one_tower(emoji_few, ready, tmp_path):
    options = {"stages": 1, "clusters": 2, "projector": 32, "dim": 16, "first": "given"}
    done = run(emoji_few, tmp_path / "run", "mcl", weights=str(ready.path / "model"), **options)
    state = nearfar.load(ready.path / "model").roles["image"].encoder.state_dict()
    first, last = nearfar.load(done.path / "model").roles["image"].encoder.parts
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert not torch.equal(last.state_dict()["out.weight"], state["out.weight"])


def test_a_text_encoder_from_a_model_of_nearfar(ready):
    made = text(str(ready.path / "model"))
    theirs = nearfar.load(ready.path / "model").roles["text"].encoder
    assert made.pretrained
    items = made.prepare(["a cat", "a house"])
    assert_close(made.eval()(items), theirs(items))
    with pytest.raises(InputError, match="has no length"):
        text(str(ready.path / "model"), length=12)


def test_what_is_refused(emoji_pairs, emoji_few, ready, tmp_path):
    corpus = ["a cat sat", "a dog ran"]
    two = [image("small", size=32), text("small", texts=corpus, vocabulary=40)]
    with pytest.raises(InputError, match="random weights"):
        PairsInStages(*two, first="given")
    for encoder in two:
        encoder.pretrained = True
    with pytest.raises(InputError, match="heads over its encoders are new"):
        PairsInStages(*two, first="given")
    with pytest.raises(InputError, match="cannot be locked on one side"):
        PairsInStages(two[1], locked=True)
    settings = TrainSettings(batch_size=16, steps=STEPS)
    with pytest.raises(InputError, match="not a folder of a nearfar model"):
        building.prepare("mcl-pairs", emoji_pairs, settings, {"first": str(tmp_path)})
    with pytest.raises(InputError, match="do not fit"):
        building.prepare("mcl-pairs", emoji_pairs, settings, {"first": str(ready.path / "model"), "dim": 8})
    small = TrainSettings(batch_size=16, steps=STEPS, vocabulary=60)
    with pytest.raises(InputError, match=r"another tokenizer\.json"):
        building.prepare("mcl-pairs", emoji_pairs, small, {"first": str(ready.path / "model"), "dim": 16})
