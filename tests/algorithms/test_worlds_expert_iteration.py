"""What fine-tuning on one's own right responses climbs at first; all expectations are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentpad.algorithms.likelihood import Likelihood
from latentpad.training.right_responses import RightResponse, keep_distinct
from tests.algorithms.world import LIMIT, PROMPTS, RESPONSES, every_step, once_each, token_gradients, world

WORLD = world()
RATES = WORLD.pass_rates().tolist()
RATE_GRADIENTS = [WORLD.gradient(WORLD.pass_rates()[x]) for x in range(PROMPTS)]
SCORES = WORLD.jacobian.reshape(PROMPTS, len(RESPONSES), LIMIT, -1).sum(2)


def expected_ascent(prompt: int, tries: int, most: int | None) -> Tensor:
    """[D] the mean over all draws of the gradient of the kept responses' log likelihood, every token with weight 1."""
    steps = every_step(WORLD, (prompt,), tries)

    def kept(row: list[float]) -> list[float]:
        drawn = [int(number) for number in row]
        right = [
            RightResponse(place, "x", RESPONSES[number], hinted=False, has_scratchpad=False)
            for place, number in enumerate(drawn)
            if WORLD.rewards[prompt, number] == 1
        ]
        places = {response.place for response in keep_distinct(right, most)}
        return [float(place in places) for place in range(tries)]

    flat = steps.responses.flatten(1)
    weights = once_each(kept, flat)
    prompts, ones = torch.full_like(flat, prompt), torch.ones(*flat.shape, LIMIT, dtype=torch.float64)
    return steps.mean(-token_gradients(WORLD, Likelihood(), prompts, flat, ones, weights))


@pytest.mark.parametrize("prompt", range(PROMPTS))
def test_with_one_try_it_climbs_the_pass_rate(prompt: int) -> None:
    torch.testing.assert_close(expected_ascent(prompt, 1, None), RATE_GRADIENTS[prompt])
    assert RATE_GRADIENTS[prompt].norm() > 0.01


@pytest.mark.parametrize("prompt", range(PROMPTS))
@pytest.mark.parametrize("tries", [2, 3])
def test_keeping_one_of_k_tries_a_prompt_counts_by_its_chance_to_be_solved_over_its_pass_rate(
    prompt: int, tries: int
) -> None:
    rate = RATES[prompt]
    weight = (1 - (1 - rate) ** tries) / rate
    assert 1 < weight < 1 / rate  # on the way from grad p to grad log p
    torch.testing.assert_close(expected_ascent(prompt, tries, 1), weight * RATE_GRADIENTS[prompt])


def test_keeping_all_of_k_tries_once_a_response_counts_by_its_chance_to_be_seen() -> None:
    tries, prompt = 3, 1
    seen = 1 - (1 - WORLD.probabilities().detach()[prompt]) ** tries
    expected = ((WORLD.rewards[prompt] * seen)[:, None] * SCORES[prompt]).sum(0)
    torch.testing.assert_close(expected_ascent(prompt, tries, None), expected)
