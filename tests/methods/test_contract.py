"""What every registered method promises: one suite, run for each by existing."""

import copy
import json

import pytest
import torch

from nearfar import methods
from nearfar.encoders import Features
from nearfar.errors import InputError
from nearfar.graphs import Nodes
from nearfar.losses import sup_con
from nearfar.methods import Loss
from nearfar.methods.batch import Batch
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings
from tests.small import encoder_of

SLUGS = methods.slugs()
PAIRED = ("align", "cwcl", "negclip", "clip-rocket")  # of images and texts, where the data hold groups too
TOLD = {  # what the data do not say
    "sepclr": {"background": "twemoji"},
    "csp": {"untrained": True},
    "coop": {"untrained": True},
}


def setup(slug, data, **options):
    settings = TrainSettings(
        batch_size=8, steps=6, warmup=0, by="columns" if slug in PAIRED else "auto", **encoder_of(slug)
    )
    return building.prepare(slug, data, settings, TOLD.get(slug, {}) | options)


def step(made, number=0):
    """Embeddings, batch and loss of one training step, as the engine runs it."""
    batch: Batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    if made.method.phases():
        made.method.before_targets(batch)
        return {}, batch, Loss(sum(phase.loss(batch).total for phase in made.method.phases()))
    embedded = made.method.encode(batch)
    made.method.before_targets(batch)
    with torch.no_grad():
        embedded |= made.method.targets(batch)
    return embedded, batch, made.method.loss(embedded, batch)


def encoded(method, batch):
    """Embeddings; of a method of phases the loss of each."""
    return {p.name: p.loss(batch).total for p in method.phases()} or method.encode(batch)


def plain_view(x):
    """A view as one tensor: images or numbers (a missing one 0), edges of a graph, token ids, features of a frozen
    encoder."""
    if isinstance(x, Nodes):
        return x.graph.edges
    return x.nan_to_num() if isinstance(x, torch.Tensor) else x.values if isinstance(x, Features) else x.ids


@pytest.mark.parametrize("slug", SLUGS)
def test_every_trained_parameter_gets_a_finite_gradient(slug, data_of):
    made = setup(slug, data_of(slug))
    made.method.train()
    _, _, loss = step(made)
    loss.total.backward()
    assert loss.total.dim() == 0
    assert torch.isfinite(loss.total)
    for name, p in made.method.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
        else:
            assert p.grad is None, name


@pytest.mark.parametrize("slug", SLUGS)
def test_encode_is_pure(slug, data_of):
    """The same batch encoded twice in evaluation mode gives the same embeddings and changes no state."""
    made = setup(slug, data_of(slug))
    made.method.eval()
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    before = copy.deepcopy(made.method.state_dict())
    a, b = encoded(made.method, batch), encoded(made.method, batch)
    assert a.keys() == b.keys()
    for key in a:
        pairs = zip(a[key], b[key], strict=True) if isinstance(a[key], list) else [(a[key], b[key])]
        assert all(torch.equal(x, y) for x, y in pairs)
    assert all(torch.equal(v, made.method.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("slug", SLUGS)
def test_views_depend_on_seed_and_step_alone(slug, data_of):
    made = setup(slug, data_of(slug))

    def flat(number):
        batch = made.loader.at(number)
        views = made.method.make_views(batch)
        return [plain_view(x) for role in views for x in views[role]]

    first, again, other = flat(1), flat(1), flat(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    drawn = not torch.equal(made.loader.at(1).rows, made.loader.at(2).rows) or hasattr(made.method, "plan")
    assert drawn == any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("slug", SLUGS)
def test_description(slug):
    found = methods.describe(slug)
    assert found["paper"]["title"]
    assert found["paper"]["idea"].endswith(".")
    assert found["needs"]
    assert all(o["help"] for o in found["options"])
    signature = {o["name"] for o in found["options"]}
    assert set(methods.get(slug).preset_paper) <= signature, "the paper's literals name real options"


SMALL = {
    "swav": {"prototypes": 30, "freeze_prototypes": 0},
    "align": {"by": "columns"},
    "negclip": {"by": "columns"},
    "clip-rocket": {"by": "columns"},
    "ccp": {"bank": 16},
    "cocosoda": {"queue": 64},
    "susana": {"batch_size": "auto"},  # episodes have their own
    "crest": {"batch_size": "auto"},
    "pamc": {"batch_size": "auto"},  # all nodes
    "meow": {"batch_size": "auto"},
    "mochi": {
        "negatives": {"name": "mixing", "size": 64, "start": 0.1, "in_batch": False},
        "image_size": 32,
        "batch_size": 32,
    },
    "mcl": {"batch_size": 32},
    "whitenedcse": {"batch_size": 32},
}
# Where the candidates change (a queue fills, running statistics settle, mixing or a stage begins), the loss is compared
# with what it was then.
BEGAN = {
    "ccp": slice(14, 18),
    "contriever": slice(2, 6),
    "mochi": slice(4, 8),
    "mcl": slice(20, 22),
    "multicsr": slice(16, 18),
    "mcl-pairs": slice(20, 22),
    "ins": slice(8, 10),
    "pamc": slice(20, 22),
    "gaugllm": slice(20, 22),
}


@pytest.mark.parametrize("slug", SLUGS)
def test_it_learns_a_toy_task(slug, data_of, tmp_path):
    """Forty real steps on small data bring the loss down from where it began."""
    run = engine.fit(
        slug,
        data_of(slug),
        out=tmp_path / "run",
        **{"steps": 40, "batch_size": 16, "val_every": 0, "progress": False}
        | encoder_of(slug)
        | TOLD.get(slug, {})
        | SMALL.get(slug, {}),
    )
    losses = [json.loads(line)["loss"] for line in (run.path / "curve.jsonl").read_text().splitlines()]
    began = losses[BEGAN.get(slug, slice(0, 1))]
    assert sum(losses[-8:]) / 8 < sum(began) / len(began)


def test_composition_is_free(emoji_few):
    """DCL's loss with a queue, in align, and over SwAV's crops."""
    for slug, options in (
        ("dcl", {"negatives": {"name": "queue", "size": 32}}),
        ("align", {"loss": "dcl"}),
        ("dcl", {"views": {"name": "multi-crop", "small": 2}}),
        ("simclr", {"loss": {"name": "hcl", "beta": 0.5}, "momentum": "auto", "negatives": "queue"}),
        ("pairs", {"loss": {"name": "dcl", "sigma": 0.5}, "negatives": "queue"}),
        ("contriever", {"negatives": None, "momentum": None, "loss": "debiased"}),
        ("simclr", {"loss": {"name": "supcon", "positives": "category"}, "negatives": "queue"}),
        ("simclr", {"loss": "siglip", "momentum": "auto"}),
        ("simclr", {"loss": {"name": "simple", "alpha": 0.2}}),
        ("pairs", {"loss": {"name": "milnce", "positives": "subcategory"}}),
        ("align", {"loss": "cacr", "learn_temperature": False}),
        ("contriever", {"loss": {"name": "triplet", "positives": "auto"}}),
        ("mochi", {"loss": "dcl"}),
        ("mcl", {"loss": "dcl", "negatives": "mixing"}),
        ("simclr", {"negatives": {"name": "cluster", "clusters": 3}, "loss": "hcl"}),
        ("pairs", {"negatives": {"name": "fnc", "strategy": "attract"}, "loss": "dcl"}),
    ):
        made = setup(slug, emoji_few, **options)
        embedded, batch, loss = step(made)
        assert torch.isfinite(loss.total)
        loss.total.backward()
        made.method.after_step(
            {k: [x.detach() for x in v] if isinstance(v, list) else v.detach() for k, v in embedded.items()}, batch
        )
        _, _, second = step(made, 1)
        assert torch.isfinite(second.total)


def test_labels_make_positives(emoji_few):
    """SupCon of a method is SupCon of all views with the labels of the batch."""
    made = setup("simclr", emoji_few, loss={"name": "supcon", "positives": "category"}, mask_duplicates=False)
    embedded, batch, loss = step(made)
    z, y = torch.cat(embedded["views"]), batch.labels["category"].repeat(2)
    assert torch.allclose(loss.total, sup_con(z, y, temperature=0.1), atol=1e-6)
    made = setup("simclr", emoji_few, loss="supcon", negatives={"name": "queue", "size": 32})
    _, batch, _ = step(made)
    remembered = made.method.item_identities(batch)[0]
    assert torch.equal(remembered[:, -1], batch.labels["category"])  # a memory's classmates are excluded
    with pytest.raises(InputError, match="Did you mean 'category'"):
        step(setup("simclr", emoji_few, loss={"name": "supcon", "positives": "categry"}))
    with pytest.raises(InputError, match="no temperature to learn"):
        setup("align", emoji_few, loss="simple")


def test_views_of_another_kind_are_refused(emoji_few):
    with pytest.raises(InputError, match="are for texts, but the data are images"):
        setup("simclr", emoji_few, views="crops")
