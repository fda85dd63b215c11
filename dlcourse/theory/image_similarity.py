"""How near a restored image comes to the true one, pixel by pixel (H4.9).

Shapes: N images, H, W their sides, C channels. All is float64.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import correlate1d

WINDOW, DEVIATION = 11, 1.5  # pixels, of the Gaussian window
_K1, _K2 = 0.01, 0.03


def psnr(a: ArrayLike, b: ArrayLike, largest: float = 1.0) -> np.ndarray:
  """Peak signal-to-noise ratio of images, 10 log10(L² / mean squared error).

  Args:
    a, b: [N, H, W, C].
    largest: L, the range of the pixels.

  Returns:
    [N] in dB; infinite where two images are equal.

  Raises:
    ValueError: the shapes differ, or are not those of images.
  """
  a, b = _images(a, b)
  with np.errstate(divide="ignore"):
    return 10 * np.log10(largest**2 / np.square(a - b).mean(axis=(1, 2, 3)))


def ssim(a: ArrayLike, b: ArrayLike, largest: float = 1.0) -> np.ndarray:
  """Structural similarity (Wang et al., 2004, IEEE TIP 13(4), equation 13).

  Means, variances and covariance are those under a Gaussian window of 11 x 11 pixels with deviation 1.5. The
  index is averaged over all positions at which the window lies inside the image, and over the channels.

  Args:
    a, b: [N, H, W, C], sides of 11 pixels or more.
    largest: L, the range of the pixels.

  Returns:
    [N], at most 1, which equal images have.

  Raises:
    ValueError: the shapes differ, or are not those of images as large as the window.
  """
  a, b = _images(a, b)
  if min(a.shape[1:3]) < WINDOW:
    raise ValueError(f"images need sides of {WINDOW} pixels or more, got shape {a.shape}")
  mean_a, mean_b = _blurred(a), _blurred(b)
  var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
  covariance = _blurred(a * b) - mean_a * mean_b
  c1, c2 = (_K1 * largest) ** 2, (_K2 * largest) ** 2
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  structure = (2 * covariance + c2) / (var_a + var_b + c2)
  return (luminance * structure).mean(axis=(1, 2, 3))


def intersection_over_union(a: ArrayLike, b: ArrayLike) -> np.ndarray:
  """How far masks overlap, |A ∩ B| / |A ∪ B| (Jaccard, 1912).

  Args:
    a, b: bool [N, H, W, C].

  Returns:
    [N] in [0, 1]; 1 where both masks are empty.

  Raises:
    ValueError: the shapes differ, or are not those of images.
  """
  a, b = (x > 0 for x in _images(a, b))
  both, either = (mask.sum(axis=(1, 2, 3)) for mask in (a & b, a | b))
  return np.where(either, both / np.maximum(either, 1), 1.0)


def _images(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 4 or a.shape != b.shape:
    raise ValueError(f"expected two arrays [N, H, W, C] of one shape, got {a.shape} and {b.shape}")
  return a, b


def _blurred(x: np.ndarray) -> np.ndarray:
  """The mean under the window, where it lies inside: [N, H, W, C] -> [N, H - 10, W - 10, C]."""
  reach = WINDOW // 2
  weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / DEVIATION) ** 2)
  for axis in (1, 2):
    x = correlate1d(x, weights / weights.sum(), axis=axis, mode="nearest")
  return x[:, reach:-reach, reach:-reach]
