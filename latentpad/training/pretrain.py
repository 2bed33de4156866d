"""`method: pretrain`: next-token prediction on documents in which worked scratchpads are scarce."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from latentpad.models.tokenizer import encode_strictly
from latentpad.progress import stage
from latentpad.training.collate import cut_by_tokens
from latentpad.training.corpus import corpus_document
from latentpad.training.interrupt import graceful_stop
from latentpad.training.optimizer import Optimizer
from latentpad.training.state import TrainingState

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.training.run_folder import RunFolder


def pretrain(recipe: Recipe, run: RunFolder, policy: Policy, task: Task, text_format: Format) -> None:
    """Train until `training.steps`, from the run's newest checkpoint if it has one; every token counts alike.

    Raises:
        Stopped: the user asked to stop; a checkpoint was left.
    """
    assert recipe.pretrain is not None
    section, training = recipe.pretrain, recipe.training
    optimizer = Optimizer(policy, training)
    state = TrainingState(run, policy, optimizer, training)
    title = f"{recipe.name} seed {recipe.seed}: pretrain"
    with graceful_stop() as stop, stage(title, training.steps, state.step) as bar:
        policy.model.train()
        while state.step < training.steps:
            start = time.monotonic()
            documents = [
                corpus_document(task, text_format, section, recipe.seed, state.step, i)
                for i in range(section.documents_per_step)
            ]
            rows = [_document_ids(policy, d.prompt + d.response) for d in documents]
            loss = _accumulate(policy, rows, training.micro_batch_tokens)
            norm, rate = optimizer.step(state.step)
            targets = sum(len(row) - 1 for row in rows)
            state.counters.samples += len(rows)
            state.counters.tokens_trained += targets
            values = {"loss": loss, "grad_norm": norm, "learning_rate": rate}
            state.advance(values, {"seconds": time.monotonic() - start}, stop)
            bar.advance(note=f"loss {loss:.3f}")


def _document_ids(policy: Policy, text: str) -> list[int]:
    return [*encode_strictly(policy.tokenizer, text), policy.stop_ids[0]]


def _accumulate(policy: Policy, rows: list[list[int]], budget: int) -> float:
    """Gradients of the mean negative log likelihood per token over all rows, whatever the cut; returns that mean."""
    targets = sum(len(row) - 1 for row in rows)
    total = 0.0
    for part in cut_by_tokens([len(row) for row in rows], budget):
        width = max(len(rows[i]) for i in part)
        ids = torch.zeros(len(part), width, dtype=torch.int64)
        labels = torch.full((len(part), width), -100)
        for at, i in enumerate(part):
            ids[at, : len(rows[i])] = labels[at, : len(rows[i])] = torch.tensor(rows[i])
        logits = policy.model(input_ids=ids.to(policy.device), use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten().to(policy.device), ignore_index=-100, reduction="sum"
        )
        (loss / targets).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total / targets
