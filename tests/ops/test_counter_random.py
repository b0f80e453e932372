import pytest
import torch

from alfish.ops.counter_random import make_keys, mix, uniform

BITS = 2**64


def finalised(number):
    """SplitMix64's finaliser on Python's numbers."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % BITS
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % BITS
    return number ^ (number >> 31)


def mixed(key, counter):
    return finalised((finalised(key % BITS) + (counter + 1) * 0x9E3779B97F4A7C15) % BITS)


NUMBERS = [0, 1, 2, 12345, 2**31, 2**40 + 7, 2**63 - 1, -1, -(2**63)]


def test_mix_is_the_finaliser_twice():
    keys = torch.tensor(NUMBERS).repeat_interleave(len(NUMBERS))
    counters = torch.tensor(NUMBERS).repeat(len(NUMBERS))
    expected = [mixed(key, counter) for key in NUMBERS for counter in NUMBERS]
    assert [number % BITS for number in mix(keys, counters).tolist()] == expected


def test_splitmix64_of_the_paper():
    # The first output of SplitMix64 with the seed 0, as published with the reference implementation.
    assert mixed(0, 0) == finalised(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert mix(torch.tensor([0]), 0).item() % BITS == 0xE220A8397B1DCDAF


def test_a_number_of_the_counter_is_a_tensor_of_it():
    keys = make_keys(3, 4)
    assert mix(keys, 2**40).equal(mix(keys, torch.full((4,), 2**40)))


def test_the_first_keys_do_not_depend_on_how_many_there_are():
    assert make_keys(7, 100)[:10].equal(make_keys(7, 10))
    assert not make_keys(7, 10).eq(make_keys(8, 10)).any()
    assert make_keys(-1, 3).equal(make_keys(2**64 - 1, 3))
    assert make_keys(0, 0).shape == (0,)


def test_a_seed_of_too_many_bits():
    with pytest.raises(ValueError, match=r"seed is 18446744073709551616; expected a whole number of at most 64 bits"):
        make_keys(2**64, 1)


def test_uniform_is_a_function_of_key_counter_and_position():
    keys, counters = make_keys(0, 6), torch.arange(6)
    numbers = uniform(keys, counters, 3)
    assert numbers.dtype == torch.float32
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    assert uniform(keys[order], counters[order], 3).equal(numbers[order])
    assert uniform(keys, counters, 2).equal(numbers[:, :2])
    assert uniform(keys, 2, 3)[2].equal(numbers[2])
    assert uniform(keys, counters, 0).shape == (6, 0)


def test_uniform_takes_the_highest_bits():
    key = torch.tensor([42])
    expected = [(mixed(mixed(42, 5), position) >> 40) / 2**24 for position in range(3)]
    assert uniform(key, 5, 3)[0].tolist() == expected


@pytest.mark.parametrize(
    "numbers",
    [
        lambda n: uniform(make_keys(0, n), 0, 1)[:, 0],
        lambda n: uniform(torch.arange(n), 0, 1)[:, 0],
        lambda n: uniform(torch.tensor([5]).expand(n), torch.arange(n), 1)[:, 0],
        lambda n: uniform(torch.tensor([5]), 3, n)[0],
    ],
    ids=["keys of a seed", "keys that count", "counters", "positions"],
)
def test_neighbours_are_uniform_and_independent(numbers):
    n = 2**16
    drawn = numbers(n).double()
    assert 0 <= drawn.min() < drawn.max() < 1
    # Means and correlations within 4 standard deviations of what they are for independent uniform numbers.
    assert abs(drawn.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    for lag in (1, 2, 3, 16, 256):
        product = (drawn[lag:] - 0.5) * (drawn[:-lag] - 0.5) * 12
        assert abs(product.mean()) < 4 / n**0.5, lag
    counts = torch.bincount((drawn * 64).long(), minlength=64).double()
    chi_square = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert chi_square < 63 + 4 * (2 * 63) ** 0.5


def test_one_bit_of_the_key_or_the_counter_changes_half_of_the_bits():
    keys, counters = make_keys(1, 512), torch.arange(512)
    base = mix(keys, counters)
    for bit in (0, 1, 20, 40, 62):
        for changed in (mix(keys ^ (1 << bit), counters), mix(keys, counters ^ (1 << bit))):
            difference = base ^ changed
            flipped = sum(bin(number % BITS).count("1") for number in difference.tolist()) / 512
            assert 31 < flipped < 33
