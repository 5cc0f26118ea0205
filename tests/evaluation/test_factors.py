"""Factors that are read off stage by stage."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation import factor_diagnostics, read_factors


def staged(n, rng):
    """Stage 0 shows the factor `colour`, stage 1 the factor `shape`."""
    y = {"colour": rng.integers(4, size=n), "shape": rng.integers(3, size=n)}
    z = [3 * np.eye(4)[y["colour"]], 3 * np.eye(4)[y["shape"]]]
    return np.concatenate([x + 0.3 * rng.standard_normal(x.shape) for x in z], 1), y


def test_each_stage_shows_what_it_learned_and_together_they_show_both():
    sizes = {"train": 200, "val": 60, "test": 80}
    made = {p: staged(n, np.random.default_rng(n)) for p, n in sizes.items()}
    vectors = {p: z for p, (z, _) in made.items()}
    factors = {f: {p: y[f] for p, (_, y) in made.items()} for f in ("colour", "shape")}
    factors["missing"] = {p: np.full(len(z), -1) for p, z in vectors.items()}
    found = {r.factor: r for r in read_factors(vectors, [4, 4], factors)}
    assert set(found) == {"colour", "shape"}
    assert found["colour"].alone[0] > 0.95 > 0.6 > found["colour"].alone[1]
    assert found["shape"].alone[1] > 0.95 > 0.6 > found["shape"].alone[0]
    assert all(r.joined[1] > 0.95 and r.joined[0] == r.alone[0] for r in found.values())
    lines = factor_diagnostics(list(found.values()))
    assert ["had suppressed" in line.advice for line in lines] == [False, True]
    assert "the first shows it best" in lines[0].advice
    (gain,) = found["shape"].gains
    assert gain.mean == pytest.approx(found["shape"].alone[1] - found["shape"].alone[0])
    assert gain.low is not None
    assert 0 < gain.low < gain.mean
    one = read_factors({p: z[:, :4] for p, z in vectors.items()}, [4], factors)
    assert [r.gains for r in one] == [[], []]
    assert "against stage 0" not in factor_diagnostics(one)[0].advice
    assert lines[0].value == found["colour"].joined[-1]
    with pytest.raises(InputError, match="do not add up"):
        read_factors(vectors, [4, 3], factors)
