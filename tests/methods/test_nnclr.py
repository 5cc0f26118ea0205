"""NNCLR: neighbours and loss against loops in float64, the queue of positives, and what it takes."""

import inspect
import math
from pathlib import Path

import pytest
import torch

from nearfar.encoders import image
from nearfar.errors import InputError
from nearfar.methods.image.nnclr import NNCLR, neighbours
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.methods.test_contract import step


def setup(data, **options):
    return building.prepare("nnclr", data, TrainSettings(batch_size=8, steps=20, warmup=0), options)


def cosine(a, b):
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def naive_neighbours(z, support):
    return [max(range(len(support)), key=lambda j: (cosine(row, support[j]), -j)) for row in z]


def naive_loss(first, second, temperature):
    """-log of the share of n_i . p_i among n_i . p_k and among n_k . p_i, the mean of both, over the samples."""
    n = len(first)
    s = [[cosine(a, b) / temperature for b in second] for a in first]
    rows = [math.log(sum(math.exp(s[i][k]) for k in range(n))) - s[i][i] for i in range(n)]
    columns = [math.log(sum(math.exp(s[k][i]) for k in range(n))) - s[i][i] for i in range(n)]
    return (sum(rows) + sum(columns)) / (2 * n)


def after(made, count):
    """The method after some steps without an optimiser; their first views, in order."""
    seen = []
    for number in range(count):
        embedded, batch, _ = step(made, number)
        seen.append(embedded["views"][0].detach())
        made.method.after_step({k: [x.detach() for x in v] for k, v in embedded.items()}, batch)
    return torch.cat(seen)


def test_neighbours_are_those_of_the_loop():
    support = torch.randn(9, 4, dtype=torch.float64)
    support[7] = 3 * support[2]
    support[5] = 0
    z = torch.cat([torch.randn(6, 4, dtype=torch.float64), support[2:3], torch.zeros(1, 4, dtype=torch.float64)])
    found = neighbours(z.requires_grad_(), support)
    expected = naive_neighbours(z.tolist(), support.tolist())
    assert [cosine(a, b) for a, b in zip(z.tolist(), found.tolist(), strict=True)] == pytest.approx(
        [cosine(a, support[j].tolist()) for a, j in zip(z.tolist(), expected, strict=True)]
    )
    # Rows 2 and 7 of the support have one direction: which of them is found is a matter of the last digit.
    ours, theirs = (torch.nn.functional.normalize(rows, dim=1) for rows in (found[:6], support[expected[:6]]))
    torch.testing.assert_close(ours, theirs)
    assert not found.requires_grad


@pytest.mark.parametrize("steps", [2, 3])
def test_a_step_is_the_equation(steps, emoji_few):
    """With a queue of 24 that is full after three batches of 8: before, a view stands for its own neighbour."""
    made = setup(emoji_few, queue=24, temperature=0.3, mask_duplicates=False)
    support = after(made, steps).double().tolist()
    embedded, _, loss = step(made, steps)
    z, p = ([x.detach().double().tolist() for x in embedded[k]] for k in ("views", "predicted"))
    if steps == 3:
        near = [[support[j] for j in naive_neighbours(view, support)] for view in z]
        assert near != z
    else:
        near = z
    expected = (naive_loss(near[0], p[1], 0.3) + naive_loss(near[1], p[0], 0.3)) / 2
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_reaches_the_predicted_view_alone(emoji_few):
    made = setup(emoji_few, queue=8)
    after(made, 1)
    embedded, batch, _ = step(made, 1)
    views, predicted = ([x.detach().requires_grad_() for x in embedded[k]] for k in ("views", "predicted"))
    made.method.loss({"views": views, "predicted": predicted}, batch).total.backward()
    assert all(v.grad is None for v in views)
    assert all(p.grad.norm() > 0 for p in predicted)


def test_the_queue_keeps_the_last_first_views(emoji_few):
    made = setup(emoji_few, queue=20)
    assert not made.method.support.filled.any()
    seen = after(made, 3)
    held = made.method.support.keys
    assert made.method.support.filled.all()
    assert {tuple(row) for row in held.tolist()} == {tuple(row) for row in seen[-20:].tolist()}


def test_known_duplicates_are_no_negatives(emoji_few):
    made = setup(emoji_few, queue=8)
    embedded, batch, _ = step(made)
    batch.groups = torch.zeros_like(batch.rows)
    loss = made.method.loss(embedded, batch)
    assert float(loss.total) == pytest.approx(0, abs=1e-6), "all are one thing: nothing is pushed away"
    assert loss.terms["masked"] == 1


def test_the_size_of_the_queue_follows_the_data(emoji_few):
    made = setup(emoji_few)
    train = len(emoji_few.splits["train"])
    assert made.resolved["queue"] == made.method.support.capacity == train // 4 // 8 * 8
    assert building.method_options("nnclr", {}, "paper").queue == 98_304


def test_queue_and_teacher_are_not_its_options():
    for name in ("negatives", "momentum"):
        with pytest.raises(InputError, match=f"Unknown option '{name}'"):
            building.method_options("nnclr", {name: "queue"}, None)
        with pytest.raises(InputError, match=f"Unknown option '{name}'"):
            NNCLR(image("small", size=32), **{name: None})


def test_a_paper_is_a_file_of_sixty_lines():
    assert len(Path(inspect.getfile(NNCLR)).read_text().splitlines()) <= 60
