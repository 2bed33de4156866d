"""DeepSpeed ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), driven directly: no trainer of another library between.

DeepSpeed averages gradients over processes, and our losses are parts of one sum, so losses are scaled by their number.
"""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.training.processes.replicated import diverged, other_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from latentpad.training.processes.strategy import Strategy

# Trained weights that are gathered at a time, in numbers.
_GATHERED = 2**26


class Zero:
    """Optimizer state (stage 1), gradients too (2), the trained copy of the weights too (3) cut up among processes.

    Before `engage` it is a plain module, which proofs and resume may use. After it gradients go through DeepSpeed. With
    stage 3 the given module stays whole on every process and follows every step: rollouts, references and checkpoints
    are taken from it, so nothing is ever generated from sharded weights.
    """

    def __init__(
        self,
        name: str,
        module: Any,
        optimizers: Callable[[Any], list[tuple[torch.optim.Optimizer, float]]],
        *,
        max_grad_norm: float,
        strategy: Strategy,
        keep_whole: bool,
    ) -> None:
        self._name, self._whole, self._make = name, module, optimizers
        self._limit, self._strategy = max_grad_norm, strategy
        self._keeps = keep_whole and strategy.zero_stage == 3
        self._engine: Any = None
        self._rate = 0.0
        self._from: Path | None = None

    @property
    def model(self) -> Any:
        """The module; once engaged, DeepSpeed's engine."""
        return self._whole if self._engine is None else self._engine

    def engage(self) -> list[str]:
        """Hand the module over to DeepSpeed, and take up the checkpoint that was loaded.

        Raises:
            MachineError: DeepSpeed does something else than was asked for.
        """
        trained = deepcopy(self._whole) if self._keeps else self._whole
        [(optimizer, self._rate)] = self._make(trained)
        numbers = sum(p.numel() for p in trained.parameters() if p.requires_grad)
        everything = sum(p.numel() for p in trained.parameters())
        with quiet_deepspeed():
            deepspeed = import_deepspeed()
            self._engine, *_ = deepspeed.initialize(
                model=trained, optimizer=optimizer, config=self._config(), dist_init_required=False
            )
        if self._from is not None:
            self._restore(self._from)
        return self._in_effect(numbers, everything)

    def _config(self) -> dict[str, Any]:
        passed = dict(self._strategy.deepspeed or {})
        trained = sum(p.numel() for p in self._whole.parameters() if p.requires_grad)
        # DeepSpeed's own choice, 5e8 numbers, is a buffer of 2 GB, whatever is trained.
        passed["zero_optimization"] = {"reduce_bucket_size": min(trained, 5 * 10**8)} | passed["zero_optimization"]
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": self._limit,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**12,
            **passed,
        }
        if self._strategy.precision == "bf16":
            # No module in `lower_precision_safe_modules`: gradients are exchanged in float32.
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        return config

    def _in_effect(self, numbers: int, everything: int) -> list[str]:
        """What DeepSpeed really does, from its own objects; refused where it is not what was asked for."""
        asked, stage = self._strategy.zero_stage, int(self._engine.zero_optimization_stage())
        size = self._strategy.world.size
        if stage != asked or int(self._engine.dp_world_size) != size:
            raise MachineError(
                f"asked for ZeRO-{asked} on {size} processes, DeepSpeed does {stage} on {self._engine.dp_world_size}"
            )
        if bool(self._engine.torch_autocast_enabled()) != (self._strategy.precision == "bf16"):
            raise MachineError(
                f"asked for {self._strategy.precision or 'fp32'}, DeepSpeed computes in another precision"
            )
        flat = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
        held = sum(partition.numel() for partition in getattr(self._engine.optimizer, flat))
        padding = 4 * size * sum(1 for p in self._whole.parameters() if p.requires_grad)
        if size > 1 and held * size > numbers + padding:
            raise MachineError(f"asked for ZeRO-{asked}: one of {size} processes holds {held:,} of {numbers:,} numbers")
        lines = [f"{self._name}: ZeRO-{stage}, {held:,} of {numbers:,} trained numbers in this process's optimizer"]
        if stage == 3:
            local = sum(p.ds_tensor.numel() for p in self._engine.module.parameters())
            lines[0] += f", {local:,} of {everything:,} weights in its shard"
            lines[0] += ", and a whole copy for rollouts" if self._keeps else ""
        return lines

    def backward(self, loss: Tensor) -> None:
        """Add this process's gradients."""
        if self._engine is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._engine.backward(loss * self._strategy.world.size)

    def step(self, step: int, scale: float) -> float:
        """Clip, step, clear; returns the norm before.

        Raises:
            Diverged: it is not finite. DeepSpeed then skips the step by itself.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._rate * scale
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._engine.optimizer.overflow or not math.isfinite(norm):
            raise diverged(norm, step)
        self._refresh()
        return norm

    def discard(self) -> None:
        """Clear all gradients; once engaged, DeepSpeed has done so."""
        if self._engine is None:
            self._whole.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _refresh(self) -> None:
        """Bring the whole copy to where the shards are: one gathering of the trained weights, in parts."""
        if not self._keeps:
            return
        whole = {name: p for name, p in self._whole.named_parameters() if p.requires_grad}
        shards = dict(self._engine.module.named_parameters())
        for part in _parts(whole):
            with import_deepspeed().zero.GatheredParameters([shards[name] for name in part]):
                for name in part:
                    whole[name].copy_(shards[name])

    def state(self) -> dict[str, Any]:
        """Who wrote the shards."""
        return {"strategy": self._strategy.shards}

    def save(self, folder: Path) -> None:
        """This process's shards, by DeepSpeed."""
        with quiet_deepspeed():
            self._engine.save_checkpoint(
                str(folder / "deepspeed"), tag=self._name, save_latest=False, exclude_frozen_parameters=True
            )

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint: the shards must be cut as ours are."""
        if state != self.state():
            raise RecipeError(other_shards(state["strategy"], self._strategy.shards))

    def restore(self, folder: Path) -> None:
        """The shards; before `engage` the folder is only noted."""
        self._from = folder
        if self._engine is not None:
            self._restore(folder)

    def _restore(self, folder: Path) -> None:
        with quiet_deepspeed():
            loaded, _ = self._engine.load_checkpoint(
                str(folder / "deepspeed"), tag=self._name, load_module_strict=False, load_lr_scheduler_states=False
            )
        if loaded is None:
            raise RecipeError(f"{folder}: DeepSpeed cannot load its part: delete this checkpoint to go on")
        self._refresh()


def _parts(parameters: dict[str, torch.nn.Parameter]) -> list[list[str]]:
    """Names in parts of at most `_GATHERED` numbers (one parameter always may)."""
    parts: list[list[str]] = []
    room = 0
    for name, parameter in parameters.items():
        if not parts or parameter.numel() > room:
            parts.append([])
            room = _GATHERED
        parts[-1].append(name)
        room -= parameter.numel()
    return parts


def import_deepspeed() -> Any:
    """DeepSpeed, without the extension that it would compile at every first start on a CPU.

    `deepspeed_shm_comm` speeds up exchanges between processes of one machine; gloo does them as well. Compiling it
    takes a minute and a compiler, and a process killed meanwhile leaves a lock at which every later start waits.

    Raises:
        MachineError: not installed.
    """
    try:
        import deepspeed
    except ImportError as error:
        raise MachineError("DeepSpeed is not installed: pip install 'latentpad[deepspeed]'") from error
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # torch 2.13 gives these functions other names; DeepSpeed 0.19 calls them by the old ones.
    warnings.filterwarnings(
        "ignore", message=".*(all_gather_into_tensor|reduce_scatter_tensor).*deprecated", category=FutureWarning
    )
    return deepspeed


@contextmanager
def quiet_deepspeed() -> Iterator[None]:
    """Within the block DeepSpeed, and accelerate about it, log errors only."""
    loggers = [logging.getLogger(name) for name in ("DeepSpeed", "accelerate.accelerator")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
