"""Keep the libraries' own bars and deprecation notices out of our output: one place, each with its reason."""

from __future__ import annotations

import logging as python_logging
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within the block transformers and datasets draw no bars, and do not warn about what peft and TRL ask of them.

    Two warnings are silenced: that `gradient_checkpointing` will be renamed in transformers 6 (peft 0.21 and TRL 1.16
    use the old name, we do not), and that peft finds no `config.json` in the base of an adapter on an adapter, from
    which it would see a changed vocabulary (ours never changes). On some CPUs bitsandbytes, which peft imports where it
    is installed, logs that it lacks a kernel of the hub: we use none. DeepSpeed, which peft imports too, guesses what
    to compute on and says so, unless it is told.
    """
    import torch
    from transformers.utils import logging

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    bars, bitsandbytes = logging.is_progress_bar_enabled(), python_logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    logging.disable_progress_bar()
    bitsandbytes.setLevel(python_logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
            warnings.filterwarnings("ignore", message="Could not find a config file in", category=UserWarning)
            yield
    finally:
        bitsandbytes.setLevel(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Within the block `datasets` draws no bars."""
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
