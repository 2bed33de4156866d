"""`method: supervised`: TRL's `SFTTrainer` on gold scratchpads (Nye et al. 2021), answers alone, or what is between."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from latentpad.models.quiet import quiet_datasets, quiet_libraries
from latentpad.models.reference import snapshot
from latentpad.models.tokenizer import encode_strictly
from latentpad.progress import stage
from latentpad.recipe.errors import MachineError, RecipeError, Stopped
from latentpad.training.checkpoint import write_checkpoint
from latentpad.training.examples import supervised_examples
from latentpad.training.interrupt import graceful_stop
from latentpad.training.processes.replicated import other_shards
from latentpad.training.processes.strategy import SINGLE
from latentpad.training.processes.trainer_deepspeed import deepspeed_for_trainer
from latentpad.training.processes.zero import import_deepspeed, quiet_deepspeed
from latentpad.training.run_folder import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.progress import Bar
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.training.interrupt import Stop
    from latentpad.training.processes.strategy import Strategy
    from latentpad.training.run_folder import RunFolder

COUNTERS = "counters.json"
_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def micro_batch_rows(examples_per_step: int, longest: int, budget: int) -> int:
    """The largest divisor of `examples_per_step` whose rows of `longest` tokens fit the budget, or 1.

    >>> micro_batch_rows(64, 100, 1700)
    16
    """
    fitting = [n for n in range(1, examples_per_step + 1) if examples_per_step % n == 0 and n * longest <= budget]
    return max(fitting, default=1)


def train_supervised(
    recipe: Recipe,
    run: RunFolder,
    policy: Policy,
    task: Task,
    text_format: Format,
    strategy: Strategy = SINGLE,
    note: Callable[[list[str]], None] = lambda _: None,
) -> None:
    """Train until `training.steps`, from the run's newest checkpoint if it has one.

    `note` takes what of the strategy is in effect.

    Raises:
        RecipeError: the processes cannot share a step's examples evenly, or the checkpoint is cut up otherwise.
        MachineError: the trainer does something else than was asked for.
        Stopped: the user asked to stop; a checkpoint was left.
    """
    with quiet_libraries():
        from datasets import Dataset
        from trl import SFTTrainer

    from latentpad.training.trainer_callback import make_callback

    if run.resume is not None and run.resume[0] >= recipe.training.steps:
        return
    world = strategy.world
    if run.resume is not None:
        _refuse_other_shards(run.resume[1], strategy)
    said: list[str] = []
    examples = supervised_examples(recipe, task, text_format, policy.tokenizer, said.extend)
    tokens = [len(encode_strictly(policy.tokenizer, e.response)) + 1 for e in examples]
    longest = max(len(encode_strictly(policy.tokenizer, e.prompt)) + n for e, n in zip(examples, tokens, strict=True))
    if world.leads:
        shutil.rmtree(run.checkpoints / _TRAINER, ignore_errors=True)
    world.barrier()
    start = 0 if run.resume is None else run.resume[0]
    with (
        graceful_stop() as stop,
        stage(f"{recipe.name} seed {recipe.seed}: supervised", recipe.training.steps, start) as bar,
    ):
        ledger = _Ledger(recipe, run, tokens, bar, stop, strategy)
        with quiet_libraries(), quiet_datasets(), quiet_deepspeed(), deepspeed_for_trainer(strategy):
            trained = snapshot(policy)
            trainer = SFTTrainer(
                model=policy.model,
                args=_arguments(recipe, run, policy, longest, strategy),
                train_dataset=Dataset.from_list([{"prompt": e.prompt, "completion": e.response} for e in examples]),
                processing_class=policy.tokenizer,
                callbacks=[make_callback(ledger)],
            )
            for name, parameter in policy.trainable().items():  # TRL rounds an adapter over 4-bit weights to bfloat16
                parameter.data = trained[name]
            trainer.remove_callback(_printer())
            note([*said, *_in_effect(trainer, strategy)])
            trainer.train(resume_from_checkpoint=None if run.resume is None else str(run.resume[1]))
    if world.leads:
        shutil.rmtree(run.checkpoints / _TRAINER, ignore_errors=True)
    if ledger.stopped and ledger.step < recipe.training.steps:
        raise Stopped(f"stopped at step {ledger.step} of {recipe.training.steps}; checkpoint in {run.checkpoints}")


_TRAINER = ".writing-trainer"


def _printer() -> type:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback  # type: ignore[no-any-return]


def _refuse_other_shards(checkpoint: Path, strategy: Strategy) -> None:
    """Optimizer state that DeepSpeed has cut up goes with the cut; what is whole goes with any number of processes."""
    written = json.loads((checkpoint / COUNTERS).read_text()).get("shards")
    if written != strategy.shards:
        raise RecipeError(other_shards(written, strategy.shards))


def _in_effect(trainer: Any, strategy: Strategy) -> list[str]:
    """What the trainer is about to do, by its own account; several ways to launch it end in one process in silence."""
    processes, sharded = trainer.accelerator.num_processes, bool(trainer.is_deepspeed_enabled)
    if processes != strategy.world.size or sharded != (strategy.deepspeed is not None):
        raise MachineError(
            f"asked for {strategy.name} on {strategy.world.size} processes; the trainer would run {processes}, "
            f"{'with' if sharded else 'without'} DeepSpeed"
        )
    if not sharded:
        return (
            [f"trainer: {trainer.accelerator.distributed_type.value} on {processes} processes"] if processes > 1 else []
        )
    stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
    if stage != strategy.zero_stage:
        raise MachineError(f"asked for ZeRO-{strategy.zero_stage}; the trainer would do ZeRO-{stage}")
    return [f"trainer: ZeRO-{stage} on {processes} processes"]


def _deepspeed(strategy: Strategy) -> dict[str, Any] | None:
    if strategy.deepspeed is None:
        return None
    import_deepspeed()
    config = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**12,
        **strategy.deepspeed,
    }
    # Trained weights are float32, so "16bit" means whole.
    config["zero_optimization"] = config["zero_optimization"] | {"stage3_gather_16bit_weights_on_model_save": True}
    if strategy.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return config


def _arguments(recipe: Recipe, run: RunFolder, policy: Policy, longest: int, strategy: Strategy) -> Any:
    from trl import SFTConfig

    assert recipe.supervised is not None
    training, per_step, processes = recipe.training, recipe.supervised.examples_per_step, strategy.world.size
    if per_step % processes:
        raise RecipeError(
            f"supervised.examples_per_step: got {per_step}; {processes} processes share it: expected a multiple of that"
        )
    rows = micro_batch_rows(per_step // processes, longest, training.micro_batch_tokens)
    return SFTConfig(
        output_dir=str(run.checkpoints / _TRAINER),
        use_cpu=policy.device == "cpu" and strategy.deepspeed is None,
        deepspeed=_deepspeed(strategy),
        ddp_find_unused_parameters=False if processes > 1 else None,
        average_tokens_across_devices=True,
        bf16=strategy.precision == "bf16" and strategy.deepspeed is None,
        gradient_checkpointing=False,
        max_steps=training.steps,
        per_device_train_batch_size=rows,
        **_optimizer(training.optimizer, policy.device),
        gradient_accumulation_steps=per_step // rows // processes,
        learning_rate=training.learning_rate,
        lr_scheduler_type=_SCHEDULES[training.schedule],
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        completion_only_loss=True,
        max_length=None,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_steps=training.checkpoint_every,
        seed=recipe.seed,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _optimizer(kind: str | None, device: str) -> dict[str, Any]:
    """The trainer's words for `training.optimizer`; on a CPU memory is not paged."""
    if kind in (None, "adamw"):
        return {}
    if kind == "paged_adamw_8bit" and device == "cpu":
        kind = "adamw_8bit"
    return {"optim": kind} | ({"adam_beta2": 0.99} if kind == "lion_8bit" else {})  # Lion's own, as in `make_optimizer`


class _Ledger:
    """What the trainer's callback tells: logs each step, turns each save into one of our checkpoints."""

    def __init__(
        self, recipe: Recipe, run: RunFolder, tokens: Sequence[int], bar: Bar, stop: Stop, strategy: Strategy
    ) -> None:
        assert recipe.supervised is not None
        self._run, self._bar, self._stop, self._strategy = run, bar, stop, strategy
        self._per_step = recipe.supervised.examples_per_step
        self._totals = [0, *accumulate(tokens)]
        self.step, self.stopped, self._counters = 0, False, Counters()
        if run.resume is not None:
            self.step = run.resume[0]
            counted = json.loads((run.resume[1] / COUNTERS).read_text())
            self._counters = Counters(**{name: value for name, value in counted.items() if name != "shards"})
        self._clock = time.monotonic()

    @property
    def stop_requested(self) -> bool:
        """Whether the trainer should save and stop now; all processes agree on it after each step."""
        self.stopped = self._strategy.world.any(self._stop.requested)
        return self.stopped

    def logged(self, step: int, logs: dict[str, float]) -> None:
        """A step is done."""
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        samples = step * self._per_step
        self._counters = replace(
            self._counters,
            samples=samples,
            tokens_trained=self._totals[samples],
            seconds=self._counters.seconds + seconds,
        )
        self._bar.advance(step - self.step, note=f"loss {logs['loss']:.3f}")
        self.step = step
        values = {name: float(logs[name]) for name in ("loss", "grad_norm", "learning_rate")}
        self._run.log(step, values, self._counters, {"seconds": seconds})
        self._run.after_step(step)
        self._clock = time.monotonic()  # looking on is no part of what training takes

    def saved(self, folder: Path, step: int) -> None:
        """The trainer wrote a checkpoint aside: make it the run's, whole or not at all."""

        def fill(target: Path) -> None:
            shutil.copytree(folder, target, dirs_exist_ok=True)
            (target / COUNTERS).write_text(json.dumps(asdict(self._counters) | {"shards": self._strategy.shards}))

        world = self._strategy.world
        world.barrier()  # each has written its own files
        write_checkpoint(self._run.checkpoints, step, fill, key=self._run.key, world=world)
        if world.leads:
            shutil.rmtree(folder)
