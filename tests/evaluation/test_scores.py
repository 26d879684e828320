"""Bootstrap confidence intervals, against resamples by hand, and their coverage."""

import numpy as np

from plainunet.evaluation.metrics import dice
from plainunet.evaluation.scores import RESAMPLES, Bootstrap


def test_bounds_of_a_mean_match_resamples_by_hand() -> None:
    random = np.random.default_rng(0)
    scores = random.random((30, 3))
    scores[4, 1] = scores[9, 1] = np.nan
    bootstrap = Bootstrap([str(n) for n in range(30)], seed=5)
    times = bootstrap._times
    assert times.shape == (RESAMPLES, 30)
    assert (times.sum(axis=1) == 30).all()
    names = sorted(str(n) for n in range(30))  # the order of groups
    means = []
    for row in times:
        chosen = [int(names[g]) for g in range(30) for _ in range(int(row[g]))]
        means.append(np.nanmean(scores[chosen], axis=0))
    wanted = np.quantile(means, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(bootstrap.mean_interval(scores), wanted)


def test_pooled_counts_match_resamples_by_hand() -> None:
    random = np.random.default_rng(1)
    confusions = random.integers(0, 1000, (12, 2, 2))
    groups = list("aabbbccddeef")
    bootstrap = Bootstrap(groups)
    assert bootstrap.groups == 6
    by_hand = []
    for row in bootstrap._times:
        total = sum(row["abcdef".index(g)] * c for g, c in zip(groups, confusions, strict=True))
        by_hand.append(dice(np.asarray(total).astype(np.int64)))
    wanted = np.quantile(by_hand, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(bootstrap.interval(dice(bootstrap.pooled(confusions))), wanted)


def test_coverage_is_95_percent() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        scores = random.beta(8, 2, (60, 1))
        low, high = Bootstrap([str(n) for n in range(60)], seed=trial).mean_interval(scores)[:, 0]
        covered += low <= 0.8 <= high
    assert 180 <= covered <= 198


def test_whole_groups_are_resampled() -> None:
    random = np.random.default_rng(4)
    of_group = np.repeat(random.random(10), 20)  # images of a group are correlated
    scores = (of_group + random.normal(0, 0.01, 200))[:, None]
    alone = Bootstrap([str(n) for n in range(200)]).mean_interval(scores)
    together = Bootstrap([str(n // 20) for n in range(200)]).mean_interval(scores)
    assert together[1, 0] - together[0, 0] > 3 * (alone[1, 0] - alone[0, 0])


def test_the_seed_alone_determines_the_resamples() -> None:
    scores = np.random.default_rng(5).random((9, 2))
    first = Bootstrap(list("abcdefghi"), seed=7).mean_interval(scores)
    np.testing.assert_allclose(first, Bootstrap(list("abcdefghi"), seed=7).mean_interval(scores))
    assert not np.allclose(first, Bootstrap(list("abcdefghi"), seed=8).mean_interval(scores))


def test_undefined_intervals_are_nan() -> None:
    scores = np.array([[0.5, np.nan], [0.7, np.nan], [0.9, 1.0]])
    assert np.isnan(Bootstrap(["a", "a", "a"]).mean_interval(scores)).all()
    bounds = Bootstrap(["a", "b", "c"]).mean_interval(scores)
    assert not np.isnan(bounds[:, 0]).any()
    assert np.isnan(bounds[:, 1]).all()  # a third of the resamples have no score
