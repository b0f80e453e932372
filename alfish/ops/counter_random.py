"""Random numbers that are functions of a key and a counter: no state, the same on every device and in every order.

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators",
https://doi.org/10.1145/2714064.2660195, section 4, with the constants of Stafford's variant 13), applied once for each
number that is taken in: to the key, then to the counter, then to the position.
"""

import torch

# 2^64 / golden ratio, odd: consecutive counters are far apart before they are mixed. All numbers as signed 64 bits.
_WEYL = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64

_MANTISSA_BITS = 24


def mix(key: torch.Tensor, counter: torch.Tensor | int) -> torch.Tensor:
    """A well-mixed function of two numbers; for a fixed key no two counters collide.

    Args:
        key: `[...]` int64, any bits.
        counter: an int64 tensor that broadcasts with `key`, or a whole number.

    Returns:
        `[...]` int64, any bits: a key in its own right.
    """
    # As a tensor, because its products wrap around at 64 bits, and those of a Python number grow.
    return _finalise(_finalise(key) + (torch.as_tensor(counter) + 1) * _WEYL)


def make_keys(seed: int, num: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """`num` keys from one seed, `[num]` int64: one independent stream for each.

    Args:
        seed: any whole number of 64 bits.
        num: at least 0. The first keys do not depend on it.
        device: of the keys.

    Raises:
        ValueError: the seed has more bits.
    """
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}; expected a whole number of at most 64 bits")
    signed = seed - 2**64 if seed >= 2**63 else seed
    return mix(torch.tensor(signed, dtype=torch.int64, device=device), torch.arange(num, device=device))


def uniform(key: torch.Tensor, counter: torch.Tensor | int, num: int) -> torch.Tensor:
    """Numbers in [0, 1), each determined by the key, the counter and its position.

    Args:
        key: `[B]` int64.
        counter: `[B]` int64, or a whole number.
        num: numbers per row, at least 0.

    Returns:
        `[B, num]` float32, multiples of 2⁻²⁴.
    """
    if num == 0:
        return torch.empty((*key.shape, 0), device=key.device)
    bits = mix(mix(key, counter).unsqueeze(-1), torch.arange(num, device=key.device))
    # The highest bits are the best mixed. They fit the mantissa, so that rounding never gives 1.
    return _shifted(bits, 64 - _MANTISSA_BITS).to(torch.float32) * 2.0**-_MANTISSA_BITS


def _finalise(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _MULTIPLIER_1
    bits = (bits ^ _shifted(bits, 27)) * _MULTIPLIER_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    # torch's shift keeps the sign; the mask makes it the logical shift of unsigned numbers.
    return (bits >> places) & ((1 << (64 - places)) - 1)
