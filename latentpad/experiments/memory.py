"""How much memory a run will take, from its recipe and the model's config alone: no weights are loaded.

Bytes a process, with P numbers in all weights, T of them trained, and N processes. Sharding is that of ZeRO
(Rajbhandari et al. 2020, arXiv 1910.02054, section 5 and figure 1), for float32 training where theirs is mixed:

| part | replicated | ZeRO-1 | ZeRO-2 | ZeRO-3 |
|---|---|---|---|---|
| weights, 4 a number (frozen under an adapter: 2 with bf16, 0.52 with nf4) | P | P | P | P + P / N |
| gradients, 4 a trained number | T | T | T / N | T / N |
| optimizer state, 8 a trained number (AdamW), about 2 or 1 in 8 bits | T | T / N | T / N | T / N |
| DeepSpeed's own float32 copy of what is trained, 4 a number | 0 | T / N | T / N | T / N |

With ZeRO-3 every process holds one whole copy of the weights besides its shard: rollouts are sampled from it.

Exact: weights, adapter, gradients, optimizer state, critic, reference, for as long as nothing is sharded (sharding
rounds to equal parts). An upper bound: the cache of keys and values, which is counted as if every response ran to the
length limit. Approximate, within a factor of two for decoders of Llama's kind: activations and logits of a micro-batch.
Not counted: Python and the libraries (0.3 to 0.6 GB), rollouts and their logprobs, a second copy of the weights while
they are read, one of the trained weights while a checkpoint is written, and the buckets in which DeepSpeed exchanges
gradients (`reduce_bucket_size` numbers). On a CPU the C library keeps much of what is freed, up to as much again; with
MALLOC_MMAP_THRESHOLD_=131072 in the environment it gives it back, and a process grows by what is estimated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from latentpad.algorithms import CriticAlgorithm, build_algorithm
from latentpad.experiments.model_sizes import model_sizes
from latentpad.experiments.step_sizes import keeps_snapshot, learned, sampled
from latentpad.formats import get_format
from latentpad.models.tokenizer import character_tokenizer, encode_strictly, raw_tokenizer
from latentpad.tasks import build_task
from latentpad.training.chunked_head import LOGIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.algorithms import Critic
    from latentpad.experiments.model_sizes import ModelSizes, Weight
    from latentpad.recipe.schema import Recipe

_FP32 = 4
_BF16 = 2
# bitsandbytes: numbers to a block of 8-bit state, and tensors that are too small to be kept in 8 bits.
_STATE_BLOCK, _SMALLEST_8BIT = 256, 4096
# Logits of one token at the widest moment of a backward pass, in float32 copies: the logits, the gradients of their
# sum and of the one that was sampled, and that of both together.
_LOGIT_COPIES = 4
# Bytes of one logit at the widest moment of sampling: raw, scaled and normalised in 4, probability and sum of it in 8.
_SAMPLING_BYTES = 3 * 4 + 2 * 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes a process, by what they are for.

    Attributes:
        weights: of the policy, the frozen ones under an adapter included, and what ZeRO-3 holds beside them.
        adapter: LoRA weights; they are trained.
        gradients: of what is trained at one time.
        optimizer: moments, of the critic too, and DeepSpeed's own copy of what is trained.
        critic: weights of a critic that is a model of its own.
        reference: a snapshot of what is trained: what KL is measured to, or what every round begins with.
        rollout: cache of keys and values of one chunk, and its logits.
        activations: what one micro-batch keeps for its backward pass.
        logits: of one micro-batch, with their gradients.
        offloaded: whether the optimizer's part is in the host's memory, not on the GPU.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    critic: int
    reference: int
    rollout: int
    activations: int
    logits: int
    offloaded: bool = False

    @property
    def host(self) -> int:
        """What offloading moves to the host's memory."""
        return self.optimizer if self.offloaded else 0

    @property
    def standing(self) -> int:
        """What is held all the time, on the device that trains."""
        return self.weights + self.adapter + self.optimizer + self.critic + self.reference - self.host

    @property
    def learning(self) -> int:
        """What a micro-batch takes beside that."""
        return self.gradients + self.activations + self.logits

    @property
    def total(self) -> int:
        """The most that is held at one time on the device that trains: sampling and learning take turns."""
        return self.standing + max(self.rollout, self.learning)

    def lines(self) -> list[str]:
        """For people: the total with what is held all the time, then what learning takes."""
        parts = self._named("weights", "adapter", "optimizer", "critic", "reference")
        where = f" ({readable(self.host)} of it in the host's memory)" if self.host else ""
        turns = f"the larger of sampling ({readable(self.rollout)}) and learning ({readable(self.learning)})"
        return [
            f"about {readable(self.total + self.host)} a process{where}: {parts}, and {turns}",
            f"learning takes {self._named('gradients', 'activations', 'logits')}",
        ]

    def _named(self, *names: str) -> str:
        return ", ".join(f"{name} {readable(size)}" for name in names if (size := getattr(self, name)))


def readable(size: int) -> str:
    """Bytes for people.

    >>> readable(1_500_000), readable(3 * 2**30)
    ('1.4 MB', '3.0 GB')
    """
    return f"{size / 2**30:.1f} GB" if size >= 0.95 * 2**30 else f"{size / 2**20:.1f} MB"


def estimate(recipe: Recipe, *, world_size: int = 1, zero_stage: int = 0, offload: bool = False) -> Estimate:
    """What a process of the run will hold; see this module's first lines for formulas and for what is exact.

    Args:
        recipe: checked; its model's config is read, its weights are not.
        world_size: processes that share the work.
        zero_stage: 0 (everything on every process) to 3.
        offload: whether ZeRO keeps the optimizer's part in the host's memory.

    Raises:
        RecipeError: the model's config is missing or unknown.
    """
    prompt, vocabulary = _tokens(recipe)
    sizes = model_sizes(recipe.model, vocabulary=vocabulary)
    lora, bf16 = recipe.model.lora, recipe.training.precision == "bf16"
    frozen_nf4 = recipe.model.quantisation is not None
    held = _frozen_bytes(sizes, bf16=bf16, nf4=frozen_nf4) if lora else _FP32 * sizes.parameters
    trained = sizes.adapter(lora.rank) if lora else [weight.numbers for weight in sizes.weights]
    critic_held, critic_trained = _critic(recipe, sizes, bf16=bf16, nf4=frozen_nf4)
    share = world_size if zero_stage else 1
    count, critic_count = sum(trained), sum(critic_trained)
    moments = _moments(recipe, sizes, trained) + _adamw(critic_trained)
    master = _FP32 * (count + critic_count) if zero_stage else 0
    gradients = _FP32 * (count + critic_count if zero_stage else max(count, critic_count))
    shard = ceil((held + (_FP32 * count if lora else 0)) / world_size) if zero_stage == 3 else 0
    rows, width = _micro_batch(recipe, prompt)
    return Estimate(
        weights=held + shard,
        adapter=_FP32 * count if lora else 0,
        gradients=ceil(gradients / world_size) if zero_stage >= 2 else gradients,
        optimizer=ceil((moments + master) / share),
        critic=ceil(critic_held / world_size) if zero_stage == 3 else critic_held,
        reference=_FP32 * count if keeps_snapshot(recipe) else 0,
        rollout=_rollout(recipe, sizes, prompt),
        activations=_activations(recipe, sizes, rows, width),
        logits=_logits(recipe, sizes, rows, width, prompt),
        offloaded=offload and zero_stage > 0,
    )


def _tokens(recipe: Recipe) -> tuple[int, int]:
    """Tokens of the longest prompt, and of the tokenizer."""
    task, text_format = build_task(recipe.task), get_format(recipe.format, recipe.model.path)
    if recipe.model.scratch is not None:
        tokenizer = character_tokenizer(task.alphabet + text_format.alphabet)
    else:
        tokenizer = raw_tokenizer(Path(recipe.model.path or ""))
    questions = [task.longest(cell).question for cell in task.cells]
    prompts = [len(encode_strictly(tokenizer, text_format.prompt(question))) for question in questions]
    return max(prompts), tokenizer.get_vocab_size()


def _frozen_bytes(sizes: ModelSizes, *, bf16: bool, nf4: bool) -> int:
    """Weights under an adapter."""
    number = _BF16 if bf16 else _FP32

    def held(weight: Weight) -> int:
        quantised = nf4 and weight.place == "linear" and len(weight.shape) == 2
        return weight.nf4_bytes if quantised else number * weight.numbers

    return sum(held(weight) for weight in sizes.weights)


def _critic(recipe: Recipe, sizes: ModelSizes, *, bf16: bool, nf4: bool) -> tuple[int, list[int]]:
    """Bytes of a critic's weights, and the numbers of each of its trained tensors, those of its head included."""
    built = None if recipe.algorithm is None else build_algorithm(recipe.algorithm)
    if not isinstance(built, CriticAlgorithm):
        return 0, []
    settings: Critic = built.critic
    head = [sizes.hidden, 1]
    if settings.kind == "head":
        return _FP32 * sum(head), head
    if settings.lora_rank:
        frozen = recipe.model.lora is not None
        held = _frozen_bytes(sizes, bf16=bf16, nf4=nf4) if frozen else _FP32 * sizes.parameters
        trained = [*sizes.adapter(settings.lora_rank), *head]
        return held + _FP32 * sum(trained), trained
    trained = [weight.numbers for weight in sizes.weights if weight.place != "head"]  # it predicts no tokens
    return _FP32 * (sizes.parameters + sum(head)), [*trained, *head]


def _adamw(tensors: Sequence[int]) -> int:
    """Two moments of each number, and a count of steps of each tensor (Loshchilov & Hutter 2019)."""
    return sum(2 * _FP32 * numbers + _FP32 for numbers in tensors)


def _moments(recipe: Recipe, sizes: ModelSizes, trained: Sequence[int]) -> int:
    """The state of the policy's optimizer."""
    kind = recipe.training.optimizer
    if recipe.training.matrix_learning_rate is not None:  # Muon: one moment of each matrix of the layers
        matrices = [w.numbers for w in sizes.weights if w.place == "linear" and len(w.shape) == 2]
        rest = [w.numbers for w in sizes.weights if not (w.place == "linear" and len(w.shape) == 2)]
        return _FP32 * sum(matrices) + _adamw(rest)
    if kind in (None, "adamw"):
        return _adamw(trained)
    moments = 1 if kind == "lion_8bit" else 2
    return moments * sum(_in_8_bits(numbers) for numbers in trained)


def _in_8_bits(numbers: int) -> int:
    """One moment of a tensor as bitsandbytes keeps it: a byte a number, and a scale a block; small ones in float32."""
    if numbers < _SMALLEST_8BIT:
        return _FP32 * numbers
    return numbers + _FP32 * ceil(numbers / _STATE_BLOCK)


def _micro_batch(recipe: Recipe, prompt: int) -> tuple[int, int]:
    """Rows and width of the largest micro-batch that there can be."""
    width = prompt + (recipe.rollout if sampled(recipe) else recipe.evaluation).max_new_tokens
    return max(1, min(learned(recipe), recipe.training.micro_batch_tokens // width)), width


def _activations(recipe: Recipe, sizes: ModelSizes, rows: int, width: int) -> int:
    """What is kept for the backward pass: of each layer, or with checkpointing of one and of the others' borders."""
    tokens, bf16 = rows * width, recipe.training.precision == "bf16"
    full = recipe.model.lora is None
    layer = tokens * _layer_bytes(recipe, sizes, width)
    border = tokens * _FP32 * sizes.hidden
    ends = 3 * border  # the embeddings, and around the last norm
    passing = tokens * _FP32 * (sizes.intermediate + sizes.hidden)  # gradients on their way through a layer
    # Autocast keeps a bfloat16 copy of each float32 weight that it multiplied by.
    linear = sum(weight.numbers for weight in sizes.weights if weight.place == "linear")
    casts = _BF16 * (linear + sizes.hidden * sizes.vocabulary) if bf16 and full else 0
    if recipe.training.activation_checkpointing:
        return sizes.layers * border + layer + ends + passing + casts
    return sizes.layers * layer + ends + passing + casts


def _layer_bytes(recipe: Recipe, sizes: ModelSizes, width: int) -> int:
    """What a token leaves in one layer of Llama's kind, for its backward pass.

    In floats: the residual stream before either norm; what a norm gives before its weight (if that is trained); the
    input of the projections; queries, keys, values (repeated for each query head) and the attention's output; gate, its
    activation, up and their product; of an adapter the rank of each of seven layers. With bf16 each linear layer keeps
    a copy of its input. And a row of the attention mask.
    """
    bf16, lora = recipe.training.precision == "bf16", recipe.model.lora
    number = _BF16 if bf16 else _FP32
    norms = (2 if lora else 4) * sizes.hidden * _FP32
    inputs = (5 if bf16 else 2) * sizes.hidden * number
    inside = (4 * sizes.queries + 4 * sizes.intermediate) * number
    adapter = 7 * (0 if lora is None else lora.rank) * number
    return norms + inputs + inside + adapter + _FP32 * width


def _logits(recipe: Recipe, sizes: ModelSizes, rows: int, width: int, prompt: int) -> int:
    """Of the response tokens of a micro-batch, held in chunks if large; of all its tokens where texts are learned."""
    if not sampled(recipe):
        return _LOGIT_COPIES * _FP32 * rows * width * sizes.vocabulary
    whole = _FP32 * rows * (width - prompt + 1) * sizes.vocabulary
    if sizes.plain_head and whole > LOGIT_BYTES:
        return _LOGIT_COPIES * LOGIT_BYTES
    entropy = recipe.rl is not None and recipe.rl.entropy_coef > 0
    extra = (recipe.rollout.temperature != 1) + (recipe.scratchpad == "empty") + 3 * entropy
    return (_LOGIT_COPIES + extra) * whole


def _rollout(recipe: Recipe, sizes: ModelSizes, prompt: int) -> int:
    """Keys and values of the largest chunk, one layer of them twice while it grows, and the logits of a token."""
    chunks = [(recipe.rollout.chunk_size, recipe.evaluation.max_new_tokens)]
    if sampled(recipe):
        chunks = [(min(recipe.rollout.chunk_size, sampled(recipe)), recipe.rollout.max_new_tokens)]
    number = _BF16 if recipe.training.precision == "bf16" else _FP32
    return max(
        rows * ((prompt + new) * (sizes.layers + 1) * 2 * sizes.keys * number + _SAMPLING_BYTES * sizes.vocabulary)
        for rows, new in chunks
    )
