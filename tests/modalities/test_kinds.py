"""What every kind of data promises, on its example."""

import numpy as np
import pytest
import torch

import nearfar
from nearfar import encoders, methods, modalities
from nearfar.methods.tower import Tower
from nearfar.registry import MODALITIES
from nearfar.training.embedding import Embedder
from nearfar.views import build

OWN = MODALITIES.own()
ANY = [slug for slug in methods.slugs() if {"any"} in methods.get(slug).needs]


@pytest.fixture(scope="module", params=OWN)
def example(request):
    """A kind, its example and a fresh encoder."""
    kind = modalities.get(request.param)
    data = nearfar.data(kind.example, limit=80)
    torch.manual_seed(0)
    return kind, data, kind.encoder(kind.resolve(kind.options(), data), data, 0).eval()


def test_roles_belong_to_one_kind():
    roles = modalities.roles()
    assert len(set(roles)) == len(roles)
    assert all(modalities.of(role).name in OWN for role in roles)
    heads = ["image", "text", "series", "vector"]
    across = [(a, b) for i, a in enumerate(heads) for b in heads[i + 1 :]]
    assert modalities.pairs() == [*across, ("image", "image_b"), ("text", "text_b"), ("vector", "vector_b")]


def test_items_embed_the_same_from_the_table_and_by_themselves(example):
    kind, data, encoder = example
    rows, role = np.arange(0, len(data), 3), kind.roles[0]
    table = Embedder({role: Tower(encoder)}, data, batch_size=7)(role, rows)
    alone = encoders.vectors(encoder, kind.kept(data, role, rows, encoder))
    alone /= np.linalg.norm(alone, axis=1, keepdims=True)
    assert np.allclose(table, alone, atol=1e-5)
    items = kind.items(data, role, rows, getattr(encoder, "size", None))
    assert np.allclose(Embedder({role: Tower(encoder)}, data).items(role, items), table, atol=1e-5)


def test_a_saved_encoder_is_restored(example, tmp_path):
    kind, data, encoder = example
    encoder.save_files(tmp_path)
    again = encoders.from_config(encoder.config(), tmp_path)
    again.load_state_dict(encoder.state_dict())
    rows = np.arange(5)
    items = kind.read(kind.write(kind.kept(data, kind.roles[0], rows, encoder), encoder), encoder)
    assert np.array_equal(encoders.vectors(again.eval(), items), encoders.vectors(encoder, items))
    assert kind.accepts(items[0])
    assert len(encoders.vectors(encoder, kind.examples(encoder))) > 1


def test_its_views_and_its_other_look(example):
    kind, data, encoder = example
    role, rows = kind.roles[0], np.arange(8)
    raw = kind.reader(data, role, encoder).raw(rows, np.random.default_rng(0))
    plan = build(kind.default_plan).bind(encoder)
    views = plan(raw, torch.Generator().manual_seed(0))
    assert len(views) == plan.count
    assert all(torch.isfinite(encoder(view)).all() for view in views)
    items = kind.items(data, role, rows, 32)
    look, again = kind.other_look(items, rows), kind.other_look(items, rows)
    assert kind.show(data, role, look, 32) == kind.show(data, role, again, 32)
    assert kind.show(data, role, look, 32) != kind.show(data, role, items, 32)
    assert len(set(kind.stamp(data, role, rows, 32))) == len(np.unique(data.content(role)[rows]))


@pytest.mark.parametrize("slug", ANY)
def test_methods_of_any_kind_train_on_vectors(slug, tmp_path):
    run = nearfar.fit(slug, "digits", limit=80, steps=2, batch_size=8, out=tmp_path / "run", val_every=0)
    assert nearfar.load(run.path / "model", verify=True).modalities == ["vector"]
