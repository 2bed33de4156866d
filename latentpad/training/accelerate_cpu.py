"""The one gap in accelerate that keeps DeepSpeed off CPUs, closed: for `SFTTrainer`, which has its processes from there.

accelerate picks gloo only if it is told to use the CPU, and DeepSpeed only if it is not. Asked for both it believes that
there is one process, or drops DeepSpeed, and says nothing either way. What it ends up with is asserted by the caller.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.training.strategy import Strategy


@contextmanager
def deepspeed_on_cpu(strategy: Strategy) -> Iterator[None]:
    """Within the block accelerate gives DeepSpeed's processes gloo where there is no GPU; else nothing is changed."""
    if strategy.deepspeed is None or strategy.world.device != "cpu":
        yield
        return
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
