"""The length-grouped order: every row once, the same for a seed and an epoch, and with little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from balora.data.sampler import LengthGroupedSampler


def padding(lengths: np.ndarray, order: list[int], batch_size: int) -> int:
    """Padded positions of one epoch."""
    batches = BatchSampler(order, batch_size, drop_last=False)
    return sum(max(lengths[b]) * len(b) - sum(lengths[b]) for b in map(np.array, batches))


@given(
    lengths=st.lists(st.integers(1, 500), max_size=300),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5),
)
def test_each_row_comes_once_and_the_order_is_a_function_of_seed_and_epoch(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    sampler = LengthGroupedSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths))) == list(range(len(sampler)))
    assert list(sampler) == order  # iterating does not move it on

    resumed = LengthGroupedSampler(lengths, batch_size, seed)
    list(resumed)
    resumed.set_epoch(epoch)
    assert list(resumed) == order
    if len(lengths) >= batch_size:
        assert max(lengths) in [lengths[i] for i in order[:batch_size]]


@pytest.fixture
def lengths() -> np.ndarray:
    return np.random.default_rng(3).geometric(0.02, 2003)


def test_epochs_and_seeds_differ(lengths: np.ndarray) -> None:
    orders = set()
    for seed in (0, 1):
        sampler = LengthGroupedSampler(lengths, 8, seed)
        for epoch in (0, 1, 2):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 6


def test_batches_have_rows_of_similar_length_and_no_trend(lengths: np.ndarray) -> None:
    order = list(LengthGroupedSampler(lengths, 8, seed=0))
    shuffled = np.random.default_rng(0).permutation(len(lengths)).tolist()
    assert padding(lengths, order, 8) < 0.1 * padding(lengths, shuffled, 8)
    # The batches are shuffled: sorted pools would put long rows before short ones, five times over the epoch.
    means = np.array([lengths[order[i : i + 8]].mean() for i in range(0, 2000, 8)])[1:]
    assert abs(np.corrcoef(means, np.arange(len(means)) % 50)[0, 1]) < 0.2


def test_the_incomplete_batch_is_the_last_one() -> None:
    # 7 rows in batches of 3: sorted by length 7 6 5 | 4 3 2 | 1, and whole batches change places only.
    for seed in range(10):
        order = list(LengthGroupedSampler([1, 2, 3, 4, 5, 6, 7], 3, seed))
        assert [sorted(order[:3]), sorted(order[3:6]), order[6:]] == [[4, 5, 6], [1, 2, 3], [0]]
