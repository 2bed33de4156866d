"""Bytes and times of LoRA over float32, bfloat16 and NF4, and of optimizer states: `python tests/bench/bench_qlora.py`.

Each time is the median of `--repeats` with the least and the most of them: milliseconds of one core, not of the clock,
and the models take turns, so that a busy machine slows all alike. On a CPU; a GPU has other kernels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from latentpad.models.policy import Policy, load_policy, new_policy
from latentpad.models.quantised import quantisation_state
from latentpad.recipe.schema import LoraSection, ScratchSection
from latentpad.rollout import Request, Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.training.optimizers import make_optimizer
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {
    "14M": ScratchSection(hidden_size=384, layers=6, heads=6, intermediate_size=1536, max_positions=256),
    "104M": ScratchSection(hidden_size=768, layers=11, heads=12, intermediate_size=3072, max_positions=256),
}
KINDS: dict[str, dict[str, str]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "nf4, computes fp32": {"quantisation": "nf4"},
    "nf4, computes bf16": {"quantisation": "nf4", "precision": "bf16"},
}
ROWS, TOKENS = 16, 64


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def frozen_bytes(policy: Policy) -> tuple[int, int]:
    """Of all frozen weights, and of the linear layers among them; scales and code books included."""
    total = linear = 0
    for name, parameter in policy.model.named_parameters():
        if not parameter.requires_grad:
            size = sum(t.numel() * t.element_size() for t in [parameter, *quantisation_state(parameter).values()])
            total += size
            linear += size * ("_proj" in name)
    return total, linear


def learn(policy: Policy) -> None:
    ids = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS) % len(policy.tokenizer)
    policy.model.train()
    policy.model(input_ids=ids).logits.float().logsumexp(-1).mean().backward()
    policy.model.zero_grad(set_to_none=True)


def sample(policy: Policy) -> None:
    requests = [Request(tiny.prompt(policy, "12+34"), seed) for seed in range(ROWS)]
    sampling = Sampling(temperature=1.0, max_new_tokens=16, forbidden_ids=policy.stop_ids)
    LocalEngine(policy, chunk_size=ROWS).generate(requests, sampling)


def turns(work: dict[str, Callable[[], None]], repeats: int) -> dict[str, str]:
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            started = time.process_time()
            run()
            if turn:  # the first warms up
                times[name].append(1000 * (time.process_time() - started))
    return {n: f"{statistics.median(t):7.0f} ({min(t):.0f}-{max(t):.0f})" for n, t in times.items()}


def optimizers(parameters: list[torch.nn.Parameter], repeats: int) -> None:
    kinds = ("adamw", "adamw_8bit", "lion_8bit")
    made = {kind: make_optimizer(kind, parameters, lr=1e-6, weight_decay=0.0) for kind in kinds}
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    times = turns({kind: optimizer.step for kind, optimizer in made.items()}, repeats)  # type: ignore[misc]
    for kind, optimizer in made.items():
        tensors = {
            t.data_ptr(): t.numel() * t.element_size()
            for state in optimizer.state.values()
            for t in state.values()
            if isinstance(t, torch.Tensor)
        }
        say(f"    {kind:12} {sum(tensors.values()) / 1e6:9.2f} MB   {times[kind]} ms a step")
    for parameter in parameters:
        parameter.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="14M")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        whole = new_policy(SIZES[options.size], tiny.task().alphabet + tiny.COMPACT.alphabet, seed=0)
        whole.save(Path(folder))
        lora = LoraSection(rank=options.rank, alpha=2.0 * options.rank)
        policies = {name: load_policy(Path(folder), lora=lora, **kind) for name, kind in KINDS.items()}
    count = sum(p.numel() for p in whole.model.parameters())
    say(f"{count / 1e6:.1f}M weights, LoRA of rank {options.rank}, {ROWS} x {TOKENS} tokens forward and back (CPU ms),")
    say(f"{ROWS} x 16 tokens sampled (CPU ms), {options.repeats} repeats: median (least-most)")
    learned = turns({name: lambda p=p: learn(p) for name, p in policies.items()}, options.repeats)
    sampled = turns({name: lambda p=p: sample(p) for name, p in policies.items()}, options.repeats)
    for name, policy in policies.items():
        total, linear = frozen_bytes(policy)
        numbers = f"{total / 1e6:8.2f} MB, {linear / 1e6:8.2f} MB linear"
        say(f"  {name:20} {numbers}   step {learned[name]}   sample {sampled[name]}")
    say("  optimizer of the adapter:")
    optimizers(list(policies["fp32"].trainable().values()), options.repeats)
    say("  optimizer of all weights:")
    optimizers(list(whole.trainable().values()), options.repeats)


if __name__ == "__main__":
    main()
