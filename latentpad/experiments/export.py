"""What a run has trained as a folder that others load: a whole model of transformers, or an adapter of peft."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentpad.experiments.run import open_run
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import load_recipe
from latentpad.training.checkpoint import newest_checkpoint, steps_in, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.models.policy import Policy

ADAPTER_CONFIG = "adapter_config.json"  # as in latentpad.models.policy, which imports torch
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GENERATION_CONFIG = "generation_config.json"
# What `save_pretrained` of a tokenizer may write; an adapter's folder carries its tokenizer too.
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        step: training steps that the checkpoint had behind it.
        kind: `model` or `adapter`.
        parameters: in the folder; weights that are tied count once.
        dtype: of the weights on disk, such as `float32`.
        base: path of what an adapter stands on, as the run named it; empty for a whole model.
        note: what differs from the run's own policy; empty if nothing does.
    """

    folder: Path
    step: int
    kind: str
    parameters: int
    dtype: str
    base: str = ""
    note: str = ""

    def line(self) -> str:
        """All of it for people."""
        stands = f", on the base {self.base}" if self.base else ""
        size = f"{self.parameters:,} parameters in {self.dtype}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.kind} of step {self.step}: {size}{stands}: {self.folder}{note}"


def export_model(run: Path, to: Path, *, step: int | None = None) -> Exported:
    """The whole model of a checkpoint, for plain `AutoModelForCausalLM.from_pretrained(to)`, with its tokenizer.

    An adapter is merged in float32 into a copy of its base, adapters under it first; nothing of the run is changed.
    An adapter that was trained over 4-bit or bfloat16 weights is merged into those that they were made from, so its
    logprobs differ from the run's by that rounding. The generation config names every token that ends a response.

    Args:
        run: run folder.
        to: a folder that does not exist yet, or an empty one; written whole or not at all.
        step: of the checkpoint; the newest unless given.

    Raises:
        RecipeError: no such run or checkpoint, a torn one, its base is gone, or `to` holds something.
    """
    step, checkpoint = _checkpoint(run, step)
    _refuse(run, to)
    policy = _policy(checkpoint)
    with _aside(to) as folder:
        policy.save(folder)
        _name_stop_tokens(folder / GENERATION_CONFIG, policy.stop_ids)
    parameters = list(policy.model.parameters())
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    count = sum(p.numel() for p in parameters)
    return Exported(to, step, "model", count, " and ".join(dtypes), note=_rounding(run, checkpoint))


def export_adapter(run: Path, to: Path, *, step: int | None = None) -> Exported:
    """The adapter of a checkpoint alone, for plain `PeftModel.from_pretrained(base, to)`, with its tokenizer.

    Arguments and errors as of `export_model`; a run that trains all weights has no adapter.
    """
    step, checkpoint = _checkpoint(run, step)
    _refuse(run, to)
    config, weights = checkpoint / ADAPTER_CONFIG, checkpoint / ADAPTER_WEIGHTS
    if not config.is_file() or not weights.is_file():
        raise RecipeError(f"{checkpoint}: holds all weights, no adapter: leave out --adapter")
    parameters, dtype = _measure(weights)
    with _aside(to) as folder:
        for file in [config, weights, *(f for pattern in _TOKENIZER for f in checkpoint.glob(pattern))]:
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    base = str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
    return Exported(to, step, "adapter", parameters, dtype, base)


def _checkpoint(run: Path, step: int | None) -> tuple[int, Path]:
    """Step and folder of a checkpoint that was found whole."""
    folder = run / "checkpoints"
    newest = newest_checkpoint(folder)
    if step is None or newest is None:
        opened = open_run(run)  # says what is missing, and how to get it
        return opened.step, opened.checkpoint
    if step not in steps_in(folder):
        there = ", ".join(map(str, sorted(steps_in(folder))))
        raise RecipeError(f"--step {step}: {run} keeps no checkpoint of that step; it has {there}")
    verify(folder / str(step))
    return step, folder / str(step)


def _refuse(run: Path, to: Path) -> None:
    """Nothing is ever overwritten, and a run's checkpoints are its own."""
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise RecipeError(f"--to {to}: is a file or a link; expected a new folder")
    if to.is_dir() and any(to.iterdir()):
        raise RecipeError(f"--to {to}: is not empty; give a new folder, or empty this one first")
    if to.resolve().is_relative_to((run / "checkpoints").resolve()):
        raise RecipeError(f"--to {to}: lies among the run's own checkpoints; give a folder elsewhere")


def _policy(checkpoint: Path) -> Policy:
    """The checkpoint's policy, merged; every base under it must still be there."""
    from latentpad.models.policy import load_policy

    folder, seen = checkpoint, [checkpoint]
    while (folder / ADAPTER_CONFIG).is_file():
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = Path(str(config["base_model_name_or_path"]))
        if base in seen or not base.is_dir():
            raise RecipeError(
                f"{folder}: its base {base} is not there (the path is as the run named it, from where it was started): "
                "start from that folder, bring the base back, or export the adapter alone with --adapter"
            )
        seen.append(base)
        folder = base
    try:
        return load_policy(checkpoint)
    except OSError as error:
        if checkpoint.is_dir():
            raise
        raise RecipeError(f"{checkpoint}: was replaced while it was read: the run is under way; try again") from error


def _rounding(run: Path, checkpoint: Path) -> str:
    """What the merge undoes: the adapter was trained over weights that were rounded."""
    recipe = load_recipe(run / "recipe.yaml")
    kind = recipe.model.quantisation or recipe.training.precision
    if kind in (None, "fp32") or not (checkpoint / ADAPTER_CONFIG).is_file():
        return ""
    return f"trained over {kind} weights, merged into the full ones: logprobs differ from the run's by that rounding"


@contextmanager
def _aside(to: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `to` in one rename at the end of the block, and is removed where that fails."""
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = to.absolute().with_name(f".{to.absolute().name}.writing-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        try:
            folder.rename(to)  # over an empty folder too, but never over one that holds something
        except OSError as error:
            raise RecipeError(f"--to {to}: cannot be written ({error.strerror}); give a new folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name_stop_tokens(file: Path, stop_ids: tuple[int, ...]) -> None:
    """`generate` of transformers must stop where ours does, whatever the base's own file says."""
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    named = config.get("eos_token_id")
    if set(named if isinstance(named, list) else [named]) != set(stop_ids):
        config["eos_token_id"] = list(stop_ids)
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _measure(weights: Path) -> tuple[int, str]:
    """Numbers in a safetensors file, and their dtype."""
    from safetensors import safe_open

    count, dtypes = 0, set[str]()
    with safe_open(str(weights), framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118 (it is no dictionary)
            tensor = stream.get_tensor(name)
            count += tensor.numel()
            dtypes.add(str(tensor.dtype).removeprefix("torch."))
    return count, " and ".join(sorted(dtypes))
