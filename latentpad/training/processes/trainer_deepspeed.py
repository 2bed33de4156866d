"""What accelerate and transformers need for `SFTTrainer` to use DeepSpeed and leave nothing behind.

accelerate has a gap that keeps DeepSpeed off CPUs: it picks gloo only if it is told to use the CPU, and DeepSpeed only
if it is not. Asked for both it believes that there is one process, or drops DeepSpeed, and says nothing either way. The
gap is closed here; what accelerate ends up with is asserted by the caller.

transformers remembers a ZeRO-3 configuration for the whole process, and from then on cuts up every model that it loads.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.training.processes.strategy import Strategy


@contextmanager
def deepspeed_for_trainer(strategy: Strategy) -> Iterator[None]:
    """Within the block accelerate gives DeepSpeed gloo where there is no GPU; after it models load whole again."""
    if strategy.deepspeed is None:
        yield
        return
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    try:
        with _gloo_for_deepspeed() if strategy.world.device == "cpu" else nullcontext():
            yield
    finally:
        unset_hf_deepspeed_config()


@contextmanager
def _gloo_for_deepspeed() -> Iterator[None]:
    from accelerate.state import DistributedType, PartialState

    prepare = PartialState._prepare_backend

    def prepared(
        self: Any, cpu: bool, sagemaker_dp: bool = False, backend: str | None = None
    ) -> tuple[str | None, Any]:
        found, kind = prepare(self, cpu, sagemaker_dp, backend)
        if found is None and not cpu:
            return "gloo", DistributedType.MULTI_CPU  # DeepSpeed takes its place further on
        return found, kind

    PartialState._prepare_backend = prepared
    try:
        yield
    finally:
        PartialState._prepare_backend = prepare
