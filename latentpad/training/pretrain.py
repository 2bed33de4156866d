"""`method: pretrain`: next-token prediction on documents in which worked scratchpads are scarce."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from latentpad.models.tokenizer import encode_strictly
from latentpad.progress import stage
from latentpad.training.collate import deal
from latentpad.training.corpus import corpus_document
from latentpad.training.interrupt import graceful_stop
from latentpad.training.optimizer import Optimizer
from latentpad.training.processes.strategy import SINGLE
from latentpad.training.state import TrainingState

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.training.processes.strategy import Strategy
    from latentpad.training.processes.world import World
    from latentpad.training.run_folder import RunFolder


def pretrain(
    recipe: Recipe,
    run: RunFolder,
    policy: Policy,
    task: Task,
    text_format: Format,
    strategy: Strategy = SINGLE,
    note: Callable[[list[str]], None] = lambda _: None,
) -> None:
    """Train until `training.steps`, from the run's newest checkpoint if it has one; every token counts alike.

    `note` takes what of the strategy is in effect.

    Raises:
        Stopped: the user asked to stop; a checkpoint was left.
    """
    assert recipe.pretrain is not None
    section, training = recipe.pretrain, recipe.training
    optimizer = Optimizer(policy, training, strategy=strategy)
    state = TrainingState(run, policy, optimizer, training, world=strategy.world)
    note(optimizer.engage())
    title = f"{recipe.name} seed {recipe.seed}: pretrain"
    with graceful_stop() as stop, stage(title, training.steps, state.step) as bar:
        optimizer.model.train()
        while state.step < training.steps:
            start = time.monotonic()
            documents = [
                corpus_document(task, text_format, section, recipe.seed, state.step, i)
                for i in range(section.documents_per_step)
            ]
            rows = [_document_ids(policy, d.prompt + d.response) for d in documents]
            loss = _accumulate(policy, optimizer, rows, training.micro_batch_tokens, strategy.world)
            norm, rate = optimizer.step(state.step)
            targets = sum(len(row) - 1 for row in rows)
            state.counters.samples += len(rows)
            state.counters.tokens_trained += targets
            values = {"loss": loss, "grad_norm": norm, "learning_rate": rate}
            state.advance(values, {"seconds": time.monotonic() - start}, stop)
            bar.advance(note=f"loss {loss:.3f}")


def _document_ids(policy: Policy, text: str) -> list[int]:
    return [*encode_strictly(policy.tokenizer, text), policy.stop_ids[0]]


def _accumulate(policy: Policy, optimizer: Optimizer, rows: list[list[int]], budget: int, world: World) -> float:
    """Gradients of the mean negative log likelihood per token over all rows, whatever the cut; returns that mean."""
    targets = sum(len(row) - 1 for row in rows)
    total = 0.0
    for dealt in deal([len(row) for row in rows], budget, world.rank, world.size):
        part = dealt or [0]  # a process that waits for others learns nothing from it
        width = max(len(rows[i]) for i in part)
        ids = torch.zeros(len(part), width, dtype=torch.int64)
        labels = torch.full((len(part), width), -100)
        for at, i in enumerate(part):
            ids[at, : len(rows[i])] = torch.tensor(rows[i])
            if dealt:
                labels[at, : len(rows[i])] = ids[at, : len(rows[i])]
        with policy.arithmetic():
            logits = optimizer.model(input_ids=ids.to(policy.device), use_cache=False).logits[:, :-1]
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten().to(policy.device), ignore_index=-100, reduction="sum"
        )
        optimizer.backward(loss / targets)
        total += float(loss.detach())
    return sum(world.gather(total)) / targets
