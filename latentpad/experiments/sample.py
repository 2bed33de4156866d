"""What a policy writes for a problem, the scratchpad set off from the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from latentpad.formats import get_format
from latentpad.rollout import Request, Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.seeding import seed_of
from latentpad.tasks import build_task
from latentpad.training.episodes import grade_rollouts, make_prompt, shown_answer
from reward import Outcome, extract_scratchpad

if TYPE_CHECKING:
    from latentpad.experiments.run import OpenedRun
    from latentpad.types import Episode


class Sampler:
    """A run's policy, ready to be asked."""

    def __init__(self, opened: OpenedRun, *, temperature: float, count: int) -> None:
        self._recipe = opened.recipe
        self._policy = opened.policy()
        self._task = build_task(self._recipe.task)
        self._format = get_format(self._recipe.format, self._recipe.model.path)
        self._engine = LocalEngine(self._policy, chunk_size=self._recipe.rollout.chunk_size)
        forbidden = self._policy.scratchpad_ids if self._recipe.scratchpad == "empty" else ()
        self._sampling = Sampling(temperature, self._recipe.evaluation.max_new_tokens, forbidden)
        self._count = count
        self._asked = 0
        self._console = Console(highlight=False)

    def ask(self, text: str) -> list[Episode]:
        """Responses to a problem typed by a person. Raises `RecipeError` if it is not one."""
        problem = self._task.parse(text)
        prompt = make_prompt(self._policy, self._format, problem)
        requests = []
        for _ in range(self._count):
            requests.append(Request(prompt, seed_of("sample", self._asked)))
            self._asked += 1
        return grade_rollouts(self._policy, self._task, self._engine.generate(requests, self._sampling))

    def show(self, text: str) -> None:
        """Print the responses."""
        for episode in self.ask(text):
            self._console.print(Text(episode.rollout.prompt.text, style="bold"))
            scratchpad = extract_scratchpad(episode.response)
            if scratchpad:
                self._console.print(Padding(Text(scratchpad, style="dim"), (0, 4)))
            answer = shown_answer(self._task, episode.response)
            outcome = episode.reward.outcome
            style = "green" if outcome is Outcome.CORRECT else "red"
            gold = "" if outcome is Outcome.CORRECT else f", gold {episode.rollout.prompt.problem.answer}"
            self._console.print(
                Text("no answer" if answer is None else answer, style="bold"), Text(f"  {outcome}{gold}", style=style)
            )
