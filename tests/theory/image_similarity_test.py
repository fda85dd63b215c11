import numpy as np
import pytest

from dlcourse.theory.image_similarity import intersection_over_union, psnr, ssim


def noisy(deviation, shape=(3, 14, 17, 2), seed=0):
  rng = np.random.default_rng(seed)
  a = rng.uniform(size=shape)
  return a, a + deviation * rng.normal(size=shape)


def test_psnr_of_a_constant_error_has_a_closed_form():
  a, _ = noisy(0)
  np.testing.assert_allclose(psnr(a, a + 0.1), 20, rtol=1e-12)
  np.testing.assert_allclose(psnr(255 * a, 255 * a - 25.5, 255), 20, rtol=1e-12)


def test_psnr_is_of_each_image_alone():
  a, _ = noisy(0)
  b = a.copy()
  b[0, 0, 0, 0] += 1
  b[1, :, :, 1] += 0.1
  np.testing.assert_allclose(psnr(a, b), [10 * np.log10(14 * 17 * 2), 20 + 10 * np.log10(2), np.inf])


@pytest.mark.parametrize("largest", [1.0, 255.0])
def test_ssim_is_that_of_the_formula_at_every_position(largest):
  a, b = noisy(0.3)
  a, b = a * largest, b * largest
  place = np.arange(11) - 5
  window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
  window /= window.sum()
  c1, c2 = (0.01 * largest) ** 2, (0.03 * largest) ** 2
  expected = []
  for x, y in zip(a, b, strict=True):
    found = []
    for i in range(4):
      for j in range(7):
        for c in range(2):
          u, v = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
          mu, nu = (window * u).sum(), (window * v).sum()
          uu, vv, uv = ((window * p).sum() for p in ((u - mu) ** 2, (v - nu) ** 2, (u - mu) * (v - nu)))
          top = (2 * mu * nu + c1) * (2 * uv + c2)
          found.append(top / ((mu**2 + nu**2 + c1) * (uu + vv + c2)))
    expected.append(np.mean(found))
  np.testing.assert_allclose(ssim(a, b, largest), expected, rtol=1e-9)


def test_ssim_of_flat_images_compares_their_luminance():
  flat = np.ones((1, 11, 11, 1))
  expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
  np.testing.assert_allclose(ssim(0.2 * flat, 0.6 * flat), [expected], rtol=1e-9)


def test_ssim_is_one_of_equals_symmetric_and_falls_with_noise():
  a, b = noisy(0.1)
  _, c = noisy(0.4)
  np.testing.assert_allclose(ssim(a, a), 1, rtol=1e-12)
  np.testing.assert_allclose(ssim(a, b), ssim(b, a), rtol=1e-12)
  assert np.all(ssim(a, c) < ssim(a, b))
  assert np.all(ssim(a, b) < 1)
  assert np.all(ssim(a, 1 - a) < 0)


def test_overlap_is_counted():
  a, b = np.zeros((4, 4, 4, 1), bool), np.zeros((4, 4, 4, 1), bool)
  a[0, :2], b[0, 1:] = True, True  # 8 and 12 pixels, 4 in both
  a[1, 0], b[1, 0] = True, True
  a[2, 0] = True
  np.testing.assert_allclose(intersection_over_union(a, b), [4 / 16, 1, 0, 1])


@pytest.mark.parametrize("measure", [psnr, ssim, intersection_over_union])
def test_what_does_not_pair_is_refused(measure):
  with pytest.raises(ValueError, match="of one shape"):
    measure(np.zeros((2, 12, 12, 3)), np.zeros((2, 12, 12, 1)))
  with pytest.raises(ValueError, match="of one shape"):
    measure(np.zeros((12, 12)), np.zeros((12, 12)))


def test_images_smaller_than_the_window_are_refused():
  with pytest.raises(ValueError, match="sides of 11 pixels"):
    ssim(np.zeros((1, 10, 12, 1)), np.zeros((1, 10, 12, 1)))
