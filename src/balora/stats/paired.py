"""Tests of two versions on the same samples, and the correction for testing over many benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from balora.errors import UsageError
from balora.stats._inputs import (
    RELATIVE_TOLERANCE,
    BoolArray,
    Clusters,
    FloatArray,
    cluster_codes,
    finite_vector,
    generator,
    same_length,
    sums_by,
)

# Up to this many units all 2^12 = 4,096 sign patterns are enumerated.
MAX_EXACT_UNITS = 12
# More units than this flip in random blocks: a subgroup of the sign flips, under which the test keeps its level
# exactly (Hemerik & Goeman, 2018).
MAX_SIGN_BLOCKS = 10_000
CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of a paired difference, with its effect sizes.

    ``difference`` is the mean of first minus second (for 0/1 values, the risk difference); ``cohen_dz`` is the mean
    over units divided by the standard deviation over units, None where the difference does not vary or its spread is
    unknown. ``n`` counts the units compared (for McNemar's test without ``n``, the discordant pairs). Where
    ``p_value`` is None, ``reason`` says why.
    """

    p_value: float | None
    difference: float | None
    cohen_dz: float | None
    n: int
    method: str
    reason: str | None = None


def mcnemar(b: int, c: int, n: int | None = None) -> PairedTest:
    """McNemar's test of two binary outcomes on the same samples, exact.

    ``b`` pairs are a success for the first version only, ``c`` for the second only, of ``n`` pairs in all; without
    ``n`` the test is the same but the effect sizes are unknown (None).

    Definition: two-sided binomial test that discordant pairs fall either way with probability 1/2. Range: p in
    (0, 1], 1 when no pair is discordant; risk difference ``(b - c)/n`` in [-1, 1]. Undefined when ``n == 0``.
    Source: McNemar (1947), "Note on the sampling error of the difference between correlated proportions".
    """
    if min(b, c) < 0 or (n is not None and b + c > n):
        raise UsageError(f"b, c, n: got {b}, {c}, {n}, expected counts of at least 0 with b + c <= n")
    if n == 0:
        return PairedTest(None, None, None, 0, "mcnemar (exact)", "no pairs")
    discordant = b + c
    p_value = min(1.0, 2 * float(special.bdtr(min(b, c), discordant, 0.5)))
    if n is None:
        return PairedTest(p_value, None, None, discordant, "mcnemar (exact)")
    difference = (b - c) / n
    # The differences are b times 1, c times -1 and else 0, so their spread follows from the counts.
    squares = discordant - (b - c) * difference
    dz = difference / math.sqrt(squares / (n - 1)) if n > 1 and squares > RELATIVE_TOLERANCE * n else None
    return PairedTest(p_value, difference, dz, n, "mcnemar (exact)")


def paired_permutation(
    a: ArrayLike, b: ArrayLike, *, clusters: Clusters | None = None, resamples: int = 9999, seed: int
) -> PairedTest:
    """Sign-flip test that ``a - b`` on the same samples is symmetric around 0.

    Samples of one cluster flip together. Definition: the share of sign patterns whose absolute mean difference is at
    least the observed one: of all patterns with up to 12 units, else of ``resamples`` random ones and the observed
    one (Phipson & Smyth, 2010). Two-sided. Range: p in (0, 1], at least ``2 / 2^units`` resp.
    ``1 / (resamples + 1)``, and 1 when nothing differs. Undefined without samples.
    Source: Fisher (1935), "The design of experiments", section 21; Cohen (1988), section 2.3.5 for d_z.
    """
    first, second = finite_vector("a", a), finite_vector("b", b)
    same_length(a=first, b=second)
    if resamples < 1:
        raise UsageError(f"resamples: got {resamples}, expected at least 1")
    rng = generator(seed)
    n = first.size
    if n == 0:
        return PairedTest(None, None, None, 0, "paired permutation", "no samples")
    difference = first - second  # (n,)
    if clusters is None:
        units, codes = n, np.arange(n)
    else:
        same_length(a=first, clusters=clusters)
        codes = cluster_codes(clusters)
        units = int(codes.max()) + 1
    sums = sums_by(codes, difference, units)  # (units,)
    dz = _cohen_dz(sums / np.bincount(codes, minlength=units))
    mean = float(sums.sum()) / n

    if units <= MAX_EXACT_UNITS:
        patterns = 2.0 * (np.arange(2**units)[:, None] >> np.arange(units) & 1) - 1  # (2^units, units)
        p_value = float(np.mean(_at_least(patterns @ sums, sums)))
        return PairedTest(p_value, mean, dz, units, "paired permutation (exact)")
    if units > MAX_SIGN_BLOCKS:
        sums = sums_by(rng.permutation(units) % MAX_SIGN_BLOCKS, sums, MAX_SIGN_BLOCKS)
    hits = 0
    step = max(1, CHUNK_NUMBERS // sums.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        bits = np.unpackbits(
            np.frombuffer(rng.bytes(rows * -(-sums.size // 8)), np.uint8).reshape(rows, -1), axis=1
        )
        patterns = 2.0 * bits[:, : sums.size] - 1  # (rows, blocks)
        hits += int(_at_least(patterns @ sums, sums).sum())
    method = f"paired permutation ({resamples} random sign patterns)"
    return PairedTest((hits + 1) / (resamples + 1), mean, dz, units, method)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that hold the chance of any false finding over all of them, in the given order.

    Definition: the k-th smallest of m is ``p * (m - k + 1)``, made non-decreasing and cut at 1. Range: [p, 1].
    Undefined (None) where the p-value is None or NaN; such entries do not count towards m.
    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    adjusted: list[float | None] = [None] * len(p_values)
    defined = [(p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    for p, i in defined:
        if not 0 <= p <= 1:
            raise UsageError(f"p_values[{i}]: got {p}, expected a probability between 0 and 1, or None")
    running = 0.0
    for rank, (p, i) in enumerate(sorted(defined)):
        running = max(running, min(1.0, p * (len(defined) - rank)))
        adjusted[i] = running
    return adjusted


def _at_least(flipped: FloatArray, sums: FloatArray) -> BoolArray:
    """Whether |flipped| reaches the observed |sum|, forgiving the rounding of sums in another order."""
    reached: BoolArray = np.abs(flipped) >= abs(sums.sum()) - RELATIVE_TOLERANCE * np.abs(sums).sum()
    return reached


def _cohen_dz(means: FloatArray) -> float | None:
    """Mean over standard deviation of the units' mean differences (units,)."""
    if means.size < 2 or np.ptp(means) <= RELATIVE_TOLERANCE * np.abs(means).max():
        return None
    return float(means.mean() / means.std(ddof=1))
