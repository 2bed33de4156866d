"""Sampling with vLLM: engine processes with weights of their own, which weights reach as files in memory.

vLLM is asked for the very distribution that the learner scores: no top-p, top-k or penalty, no default that a
checkpoint brings along, logprobs after temperature and forbidden tokens. Token ids go in and out, never text.

What is loaded cannot be read back. `load` therefore checks what it is given and what vLLM says of it, and names every
adapter and folder anew, since vLLM keeps an old adapter without a word when a new one comes under its number. That the
weights are *applied* is seen in `score` alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.models.quiet import quiet_libraries
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.rollout import Samples
from latentpad.rollout.vllm_start import check_head_size, import_vllm, memory_folder, one_line, start_engine
from latentpad.rollout.weights import SyncError, check_fits, flatten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.rollout import Sampling
    from latentpad.rollout.weights import Weights

# vLLM raises a temperature below it to it, silently.
_COLDEST = 0.01
# Seconds that vLLM's processes have to end by themselves; killed, they leave shared memory behind.
_PATIENCE = 30.0


class VLLMSampler:
    """A `Sampler` over vLLM, in processes of its own: an engine and a worker.

    Args:
        policy: what to sample from; it is read, never written. Under LoRA its base is written once into a folder that
            vLLM loads, not merged; the adapter is loaded beside it, also that of the start.
        memory_bytes: of the cache of keys and values.
        max_positions: the longest prompt with its response, in tokens; as many as the model has, if left out.

    Raises:
        MachineError: vLLM is not installed, or does not start.
        RecipeError: vLLM cannot run such a policy: 4 bits, a head size or a rank that it lacks.
    """

    def __init__(self, policy: Policy, *, memory_bytes: int = 1 << 30, max_positions: int | None = None) -> None:
        if policy.quantised:
            raise RecipeError("engine 'vllm' cannot hold the 4-bit weights of model.quantisation: use engine 'local'")
        self._policy = policy
        self._vllm = import_vllm()
        config = policy.model.config
        check_head_size(config)
        self._positions: int = max_positions or config.max_position_embeddings
        self._vocabulary: int = config.vocab_size
        self._loads = 0
        self._lora: Any = None
        self._folder = memory_folder(policy)
        self._llm: Any = None
        try:
            self._llm = start_engine(policy, self._folder / "base", memory_bytes, self._positions)
            if policy.uses_lora:
                self.load(flatten(policy, 0, policy.trainable_hash()))
        except BaseException:
            self.close()
            raise

    def load(self, weights: Weights) -> str:
        """Sample from these trained weights from now on; returns their hash.

        Raises:
            SyncError: they do not fit this policy, are not what was sent, or vLLM does not take them. An adapter that
                is refused leaves the one before it in place.
        """
        check_fits(weights, self._policy.trainable())
        tensors = weights.tensors()
        self._loads += 1
        folder = self._folder / f"{self._loads}-version-{weights.version}-{weights.hash[:12]}"
        put = self._put_adapter if self._policy.uses_lora else self._put_model
        try:
            put(folder, tensors)
            # Adapters have keys of their own in this cache; full weights have not, and would meet stale entries.
            if not self._llm.reset_prefix_cache():
                raise SyncError("the prefix cache is in use")
        except Exception as error:  # whatever the engine's process raised comes as a bare Exception
            raise SyncError(f"vLLM did not take the weights of version {weights.version}: {one_line(error)}") from error
        finally:
            self._remove_old_folders()
        return weights.hash

    def _put_adapter(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file
        from vllm.lora.request import LoRARequest

        self._policy.model.peft_config["default"].save_pretrained(folder)
        saved = get_peft_model_state_dict(self._policy.model, state_dict=dict(tensors), save_embedding_layers=False)
        if len(saved) != len(tensors):
            raise SyncError(f"{len(tensors)} trained tensors, of which an adapter holds {len(saved)}")
        save_file(saved, folder / "adapter_model.safetensors")
        # A number of its own for each: under a known one vLLM would keep the adapter that it has. There is one slot,
        # so the adapter before it leaves; and since every request names an adapter, none runs without (on a CPU vLLM
        # gives rows without an adapter the one in the last slot).
        request = LoRARequest(folder.name, self._loads, str(folder))
        if not self._llm.llm_engine.add_lora(request):
            raise SyncError("it refused the adapter")
        if (held := set(self._llm.llm_engine.list_loras())) != {self._loads}:
            raise SyncError(f"it holds the adapters {sorted(held)}, not {self._loads} alone")
        self._lora = request

    def _put_model(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        with quiet_libraries():
            self._policy.model.save_pretrained(folder, state_dict=dict(tensors))
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})

    def _remove_old_folders(self) -> None:
        """All but the loaded adapter's: vLLM reads that again if it ever has to."""
        kept = None if self._lora is None else Path(self._lora.lora_path)
        for folder in self._folder.iterdir():
            if folder != kept:
                shutil.rmtree(folder)

    def sample(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], sampling: Sampling) -> Samples:
        """One response a prompt, all in one batch; the same prompts and seeds give the same.

        Raises:
            RecipeError: a prompt with its response does not fit, or vLLM does not sample at this temperature.
            MachineError: vLLM broke down.
        """
        if 0 < sampling.temperature < _COLDEST:
            raise RecipeError(
                f"rollout.temperature: engine 'vllm' samples at 0, or at {_COLDEST} and above; not at "
                f"{sampling.temperature}"
            )
        self._check_room(prompts, sampling.max_new_tokens)
        parameters = [self._parameters(seed, sampling) for seed in seeds]
        samples = Samples([], [], [])
        for output in self._run(prompts, parameters):
            [response] = output.outputs
            if response.finish_reason not in ("stop", "length"):
                raise MachineError(f"vLLM gave a response up: {response.finish_reason}")
            ids = tuple(response.token_ids)
            samples.token_ids.append(ids)
            samples.logprobs.append(tuple(row[i].logprob for row, i in zip(response.logprobs, ids, strict=True)))
            samples.stopped.append(ids[-1] in self._policy.stop_ids)
        return samples

    def score(self, sequences: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Logprobs in nats of each sequence's tokens but its first, at temperature 1, computed anew, without a cache.

        Raises:
            RecipeError: a sequence has no room for one token more: vLLM always samples one.
            MachineError: vLLM broke down.
        """
        self._check_room(sequences, 1)
        # Prompts skip the temperature; and vLLM does not read its prefix cache where their logprobs are asked for.
        parameters = self._vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self._run(sequences, [parameters] * len(sequences))
        return [
            [row[i].logprob for row, i in zip(output.prompt_logprobs[1:], sequence[1:], strict=True)]
            for output, sequence in zip(outputs, sequences, strict=True)
        ]

    def _parameters(self, seed: int, sampling: Sampling) -> Any:
        allowed = None
        if sampling.forbidden_ids:
            forbidden = set(sampling.forbidden_ids)
            allowed = [i for i in range(self._vocabulary) if i not in forbidden]
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            logprobs=0,  # of the sampled token alone
            allowed_token_ids=allowed,
            ignore_eos=True,  # the model's own; every token that stops is named
            stop_token_ids=list(self._policy.stop_ids),
            detokenize=False,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
        )

    def _run(self, prompts: Sequence[tuple[int, ...]], parameters: list[Any]) -> list[Any]:
        """Outputs in order. The engine sleeps until it has all requests: else its batches would depend on the clock."""
        if not prompts:
            return []
        try:
            self._llm.sleep(level=0, mode="keep")
            asked = self._llm.enqueue(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                parameters,
                lora_request=self._lora,
                use_tqdm=False,
            )
            self._llm.wake_up(tags=["scheduling"])
            outputs = self._llm.wait_for_completion(use_tqdm=False)
        except Exception as error:  # as in load
            raise MachineError(f"vLLM broke down: {one_line(error)}") from error
        if len(outputs) != len(asked):
            raise MachineError(f"vLLM gave {len(outputs)} responses to {len(asked)} prompts")
        return list(outputs)

    def _check_room(self, prompts: Sequence[tuple[int, ...]], new_tokens: int) -> None:
        longest = max(map(len, prompts), default=0) + new_tokens
        if longest > self._positions:  # vLLM would cut the response short, silently
            raise RecipeError(f"engine 'vllm': {longest} tokens do not fit into its {self._positions} positions")

    def close(self) -> None:
        """Stop vLLM's processes and remove what was written."""
        llm, self._llm = self._llm, None
        if llm is not None:
            core = llm.llm_engine.engine_core
            core.shutdown(timeout=_PATIENCE)
            core.resources.ctx.destroy(linger=0)  # vLLM closes its sockets, and leaves it to be complained about
        shutil.rmtree(self._folder, ignore_errors=True)
