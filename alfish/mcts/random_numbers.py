"""Random numbers as a pure function of counters: the same on every device and in every order of rows."""

import numpy as np

from alfish.mcts.rule import kernel

_MASK = 0xFFFFFFFF


@kernel
def mixed_bits(number: int) -> int:
    """A bijection of the integers in [0, 2³²) that flips half of the bits on average when one bit changes.

    The xor-shift-multiply form of MurmurHash3's finaliser, with the constants of C. Wellons' search ("lowbias32").
    """
    number = int(number) & _MASK
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _MASK
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _MASK
    return number ^ (number >> 16)


@kernel
def hashed(seed: int, counter: int) -> int:
    """An integer in [0, 2³²) for each seed in [0, 2³²) and counter of at least 0."""
    return mixed_bits(int(seed) ^ mixed_bits(int(counter) + 0x9E3779B9))


@kernel
def uniform(seed: int, first: int, second: int) -> np.float32:
    """A float32 in [0, 1) for each seed and pair of counters."""
    return np.float32(hashed(hashed(seed, first), second) >> 8) * np.float32(1.0 / (1 << 24))
