"""What a launcher asks for: how many processes, and DeepSpeed or not. Read once; what would be ignored is refused.

`accelerate launch`, `torchrun` and `deepspeed` speak through environment variables, and several of their options end in
nothing at all, with exit code 0. Imports no torch.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.launch.deepspeed import check_deepspeed, read_deepspeed
from latentpad.recipe.errors import MachineError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latentpad.recipe.schema import Recipe

_NO_STRATEGY = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How this process was started.

    Attributes:
        launcher: `latentpad`, `torchrun`, `accelerate` or `deepspeed`.
        rank: of this process among `world_size`.
        local_rank: of this process on its machine, among `local_size`.
        cpu: whether the launcher keeps it off the GPU.
        mixed_precision: what accelerate was asked for, empty if it was not asked.
        deepspeed: the configuration, checked; None without DeepSpeed.
        notes: what was asked for and need not be done, in words.
    """

    launcher: str = "latentpad"
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_size: int = 1
    cpu: bool = False
    mixed_precision: str = ""
    deepspeed: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def zero_stage(self) -> int:
        """1, 2 or 3 with DeepSpeed, 0 without."""
        return 0 if self.deepspeed is None else int(self.deepspeed["zero_optimization"]["stage"])

    @property
    def offload(self) -> bool:
        """Whether the optimizer's state is kept in the host's memory."""
        zero = {} if self.deepspeed is None else self.deepspeed["zero_optimization"]
        return bool((zero.get("offload_optimizer") or {}).get("device", "none") == "cpu")


def read_launch(
    environment: Mapping[str, str], deepspeed: Path | None = None, parent: Sequence[str] | None = None
) -> Launch:
    """What the launcher asks for.

    Args:
        environment: of this process.
        deepspeed: file given by `--deepspeed`.
        parent: command line of the process that started this one; by default it is looked up (Linux).

    Raises:
        MachineError: something is asked for that would not be in effect.
        RecipeError: the DeepSpeed configuration cannot be read, or says what it may not.
    """
    _refuse_what_is_not_there(environment)
    size = _number(environment, "WORLD_SIZE", 1)
    uses_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    asked = environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    notes: list[str] = []
    config = None
    if deepspeed is not None and asked:
        raise RecipeError(f"--deepspeed {deepspeed}: accelerate asks for DeepSpeed too: give one of the two")
    if deepspeed is not None:
        config = read_deepspeed(deepspeed)
    elif asked:
        config = _deepspeed_of_accelerate(environment, notes)
    if uses_accelerate:
        _refuse_lost_processes(_parent_command() if parent is None else parent, size)
    return Launch(
        launcher=_launcher(environment, uses_accelerate, size),
        rank=_number(environment, "RANK", 0),
        local_rank=_number(environment, "LOCAL_RANK", 0),
        world_size=size,
        local_size=_number(environment, "LOCAL_WORLD_SIZE", _number(environment, "LOCAL_SIZE", size)),
        cpu=environment.get("ACCELERATE_USE_CPU", "false").lower() == "true"
        or environment.get("DS_ACCELERATOR") == "cpu",
        mixed_precision=environment.get("ACCELERATE_MIXED_PRECISION", "") if uses_accelerate else "",
        deepspeed=config,
        notes=tuple(notes),
    )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdigit():
        raise MachineError(f"{name}={text}: expected a whole number, as launchers set it")
    return int(text)


def _launcher(environment: Mapping[str, str], uses_accelerate: bool, size: int) -> str:
    if uses_accelerate:
        return "accelerate"
    if "CROSS_RANK" in environment:
        return "deepspeed"
    return "torchrun" if "TORCHELASTIC_RUN_ID" in environment or size > 1 else "latentpad"


def _refuse_what_is_not_there(environment: Mapping[str, str]) -> None:
    for name, what in _NO_STRATEGY.items():
        if environment.get(name, "false").lower() == "true":
            raise MachineError(f"the launcher asks for {what}, which latentpad does not do: use DeepSpeed ZeRO or none")
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() not in ("", "no"):
        raise MachineError(
            "the launcher asks for torch.compile (dynamo_backend), which latentpad does not do: set it to no"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16"):
        raise MachineError(
            f"the launcher asks for mixed_precision {precision}, which latentpad does not do: no or bf16"
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto"):
        raise MachineError(
            f"the launcher asks for gradient_accumulation_steps {steps}; the recipe's training.micro_batch_tokens "
            "decides: remove it or set it to 1"
        )


def _parent_command() -> list[str]:
    """Of the process that started this one; empty where it cannot be read."""
    try:
        raw = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in raw.split(b"\0") if word]


def _refuse_lost_processes(parent: Sequence[str], size: int) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process, says nothing, and exits with 0.

    It passes on no variable from which that could be seen, so its own parser reads its own command line again.
    """
    names = [Path(word).name for word in parent]
    if "launch" not in names and "accelerate-launch" not in names and "accelerate.commands.launch" not in parent:
        return
    from accelerate.commands import launch

    at = next(i for i, n in enumerate(names) if n in ("launch", "accelerate-launch", "accelerate.commands.launch"))
    parser = launch.launch_command_parser()
    try:
        args = launch._validate_launch_command(parser.parse_args(list(parent[at + 1 :])))[0]
    except (SystemExit, ValueError, OSError):  # it started us from this very line, so it cannot be wrong here
        return
    wanted = int(args.num_processes or 1)
    if wanted != size:
        raise MachineError(
            f"accelerate was asked for {wanted} processes and started {size}: on a CPU use 'accelerate launch "
            f"--config_file recipes/launch/cpu.yaml' or 'torchrun --nproc_per_node {wanted} -m latentpad train ...'"
        )


def _deepspeed_of_accelerate(environment: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "None")
    if file not in ("", "None"):
        return read_deepspeed(Path(file))
    clipping = environment.get("ACCELERATE_GRADIENT_CLIPPING", "none").lower()
    if clipping not in ("none", "auto", ""):
        notes.append(f"accelerate's gradient_clipping {clipping} is not used: training.max_grad_norm decides")
    if environment.get("ACCELERATE_DEEPSPEED_ZERO3_INIT", "false").lower() == "true":
        notes.append("accelerate's zero3_init_flag is not used: each process holds a whole copy for rollouts anyway")
    param = environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none")
    optimizer = environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
    zero: dict[str, Any] = {"stage": _number(environment, "ACCELERATE_DEEPSPEED_ZERO_STAGE", 2)}
    for key, device in (("offload_param", param), ("offload_optimizer", optimizer)):
        if device.lower() not in ("none", ""):
            zero[key] = {"device": device.lower()}
    return check_deepspeed({"zero_optimization": zero}, "accelerate's deepspeed_config")


def refuse_unlike(recipe: Recipe, launch: Launch) -> None:
    """What the recipe and the launch ask for must go together.

    Raises:
        RecipeError: they contradict each other.
        MachineError: no such combination.
    """
    training, stage = recipe.training, launch.zero_stage
    if launch.mixed_precision == "bf16" and training.precision != "bf16":
        raise RecipeError(
            "accelerate asks for mixed_precision bf16 and the recipe for fp32: set training.precision=bf16, or "
            "mixed_precision: no"
        )
    if not stage:
        return
    if recipe.prompting is not None:
        raise MachineError("method 'prompt' trains nothing for DeepSpeed to cut up: launch without DeepSpeed")
    if recipe.method == "supervised" and recipe.evaluation.every is not None:
        raise MachineError(
            "evaluation.every: DeepSpeed has the trainer's weights to itself until the end: remove it, or launch "
            "without DeepSpeed"
        )
    if recipe.expert_iteration is not None:
        raise MachineError(
            "method 'expert_iteration' starts its optimizer anew each round, and weights too, which DeepSpeed has cut "
            "up: launch without DeepSpeed"
        )
    if training.matrix_learning_rate is not None:
        raise MachineError(
            "training.matrix_learning_rate: Muon needs whole matrices and ZeRO cuts them up: launch without DeepSpeed"
        )
    if training.optimizer not in (None, "adamw"):
        raise MachineError(
            f"training.optimizer: {training.optimizer!r} is not supported under DeepSpeed, whose ZeRO shards the state "
            "of AdamW: use adamw, or launch without DeepSpeed"
        )
    critic = {} if recipe.algorithm is None else recipe.algorithm.options.get("critic") or {}
    if isinstance(critic, dict) and critic.get("kind") == "head":
        raise MachineError(
            "algorithm.critic.kind: 'head' is trained in the policy's own pass, which DeepSpeed has to itself: use "
            "'model', or launch without DeepSpeed"
        )
    if recipe.model.quantisation is not None and stage == 3:
        raise MachineError("model.quantisation: ZeRO-3 cannot shard 4-bit weights: use ZeRO-1 or 2")


def refuse_several(environment: Mapping[str, str], verb: str) -> None:
    """Verbs but `train` run in one process: several would each do the whole work, in the same folder.

    Raises:
        MachineError: a launcher started several.
    """
    world = environment.get("WORLD_SIZE", "1")
    if world not in ("", "1"):
        raise MachineError(
            f"WORLD_SIZE={world} asks for several processes; '{verb}' runs in one: only 'train' takes more"
        )


def visible_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The rank of this process by its environment; 0 speaks for all."""
    rank = environment.get("RANK", "0")
    return int(rank) if rank.isdigit() else 0


def without_local_rank(arguments: Sequence[str] | None) -> list[str]:
    """The command line without the `--local_rank=N` that DeepSpeed's launcher puts into it.

    >>> without_local_rank(["--local_rank=1", "train", "r.yaml"])
    ['train', 'r.yaml']
    """
    words = sys.argv[1:] if arguments is None else arguments
    return [word for word in words if not word.startswith(("--local_rank=", "--local-rank="))]
