import numpy as np
import pytest
import scipy.linalg
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from dlcourse.theory import sample_quality as quality


def clouds(count, features, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(count, features)), 1.3 * rng.normal(size=(count, features)) + 0.2


def distances(x, y):
  return np.linalg.norm(x[:, None] - y[None], axis=-1)


def within_nearest(x, k):
  """[N] distance to the k-th nearest other row."""
  return NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[0][:, -1]


# The numbers are what torch-fidelity 0.4.0 says of these clouds, and of 3 times the first as logits.
def test_scores_are_those_of_torch_fidelity():
  real, fake = clouds(300, 16)
  probabilities = np.exp(3 * real) / np.exp(3 * real).sum(axis=1, keepdims=True)
  assert quality.frechet_of_features(real, fake) == pytest.approx(3.0251128211350746, rel=1e-12)
  assert quality.kernel_distance(real, fake, 1, 300) == pytest.approx((0.30220200628086635, 0.0), rel=1e-12)
  assert quality.precision_recall(real, fake) == pytest.approx((0.2933333218097687, 0.9700000286102295))
  assert quality.inception_score(probabilities) == pytest.approx(
    (4.439753381225314, 0.25090967633038885), rel=1e-12
  )
  assert quality.inception_score(probabilities, 7) == pytest.approx(
    (4.567344399214589, 0.2620040155925608), rel=1e-12
  )


def test_with_fewer_samples_than_features_too():
  assert quality.frechet_of_features(*clouds(300, 400)) == pytest.approx(398.6971457467512, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 10])
def test_inception_score_is_between_1_and_the_number_of_classes(classes):
  even = np.full((40, classes), 1 / classes)
  assert quality.inception_score(even, 4) == pytest.approx((1.0, 0.0))
  sure = np.eye(classes)[np.arange(40) % classes]
  assert quality.inception_score(sure, 4) == pytest.approx((classes, 0.0))
  assert quality.inception_score(np.eye(classes)[np.zeros(40, int)], 4) == pytest.approx((1.0, 0.0))  # collapse


def test_frechet_distance_of_commuting_covariances_has_a_closed_form():
  rng = np.random.default_rng(1)
  basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  a, b = rng.uniform(0.1, 3, (2, 6))
  means = rng.normal(size=(2, 6))
  expected = ((means[0] - means[1]) ** 2).sum() + ((a**0.5 - b**0.5) ** 2).sum()
  covs = [basis @ np.diag(values) @ basis.T for values in (a, b)]
  assert quality.frechet_distance(means[0], covs[0], means[1], covs[1]) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_is_that_of_scipys_matrix_root():
  rng = np.random.default_rng(2)
  covs = [x.T @ x for x in rng.normal(size=(2, 9, 5))]
  root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
  expected = 5 + np.trace(covs[0] + covs[1] - 2 * root)
  got = quality.frechet_distance(np.zeros(5), covs[0], np.ones(5), covs[1])
  assert got == pytest.approx(expected, rel=1e-10)
  assert quality.frechet_distance(np.ones(5), covs[1], np.zeros(5), covs[0]) == pytest.approx(got, rel=1e-12)


def test_frechet_distance_of_singular_covariances():
  rng = np.random.default_rng(3)
  x = rng.normal(size=(20, 64))  # rank 19 of 64
  assert quality.frechet_of_features(x, x) == pytest.approx(0, abs=1e-10)
  assert quality.frechet_of_features(x, 3 * x - 2 * x.mean(axis=0)) == pytest.approx(4 * x.var(0, ddof=1).sum())
  first, second = np.zeros((2, 4, 4))
  first[0, 0], second[1, 1] = 9.0, 4.0  # on lines at right angles nothing overlaps
  assert quality.frechet_distance(np.zeros(4), first, np.zeros(4), second) == pytest.approx(13)
  assert quality.frechet_distance(np.zeros(4), first, np.full(4, 0.5), np.zeros((4, 4))) == pytest.approx(10)


def test_kernel_distance_is_the_unbiased_sum_over_pairs():
  real, fake = clouds(60, 7)
  real = real[:50]
  rng, expected = np.random.default_rng(5), []
  for _ in range(4):
    x, y = (rows[rng.choice(len(rows), 20, replace=False)] for rows in (real, fake))
    kxx, kyy, kxy = (polynomial_kernel(*pair, degree=3, coef0=1) for pair in ((x, x), (y, y), (x, y)))
    other = ~np.eye(20, dtype=bool)
    expected.append(kxx[other].mean() + kyy[other].mean() - 2 * kxy.mean())
  got = quality.kernel_distance(real, fake, subsets=4, size=20, seed=5)
  assert got == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-10)


def test_kernel_distance_of_one_distribution_is_0_on_average():
  real, fake = np.split(np.random.default_rng(6).normal(size=(4_000, 5)), 2)
  mean, deviation = quality.kernel_distance(real, fake, subsets=100, size=100)
  assert abs(mean) < 0.3 * deviation
  assert quality.kernel_distance(real, fake + 0.5, subsets=10, size=100)[0] > 3 * deviation


@pytest.mark.parametrize("rows", [7, 1_024])
def test_overlaps_are_those_of_every_pair(monkeypatch, rows):
  monkeypatch.setattr(quality, "ROWS", rows)
  real, fake = clouds(60, 6)
  real = real[:45]
  between = distances(real, fake)
  real_balls = between <= within_nearest(real, 3)[:, None]
  fake_balls = between <= within_nearest(fake, 3)
  expected = real_balls.any(axis=0).mean(), fake_balls.any(axis=1).mean()
  assert quality.precision_recall(real, fake, 3) == pytest.approx(expected)
  balls = between < within_nearest(real, 5)[:, None]
  expected = balls.sum() / 5 / 60, balls.any(axis=1).mean()
  assert quality.density_coverage(real, fake, 5) == pytest.approx(expected)
  assert 0 < expected[1] < 1


@pytest.mark.parametrize("features", [2, 12, 84])
def test_identical_clouds_overlap_and_distant_ones_do_not(features):
  x, _ = clouds(200, features)
  x += 100  # rounding is that of the distance to the origin
  assert quality.precision_recall(x, x.copy()) == (1.0, 1.0)
  assert quality.density_coverage(x, x.copy()) == (1.0, 1.0)
  assert quality.precision_recall(x, x + 50) == (0.0, 0.0)
  assert quality.density_coverage(x, x + 50) == (0.0, 0.0)


def test_a_collapsed_generator_is_precise_and_recalls_nothing():
  real, _ = clouds(200, 3)
  centre = real[[np.linalg.norm(real, axis=1).argmin()]]
  fake = centre + 1e-6 * np.random.default_rng(0).normal(size=(200, 3))
  precision, recall = quality.precision_recall(real, fake)
  assert precision == 1.0
  assert recall <= 1 / 200
  assert quality.density_coverage(real, fake)[1] < 0.1


def test_copies_are_found_at_distance_0():
  real, fake = clouds(50, 8)
  fake[7], fake[20] = real[33], real[4] + 1e-9
  found, indices = quality.nearest_neighbours(fake, real)
  expected = distances(fake, real)
  np.testing.assert_array_equal(indices, expected.argmin(axis=1))
  np.testing.assert_allclose(found, expected.min(axis=1), rtol=1e-12)
  assert found[7] == 0
  assert found[20] == pytest.approx(1e-9 * 8**0.5, rel=1e-4)


def test_modes_are_covered_by_what_lies_within_three_deviations():
  centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
  points = [[0.29, 0.0], [0.0, -0.31], [10.0, 0.2], [9.9, 0.1], [5.0, 5.0], [0.0, 9.0]]
  covered, high_quality, counts = quality.modes_covered(points, centres, 0.1)
  assert (covered, counts.tolist()) == (2, [1, 2, 0])
  assert high_quality == pytest.approx(3 / 6)
  assert quality.modes_covered(points, centres, 0.1, within=10)[:2] == (3, pytest.approx(5 / 6))


def test_of_the_mixture_itself_1_percent_lies_further_out():
  rng = np.random.default_rng(0)
  angles = 2 * np.pi * np.arange(8) / 8
  centres = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  points = centres[rng.integers(8, size=40_000)] + 0.02 * rng.normal(size=(40_000, 2))
  covered, high_quality, _ = quality.modes_covered(points, centres, 0.02)
  assert covered == 8
  assert high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.002)  # four standard errors


@pytest.mark.parametrize(
  ("call", "shape"),
  [
    (lambda x: quality.inception_score(x, 10), r"10 samples or more, got shape \(5, 2\)"),
    (lambda x: quality.kernel_distance(x, x), r"1000 samples or more, got shape \(5, 2\)"),
    (lambda x: quality.kernel_distance(x, x, size=1), "got size=1"),
    (lambda x: quality.precision_recall(x, x, k=5), r"6 samples or more, got shape \(5, 2\)"),
    (lambda x: quality.frechet_of_features(x[0], x), r"got shape \(2,\)"),
  ],
)
def test_too_few_samples_are_refused(call, shape):
  with pytest.raises(ValueError, match=shape):
    call(np.zeros((5, 2)))
