"""Walking through all instances of a cell in a random order, one at a time, with no list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentpad.seeding import rng_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def shuffled(size: int, *names: str | int) -> Iterator[int]:
    """The whole numbers below `size`, each once, in an order drawn by the names; `size` may be astronomical.

    A permutation of all numbers of so many bits (odd factors and shifted XORs can be undone), less those that are too
    large.

    >>> sorted(shuffled(10, "cell")) == list(range(10)) != list(shuffled(10, "cell"))
    True
    """
    bits = max(1, (size - 1).bit_length())
    rng, mask, shift = rng_of(*names, "order"), (1 << bits) - 1, (bits + 1) // 2
    rounds = [(rng.getrandbits(bits) | 1, rng.getrandbits(bits)) for _ in range(4)]
    place = 0
    while place <= mask:
        number = place
        for factor, offset in rounds:
            number = (number * factor + offset) & mask
            number ^= number >> shift
        if number < size:
            yield number
        place += 1
