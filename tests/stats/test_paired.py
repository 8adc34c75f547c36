"""Paired tests and Holm: by hand, against scipy, and what must hold for any input."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from balora.errors import UsageError
from balora.stats import holm, mcnemar, paired, paired_permutation

COUNTS = st.integers(0, 200)
P_VALUES = st.lists(st.one_of(st.none(), st.just(float("nan")), st.floats(0, 1)), max_size=12)
DIFFERENCES = st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=9)


def test_mcnemar_by_hand():
    # 12 discordant pairs, 2 one way: 2 * (1 + 12 + 66) / 4096. Risk difference (10 - 2) / 50 = 0.16; the differences
    # have squares 12, variance (12 - 50 * 0.16^2) / 49 = 0.218776 and so d_z = 0.16 / 0.467735 = 0.342074.
    test = mcnemar(10, 2, 50)
    assert test.p_value == pytest.approx(158 / 4096, rel=1e-12)
    assert test.difference == pytest.approx(0.16)
    assert test.cohen_dz == pytest.approx(0.342074, abs=1e-6)
    assert test.n == 50


@given(COUNTS, COUNTS, COUNTS)
def test_mcnemar_equals_the_binomial_test_and_is_symmetric(b, c, agree):
    n = b + c + agree
    test, swapped = mcnemar(b, c, n), mcnemar(c, b, n)
    if n == 0:
        assert (test.p_value, test.difference, test.reason) == (None, None, "no pairs")
        return
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert test.p_value == swapped.p_value == pytest.approx(expected, rel=1e-9)
    assert test.difference == -swapped.difference
    d = np.repeat([1.0, -1.0, 0.0], [b, c, agree])
    if n > 1 and np.ptp(d) > 0:
        assert test.cohen_dz == pytest.approx(d.mean() / d.std(ddof=1), abs=1e-9)
    else:
        assert test.cohen_dz is None


def test_mcnemar_without_the_number_of_pairs_knows_no_effect_size():
    test = mcnemar(10, 2)
    assert (test.difference, test.cohen_dz, test.n) == (None, None, 12)
    assert test.p_value == mcnemar(10, 2, 50).p_value


@pytest.mark.parametrize("counts", [(-1, 2, 5), (3, 3, 5)])
def test_mcnemar_names_impossible_counts(counts):
    with pytest.raises(UsageError, match="expected counts"):
        mcnemar(*counts)


def test_permutation_by_hand():
    # Differences 1, 2, 3: of the 8 sums +-1 +-2 +-3 only 6 and -6 are as far from 0. Mean 2, s = 1.
    test = paired_permutation([2, 4, 6], [1, 2, 3], seed=0)
    assert (test.p_value, test.difference, test.cohen_dz, test.n) == (0.25, 2.0, 2.0, 3)
    assert test.method == "paired permutation (exact)"
    # First two flip together: sums 3 and 3, of +-3 +-3 two of four reach 6. Cluster means 1.5 and 3: mean 2.25,
    # s = 1.060660, d_z = 2.121320.
    clustered = paired_permutation([2, 4, 6], [1, 2, 3], clusters=["x", "x", "y"], seed=0)
    assert (clustered.p_value, clustered.difference, clustered.n) == (0.5, 2.0, 2)
    assert clustered.cohen_dz == pytest.approx(2.121320, abs=1e-6)


@given(DIFFERENCES)
@settings(max_examples=30)
def test_exact_permutation_equals_scipy(d):
    def mean(x, y, axis):
        return np.mean(x - y, axis=axis)

    # scipy needs two samples; our p with one is 1 by enumeration of its two signs.
    expected = 1.0
    if len(d) > 1:
        zeros = np.zeros(len(d))
        expected = stats.permutation_test(
            (np.array(d), zeros), mean, permutation_type="samples", n_resamples=10**4, vectorized=True
        ).pvalue
    assert paired_permutation(d, np.zeros(len(d)), seed=0).p_value == pytest.approx(expected)


@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_exact_permutation_ignores_order_and_direction(d, random):
    zeros = [0.0] * len(d)
    test = paired_permutation(d, zeros, seed=0)
    assert 2 / 2 ** len(d) <= test.p_value <= 1
    assert paired_permutation(random.sample(d, len(d)), zeros, seed=1).p_value == test.p_value
    swapped = paired_permutation(zeros, d, seed=0)
    assert swapped.p_value == test.p_value
    assert swapped.difference == -test.difference
    assert paired_permutation(d, zeros, clusters=list("abcdefghi")[: len(d)], seed=0) == test


@given(DIFFERENCES)
def test_sums_that_differ_only_by_rounding_are_ties(d):
    # Tenths have no exact binary form, so sums that are equal in whole numbers differ in the last digit.
    tenths = paired_permutation(np.array(d) / 10, np.zeros(len(d)), seed=0)
    assert tenths.p_value == paired_permutation(d, np.zeros(len(d)), seed=0).p_value


def test_random_permutation_agrees_with_the_exact_one(monkeypatch):
    rng = np.random.default_rng(2)
    d = rng.normal(0.5, size=12)
    exact = paired_permutation(d, np.zeros(12), seed=0).p_value
    monkeypatch.setattr(paired, "MAX_EXACT_UNITS", 5)
    monkeypatch.setattr(paired, "CHUNK_NUMBERS", 1000)  # pieces of 83 patterns
    random = paired_permutation(d, np.zeros(12), seed=0)
    assert "9999 random" in random.method
    assert random.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999))
    assert paired_permutation(d, np.zeros(12), seed=0) == random


def test_random_permutation_never_gives_zero():
    # 200 differences of 1: no random pattern reaches the sum, and the observed one alone makes p = 1 / 1000.
    assert paired_permutation(np.ones(200), np.zeros(200), resamples=999, seed=0).p_value == 1 / 1000


def test_many_units_flip_in_blocks(monkeypatch):
    d = np.random.default_rng(5).normal(0.05, size=2000)
    units = paired_permutation(d, np.zeros(2000), seed=0)
    monkeypatch.setattr(paired, "MAX_SIGN_BLOCKS", 200)
    blocks = paired_permutation(d, np.zeros(2000), seed=0)
    assert blocks.p_value == pytest.approx(units.p_value, abs=0.02)
    assert (blocks.difference, blocks.cohen_dz, blocks.n) == (units.difference, units.cohen_dz, 2000)


def test_permutation_undefined_and_degenerate():
    empty = paired_permutation([], [], seed=0)
    assert (empty.p_value, empty.difference, empty.reason) == (None, None, "no samples")
    same = paired_permutation([1, 2, 3], [1, 2, 3], seed=0)
    assert (same.p_value, same.difference, same.cohen_dz) == (1.0, 0.0, None)
    assert paired_permutation([5], [1], seed=0).cohen_dz is None  # one unit has no spread
    with pytest.raises(UsageError, match="a has 2, b has 1"):
        paired_permutation([1, 2], [1], seed=0)
    with pytest.raises(UsageError, match="resamples: got 0"):
        paired_permutation([1], [1], resamples=0, seed=0)


def test_holm_by_hand():
    # Sorted 0.005 0.01 0.03 0.04 times 4 3 2 1: 0.02 0.03 0.06 0.04, and the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # The undefined do not count: two tests, not four.
    assert holm([None, 0.04, float("nan"), 0.03]) == [None, pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([]) == []


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_is_monotone_and_ignores_order(p_values, random):
    adjusted = holm(p_values)
    pairs = sorted((p, q) for p, q in zip(p_values, adjusted, strict=True) if q is not None)
    assert len(pairs) == sum(p is not None and not math.isnan(p) for p in p_values)
    assert all(p <= q <= 1 for p, q in pairs)
    assert all(low[1] <= high[1] for low, high in pairwise(pairs))
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]
    # At least as strong as Bonferroni.
    assert all(q <= min(1, len(pairs) * p) + 1e-15 for p, q in pairs)


@pytest.mark.parametrize("p", [-0.1, 1.2, float("inf")])
def test_holm_names_what_is_no_probability(p):
    with pytest.raises(UsageError, match=r"p_values\[1\]"):
        holm([0.5, p])
