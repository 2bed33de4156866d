"""Rewards as Ray tasks: answers are graded on the cluster's nodes, programs in the sandboxes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentpad.launch.passed_on import forget_launcher
from latentpad.recipe.errors import MachineError
from latentpad.tasks import executes_programs
from latentpad.training.episodes import Items, grade_rollouts  # Ray reads the types of what it runs
from reward import Reward, grade_many
from reward.sandbox import SandboxUnavailable, Settings, configure, shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.launch.cluster import Cluster, Node
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.types import Episode, Rollout

# Answers that a task grades; nodes on which they are tried before the run ends.
_TOGETHER = 64
_TRIES = 4


def grade_here(settings: dict[str, Any], grader: str, items: Items, options: dict[str, Any]) -> list[Reward]:
    """What runs on a node; the sandbox of its process is started, and tests itself, at the first program."""
    configure(Settings(**settings))
    return grade_many(grader, items, **options)


def contained_here(settings: dict[str, Any]) -> str:
    """How this node contains programs, or why it cannot: then the line begins with `no`."""
    forget_launcher()
    configure(Settings(**settings))
    try:
        return f"tier {shared().tier}"
    except SandboxUnavailable as error:
        return f"no sandbox: {error}"


class ClusterRewards:
    """Grades on the nodes that can contain programs; a node that cannot is refused before the first reward.

    Tasks ask for no CPU: while they run, the workers of this run wait for the next step.
    """

    def __init__(self, cluster: Cluster, recipe: Recipe, task: Task) -> None:
        """Try every node, where the task's rewards execute programs.

        Raises:
            MachineError: no node contains programs.
        """
        self._ray, self._task, self._cluster = cluster.ray, task, cluster
        self._settings = {} if recipe.sandbox is None else recipe.sandbox.model_dump()
        self._grade = self._ray.remote(num_cpus=0, max_retries=0)(grade_here)
        self.nodes, self.refused = cluster.nodes(), dict[str, str]()
        if executes_programs(task):
            self._refuse_open_nodes()

    def _refuse_open_nodes(self) -> None:
        tested = self._ray.remote(num_cpus=0, max_retries=2)(contained_here)
        asked = [tested.options(scheduling_strategy=self._on(node)).remote(self._settings) for node in self.nodes]
        found = [self._answer(reference) for reference in asked]
        self.refused = {n.host: f for n, f in zip(self.nodes, found, strict=True) if not f.startswith("tier")}
        self.nodes = [node for node in self.nodes if node.host not in self.refused]
        if not self.nodes:
            host, why = next(iter(self.refused.items()))
            raise MachineError(f"rollout.ray.rewards: no node of the cluster contains programs; {host}: {why}")

    def lines(self) -> list[str]:
        """Where rewards are computed, and which nodes were refused."""
        refused = [f"rewards: node {host} is refused: {why}" for host, why in self.refused.items()]
        return [f"rewards are computed on {len(self.nodes)} nodes of the cluster", *refused]

    def grade(self, policy: Policy, rollouts: Sequence[Rollout]) -> list[Episode]:
        """As `grade_rollouts`, on the cluster.

        Raises:
            MachineError: nodes are lost faster than answers are graded.
        """
        return grade_rollouts(policy, self._task, rollouts, self._rewards)

    def _rewards(self, task: Task, items: Items) -> list[Reward]:
        chunks = [items[i : i + _TOGETHER] for i in range(0, len(items), _TOGETHER)]
        waiting, rewards, lost = dict(enumerate(chunks)), dict[int, list[Reward]](), ""
        for attempt in range(_TRIES):
            if attempt:
                self.nodes = [n for n in self._cluster.nodes() if n.host not in self.refused]
            if not self.nodes:
                break
            asked = {i: self._send(self.nodes[(i + attempt) % len(self.nodes)], waiting[i]) for i in waiting}
            for i, reference in asked.items():
                try:
                    rewards[i] = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except self._ray.exceptions.RayError as error:  # the node or the process is gone: once more
                    lost = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            waiting = {i: chunk for i, chunk in waiting.items() if i not in rewards}
            if not waiting:
                return [reward for i in range(len(chunks)) for reward in rewards[i]]
        raise MachineError(f"rollout.ray.rewards: {len(waiting)} chunks of answers were lost {_TRIES} times; {lost}")

    def _send(self, node: Node, items: Items) -> Any:
        options = {"scheduling_strategy": self._on(node)}
        arguments = (self._settings, self._task.grader, items, dict(self._task.grader_options))
        return self._grade.options(**options).remote(*arguments)

    def _on(self, node: Node) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node.id, soft=False)

    def _answer(self, reference: Any) -> str:
        try:
            return str(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return f"no answer: {str(error).splitlines()[0]}"
