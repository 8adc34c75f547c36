"""Non-inferiority: the bound by hand, both directions, and no verdict without evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balora.errors import UsageError
from balora.stats import (
    bootstrap_bca_weighted,
    non_inferiority,
    non_inferiority_bootstrap,
    non_inferiority_seeds,
)


def test_binary_by_hand():
    # All 20 pairs agree: one-sided 95 % has z = 1.644854, so Tango's bound is z^2 / (n + z^2) = 2.705543 / 22.705543.
    same = np.arange(20) % 2
    passes = non_inferiority(same, same, 0.12, higher_is_better=True, seed=0)
    assert passes.bound == pytest.approx(-0.119158, abs=1e-6)
    assert (passes.difference, passes.verdict, passes.method) == (0.0, True, "paired, tango")
    assert non_inferiority(same, same, 0.11, higher_is_better=True, seed=0).verdict is False
    lower = non_inferiority(same, same, 0.12, higher_is_better=False, seed=0)
    assert (lower.bound, lower.verdict) == (pytest.approx(0.119158, abs=1e-6), True)


def test_clustered_binary_uses_the_bootstrap():
    candidate = np.arange(60) % 3 == 0
    reference = np.arange(60) % 4 == 0
    result = non_inferiority(
        candidate, reference, 0.5, higher_is_better=True, clusters=np.arange(60) // 4, seed=0
    )
    assert result.method == "paired, bca"
    assert result.verdict is True
    assert result.bound < result.difference == pytest.approx(20 / 60 - 15 / 60)


def test_the_margin_decides_and_the_direction_counts():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=200)
    candidate = reference - 0.1 + 0.01 * rng.normal(size=200)  # lower by 0.1
    for margin, verdict in ((0.09, False), (0.12, True)):
        assert non_inferiority(candidate, reference, margin, higher_is_better=True, seed=0).verdict is verdict
    # Where lower is better it is the better one, whatever the margin.
    assert non_inferiority(candidate, reference, 1e-6, higher_is_better=False, seed=0).verdict is True


@given(st.lists(st.integers(-9, 9).map(float), min_size=10, max_size=20), st.integers(0, 99))
@settings(max_examples=25)
def test_turning_the_metric_around_changes_nothing(values, seed):
    candidate, reference = np.array(values), np.zeros(len(values))
    up = non_inferiority(candidate, reference, 1.0, higher_is_better=True, seed=seed, resamples=200)
    down = non_inferiority(-candidate, reference, 1.0, higher_is_better=False, seed=seed, resamples=200)
    assert up.verdict == down.verdict
    assert up.bound == pytest.approx(-down.bound, abs=1e-9)
    assert up.bound <= up.difference + 1e-9 or "percentile" in up.method


def test_too_few_units_have_no_verdict():
    nine = non_inferiority(np.linspace(0, 1, 9), np.zeros(9), 1.0, higher_is_better=True, seed=0)
    assert (nine.verdict, nine.bound, nine.difference) == (None, None, pytest.approx(0.5))
    assert nine.reason == "9 units are too few for a bootstrap bound: at least 10 are needed"
    ten = non_inferiority(np.linspace(0, 1, 10), np.zeros(10), 1.0, higher_is_better=True, seed=0)
    assert ten.verdict is True
    clustered = non_inferiority(
        np.linspace(0, 1, 12), np.zeros(12), 1.0, higher_is_better=True, clusters=np.arange(12) // 3, seed=0
    )
    assert clustered.verdict is None
    empty = non_inferiority([], [], 1.0, higher_is_better=True, seed=0)
    assert (empty.difference, empty.verdict, empty.reason) == (None, None, "no samples")


def test_a_constant_difference_is_its_own_bound():
    reference = np.linspace(0, 1, 16)
    result = non_inferiority(reference - 0.25, reference, 0.5, higher_is_better=True, seed=0)
    assert result.bound == result.difference == -0.25
    assert "collapsed" in result.method


def test_a_metric_that_is_no_mean():
    # Distance of the share from 50 %: candidate 28 of 40, reference 20 of 40. The difference is 0.2 - 0.0.
    candidate, reference = np.arange(40) < 28, np.arange(40) < 20

    def statistic(w):  # (r, 40) -> (r,)
        n = w.sum(axis=1)
        return np.abs(w @ candidate / n - 0.5) - np.abs(w @ reference / n - 0.5)

    difference = bootstrap_bca_weighted(statistic, 40, level=0.9, seed=0)
    result = non_inferiority_bootstrap(difference, 0.05, higher_is_better=False)
    assert result.difference == pytest.approx(0.2)
    assert result.bound == difference.interval.high > 0.05
    assert (result.verdict, result.level) == (False, pytest.approx(0.95))
    assert non_inferiority_bootstrap(difference, 0.9, higher_is_better=False).verdict is True


def test_seeds_by_hand():
    # Difference 0, df 4, standard error sqrt(2/3) = 0.816497, t(4, 0.95) = 2.131847: bound -1.740645.
    result = non_inferiority_seeds([1, 2, 3], [3, 2, 1], 1.8, higher_is_better=True)
    assert (result.difference, result.bound) == (0.0, pytest.approx(-1.740645, abs=1e-6))
    assert (result.verdict, result.method) == (True, "across seeds, welch")
    assert non_inferiority_seeds([1, 2, 3], [3, 2, 1], 1.7, higher_is_better=True).verdict is False
    lower = non_inferiority_seeds([1, 2, 3], [3, 2, 1], 1.8, higher_is_better=False)
    assert (lower.bound, lower.verdict) == (pytest.approx(1.740645, abs=1e-6), True)


@pytest.mark.parametrize(
    ("candidate", "reference"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0]), ([], [1.0, 2.0])]
)
def test_fewer_than_two_seeds_have_no_verdict(candidate, reference):
    result = non_inferiority_seeds(candidate, reference, 1.0, higher_is_better=True)
    assert (result.verdict, result.bound) == (None, None)
    assert "seeds" in result.reason


def test_wrong_use_is_named():
    with pytest.raises(UsageError, match="margin: got 0"):
        non_inferiority_seeds([1, 2], [1, 2], 0, higher_is_better=True)
    with pytest.raises(UsageError, match=r"level: got 0\.5, expected a one-sided level"):
        non_inferiority_seeds([1, 2], [1, 2], 1, higher_is_better=True, level=0.5)
    with pytest.raises(UsageError, match="candidate has 1, reference has 2"):
        non_inferiority([1], [1, 2], 1, higher_is_better=True, seed=0)


@pytest.mark.slow
def test_a_candidate_at_the_margin_seldom_passes():
    rng = np.random.default_rng(31)
    passed = {"bootstrap": 0, "binary": 0, "seeds": 0}
    for trial in range(300):
        noise = rng.normal(-0.5, 1, size=60)
        passed["bootstrap"] += bool(
            non_inferiority(
                noise, np.zeros(60), 0.5, higher_is_better=True, resamples=1000, seed=trial
            ).verdict
        )
        candidate, reference = rng.random(80) < 0.6, rng.random(80) < 0.8
        passed["binary"] += bool(
            non_inferiority(candidate, reference, 0.2, higher_is_better=True, seed=trial).verdict
        )
        seeds = non_inferiority_seeds(rng.normal(-1, 1, 5), rng.normal(0, 2, 5), 1.0, higher_is_better=True)
        passed["seeds"] += bool(seeds.verdict)
    # 300 trials at 0.05 have a standard error of 0.0126: three of them above. Never passing would be no test either.
    assert all(0 < count / 300 <= 0.088 for count in passed.values()), passed
