import jax
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.video_vae import SpaceTime, VideoVAE, moved

KEY = jax.random.key(3)
MODEL = VideoVAE(latent_dim=3, width=2, summary_dim=5, image_shape=(8, 8, 4))
RNG = np.random.default_rng(0)
FUTURE, PAST = (RNG.uniform(size=(2, 8, 8, frames)).astype(np.float32) for frames in (4, 3))


def random_like(shapes):
  leaves, tree = jax.tree.flatten(shapes)
  return tree.unflatten([RNG.normal(scale=0.3, size=leaf.shape).astype(np.float32) for leaf in leaves])


VARIABLES = random_like(jax.eval_shape(MODEL.init, KEY, FUTURE, KEY, PAST))


def method(name):
  return jax.jit(lambda *args: MODEL.apply(VARIABLES, *args, method=name))


inferred, expect, decode = map(method, ("__call__", "expect", "decode"))


def test_a_layer_looks_one_frame_back_and_one_ahead():
  layer = SpaceTime(3)
  x = RNG.normal(size=(2, 6, 4, 4, 2)).astype(np.float32)
  variables = random_like(jax.eval_shape(layer.init, KEY, x))
  apply = jax.jit(lambda x: layer.apply(variables, x))
  before = apply(x)
  assert before.shape == (2, 6, 2, 2, 3)
  other = x.copy()  # not in place: JAX may not have read it yet
  other[1, 2] += 1.0
  changed = np.any(np.asarray(before != apply(other)), axis=(2, 3, 4))
  np.testing.assert_array_equal(changed, [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0]])


def test_a_frame_that_is_moved_for_certain_is_shifted_and_an_uncertain_one_is_a_mixture():
  frame = RNG.uniform(size=(2, 5, 5)).astype(np.float32)
  shares = np.zeros((2, 2, 2, 9), np.float32)
  shares[:, 0, 0, 4 + 2] = shares[:, 0, 1, 4 - 1] = 1  # two down, one to the left
  shares[:, 1, 0, 4] = 1
  shares[:, 1, 1, 4] = 0.25  # stays, or goes one to the right
  shares[:, 1, 1, 5] = 0.75
  made = np.asarray(moved(frame, shares))
  assert made.shape == (2, 5, 5, 2)
  expected = np.zeros((2, 5, 5))
  expected[:, 2:, :4] = frame[:, :3, 1:]
  np.testing.assert_allclose(made[..., 0], expected, atol=1e-6)
  right = np.pad(frame, ((0, 0), (0, 0), (1, 0)))[..., :5]
  np.testing.assert_allclose(made[..., 1], 0.25 * frame + 0.75 * right, atol=1e-6)


def test_futures_are_the_last_frame_moved_as_latent_and_past_decide():
  z = RNG.normal(size=(2, 3)).astype(np.float32)
  before, prior = decode(z, PAST), expect(PAST)
  assert before.shape == (2, 8, 8, 4)
  means = 1 / (1 + np.exp(-np.asarray(before)))
  assert np.all(means.sum(axis=(1, 2)) <= PAST[..., -1].sum(axis=(1, 2))[:, None] + 0.01)  # none comes in
  for frame in range(3):
    past = PAST.copy()
    past[1, ..., frame] *= 0.5
    changed = np.any(np.asarray(before != decode(z, past)), axis=(1, 2))
    np.testing.assert_array_equal(changed, [[0] * 4, [1] * 4])
    np.testing.assert_array_equal(np.any(np.asarray(prior != expect(past)), axis=1), [0, 1])
  other = decode(z + np.array([[0], [1]], np.float32), PAST)
  np.testing.assert_array_equal(np.any(np.asarray(before != other), axis=(1, 2)), [[0] * 4, [1] * 4])
  nothing = decode(z, 0 * PAST)
  assert np.all(np.isfinite(nothing))
  assert nothing.max() < -9  # black


def test_the_posterior_sees_the_future_and_the_prior_does_not():
  _, (group,), code = inferred(FUTURE, KEY, PAST)
  assert code.shape == (2, 3)
  for frame in range(4):
    future = FUTURE.copy()
    future[0, ..., frame] += 0.5
    (other,) = inferred(future, KEY, PAST).latents
    np.testing.assert_array_equal(np.any(np.asarray(group.posterior.mean != other.posterior.mean), 1), [1, 0])
    np.testing.assert_array_equal(group.prior.mean, other.prior.mean)


def test_all_frames_are_seen_with_the_same_weights():
  assert VARIABLES["params"]["of_past_0"]["space"]["kernel"].shape == (4, 4, 1, 2)
  assert VARIABLES["params"]["of_past_0"]["time"]["kernel"].shape == (3, 1, 2, 2)
  with pytest.raises(UserError, match=r"--task\.model\.summary_dim=0 is too small"):
    VideoVAE(summary_dim=0)
