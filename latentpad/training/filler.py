"""Fillers: as many copies of one token as a gold scratchpad has tokens, so that length without content can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentpad.models.tokenizer import encode_strictly
from latentpad.recipe.errors import RecipeError
from reward import CLOSE_TAG, OPEN_TAG

if TYPE_CHECKING:
    from latentpad.formats import Format

# A tokenizer that joins copies of a token does it with so many.
_COPIES = 16
_NAMED = 6
# Where the first or the last copy is joined with its neighbour, the count is put right this often.
_TRIES = 4


def check_filler(tokenizer: Any, filler: str, key: str) -> None:
    """Raise `RecipeError` unless the filler is one token, and stays one beside copies of itself.

    Args:
        tokenizer: raw, of the `tokenizers` package.
        filler: the text of the token.
        key: the recipe's name for it.
    """
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if filler in {OPEN_TAG, CLOSE_TAG} | special:
        raise RecipeError(f"{key}: got {filler!r}, which ends or opens something; expected an ordinary token")
    ids = tokenizer.encode(filler, add_special_tokens=False).ids
    if len(ids) != 1 or tokenizer.decode(ids, skip_special_tokens=False) != filler:
        signs = sorted(t for t in tokenizer.get_vocab() if len(t) == 1 and t.isprintable() and not t.isalnum())
        such = f", such as {', '.join(map(repr, signs[:_NAMED]))}" if signs else ""
        raise RecipeError(f"{key}: got {filler!r}; expected exactly one token of the model's tokenizer{such}")
    if len(tokenizer.encode(filler * _COPIES, add_special_tokens=False).ids) != _COPIES:
        raise RecipeError(
            f"{key}: got {filler!r}; the tokenizer joins copies of it into fewer tokens: expected one that it leaves "
            f"apart, such as {' ' + filler!r}"
        )


def filler_response(tokenizer: Any, text_format: Format, filler: str, scratchpad: str, answer: str) -> str:
    """The response with fillers for its scratchpad: to the token as long as the one with the gold scratchpad.

    Raises:
        RecipeError: no number of fillers gives that length.

    >>> from latentpad.formats import get_format
    >>> from latentpad.models.tokenizer import character_tokenizer
    >>> tokenizer = character_tokenizer("0123456789+,:C")
    >>> filler_response(tokenizer, get_format("compact"), ":", "1+2,C:0", "3")
    '<scratch>:::::::</scratch>3'
    """
    wanted = len(encode_strictly(tokenizer, text_format.response(answer, scratchpad)))
    count = len(encode_strictly(tokenizer, scratchpad))
    for _ in range(_TRIES):
        response = text_format.response(answer, filler * count)
        missing = wanted - len(encode_strictly(tokenizer, response))
        if not missing:
            return response
        count = max(0, count + missing)
    raise RecipeError(
        f"filler: no number of {filler!r} is as long as the gold scratchpad {scratchpad[:40]!r} in the tokenizer's "
        "tokens: take another filler"
    )
