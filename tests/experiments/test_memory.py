"""The estimate of a run's memory, against the tensors that there really are."""

from __future__ import annotations

import shutil
import warnings
import weakref
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentpad.experiments.fit import check_memory
from latentpad.experiments.memory import Estimate, estimate, readable
from latentpad.experiments.model_sizes import Weight, model_sizes
from latentpad.formats import get_format
from latentpad.models.critic import critic_trunk, value_head
from latentpad.models.policy import load_policy, new_policy
from latentpad.models.reference import snapshot
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.recipe.schema import LoraSection, ModelSection, Recipe, ScratchSection
from latentpad.tasks import build_task
from latentpad.training.forward import forward
from latentpad.training.optimizer import policy_optimizers
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from latentpad.models.policy import Policy
    from latentpad.types import Batch

SMALL = ScratchSection(hidden_size=64, layers=3, heads=4, intermediate_size=192, max_positions=256)
NOPE = SMALL.model_copy(update={"architecture": "smollm3", "nope_layers": "all"})
PPO = {"name": "ppo", "critic": {"kind": "model", "pretraining_steps": 1}}
SECTIONS = {"rollout": {"max_new_tokens": 60, "chunk_size": 16}, "training": {"micro_batch_tokens": 1024}}


def recipe_of(model: dict[str, Any], **changes: Any) -> Recipe:
    sections: dict[str, Any] = {**SECTIONS, "model": model}
    for name, value in changes.items():
        sections[name] = {**sections[name], **value} if isinstance(sections.get(name), dict) else value
    return tiny.recipe("rl", **sections)


def policy_of(recipe: Recipe) -> Policy:
    model = recipe.model
    if model.scratch is not None:
        return new_policy(model.scratch, build_task(recipe.task).alphabet + get_format(recipe.format).alphabet, seed=0)
    options = {"quantisation": model.quantisation, "precision": recipe.training.precision}
    policy = load_policy(Path(model.path or ""), lora=model.lora, seed=0, **options)
    return replace(policy, precision=recipe.training.precision)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of different tensors; a view counts as what it is a view of, once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def worst_batch(policy: Policy, recipe: Recipe) -> Batch:
    """As many rows as a micro-batch takes, each of the longest prompt and response."""
    task, limit = build_task(recipe.task), recipe.rollout.max_new_tokens
    question = max((task.longest(cell).question for cell in task.cells), key=len)
    row = tiny.rollout(policy, question, "1" * limit, stop=False)
    width = len(row.prompt.token_ids) + limit
    rows = min(
        recipe.rl_section.prompts_per_step * recipe.rl_section.group_size, recipe.training.micro_batch_tokens // width
    )
    return tiny.collate([row] * rows, [1.0] * rows, [1.0] * rows)


def kept(policy: Policy, recipe: Recipe) -> tuple[int, torch.Tensor]:
    """Bytes that a forward pass keeps for its backward pass, weights left out; and a loss."""
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    policy.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), policy.arithmetic():
        out = forward(policy.model, worst_batch(policy, recipe))
        loss = out.logprobs.sum()
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    return size(t for place, t in seen.items() if place not in weights), loss


class Peak(TorchDispatchMode):
    """Bytes of the tensors that are made within the block and alive at one time, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, number = storage._cdata, storage.nbytes()
        if place in self._seen:
            return
        self.live += number
        self.most = max(self.most, self.live)

        def gone(_: Any) -> None:
            self.live -= number
            del self._seen[place]

        self._seen[place] = weakref.ref(storage, gone)


def stepped(policy: Policy, recipe: Recipe) -> tuple[int, int]:
    """Bytes of gradients, and of the optimizer's state after a step."""
    _, loss = kept(policy, recipe)
    loss.backward()
    gradients = size(p.grad for p in policy.model.parameters() if p.grad is not None)
    tensors: list[torch.Tensor] = []
    for optimizer, _ in policy_optimizers(policy.model, recipe.training):
        optimizer.step()
        for state in optimizer.state.values():
            tensors += [
                value for name, value in state.items() if isinstance(value, torch.Tensor) and "qmap" not in name
            ]
    return gradients, sum(tensor.nbytes for tensor in tensors)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose layers are wide enough for blocks of 4-bit weights and of 8-bit moments."""
    folder = tmp_path_factory.mktemp("memory") / "base"
    tiny.policy(sizes=SMALL).save(folder)
    return folder


LORA = {"rank": 4, "alpha": 8.0}


@pytest.mark.parametrize("sizes", [SMALL, NOPE, tiny.SIZES], ids=["llama", "smollm3", "tiny"])
def test_parameters_are_those_of_the_model(sizes: ScratchSection) -> None:
    policy = tiny.policy(sizes=sizes)
    found = model_sizes(ModelSection(scratch=sizes), vocabulary=len(policy.tokenizer))
    assert found.parameters == sum(p.numel() for p in policy.model.parameters())
    assert (found.layers, found.hidden, found.vocabulary) == (sizes.layers, sizes.hidden_size, len(policy.tokenizer))


def gpt2(folder: Path) -> None:
    """Of another kind: `Conv1D` in place of linear layers, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny.policy().tokenizer
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "adapter on llama"])
def test_an_adapter_is_counted_to_the_number(kind: str, tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "gpt2" if kind == "gpt2" else base
    if kind == "gpt2":
        gpt2(folder)
    elif kind != "llama":
        folder = tmp_path / "first"
        load_policy(base, lora=LoraSection(**LORA)).save(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        policy = load_policy(folder, lora=LoraSection(rank=3, alpha=6))
    found = model_sizes(ModelSection(path=str(folder)), vocabulary=0)
    assert sorted(found.adapter(3)) == sorted(p.numel() for p in policy.trainable().values())
    frozen = [p for p in policy.model.parameters() if not p.requires_grad]
    assert found.parameters == sum(p.numel() for p in frozen)


def test_weights_gradients_and_moments_of_a_full_run_are_exact() -> None:
    recipe = recipe_of({"scratch": SMALL.model_dump()})
    policy, found = policy_of(recipe), estimate(recipe)
    assert (found.weights, found.adapter) == (size(policy.model.parameters()), 0)
    assert (found.gradients, found.optimizer) == stepped(policy, recipe)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_gradients_and_moments_under_an_adapter_are_exact(base: Path, precision: str) -> None:
    recipe = recipe_of({"path": str(base), "lora": LORA}, training={"precision": precision})
    policy, found = policy_of(recipe), estimate(recipe)
    trained = set(map(id, policy.trainable().values()))
    assert found.weights == size(p for p in policy.model.parameters() if id(p) not in trained)
    assert found.adapter == size(policy.trainable().values())
    assert (found.gradients, found.optimizer) == stepped(policy, recipe)


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit", "lion_8bit"])
def test_moments_in_8_bits_are_exact(base: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = recipe_of({"path": str(base)}, training={"optimizer": kind})
    assert estimate(recipe).optimizer == stepped(policy_of(recipe), recipe)[1]
    assert estimate(recipe).optimizer < 0.5 * estimate(recipe_of({"path": str(base)})).optimizer


def test_moments_of_muon_are_exact() -> None:
    training = {"matrix_learning_rate": 0.01, "micro_batch_tokens": 1024}
    recipe = tiny.recipe("pretrain", model={"scratch": SMALL.model_dump()}, training=training)
    stand_in = recipe_of({"scratch": SMALL.model_dump()})
    policy = policy_of(recipe)
    kept(policy, stand_in)[1].backward()
    total = 0
    for optimizer, _ in policy_optimizers(policy.model, recipe.training):
        optimizer.step()
        states = chain.from_iterable(state.values() for state in optimizer.state.values())
        total += sum(tensor.nbytes for tensor in states if isinstance(tensor, torch.Tensor))
    assert estimate(recipe).optimizer == total


def test_weights_in_4_bits_are_within_a_hundredth(base: Path) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = recipe_of({"path": str(base), "lora": LORA, "quantisation": "nf4"})
    policy = policy_of(recipe)
    trained = set(map(id, policy.trainable().values()))
    tensors = [p for p in policy.model.parameters() if id(p) not in trained]
    held = size(tensors)
    for parameter in tensors:
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            held += size([state.absmax, state.state2.absmax, state.code, state.state2.code, state.offset])
    assert estimate(recipe).weights == pytest.approx(held, rel=0.01)
    assert estimate(recipe).weights < 0.4 * estimate(recipe_of({"path": str(base), "lora": LORA})).weights


def test_a_number_in_4_bits_takes_a_bit_more_than_half_a_byte() -> None:
    # 4096 numbers: 2048 bytes of codes, 64 scales of a byte, one scale of theirs, the tables
    assert Weight((64, 64), "linear").nf4_bytes == 2048 + 64 + 4 + 4 * (16 + 256 + 1)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_critic_of_its_own_and_a_reference_are_exact(base: Path, rank: int, lora: dict[str, Any] | None) -> None:
    critic = {**PPO["critic"], "lora_rank": rank}  # type: ignore[dict-item]
    model = {"path": str(base), **({"lora": lora} if lora else {})}
    recipe = recipe_of(model, algorithm={"name": "ppo", "critic": critic}, rl={"kl": {"coef": 0.1}})
    policy, found = policy_of(recipe), estimate(recipe)
    section = LoraSection(rank=rank, alpha=2.0 * rank) if rank else None
    trunk, head = critic_trunk(policy, lora=section, seed=0), value_head(policy)
    weights = [*trunk.parameters(), *head.parameters()]
    assert found.critic == size(weights)
    assert found.reference == size(snapshot(policy).values())
    trained = [p for p in weights if p.requires_grad]
    bare = estimate(recipe_of(model))
    assert found.optimizer - bare.optimizer == sum(8 * p.numel() + 4 for p in trained)
    assert found.gradients == max(size(policy.trainable().values()), size(trained))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_activations_are_within_a_factor_of_two(
    base: Path, lora: dict[str, Any] | None, precision: str, checkpointing: bool
) -> None:
    """Of what a forward pass keeps. Logits are counted apart, with what a backward pass adds to them."""
    from latentpad.models.activations import checkpoint_activations

    training = {"precision": precision, "activation_checkpointing": checkpointing, "micro_batch_tokens": 1024}
    recipe = recipe_of({"path": str(base), **({"lora": lora} if lora else {})}, training=training)
    policy, found = policy_of(recipe), estimate(recipe)
    if checkpointing:
        checkpoint_activations(policy.model)
    else:
        assert 0.5 < kept(policy, recipe)[0] / (found.activations + found.logits / 4) < 2
    policy.model.train()
    batch = worst_batch(policy, recipe)
    with Peak() as peak, policy.arithmetic():
        forward(policy.model, batch).logprobs.sum().backward()
    assert peak.most >= found.gradients
    assert 0.5 < peak.most / found.learning < 2


def test_checkpointing_saves_what_layers_keep(base: Path) -> None:
    without, with_it = (
        estimate(recipe_of({"path": str(base)}, training={"activation_checkpointing": on})) for on in (False, True)
    )
    assert with_it.activations < 0.6 * without.activations


def test_the_cache_of_a_chunk_is_what_sampling_holds(base: Path) -> None:
    recipe = recipe_of({"path": str(base)})
    policy, found = policy_of(recipe), estimate(recipe)
    batch = worst_batch(policy, recipe)
    with torch.inference_mode():
        cache = policy.model(input_ids=batch.token_ids[:1], use_cache=True).past_key_values
    one = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    chunk = 16
    sampling = chunk * 28 * len(policy.tokenizer)
    assert found.rollout == chunk * one * (SMALL.layers + 1) // SMALL.layers + sampling


def test_logits_of_a_large_vocabulary_are_held_in_chunks() -> None:
    changes = {"rollout": {"max_new_tokens": 60}, "training": {"micro_batch_tokens": 10**6}}
    few = recipe_of({"scratch": SMALL.model_dump()}, rl={"prompts_per_step": 4}, **changes)
    many = recipe_of({"scratch": SMALL.model_dump()}, rl={"prompts_per_step": 40000}, **changes)
    assert estimate(few).logits < 4 * 64 * 2**20 == estimate(many).logits


# --- sharding: P = 1000 weights would be too few to see; of the model's own numbers


def parts(found: Estimate) -> dict[str, int]:
    return {name: getattr(found, name) for name in ("weights", "gradients", "optimizer", "critic", "reference")}


def test_each_stage_divides_what_the_paper_says() -> None:
    recipe = recipe_of({"scratch": SMALL.model_dump()})
    alone = estimate(recipe)
    p, gradients = alone.weights, alone.gradients
    whole = alone.optimizer + gradients  # moments, and DeepSpeed's own copy of 4 bytes a number
    for stage, weights, of_gradients in [(1, p, gradients), (2, p, gradients / 4), (3, p + p / 4, gradients / 4)]:
        found = estimate(recipe, world_size=4, zero_stage=stage)
        assert parts(found) == {
            "weights": pytest.approx(weights, abs=1),
            "gradients": pytest.approx(of_gradients, abs=1),
            "optimizer": pytest.approx(whole / 4, abs=1),
            "critic": 0,
            "reference": 0,
        }
        assert (found.rollout, found.activations, found.logits) == (alone.rollout, alone.activations, alone.logits)
    assert estimate(recipe, world_size=4) == alone


def test_offloading_moves_the_optimizer_to_the_host() -> None:
    recipe = recipe_of({"scratch": SMALL.model_dump()})
    here, there = (estimate(recipe, world_size=2, zero_stage=2, offload=offload) for offload in (False, True))
    assert (here.host, there.host) == (0, here.optimizer)
    assert here.total - there.total == here.optimizer
    assert "in the host's memory" in there.lines()[0]
    assert "in the host's memory" not in here.lines()[0]


def test_sampling_and_learning_take_turns() -> None:
    found = Estimate(
        weights=100, adapter=10, gradients=10, optimizer=20, critic=5, reference=3, rollout=50, activations=30, logits=7
    )
    assert found.total == 100 + 10 + 20 + 5 + 3 + max(50, 10 + 30 + 7)
    assert [readable(n) for n in (0, 2**20, 2**30)] == ["0.0 MB", "1.0 MB", "1.0 GB"]


def test_lines_name_each_part_that_is_there() -> None:
    line, second = estimate(recipe_of({"scratch": SMALL.model_dump()})).lines()
    assert line.startswith("about ")
    assert ": weights 0.6 MB, optimizer 1.2 MB, and the larger of sampling (" in line
    assert "critic" not in line
    assert second.startswith("learning takes gradients 0.6 MB, activations ")


# --- what `latentpad check` says of it


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A machine with so many bytes, and so many free."""

    def give(total: int, free: int) -> None:
        monkeypatch.setattr("latentpad.experiments.fit._there", lambda: (total, free, "machine"))

    return give


def test_a_recipe_that_fits_is_said_to(machine: Callable[[int, int], None]) -> None:
    recipe = recipe_of({"scratch": SMALL.model_dump()})
    machine(2**30, estimate(recipe).total)
    enough, line = check_memory(recipe)
    assert enough
    assert line.startswith("memory: about ")
    assert line.endswith(" of the machine are free")


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({}, "a smaller training.micro_batch_tokens, or training.activation_checkpointing takes less"),
        (
            {"training": {"micro_batch_tokens": 64}, "rl": {"prompts_per_step": 99}},
            "a smaller rollout.chunk_size takes",
        ),
    ],
)
def test_more_than_is_free_is_a_warning_with_a_way_out(
    machine: Callable[[int, int], None], changes: dict[str, Any], fix: str
) -> None:
    recipe = recipe_of({"scratch": SMALL.model_dump()}, **changes)
    machine(2**30, estimate(recipe).total - 1)
    enough, line = check_memory(recipe)
    assert not enough
    assert f"which may not be enough: {fix}" in line


def test_weights_that_the_machine_cannot_hold_are_refused(machine: Callable[[int, int], None], base: Path) -> None:
    recipe = recipe_of({"scratch": SMALL.model_dump()})
    machine(estimate(recipe).weights, 0)
    assert not check_memory(recipe)[0]
    machine(estimate(recipe).weights - 1, 0)
    with pytest.raises(MachineError, match=r"^the weights alone take 0\.6 MB, the machine has 0\.6 MB: .*nf4$"):
        check_memory(recipe)


@pytest.mark.parametrize("text", ["{}", '{"model_type": "nosuch"}', "{"])
def test_a_config_that_transformers_does_not_know_is_one_line(base: Path, tmp_path: Path, text: str) -> None:
    shutil.copy(base / "tokenizer.json", tmp_path)
    recipe = recipe_of({"path": str(tmp_path)})
    with pytest.raises(RecipeError, match=r"model\.path: .* holds no config\.json"):
        estimate(recipe)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RecipeError, match=r"model\.path: transformers cannot read "):
        estimate(recipe)
