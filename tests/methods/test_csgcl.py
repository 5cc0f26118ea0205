"""CSGCL: the paper's settings weigh communities in a run of any length."""

import pytest

from nearfar.communities import team_up_weight
from nearfar.errors import InputError
from nearfar.training import building
from nearfar.training.settings import TrainSettings


def made(data, steps, **options):
    settings = TrainSettings(steps=steps, preset=options.pop("preset", "auto"))
    return building.prepare("csgcl", data, settings, options).method


@pytest.mark.parametrize(("steps", "last"), [(2000, 10.0), (200, 1.0), (12, 0.06)])
def test_the_papers_settings_weigh_communities_from_the_half_of_the_run_on(network_few, steps, last):
    """As for Wiki-CS: from epoch 1,000 of 2,000 on, 1 more each 100 epochs, 10 at most."""
    method = made(network_few, steps, preset="paper")
    weights = [team_up_weight(t, start=method.start, rise=method.rise, most=method.gamma) for t in range(1, steps + 1)]
    assert weights[steps // 2 - 1] == 0
    assert weights[-1] == pytest.approx(last)


def test_a_run_that_ends_before_communities_count_is_refused(network_few):
    with pytest.raises(InputError, match="--start 8: the run has 8 epochs"):
        made(network_few, 8, start=8)
    assert made(network_few, 8, start=8, gamma=0.0).start == 8
    assert made(network_few, 8, start=7).start == 7
