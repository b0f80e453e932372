import numpy as np

from alfish.experience_replayers.samplers import UniformSampler


def test_every_allowed_row_is_equally_likely():
    position, env_id = UniformSampler().sample(40_000, 5, 8, 2, np.random.default_rng(0))
    assert position.dtype == env_id.dtype == np.int64
    rows, counts = np.unique(np.stack([position, env_id]), axis=1, return_counts=True)
    assert rows.T.tolist() == [[p, e] for p in range(5, 9) for e in range(2)]
    # 5000 expected, standard deviation 66
    assert counts.min() > 4700
    assert counts.max() < 5300


def test_the_generator_alone_decides():
    first, again, other = (UniformSampler().sample(50, 0, 99, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_single_row():
    position, env_id = UniformSampler().sample(3, 7, 7, 1, np.random.default_rng(0))
    assert position.tolist() == [7, 7, 7]
    assert env_id.tolist() == [0, 0, 0]
