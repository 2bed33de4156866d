"""The start-up proofs hold on what is right, see every bug that is planted, and leave no trace."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import ALGORITHMS, build_algorithm
from latentpad.algorithms.grpo import GRPO
from latentpad.experiments.run import run_recipe
from latentpad.recipe.load import content_key
from latentpad.rollout.local import LocalEngine
from latentpad.training.collate import Rows
from latentpad.training.proofs import PROBES, ProofFailed, probe, prove_all, prove_start
from latentpad.training.reduce import weighted_sum
from latentpad.training.rl import RLTrainer
from latentpad.training.run_folder import RunFolder
from latentpad.types import Batch, FinishReason, Rollout, TokenLoss
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.rollout import Request, Sampling

KL = {"coef": 0.1}
LIMIT = 8


def trainer(folder: Path, policy: Policy | None = None, engine: Any = None, **changes: Any) -> RLTrainer:
    sections: dict[str, Any] = {
        "rollout": {"max_new_tokens": LIMIT, "chunk_size": 16, "temperature": 0.8},
        "training": {"steps": 8, "learning_rate": 0.003, "micro_batch_tokens": 128, "checkpoint_every": 8},
    }
    recipe = tiny.recipe("rl", **(sections | changes))
    run = RunFolder(folder / "run", recipe, content_key(recipe))
    policy = policy or tiny.policy()
    engine = engine or LocalEngine(policy, chunk_size=16)
    assert recipe.algorithm is not None
    return RLTrainer(recipe, run, policy, engine, tiny.task(), tiny.COMPACT, build_algorithm(recipe.algorithm))


def bits(made: RLTrainer) -> dict[str, torch.Tensor]:
    """Everything that a proof could leave changed."""
    found = {f"policy {name}": p.detach().clone() for name, p in made.policy.model.named_parameters()}
    if made.critic is not None:
        found |= {f"critic {name}": p.detach().clone() for name, p in made.critic.trainable().items()}
    if made.kl.reference is not None:
        found |= {f"reference {name}": tensor.clone() for name, tensor in made.kl.reference.weights.items()}
    return found | {"random": torch.get_rng_state()}


@pytest.mark.parametrize(
    "changes",
    [
        *({"algorithm": {"name": name}} for name in ALGORITHMS),
        {"algorithm": {"name": "ppo", "critic": {"kind": "head"}}},
        {"rl": {"kl": KL, "entropy_coef": 0.01}},
        {"rl": {"kl": {**KL, "place": "reward"}, "prompts_per_step": 1}},
        {"scratchpad": "empty"},
    ],
    ids=str,
)
@pytest.mark.parametrize("lora", [False, True])
def test_what_is_right_is_proved_and_left_as_it_was(tmp_path: Path, changes: dict[str, Any], lora: bool) -> None:
    made = trainer(tmp_path, tiny.lora_policy(tmp_path / "base") if lora else None, **changes)
    before, asked = bits(made), probe(made, 4)
    lines = list(prove_all(made))
    assert len(lines) == (8 if "kl" in changes.get("rl", {}) else 7)
    assert not any("\n" in line for line in lines)
    after = bits(made)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None for p in made.policy.model.parameters())
    assert made.critic is None or all(p.grad is None for p in made.critic.trainable().values())
    assert probe(made, 4) == asked
    assert made.state.step == made.state.counters.samples == 0


def logged(made: RLTrainer) -> list[dict[str, Any]]:
    made.train()
    made.run.close()
    lines = [json.loads(line) for line in made.run.metrics.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def test_a_run_is_the_same_with_and_without_proofs(tmp_path: Path) -> None:
    training = {"steps": 2, "learning_rate": 0.01, "checkpoint_every": 2}
    options = {"algorithm": {"name": "ppo", "critic": {"kind": "head", "pretraining_steps": 1}}, "training": training}
    proved, plain = trainer(tmp_path / "a", **options), trainer(tmp_path / "b", **options)
    list(prove_all(proved))
    assert logged(proved) == logged(plain)
    assert proved.policy.trainable_hash() == plain.policy.trainable_hash()


def failed(made: RLTrainer, start: bool = True) -> str:
    with pytest.raises(ProofFailed) as error:
        list(prove_start(made) if start else prove_all(made))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_temperature_that_only_the_sampler_applies_is_seen(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.learner.temperature = 1.0
    assert failed(made).startswith("sampler and learner disagree at equal weights: a logprob by ")


def test_forbidden_tokens_that_only_the_sampler_knows_are_seen(tmp_path: Path) -> None:
    made = trainer(tmp_path, scratchpad="empty")
    made.learner.forbidden_ids = ()
    assert failed(made).startswith("sampler and learner disagree")


def test_logprobs_that_are_not_numbers_are_seen(tmp_path: Path) -> None:
    policy = tiny.policy()
    engine = Changed(
        LocalEngine(policy, chunk_size=16), lambda r: replace(r, logprobs=(float("nan"),) * len(r.logprobs))
    )
    assert failed(trainer(tmp_path, policy, engine)).startswith("sampler and learner disagree")


def test_an_engine_on_a_copy_of_the_weights_is_seen(tmp_path: Path) -> None:
    policy = tiny.policy()
    stale = LocalEngine(replace(policy, model=deepcopy(policy.model)), chunk_size=16)
    assert failed(trainer(tmp_path, policy, stale)).endswith("it samples from other weights")


@dataclass
class Drifting(LocalEngine):
    """Whose sync scales the head for ever."""

    policy: Policy

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, chunk_size=16)
        self.policy, self.syncs = policy, 0

    def sync(self, version: int, adapter_hash: str) -> None:
        super().sync(version, adapter_hash)
        self.syncs += 1
        if self.syncs == 4:
            with torch.no_grad():
                self.policy.model.get_input_embeddings().weight.mul_(1.01)


def test_an_engine_that_does_not_come_back_is_seen(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path / "base")  # the base is not put back by the proof
    line = "the engine's logprobs are not what they were after the trained weights were put back"
    assert failed(trainer(tmp_path, policy, Drifting(policy))) == line


@dataclass
class Changed:
    """An engine whose rollouts are changed on their way."""

    engine: LocalEngine
    change: Callable[[Rollout], Rollout]

    def sync(self, version: int, adapter_hash: str) -> None:
        self.engine.sync(version, adapter_hash)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        return [self.change(r) for r in self.engine.generate(requests, sampling)]


def test_a_stop_token_without_a_weight_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path)
    assert {r.finish_reason for r in probe(made, PROBES)} == set(FinishReason)
    collate = Rows.collate

    def without_stop(self: Rows) -> Batch:
        batch = collate(self)
        response = batch.token_ids[:, -batch.weights.shape[1] :]
        return replace(batch, weights=batch.weights.masked_fill(response == made.policy.stop_ids[0], 0.0))

    monkeypatch.setattr(Rows, "collate", without_stop)
    assert failed(made).startswith("a response that stopped has no weight on its stop token")


def test_a_stop_token_that_is_cut_off_is_seen(tmp_path: Path) -> None:
    def cut(r: Rollout) -> Rollout:
        short = len(r.token_ids) > 1 and r.finish_reason is FinishReason.STOP
        return replace(r, token_ids=r.token_ids[:-1], logprobs=r.logprobs[:-1]) if short else r

    policy = tiny.policy()
    made = trainer(tmp_path, policy, Changed(LocalEngine(policy, chunk_size=16), cut))
    assert failed(made).startswith("a response that stopped has no weight on its stop token")


def test_a_cut_response_that_ends_in_a_stop_token_is_seen(tmp_path: Path) -> None:
    policy = tiny.policy()
    engine = Changed(LocalEngine(policy, chunk_size=16), lambda r: replace(r, finish_reason=FinishReason.LENGTH))
    assert failed(trainer(tmp_path, policy, engine)).startswith("a response that was cut by the length limit ends in")


def test_a_reference_that_is_not_the_start_is_seen(tmp_path: Path) -> None:
    made = trainer(tmp_path, rl={"kl": KL})
    assert made.kl.reference is not None
    for tensor in made.kl.reference.weights.values():
        tensor.add_(0.1)
    assert failed(made).startswith("KL to reference 'base' is ")


def planted(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    token_loss = GRPO.token_loss

    def other(self: GRPO, **tensors: torch.Tensor) -> TokenLoss:
        found = token_loss(self, **tensors)
        return replace(found, loss=change(found.loss))

    monkeypatch.setattr(GRPO, "token_loss", other)


@pytest.mark.parametrize("lora", [False, True])
def test_a_sign_that_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool) -> None:
    planted(monkeypatch, lambda loss: -loss)
    made = trainer(tmp_path, tiny.lora_policy(tmp_path / "base") if lora else None)
    before = bits(made)
    assert failed(made).startswith("a step makes what was rewarded less likely (by ")
    assert all(torch.equal(bits(made)[name], tensor) for name, tensor in before.items())


def test_a_gradient_of_nothing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda loss: loss * 0)
    assert failed(trainer(tmp_path)) == "rewards that differ give a gradient of 0: nothing would be learned"


def test_a_loss_that_depends_on_the_micro_batch_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(loss: torch.Tensor, batch: Batch) -> torch.Tensor:
        return weighted_sum(loss, batch) / len(batch.weights)

    monkeypatch.setattr("latentpad.training.learner.weighted_sum", mean)
    made = trainer(tmp_path)
    prove_start(made)
    assert failed(made, start=False).startswith("the gradient depends on the micro-batches: ")


def test_a_micro_batch_that_does_not_fit_is_told_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path)
    backward = torch.Tensor.backward

    def full(self: torch.Tensor, *args: Any) -> None:
        if widest[0] == LIMIT:
            raise torch.OutOfMemoryError("boom")
        backward(self, *args)

    widest = [0]
    collate = Rows.collate

    def spy(self: Rows) -> Batch:
        widest[0] = min(len(r.token_ids) for r in self.rollouts) if self.rollouts[0].seed == 0 else 0
        return collate(self)

    monkeypatch.setattr(Rows, "collate", spy)
    monkeypatch.setattr(torch.Tensor, "backward", full)
    line = failed(made, start=False)
    assert line.endswith(f"responses of {LIMIT} tokens does not fit in memory: lower training.micro_batch_tokens")


def test_a_run_writes_down_what_was_proved(tmp_path: Path) -> None:
    recipe = tiny.recipe("rl", training={"steps": 1, "checkpoint_every": 1}, evaluation={"problems": 2})
    run_recipe(recipe, tmp_path / "run")
    lines = (tmp_path / "run" / "proofs.txt").read_text().splitlines()
    assert [line.partition(":")[0].partition(" ")[0] for line in lines] == ["ratio", "the", "the", "a"]


def test_a_run_that_fails_a_proof_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda loss: -loss)
    with pytest.raises(ProofFailed):
        run_recipe(tiny.recipe("rl", training={"steps": 1, "checkpoint_every": 1}), tmp_path / "run")
    assert not (tmp_path / "run" / "proofs.txt").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
