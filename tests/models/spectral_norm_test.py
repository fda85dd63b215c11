import jax
import numpy as np
import pytest
from networks import once

from dlcourse.models.spectral_norm import SpectralConv, SpectralDense, power_iteration

I, O = 12, 5
LAYERS = {
  "dense": (SpectralDense, {"features": O, "use_bias": False}, np.eye(I, dtype=np.float32)),
  "conv": (
    SpectralConv,
    {"features": O, "kernel_size": (2, 2), "padding": "VALID", "use_bias": False},
    np.eye(I, dtype=np.float32).reshape(I, 2, 2, 3),
  ),
}
layers = pytest.mark.parametrize("kind", LAYERS)


def built(kind):
  """A layer in training and in evaluation, its variables, and inputs that show the kernel as it is used."""
  layer, options, unit = LAYERS[kind]
  model = layer(**options)
  variables = jax.device_get(once(model.init)(jax.random.key(0), unit))
  return model.clone(train=True), model, variables, unit


def sigmas(kernel):
  return np.linalg.svd(np.asarray(kernel).reshape(I, O), compute_uv=False)


@layers
def test_the_largest_singular_value_is_one(kind):
  training, model, variables, unit = built(kind)
  step = once(lambda v: training.apply(v, unit, mutable=["spectral"]))
  used = once(model.apply)
  rng = np.random.default_rng(0)
  kernel = 7 * variables["params"]["kernel"]
  for _ in range(20):  # the kernel moves by a hundredth of its size, as in training
    kernel = kernel + 0.01 * kernel.std() * rng.normal(size=kernel.shape).astype(np.float32)
    variables = {"params": {"kernel": kernel}, "spectral": variables["spectral"]}
    y, changed = step(variables)
    assert sigmas(y)[0] == pytest.approx(1, abs=2e-2)
    variables |= changed
  for _ in range(50):
    variables |= step(variables)[1]
  assert sigmas(used(variables, unit))[0] == pytest.approx(1, abs=1e-3)
  np.testing.assert_allclose(sigmas(used(variables, unit)), sigmas(kernel) / sigmas(kernel)[0], rtol=1e-3)


@layers
def test_the_vector_changes_in_training_alone_and_where_it_may(kind):
  training, model, variables, unit = built(kind)
  _, changed = once(lambda v: model.apply(v, unit, mutable=["spectral"]))(variables)
  np.testing.assert_array_equal(changed["spectral"]["u"], variables["spectral"]["u"])
  y, changed = once(lambda v: training.apply(v, unit, mutable=["spectral"]))(variables)
  assert np.abs(changed["spectral"]["u"] - variables["spectral"]["u"]).max() > 0
  np.testing.assert_allclose(once(lambda v: training.apply(v, unit))(variables), y, rtol=1e-6)


def test_gradients_are_those_of_equation_12():
  _, model, variables, unit = built("dense")
  kernel = variables["params"]["kernel"]
  left, s, right = np.linalg.svd(kernel, full_matrices=False)
  upstream = np.random.default_rng(1).normal(size=(I, O)).astype(np.float32)
  at = {"spectral": {"u": right[0]}}
  actual = jax.grad(lambda k: (upstream * model.apply({"params": {"kernel": k}, **at}, unit)).sum())(kernel)
  weight = (upstream * kernel / s[0]).sum()
  expected = (upstream - weight * np.outer(left[:, 0], right[0])) / s[0]
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_power_iterations_end_at_the_singular_vectors():
  matrix = np.random.default_rng(2).normal(size=(I, O)).astype(np.float32)
  u = np.ones(O, np.float32) / O**0.5
  for _ in range(100):
    v, u = power_iteration(matrix, u)
  left, s, right = np.linalg.svd(matrix, full_matrices=False)
  assert v @ matrix @ u == pytest.approx(s[0], rel=1e-5)
  assert abs(v @ left[:, 0]) == pytest.approx(1, abs=1e-5)
  assert abs(u @ right[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parity
@layers
def test_one_step_equals_torch(kind):
  import torch  # extra `parity`

  training, _, variables, unit = built(kind)
  kernel = variables["params"]["kernel"]
  u = np.random.default_rng(3).normal(size=O).astype(np.float32)
  u /= np.linalg.norm(u)
  upstream = np.random.default_rng(4).normal(size=(I, O)).astype(np.float32)

  def loss(kernel):
    at = {"params": {"kernel": kernel}, "spectral": {"u": u}}
    y, changed = training.apply(at, unit, mutable=["spectral"])
    return (y.reshape(I, O) * upstream).sum(), (y, changed)

  gradient, (y, changed) = once(jax.grad(loss, has_aux=True))(kernel)

  order = (1, 0) if kind == "dense" else (3, 2, 0, 1)  # of the axes in PyTorch
  reference = torch.nn.Linear(I, O, bias=False) if kind == "dense" else torch.nn.Conv2d(3, O, 2, bias=False)
  reference.weight.data = torch.tensor(kernel.transpose(order).copy())
  # The older of PyTorch's two iterates in the paper's order, v first; the newer one is half a step ahead.
  torch.nn.utils.spectral_norm(reference)
  reference.weight_u = torch.tensor(u)
  inputs = torch.tensor(unit if kind == "dense" else unit.transpose(0, 3, 1, 2).copy())
  out = reference(inputs).reshape(I, O)
  (out * torch.tensor(upstream)).sum().backward()
  np.testing.assert_allclose(y.reshape(I, O), out.detach().numpy(), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(changed["spectral"]["u"], reference.weight_u, rtol=1e-4, atol=1e-6)
  expected = reference.weight_orig.grad.numpy()
  np.testing.assert_allclose(gradient.transpose(order), expected, rtol=1e-4, atol=1e-5)
