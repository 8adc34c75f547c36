"""Batches of rows of similar length, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_BATCHES_PER_POOL = 50  # pools this large leave little padding, and batches still differ much between epochs


class LengthGroupedSampler(Sampler[int]):
    """Shuffles rows, sorts each pool of 50 batches by length, then shuffles the batches.

    The order is a pure function of (seed, epoch): a resumed run sees the order of the uninterrupted one. Each row
    comes once an epoch. The first batch is the one with the longest rows, so that too little memory shows at the first
    step, and the incomplete batch, if there is one, comes last.

    Args:
        lengths: tokens of each row.
        batch_size: rows that must be alike: those of one step of one device.
        seed: seeds the order; ``set_epoch`` changes it from epoch to epoch.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order().tolist())

    def _order(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        pool = _BATCHES_PER_POOL * self.batch_size
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            order[start : start + pool] = part[np.argsort(-self.lengths[part], kind="stable")]
        whole = len(order) // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)  # (batches, batch_size)
        batches = batches[rng.permutation(len(batches))]
        if len(batches):
            longest = int(np.argmax(self.lengths[batches].max(axis=1)))
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.ravel(), order[whole:]])
