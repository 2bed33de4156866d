"""The seam to transformers' `Trainer`: a callback that hands what it hears to a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Ledger(Protocol):
    """Who listens to the trainer."""

    @property
    def stop_requested(self) -> bool:
        """Whether the trainer should save and stop now."""
        ...

    def logged(self, step: int, logs: dict[str, float]) -> None:
        """A step was logged."""
        ...

    def saved(self, folder: Path, step: int) -> None:
        """A checkpoint was written."""
        ...


def make_callback(ledger: Ledger) -> Any:
    """A `TrainerCallback` for this ledger (made here so that transformers is imported only when it is used)."""
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

    class LedgerCallback(TrainerCallback):  # type: ignore[misc]
        """Forwards logs and saves."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            """The last log is a summary of the run without a loss; it is not a step."""
            if "loss" in logs:
                ledger.logged(state.global_step, logs)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            """Save at the end, and where a stop was asked for."""
            if ledger.stop_requested or state.global_step >= state.max_steps:
                control.should_save = True
            control.should_training_stop = control.should_training_stop or ledger.stop_requested
            return control

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """The folder is complete when this is called."""
            ledger.saved(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", state.global_step)

    return LedgerCallback()
