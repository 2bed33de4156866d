"""Evaluation while a run trains: accuracy against what was spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.evaluation.evaluate import Measure, record, summarise, write_evaluation
from latentpad.formats import get_format
from latentpad.rollout.local import LocalEngine
from latentpad.tasks import build_task

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from latentpad.evaluation.evaluate import Cell
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.training.processes.world import World


@dataclass(frozen=True)
class During:
    """Greedy accuracy of the policy as it is, on the trained cells, after every `evaluation.every` steps.

    Nothing is drawn that training draws from, so that a run with it has the weights of one without. What the last step
    left is not looked at here: the evaluation at the end is of that.
    """

    recipe: Recipe
    folder: Path
    policy: Policy
    world: World

    def __call__(self, step: int) -> None:
        """By all processes, after step number `step`; 0 is before the first."""
        asked = self.recipe.evaluation
        if asked.every is None or step % asked.every or step >= self.recipe.training.steps:
            return
        task = build_task(self.recipe.task)
        text_format = get_format(self.recipe.format, self.recipe.model.path)
        engine = LocalEngine(self.policy, chunk_size=self.recipe.rollout.chunk_size)
        measure = Measure(self.recipe, self.policy, engine, task, text_format)

        def found(cell: str) -> tuple[Cell, list[dict[str, Any]]]:
            count = asked.every_problems or 0
            episodes = measure.respond(task.distinct(asked.split, cell, count)[:count], 0.0)
            return summarise(episodes, cell, "greedy"), [record(task, e, cell, "greedy") for e in episodes]

        results = self.world.spread(list(task.cells), found)
        if self.world.leads:
            name = f"{self.recipe.name}/seed-{self.recipe.seed}"
            records = [line for _, lines in results for line in lines]
            write_evaluation(self.folder, step, name, [cell for cell, _ in results], records)
