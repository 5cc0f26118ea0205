"""Training in stages, each with its own batches, schedule and start: cluster and contrast again, tasks in sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nearfar.methods.base import Method
from nearfar.methods.tower import Tower
from nearfar.samplers import Sampler


class Staged(Method):
    """A method of several stages; `class Mine(Staged, ViewContrast)`. It writes `stage_starts`, and of the rest what it
    needs. Each stage has a fresh optimiser and its own learning-rate schedule; `fit` measures the model at the end of
    each and keeps the scores in stages.json. All that a stage changes must be part of the state.
    """

    def stage_starts(self) -> Sequence[int]:
        """The steps at which a stage begins; the first is 0."""
        raise TypeError(f"{type(self).__name__} does not say when its stages begin")

    def second_from(self, share: float) -> list[int]:
        """The starts of two stages, of which the first takes a share of the steps; one step each at least."""
        return [0, max(1, min(self.facts.steps - 1, round(share * self.facts.steps)))]

    def begin_stage(self, stage: int) -> None:
        """When a stage after the first begins (embed, cluster, new weights), before its first batch is drawn. The
        optimiser's state is cleared afterwards. `self.survey` embeds all training rows."""

    @torch.no_grad()
    def renew(self, stage: int, towers: Iterable[tuple[str, Tower]]) -> None:
        """New weights: the encoders of these roles as they would be fresh (the pretrained ones, or random ones of that
        stage; 0: those of the run's start), their heads at the start."""
        for role, tower in towers:
            tower.encoder.load_state_dict(self.survey.fresh(self.seed + 1000 * stage, role).state_dict())
            for module in tower.head.modules() if tower.head is not None else ():
                begin: Any = getattr(module, "reset_parameters", None)
                if begin is not None:
                    begin()

    def end_stage(self, stage: int) -> Mapping[str, float]:
        """When a stage ends, after its last step: choose exemplars, keep a copy. Returns numbers for stages.json."""
        return {}

    def negative_groups(self) -> np.ndarray | None:
        """A label of each training row, int (N,), in the order of `survey.rows`: the negatives of an item come from its
        own pool alone; None: from everywhere."""
        return None

    def sampler(self, stage: int) -> Sampler:
        negative_groups = self.negative_groups()
        return super().sampler(stage) if negative_groups is None else super().sampler(stage).within(negative_groups)

    def stage_of(self, step: int) -> int:
        return max(k for k, start in enumerate(self.stage_starts()) if start <= step or k == 0)

    def steps_of_stages(self) -> list[tuple[int, int]]:
        starts = list(self.stage_starts())
        return list(zip(starts, [*starts[1:], self.facts.steps], strict=True))

    def within(self, step: int) -> tuple[int, int]:
        first, last = self.steps_of_stages()[self.stage_of(step)]
        return step - first, last - first

    def before_draw(self, step: int) -> None:
        starts = list(self.stage_starts())
        if step > 0 and step in starts:
            torch.manual_seed(int(self.seed) * 1_000_003 + step)
            self.begin_stage(starts.index(step))
            for optimiser in self.trainer.optimizers if self._trainer is not None else ():
                optimiser.state.clear()
        super().before_draw(step)

    def finish_stage(self, stage: int) -> dict[str, Any]:
        """`end_stage` with random numbers of its own. `fit` calls it after the stage's last step."""
        torch.manual_seed((int(self.seed) * 1_000_003 + self.steps_of_stages()[stage][1]) * 7 + 1)
        return dict(self.end_stage(stage))
