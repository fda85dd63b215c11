"""From pixels to what a network sees, and back: scale and augmentation, jitted with the step."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.augment import Augmentation
from dlcourse.data.recipe import Scaling
from dlcourse.errors import UserError

FixedScale = Literal["unit", "symmetric", "imagenet", "efficientnet_lite"]
Scale = Literal["unit", "symmetric", "standard", "imagenet", "efficientnet_lite"]

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601, as in JPEG)

# (shift, width) of x -> (x - shift) / width for x in [0, 1].
_FIXED = {
  "unit": (0.0, 1.0),
  "symmetric": (0.5, 0.5),
  "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # mean and deviation of its channels
  "efficientnet_lite": (127 / 255, 128 / 255),  # (pixel - 127) / 128 (Liu, 2020, in the TensorFlow blog)
}


def scaling(how: Scale, images: np.ndarray | None = None) -> Scaling:
  """The numbers of a scale.

  Args:
    how: "unit", "symmetric" ([-1, 1]), "imagenet" (its mean and deviation in each channel),
      "efficientnet_lite", or "standard": mean 0 and deviation 1 in each channel of `images`.
    images: uint8 [N, H, W, C] of the training split; None: colour images that are not at hand.

  Raises:
    UserError: "imagenet" is asked for images that have not three channels.
  """
  if how == "standard":
    shift = images.mean(axis=(0, 1, 2), dtype=np.float64) / 255
    width = np.maximum(images.std(axis=(0, 1, 2), dtype=np.float64) / 255, 1e-6)
  else:
    shift, width = _FIXED[how]
  shift, width = np.asarray(shift, np.float32), np.asarray(width, np.float32)
  if images is not None and shift.size not in (1, images.shape[-1]):
    raise UserError(f"--data.scale={how} is for colour images; these have {images.shape[-1]} channel(s)")
  return Scaling(shift, width)


def preparation(
  scale: Callable, augment: tuple[Augmentation, ...], shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> Callable:
  """`Spec.prepare` of images: [0, 1], then the augmentations where a key is given, then the scale.

  Args:
    scale: [0, 1] -> model space.
    augment: in their order.
    shapes: of a batch, `image` uint8 [B, H, W, C].

  Raises:
    UserError: an augmentation does not fit the images.
  """

  def prepare(key, batch):
    images = batch["image"].astype(jnp.float32) / 255.0
    if key is not None:
      for index, augmentation in enumerate(augment):
        images = augmentation(jax.random.fold_in(key, index), images)
    return {**batch, "image": scale(images)}

  jax.eval_shape(lambda batch: prepare(jax.random.key(0), batch), dict(shapes))
  return prepare
