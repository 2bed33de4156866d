"""Rollouts of an older policy: what their tokens weigh, what ratios are to, and what is told of it."""

from __future__ import annotations

import inspect
import textwrap
import threading
from dataclasses import fields, replace
from math import exp, inf, log, nan
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentpad.algorithms import ALGORITHMS, Critic, build_algorithm
from latentpad.algorithms.dr_grpo import DrGRPO
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.gspo import GSPO
from latentpad.algorithms.ppo import PPO
from latentpad.models.reference import Reference
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key
from latentpad.recipe.schema import Component
from latentpad.rollout.local import LocalEngine
from latentpad.training.collate import Rows
from latentpad.training.correction import Correction, importance_weights, staleness_metrics
from latentpad.training.forward import response_logprobs
from latentpad.training.learner import Learner
from latentpad.training.processes.world import World
from latentpad.training.rl import RLTrainer
from latentpad.training.rows import Observed, make_rows, observe
from latentpad.training.run_folder import RunFolder
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.training.correction import Mode
    from latentpad.types import Batch, Rollout

MODES: tuple[Mode, ...] = ("truncated", "masked")
UNBOUNDED = Correction("truncated", inf)


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


# Weights

# proximal / sampler: 2, 1/2, 9, 1/9
NEW, OLD = logs(0.5, 0.25, 0.9, 0.1), logs(0.25, 0.5, 0.1, 0.9)


@pytest.mark.parametrize(
    ("mode", "cap", "wanted"),
    [
        ("truncated", 3.0, [2, 1 / 2, 3, 1 / 9]),
        ("truncated", 1.0, [1, 1 / 2, 1, 1 / 9]),
        ("truncated", inf, [2, 1 / 2, 9, 1 / 9]),
        ("masked", 3.0, [2, 1 / 2, 0, 0]),
        ("masked", 10.0, [2, 1 / 2, 9, 1 / 9]),
        ("masked", inf, [2, 1 / 2, 9, 1 / 9]),
    ],
)
def test_weights_by_hand(mode: Any, cap: float, wanted: list[float]) -> None:
    assert importance_weights(NEW, OLD, mode=mode, cap=cap).tolist() == pytest.approx(wanted, rel=1e-12)
    assert Correction(mode, cap).weights(NEW, OLD).tolist() == pytest.approx(wanted, rel=1e-12)


NATS = st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=20)


@given(NATS, st.floats(1, 50))
def test_weights_keep_to_their_bounds_and_are_the_ratio_within_them(
    pairs: list[tuple[float, float]], cap: float
) -> None:
    new, old = torch.tensor(pairs, dtype=torch.float64).T
    ratios = [exp(a - b) for a, b in pairs]
    truncated = importance_weights(new, old, mode="truncated", cap=cap).tolist()
    masked = importance_weights(new, old, mode="masked", cap=cap).tolist()
    assert truncated == pytest.approx([min(ratio, cap) for ratio in ratios], rel=1e-9)
    for weight, ratio in zip(masked, ratios, strict=True):
        assert weight == 0 or 1 / cap <= weight <= cap
        inside = (1 + 1e-9) / cap <= ratio <= cap * (1 - 1e-9)
        assert not inside or weight == pytest.approx(ratio, rel=1e-9)


def test_weights_are_float64_of_float32_numbers_and_have_no_gradient() -> None:
    new = torch.tensor([-1.0], requires_grad=True)
    weights = importance_weights(new, torch.tensor([-1.1]), mode="truncated", cap=2.0)
    assert (weights.dtype, weights.requires_grad) == (torch.float64, False)
    # the float32 number nearest to -1.1, subtracted in float64
    assert weights.item() == pytest.approx(exp(-1 - torch.tensor(-1.1).item()), rel=1e-15)


@pytest.mark.parametrize(("mode", "wanted"), [("truncated", 3.0), ("masked", 0.0)])
def test_a_token_that_the_sampler_held_impossible_is_bounded_and_a_broken_policy_stays_visible(
    mode: Any, wanted: float
) -> None:
    weights = importance_weights(torch.tensor([-1.0, nan, -inf]), torch.tensor([-inf, -1.0, -1.0]), mode=mode, cap=3.0)
    assert weights[0] == wanted
    assert weights[1].isnan()
    assert weights[2] == 0


@pytest.mark.parametrize("cap", [0.5, 0.0, -1.0, nan])
def test_a_cap_that_cannot_be_meant_is_refused(cap: float) -> None:
    with pytest.raises(RecipeError, match=r"importance cap: got .*; expected 1 or more"):
        Correction("masked", cap)


def trl_weights(new: torch.Tensor, old: torch.Tensor, mode: str, low: float | None, high: float | None) -> torch.Tensor:
    """TRL's own lines, cut out of its trainer, for they are no function there."""
    trainer = pytest.importorskip("trl").GRPOTrainer
    source = inspect.getsource(trainer._generate_and_score_completions)
    start = source.index("per_token_logps_diff = (")
    end = source.index("# Compute the per-token log probabilities for the reference model")
    block = " " * 16 + source[start:end]
    names: dict[str, Any] = {
        "torch": torch,
        "math": __import__("math"),
        "mask": torch.ones_like(new),
        "old_per_token_logps": new,
        "sampling_per_token_logps": old,
        "self": SimpleNamespace(
            vllm_importance_sampling_mode=mode,
            vllm_importance_sampling_clip_min=low,
            vllm_importance_sampling_clip_max=high,
        ),
    }
    exec(textwrap.dedent(block), names)  # noqa: S102
    found: torch.Tensor = names["vllm_importance_sampling_ratio"]
    return found


def test_weights_are_those_of_trl() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old = (-4 * torch.rand(2, 5, 7, generator=generator, dtype=torch.float64)).unbind()
    for cap in (1.5, 3.0):
        truncated = importance_weights(new, old, mode="truncated", cap=cap)
        torch.testing.assert_close(truncated, trl_weights(new, old, "token_truncate", None, cap), rtol=1e-14, atol=0)
        masked = importance_weights(new, old, mode="masked", cap=cap)
        torch.testing.assert_close(masked, trl_weights(new, old, "token_mask", 1 / cap, cap), rtol=1e-14, atol=0)
        # TRL masks below only where it is told to; its default has no lower bound
        one_sided = trl_weights(new, old, "token_mask", None, cap)
        lower = (new - old).exp() < 1 / cap
        assert lower.any()
        assert one_sided[lower].all()
        assert torch.equal(one_sided[~lower] != 0, masked[~lower] != 0)
        assert not masked[lower].any()
    # and it takes a sampler's logprob that is missing for its own, where we let it be seen
    assert trl_weights(torch.tensor([[-1.0]]), torch.tensor([[nan]]), "token_mask", None, 3.0).item() == 1


# Rows


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A float64 policy that no test of this file moves."""
    return tiny.policy(double=True)


@pytest.fixture(scope="module")
def rollouts(policy: Policy) -> list[Rollout]:
    """Three groups of four, as if another policy had sampled them, far enough off to be clipped."""
    return tiny.off_policy(tiny.sampled(policy, 12, max_new_tokens=16), spread=0.6)


SIGNAL = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.25, 0.5, 0.0]]


def learner(policy: Policy, algorithm: Any = None, **options: Any) -> Learner:
    return Learner(policy, algorithm or GRPO(), tiny.optimizer(policy), 1.0, **options)


def four(policy: Policy) -> list[Rollout]:
    """Two groups of two, responses of 2, 3, 4 and 1 tokens; the sampler's logprobs are -1."""
    return [
        tiny.rollout(policy, "1+2", "3", logprob=-1.0),
        tiny.rollout(policy, "1+2", "30", logprob=-1.0),
        tiny.rollout(policy, "9+9", "180", logprob=-1.0),
        tiny.rollout(policy, "9+9", "", logprob=-1.0),
    ]


def flat(rollouts: Sequence[Rollout], value: float, extra: int = 0) -> list[torch.Tensor]:
    return [torch.full((len(r.token_ids) + extra,), value, dtype=torch.float64) for r in rollouts]


def moved(rollouts: Sequence[Rollout]) -> list[torch.Tensor]:
    """Proximal logprobs; the weights are 1, 2, 3 and 4, one token after the other."""
    return [torch.tensor([-1 + log(t + 1) for t in range(len(r.token_ids))]).double() for r in rollouts]


def test_a_token_weighs_its_share_of_the_step_times_its_importance_and_dead_groups_take_theirs_with_them(
    policy: Policy,
) -> None:
    # 10 tokens: .1 each, times 1, 2, 3, 4; the first group is dead. Nothing is divided by the sum of the weights
    found = Observed(None, None, moved(four(policy)))
    rows = make_rows(four(policy), [[1, 1], [1, 0]], GRPO(), found, max_new_tokens=8, correction=UNBOUNDED)
    assert [w.tolist() for w in rows.weights if isinstance(w, torch.Tensor)] == [
        pytest.approx([0.1, 0.2, 0.3, 0.4]),
        pytest.approx([0.1]),
    ]
    bounded = [
        make_rows(four(policy), [[1, 1], [1, 0]], GRPO(), found, max_new_tokens=8, correction=Correction(mode, 2.5))
        for mode in MODES
    ]
    assert [[w.tolist() for w in made.weights] for made in bounded] == [  # type: ignore[union-attr]
        [pytest.approx([0.1, 0.2, 0.25, 0.25]), pytest.approx([0.1])],
        [pytest.approx([0.1, 0.2, 0, 0]), pytest.approx([0.1])],
    ]
    [batch] = rows.batches(1000)
    assert batch.response_mask.sum(1).tolist() == [1, 4]
    torch.testing.assert_close(batch.weights, torch.tensor([[0.1, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]]))
    ones = torch.tensor([[-1, 0, 0, 0], [-1, log(2) - 1, log(3) - 1, log(4) - 1]])
    torch.testing.assert_close(batch.rollout_logprobs, ones)
    [halves] = rows.take([0], scale=2).batches(1000)  # as minibatches do
    torch.testing.assert_close(halves.weights, torch.tensor([[0.2, 0.4, 0.6, 0.8]]))
    assert not rows.idle().response_mask.any()


def test_without_a_correction_the_samplers_logprobs_stay_in_their_place(policy: Policy) -> None:
    found = Observed(None, None, moved(four(policy)))
    rows = make_rows(four(policy), [[1, 0], [1, 0]], GRPO(), found, max_new_tokens=8)
    assert rows.proximal_logprobs is None
    assert all(isinstance(weight, float) for weight in rows.weights)
    [batch] = rows.batches(1000)
    assert torch.equal(batch.rollout_logprobs, -1.0 * batch.response_mask)


def test_kl_in_the_reward_is_that_of_the_policy_before_this_step(policy: Policy) -> None:
    # k1 of -1.2 to -1.5: .3 a token (the sampler's -1 would make it .5); .2 of it times 2, 3, 4, 1 tokens:
    # .12, .18, .24, .06. rewards 1 - .12, -.18, -.24, -.06: means .35 and -.15
    rollouts = four(policy)
    found = Observed(flat(rollouts, -1.5), flat(rollouts, 0.0, 1), flat(rollouts, -1.2))
    options: dict[str, Any] = {"max_new_tokens": 8, "reward_kl": 0.2, "correction": UNBOUNDED}
    rows = make_rows(rollouts, [[1, 0], [0, 0]], DrGRPO(), found, **options)
    assert list(rows.advantages) == pytest.approx([0.53, -0.53, -0.09, 0.09])
    # values 0, lambda 1: advantage t is what is earned from t on, .06 paid at each token
    rows = make_rows(rollouts, [[1, 0], [0, 1]], PPO(lambda_actor=1.0, normalise=False), found, **options)
    wanted = [[0.88, 0.94], [-0.18, -0.12, -0.06], [-0.24, -0.18, -0.12, -0.06], [0.94]]
    for column in (rows.advantages, rows.returns or []):
        assert [row.tolist() for row in column] == [pytest.approx(row, abs=1e-6) for row in wanted]  # type: ignore[union-attr]
    share = 0.1 * exp(-0.2)  # every row of a critic weighs so too, and holds what the ratio is to
    assert [w.tolist() for w in rows.weights] == [pytest.approx([share] * len(row)) for row in wanted]  # type: ignore[union-attr]
    [batch] = rows.batches(1000)
    torch.testing.assert_close(batch.rollout_logprobs, -1.2 * batch.response_mask)


def gradient(made: Learner, batches: Sequence[Batch]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    return made.accumulate(batches), tiny.gradients(made.policy)


def of_a_step(policy: Policy, rollouts: Sequence[Rollout], algorithm: Any, **options: Any) -> Rows:
    """Rows for this algorithm, from the policy as it is, with a reference and a critic that says nothing."""
    observed = observe(
        rollouts, learner(policy), reference=Reference.of(policy), critic=None, budget=200, proximal=True
    )
    found = replace(observed, values=flat(rollouts, 0.5, 1), **options.pop("found", {}))
    return make_rows(rollouts, SIGNAL, algorithm, found, max_new_tokens=16, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_at_weight_1_rows_batches_and_gradient_are_those_without_a_correction_to_the_bit(
    policy: Policy, rollouts: list[Rollout], name: str, mode: Any
) -> None:
    algorithm = build_algorithm(Component(name=name))
    same = {"proximal_logprobs": [torch.tensor(r.logprobs, dtype=torch.float64) for r in rollouts]}
    options: dict[str, Any] = {"found": same, "reward_kl": 0.1}
    plain = of_a_step(policy, rollouts, algorithm, **options)
    corrected = of_a_step(policy, rollouts, algorithm, **options, correction=Correction(mode, 1.0))
    assert [r.seed for r in corrected.rollouts] == [r.seed for r in plain.rollouts]
    pairs = list(zip(corrected.batches(60), plain.batches(60), strict=True))
    assert len(pairs) > 1
    for ours, theirs in pairs:
        for field in fields(ours):
            one, other = getattr(ours, field.name), getattr(theirs, field.name)
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other), field.name
    metrics, found = gradient(learner(policy, algorithm), [ours for ours, _ in pairs])
    other_metrics, expected = gradient(learner(policy, algorithm), [theirs for _, theirs in pairs])
    assert metrics == other_metrics
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(bool(value.any()) for value in expected.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_corrected_gradient_does_not_depend_on_the_split(
    policy: Policy, rollouts: list[Rollout], name: str, mode: Any
) -> None:
    algorithm = build_algorithm(Component(name=name))
    # the policy has taken an update since, so that its ratios are not 1
    since = [row + 0.3 * row.sin() for row in of_a_step(policy, rollouts, PPO()).reference_logprobs or []]
    rows = of_a_step(policy, rollouts, algorithm, correction=Correction(mode, 1.3), found={"proximal_logprobs": since})
    splits = {}
    for budget in (1, 60, 120, 10_000):
        with tiny.double():
            parts = rows.batches(budget)
        splits[len(parts)] = gradient(learner(policy, algorithm), parts)
    metrics, whole = splits.pop(1)
    assert metrics["sampler_kl"] > 1e-3
    assert len(splits) >= 2
    for other_metrics, other in splits.values():
        assert other_metrics == pytest.approx(metrics, rel=1e-12, abs=1e-12)
        for key, value in whole.items():
            torch.testing.assert_close(other[key], value, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("poison", [1e6, nan, inf])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_and_logprobs_at_padding_do_not_reach_the_gradient(
    policy: Policy, rollouts: list[Rollout], name: str, poison: float
) -> None:
    algorithm = build_algorithm(Component(name=name))
    [clean] = of_a_step(policy, rollouts, algorithm, correction=Correction("masked", 1.3)).batches(10_000)
    padding = ~clean.response_mask
    assert padding.any()
    poisoned = replace(
        clean,
        weights=clean.weights.masked_fill(padding, poison),
        rollout_logprobs=clean.rollout_logprobs.masked_fill(padding, poison),
    )
    made = learner(policy, algorithm)
    (metrics, expected), (other, found) = gradient(made, [clean]), gradient(made, [poisoned])
    assert metrics == other
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_first_corrected_gradient_is_the_sum_of_weight_times_advantage_times_score(
    policy: Policy, rollouts: list[Rollout]
) -> None:
    algorithm = GRPO(scale="none", aggregation="constant")
    with tiny.double():
        [batch] = of_a_step(policy, rollouts, algorithm, correction=Correction("truncated", 1.2)).batches(10_000)
    _, found = gradient(learner(policy, algorithm), [batch])
    order = sorted(range(12), key=lambda i: (len(rollouts[i].prompt.token_ids) + len(rollouts[i].token_ids), i))
    centred = [value - sum(row) / 4 for row in SIGNAL for value in row]
    logprobs = response_logprobs(policy.model, batch)
    total = torch.zeros((), dtype=torch.float64)
    for row, i in enumerate(order):
        for t, old in enumerate(rollouts[i].logprobs):
            weight = min(exp(float(logprobs[row, t].detach()) - old), 1.2)
            total = total - centred[i] * weight * logprobs[row, t] / (12 * 16)
    total.backward()  # type: ignore[no-untyped-call]
    for key, value in tiny.gradients(policy).items():
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "signed"])
def test_before_the_first_update_every_ratio_is_1_and_nothing_is_clipped_however_stale_the_sampler(
    policy: Policy, rollouts: list[Rollout], name: str
) -> None:
    algorithm = build_algorithm(Component(name=name, **({"clip_high": 0.2} if name == "cispo" else {})))
    with tiny.double():
        plain = of_a_step(policy, rollouts, algorithm).batches(100)
        corrected = of_a_step(policy, rollouts, algorithm, correction=UNBOUNDED).batches(100)
    made = learner(policy, algorithm)
    assert gradient(made, plain)[0]["clip_fraction"] > 0
    metrics = gradient(made, corrected)[0]
    assert metrics["clip_fraction"] == 0
    assert (metrics["ratio_low"], metrics["ratio_high"]) == pytest.approx((1, 1), abs=1e-12)
    assert metrics["sampler_kl"] == pytest.approx(0, abs=1e-12)


def test_a_masked_token_is_not_trained_but_by_gspo_whose_ratio_is_the_whole_responses(policy: Policy) -> None:
    pair = [tiny.rollout(policy, "1+2", "345", logprob=-1.0), tiny.rollout(policy, "1+2", "3", logprob=-1.0)]

    def slopes(algorithm: Any, weights: list[float]) -> list[float]:
        proximal = [torch.tensor([log(w) - 1 for w in weights]), torch.tensor([-1.0, -1.0])]
        found = Observed(None, None, [row.double() for row in proximal])
        options: dict[str, Any] = {"max_new_tokens": 8, "correction": Correction("masked", 2.5)}
        with tiny.double():
            batch = make_rows(pair, [[1, 0]], algorithm, found, **options).take([0]).collate()
        logprobs = batch.rollout_logprobs.clone().requires_grad_()
        loss = algorithm.token_loss(
            logprobs=logprobs,
            rollout_logprobs=batch.rollout_logprobs,
            advantages=batch.advantages,
            mask=batch.response_mask,
        ).loss
        (loss * batch.weights).sum().backward()
        assert logprobs.grad is not None
        return (-logprobs.grad[0] / logprobs.grad[0].abs().max()).tolist()

    assert slopes(GRPO(), [1, 2, 9, 0.5]) == pytest.approx([0.5, 1, 0, 0.25])
    assert slopes(GSPO(), [1, 2, 9, 0.5]) == pytest.approx([1, 1, 1, 1])


# The policy before this step


@pytest.mark.parametrize("forbidden", [(), (2, 3)])
def test_proximal_logprobs_are_those_of_the_policy_as_it_is_for_any_budget(forbidden: tuple[int, ...]) -> None:
    policy = tiny.policy(double=True)
    rollouts = tiny.sampled(policy, 7, temperature=0.7, forbidden_ids=forbidden, max_new_tokens=12)
    reference = Reference.of(policy)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.05)
    made = Learner(policy, GRPO(), tiny.optimizer(policy), 0.7, forbidden)
    with torch.no_grad():
        wanted = [made.forward(tiny.collate([r], [0.0], [1.0])).logprobs[0] for r in rollouts]
    for budget in (1, 40, 10_000):
        found = observe(rollouts, made, reference=reference, critic=None, budget=budget, proximal=True)
        assert found.proximal_logprobs is not None
        torch.testing.assert_close(found.proximal_logprobs, wanted, rtol=0, atol=1e-11)
        assert not any(row.requires_grad for row in found.proximal_logprobs)
        assert found.reference_logprobs is not None
        assert (torch.cat(found.reference_logprobs) - torch.cat(wanted)).abs().max() > 1e-3
    assert observe(rollouts, made, reference=reference, critic=None, budget=40).proximal_logprobs is None


def test_the_policy_is_asked_in_evaluation_mode_and_left_in_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny.policy()
    rollouts, made, modes = tiny.sampled(policy, 4), learner(policy), []
    forward = made.forward

    def spy(batch: Batch) -> Any:
        modes.append(policy.model.training)
        return forward(batch)

    monkeypatch.setattr(made, "forward", spy)
    for mode in (True, False):
        policy.model.train(mode)
        observe(rollouts, made, reference=None, critic=None, budget=40, proximal=True)
        assert policy.model.training is mode
    assert modes
    assert not any(modes)


class Together(World):
    """Processes that are threads."""

    def __init__(self, rank: int, meeting: threading.Barrier, given: list[Any]) -> None:
        super().__init__(rank, len(given))
        self.meeting, self.given = meeting, given

    def gather(self, value: Any) -> list[Any]:
        self.given[self.rank] = value
        self.meeting.wait(60)
        return list(self.given)


def test_processes_share_the_pass_out_and_all_learn_what_was_found(policy: Policy, rollouts: list[Rollout]) -> None:
    alone = observe(rollouts, learner(policy), reference=None, critic=None, budget=60, proximal=True)
    meeting = threading.Barrier(2)
    given: list[Any] = [None, None]
    found = [Observed(None, None)] * 2

    def work(rank: int) -> None:
        made = learner(policy, world=Together(rank, meeting, given))
        found[rank] = observe(rollouts, made, reference=None, critic=None, budget=60, proximal=True)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert alone.proximal_logprobs is not None
    for rank in range(2):
        torch.testing.assert_close(found[rank].proximal_logprobs, alone.proximal_logprobs, rtol=0, atol=1e-11)
    shares = [len(each[2]) for each in given]
    assert len(shares) == 2
    assert all(0 < share <= 12 for share in shares)


# What is told


def celled(rollout: Rollout, cell: str) -> Rollout:
    problem = replace(rollout.prompt.problem, cell=cell)
    return replace(rollout, prompt=replace(rollout.prompt, problem=problem))


def stale(policy: Policy, correction: Correction) -> Rows:
    """Weights 2 and 1/2 in a response of 2 tokens, 1, 1, 4 in one of 3, and 1 in one of 1."""
    rollouts = [celled(r, cell) for r, cell in zip(four(policy), ("digits=3", "digits=1", "", "digits=3"), strict=True)]
    proximal = [row - 1 for row in (logs(2, 0.5), logs(1, 1, 4), logs(1))]
    picked = [rollouts[i] for i in (0, 1, 3)]
    found = Observed(None, None, proximal)
    return make_rows(picked, [[1, 0.5, 0]], GRPO(), found, max_new_tokens=8, correction=correction)


def test_staleness_by_hand(policy: Policy) -> None:
    # w - 1 - log w: 1 - log 2, -1/2 + log 2, 0, 0, 3 - log 4, 0; sum w = 9.5, sum w^2 = 4 + 1/4 + 1 + 1 + 16 + 1
    correction = Correction("truncated", 3.0)
    wanted = {"mismatch_kl": (3.5 - log(4)) / 6, "importance_effective_samples": 9.5**2 / (6 * 23.25)}
    found = staleness_metrics(stale(policy, correction), correction)
    assert found == pytest.approx({**wanted, "corrected_tokens": 1 / 6})
    correction = Correction("truncated", 1.5)
    found = staleness_metrics(stale(policy, correction), correction)
    assert found == pytest.approx({**wanted, "corrected_tokens": 2 / 6})


def test_what_was_masked_is_told_beside_what_was_trained(policy: Policy) -> None:
    # outside [2/3, 3/2]: 2, 1/2 and 4; in responses of 2 and of 3 tokens, of 2, 3 and 1; cells of 3 and of 3 tokens
    correction = Correction("masked", 1.5)
    found = staleness_metrics(stale(policy, correction), correction)
    assert found.pop("mismatch_kl") == pytest.approx((3.5 - log(4)) / 6)
    assert found.pop("importance_effective_samples") == pytest.approx(9.5**2 / (6 * 23.25))
    wanted = {"corrected_tokens": 3 / 6, "masked_response_tokens": 2.5, "trained_response_tokens": 2.0}
    assert found == pytest.approx({**wanted, "masked[digits=1]": 1 / 3, "masked[digits=3]": 2 / 3})
    correction = Correction("masked", 5.0)
    found = staleness_metrics(stale(policy, correction), correction)
    assert "masked_response_tokens" not in found
    assert (found["corrected_tokens"], found["masked[digits=1]"], found["masked[digits=3]"]) == (0, 0, 0)


def test_of_a_step_without_rows_there_is_nothing_to_tell(policy: Policy) -> None:
    assert staleness_metrics(Rows([], [], []), UNBOUNDED) == {}
    empty = make_rows([], [], GRPO(), Observed(None, None, []), max_new_tokens=8, correction=UNBOUNDED)
    assert staleness_metrics(empty, Correction("masked", 2.0)) == {}
    dead = Observed(None, None, flat(four(policy), -1.0))
    rows = make_rows(four(policy), [[1, 1], [0, 0]], GRPO(), dead, max_new_tokens=8, correction=UNBOUNDED)
    assert staleness_metrics(rows, UNBOUNDED) == {}


@pytest.mark.parametrize("algorithm", [GRPO(), PPO(critic=Critic(kind="head", pretraining_steps=0))])
def test_a_step_tells_how_far_the_sampler_is_off_and_its_ratios_are_to_the_policy_before_it(
    tmp_path: Path, algorithm: Any
) -> None:
    recipe = tiny.recipe(rl={"minibatches": 2})
    policy = tiny.policy()
    run = RunFolder(tmp_path, recipe, content_key(recipe))
    sampler = LocalEngine(tiny.policy(sharpness=6.0), chunk_size=16)  # another policy
    trainer = RLTrainer(recipe, run, policy, sampler, tiny.task(), tiny.COMPACT, algorithm)
    monitored: list[tuple[Rows, list[list[float]]]] = []
    make = trainer.rows

    def spy(collected: Any, signal: list[list[float]]) -> tuple[Rows, dict[str, float]]:
        signal[:] = [[float(i % 2) for i in range(len(row))] for row in signal]  # so that every group is live
        rows, found = make(collected, signal)
        monitored.append((rows, signal))
        return rows, found

    trainer.rows = spy  # type: ignore[method-assign]
    trainer.correction = Correction("masked", 1.5)
    values, _ = trainer.step()
    [(rows, _)] = monitored
    told = staleness_metrics(rows, trainer.correction)
    assert told["mismatch_kl"] > 0.01
    assert 0 < told["corrected_tokens"] < 1
    assert {name: values[name] for name in told} == told
    # of two updates the first one's ratios are 1, those of the second what one update makes of them
    assert values["ratio"] == pytest.approx(1, abs=0.05)
    assert values["effective_samples"] > 0.5
    run.close()
