"""The rollout engine that a recipe asks for, for the time of a run."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

from latentpad.formats import get_format
from latentpad.rollout.local import LocalEngine
from latentpad.rollout.probe import Probe, probe_sequences
from latentpad.training.collect import step_problems
from latentpad.training.episodes import make_prompt
from latentpad.training.processes.world import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from latentpad.launch.cluster import Cluster
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine
    from latentpad.tasks import Task
    from latentpad.training.led import LedEngine
    from latentpad.training.processes.world import World


@contextmanager
def rollout_engine(
    recipe: Recipe,
    policy: Policy,
    task: Task,
    *,
    world: World = ALONE,
    note: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[RolloutEngine]:
    """Started, and ended with the block.

    Args:
        recipe: its `rollout` section says which.
        policy: the trainer's.
        task: for rewards that are computed on the cluster.
        world: the processes of the run; rank 0 owns the workers.
        note: hears of workers that are lost.

    Raises:
        MachineError: a package or a cluster is missing.
        RecipeError: the model cannot be sampled from by this engine.
    """
    chunk_size = recipe.rollout.chunk_size
    if recipe.rollout.engine == "local":
        yield LocalEngine(policy, chunk_size=chunk_size)
    elif recipe.rollout.engine == "vllm":
        from latentpad.rollout.synced import SyncedEngine
        from latentpad.rollout.worker import make_sampler

        probe = _probe(recipe, policy, task)
        engine = SyncedEngine(policy, make_sampler(policy, recipe), chunk_size=chunk_size, probe=probe)
        try:
            yield engine
        finally:
            engine.close()
    else:
        with _pool(recipe, policy, task, world, note) as led:
            yield led


@contextmanager
def _pool(
    recipe: Recipe, policy: Policy, task: Task, world: World, note: Callable[[dict[str, Any]], None]
) -> Iterator[LedEngine]:
    from latentpad.training.led import LedEngine

    if not world.leads:
        yield LedEngine(None, world)
        return
    from latentpad.launch.cluster import cluster
    from latentpad.rollout.pool import Pool

    section = recipe.rollout.ray
    assert section is not None
    with ExitStack() as stack:
        cpus, gpus = section.workers * section.cpus, ceil(section.workers * section.gpus)
        joined = stack.enter_context(cluster(section.address, cpus=cpus, gpus=gpus))
        pool = Pool(policy, recipe, joined, note)
        stack.callback(pool.close)
        grade, lines = None, [_where(recipe, joined)]
        if section.rewards == "tasks":
            from latentpad.training.cluster_rewards import ClusterRewards

            rewards = ClusterRewards(joined, recipe, task)
            grade = partial(rewards.grade, policy)
            lines += rewards.lines()
        engine = LedEngine(pool, world, grade)
        engine.lines = lines
        yield engine


def _probe(recipe: Recipe, policy: Policy, task: Task) -> Probe:
    """Over the run's first prompts."""
    text_format = get_format(recipe.format, recipe.model.path)
    prompts = [make_prompt(policy, text_format, problem).token_ids for problem in step_problems(task, recipe, 0)]
    return Probe(policy, probe_sequences(prompts, len(policy.tokenizer), tail=min(16, recipe.rollout.max_new_tokens)))


def engine_lines(engine: RolloutEngine) -> list[str]:
    """What is in effect of sampling elsewhere, a line each."""
    return list(getattr(engine, "lines", []))


def _where(recipe: Recipe, joined: Cluster) -> str:
    """Who samples, on what."""
    section, nodes = recipe.rollout.ray, joined.nodes()
    assert section is not None
    cluster = "a private Ray cluster" if joined.private else f"the Ray cluster at {joined.address}"
    cpus, wanted = sum(node.cpus for node in nodes), section.workers * section.cpus
    text = f"rollouts: {section.workers} workers ({section.runs}, {section.cpus} threads each) on {cluster}, "
    text += f"{len(nodes)} nodes with {cpus:g} CPUs"
    return text + (f", fewer than the {wanted} that were asked for: some workers wait" if cpus < wanted else "")
