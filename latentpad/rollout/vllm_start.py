"""Starting vLLM's processes over a policy's weights, as quiet as the rest and deaf to Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.models.quiet import quiet_libraries
from latentpad.recipe.errors import MachineError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.models.policy import Policy

# Set before vLLM is imported, unless they are set: nothing leaves the machine, and only errors are said.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
# What vLLM allows as the largest rank of an adapter.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# For the processes alone: no warnings of their libraries about each other.
_QUIET = {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_LOGS": "-torch._library.triton"}
_MEMORY = Path("/dev/shm")


def start_engine(policy: Policy, folder: Path, memory_bytes: int, positions: int) -> Any:
    """A `vllm.LLM` over the policy's weights, those under an adapter without it.

    Args:
        policy: is read.
        folder: where its weights lie while vLLM reads them.
        memory_bytes: of the cache of keys and values.
        positions: the longest prompt with its response, in tokens.

    Raises:
        MachineError: it does not start.
        RecipeError: the adapter's rank is too large.
    """
    options = _lora_options(policy) if policy.uses_lora else {}
    _write_base(policy, folder)
    vllm = import_vllm()
    try:
        with _children_undisturbed(), quiet_libraries():
            llm = vllm.LLM(
                model=str(folder),
                skip_tokenizer_init=True,
                generation_config="vllm",  # not the checkpoint's own top-p and penalties
                logprobs_mode="processed_logprobs",
                dtype="bfloat16" if policy.precision == "bf16" else "float32",
                max_model_len=positions,
                kv_cache_memory_bytes=memory_bytes,
                enforce_eager=policy.device == "cpu",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **options,
            )
    except Exception as error:  # vLLM raises what it likes, and says the cause on stderr
        raise MachineError(f"engine 'vllm' did not start: {one_line(error)}") from error
    shutil.rmtree(folder)  # read once; a full model's new weights come in folders of their own
    return llm


def import_vllm() -> Any:
    """The package, told to keep to itself. Raises `MachineError` where there is none."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies, about each other
            import vllm
            from vllm import LLM  # noqa: F401 (vllm imports its parts when they are first asked for)
    except ImportError as error:
        raise MachineError(
            f"engine 'vllm' needs vLLM: see requirements-vllm-cpu.txt, or pip install 'latentpad[vllm]' ({error})"
        ) from error
    return vllm


def check_head_size(config: Any) -> None:
    """Raises `RecipeError` where vLLM's attention on a CPU lacks it; elsewhere vLLM has several, and chooses."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    allowed = CPUAttentionBackend.get_supported_head_sizes()
    if size not in allowed:
        raise RecipeError(
            f"engine 'vllm' has no attention for heads of {size} features on a CPU: hidden_size / heads must be one "
            f"of {', '.join(map(str, allowed))}"
        )


def _lora_options(policy: Policy) -> dict[str, Any]:
    rank = policy.model.peft_config["default"].r
    allowed = next((r for r in _RANKS if rank <= r), None)
    if allowed is None:
        raise RecipeError(f"model.lora.rank: engine 'vllm' takes ranks up to {_RANKS[-1]}, not {rank}")
    # Layers with an adapter and no others: vLLM would also prepare the output head for one, and that path takes one row
    # a request, so that logprobs of prompts break it.
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in policy.trainable()})
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": allowed, "lora_target_modules": targets}


def _write_base(policy: Policy, folder: Path) -> None:
    """An ordinary checkpoint of what is not an adapter, its weights named as if there had never been one."""
    model = policy.model.get_base_model() if policy.uses_lora else policy.model
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    with quiet_libraries():
        model.save_pretrained(folder, state_dict={n.replace(".base_layer.", "."): t for n, t in state.items()})


def memory_folder(policy: Policy) -> Path:
    """A new folder: in memory, if there is room for the weights three times over, else where the system has such."""
    needed = 3 * sum(p.numel() * p.element_size() for p in policy.model.parameters())
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > needed
    return Path(tempfile.mkdtemp(prefix="latentpad-vllm-", dir=_MEMORY if roomy else None))


@contextmanager
def _children_undisturbed() -> Iterator[None]:
    """Processes started within the block are quiet, and never see Ctrl-C: the trainer needs them for its last step."""
    resource_tracker.ensure_running()  # starting it would unblock SIGINT
    environment = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def one_line(error: BaseException) -> str:
    """What it says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
