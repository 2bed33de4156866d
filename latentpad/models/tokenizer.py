"""A character tokenizer in the ordinary fast format, and the few things that the rest asks of any tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.recipe.errors import RecipeError
from reward import CLOSE_TAG, OPEN_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

PAD, EOS = "<pad>", "<eos>"


def character_tokenizer(alphabet: Iterable[str]) -> Tokenizer:
    """One token a character, one for each scratchpad tag, `<pad>` and `<eos>`. Needs no torch.

    A character outside the alphabet is dropped by the model's vocabulary, so encode with `encode_strictly`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens = [PAD, EOS, OPEN_TAG, CLOSE_TAG, *sorted(set(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, EOS])
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in (OPEN_TAG, CLOSE_TAG)])
    return tokenizer


def fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """The same as an ordinary `PreTrainedTokenizerFast`, to be saved beside a model."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def raw_tokenizer(path: Path) -> Tokenizer:
    """The `tokenizers` object of a checkpoint, read without torch or transformers.

    Raises:
        RecipeError: the folder holds no `tokenizer.json`.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json"
    if not file.is_file():
        raise RecipeError(
            f"model.path: {path} holds no tokenizer.json: give the folder of a checkpoint with a fast tokenizer"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise RecipeError(f"model.path: {file} is not readable as a tokenizer ({error})") from error


def encode_strictly(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of `text`, no special tokens added.

    Raises:
        RecipeError: the tokenizer does not give the text back (a character that it does not know).
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    ids = tuple(getattr(ids, "ids", ids))
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    if decoded != text:
        strange = sorted(set(text) - set(decoded))
        raise RecipeError(
            f"the tokenizer cannot spell {text[:60]!r}; characters it lacks: {''.join(strange) or 'none'!r}"
        )
    return ids


def stop_token_ids(folder: Path | None, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a response: those of the checkpoint's generation config, then the tokenizer's.

    Raises:
        RecipeError: there is none.
    """
    found: list[int] = []
    file = None if folder is None else folder / "generation_config.json"
    if file is not None and file.is_file():
        eos = json.loads(file.read_text()).get("eos_token_id")
        found += eos if isinstance(eos, list) else [] if eos is None else [eos]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    if not found:
        raise RecipeError("model.path: neither the tokenizer nor the generation config names an end-of-sequence token")
    return tuple(dict.fromkeys(found))
