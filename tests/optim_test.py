import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcourse.errors import UserError
from dlcourse.optim import AdaGrad, Adam, AdamW, RmsProp, Sgd, decay_mask, learning_rate_schedule

STEPS, RATE = 100, 0.05


def quadratic(w):
  """Gradient of a badly conditioned bowl."""
  return w * np.array([0.1, 1.0, 7.0]) - np.array([0.0, 1.0, -1.0])


def run(recipe, gradient=quadratic):
  """The weights after 100 updates of the kernel [1, -2, 3] with the recipe's optimizer."""
  optimizer = recipe.build(STEPS)
  update = jax.jit(optimizer.update)
  params = {"kernel": jnp.array([1.0, -2.0, 3.0])}
  state = optimizer.init(params)
  for _ in range(STEPS):
    updates, state = update({"kernel": jnp.asarray(gradient(params["kernel"]))}, state, params)
    params = optax.apply_updates(params, updates)
  return params["kernel"]


def by_hand(rule):
  """The same weights by a rule (step, w, gradient, memory) -> (w, memory), in float64."""
  w, memory = np.array([1.0, -2.0, 3.0]), (np.zeros(3), np.zeros(3))
  for step in range(1, STEPS + 1):
    w, memory = rule(step, w, quadratic(w), memory)
  return w


def sgd(t, w, g, memory):
  return w - RATE * g, memory


def momentum(t, w, g, memory):
  v = 0.9 * memory[0] - RATE * g
  return w + v, (v, 0)


def nesterov(t, w, g, memory):
  v = 0.9 * memory[0] - RATE * g
  return w + 0.9 * v - RATE * g, (v, 0)


def l2(t, w, g, memory):
  return w - RATE * (g + 0.1 * w), memory


def adam(t, w, g, memory):
  m, v = 0.8 * memory[0] + 0.2 * g, 0.99 * memory[1] + 0.01 * g**2
  return w - RATE * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8), (m, v)


def adamw(t, w, g, memory):
  moved, memory = adam(t, w, g, memory)
  return moved - RATE * 0.1 * w, memory


def rmsprop(t, w, g, memory):
  v = 0.9 * memory[0] + 0.1 * g**2
  return w - RATE * g / np.sqrt(v + 1e-8), (v, 0)


def rmsprop_momentum(t, w, g, memory):
  v = 0.9 * memory[0] + 0.1 * g**2
  u = 0.5 * memory[1] + RATE * g / np.sqrt(v + 1e-8)
  return w - u, (v, u)


def rmsprop_tensorflow(t, w, g, memory):
  g = g + 0.1 * w
  v = 0.9 * (1 if t == 1 else memory[0]) + 0.1 * g**2
  u = 0.9 * memory[1] + RATE * g / np.sqrt(v + 1e-3)
  return w - u, (v, u)


def adagrad(t, w, g, memory):
  v = memory[0] + (0.1 if t == 1 else 0) + g**2  # optax starts the sum at 0.1
  return w - RATE * g / np.sqrt(v + 1e-7), (v, 0)


@pytest.mark.parametrize(
  ("recipe", "rule"),
  [
    (Sgd(learning_rate=RATE), sgd),
    (Sgd(learning_rate=RATE, momentum=0.9), momentum),
    (Sgd(learning_rate=RATE, momentum=0.9, nesterov=True), nesterov),
    (Sgd(learning_rate=RATE, weight_decay=0.1), l2),
    (Adam(learning_rate=RATE, b1=0.8, b2=0.99), adam),
    (AdamW(learning_rate=RATE, b1=0.8, b2=0.99, weight_decay=0.1), adamw),
    (RmsProp(learning_rate=RATE), rmsprop),
    (RmsProp(learning_rate=RATE, momentum=0.5), rmsprop_momentum),
    (
      RmsProp(learning_rate=RATE, momentum=0.9, eps=1e-3, initial=1.0, weight_decay=0.1),
      rmsprop_tensorflow,
    ),
    (AdaGrad(learning_rate=RATE), adagrad),
  ],
  ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_rule_follows_its_paper_for_100_steps(recipe, rule):
  np.testing.assert_allclose(run(recipe), by_hand(rule), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("recipe", [Sgd(weight_decay=0.5), AdamW(weight_decay=0.5), RmsProp(weight_decay=0.5)])
def test_decay_leaves_biases_and_norms_alone(recipe):
  params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
  optimizer = recipe.build(10)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
  assert np.all(updates["dense"]["kernel"] < 0)
  assert not np.any(updates["dense"]["bias"])
  assert not np.any(updates["norm"]["scale"])


def test_decay_takes_kernels_and_embeddings_and_refuses_to_match_nothing():
  params = {"embed": {"embedding": 1.0}, "out": {"kernel": 1.0, "bias": 1.0}}
  assert decay_mask(params) == {"embed": {"embedding": True}, "out": {"kernel": True, "bias": False}}
  with pytest.raises(ValueError, match="matches no parameter"):
    decay_mask({"weights": 1.0})


def test_clipping_bounds_the_global_norm_and_keeps_small_gradients():
  optimizer = Sgd(learning_rate=1.0, clip_norm=2.0).build(10)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  state = optimizer.init(params)
  updates, _ = optimizer.update({"a": jnp.array([30.0]), "b": jnp.array([40.0])}, state)
  np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-1.2, -1.6], rtol=1e-5)
  updates, _ = optimizer.update({"a": jnp.array([0.3]), "b": jnp.array([0.4])}, state)
  np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.3, -0.4], rtol=1e-5)


def rates(recipe, at, steps=100):
  schedule = learning_rate_schedule(recipe, steps)
  return [float(schedule(step)) for step in at]


def test_accumulated_gradients_make_the_update_of_one_large_batch():
  def weights(optimizer, gradients):
    params, seen = {"kernel": jnp.ones(3)}, []
    state = optimizer.init(params)
    for gradient in gradients:
      updates, state = optimizer.update({"kernel": gradient}, state, params)
      params = optax.apply_updates(params, updates)
      seen.append(params["kernel"])
    return np.array(seen)

  gradients = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  recipe = {"learning_rate": 0.1, "schedule": "cosine", "clip_norm": 1.0}
  found = weights(AdamW(accumulate=2, **recipe).build(8), gradients)
  whole = weights(AdamW(**recipe).build(4), gradients.reshape(4, 2, 3).mean(axis=1))
  np.testing.assert_allclose(found[1::2], whole, rtol=1e-6)
  np.testing.assert_array_equal(found[2::2], found[1:-1:2])  # nothing changes halfway


def test_schedules_end_at_zero_where_training_ends():
  at = [0, 25, 50, 100]
  assert rates(Sgd(learning_rate=0.4), at) == pytest.approx([0.4] * 4)
  assert rates(Sgd(learning_rate=0.4, schedule="linear"), at) == pytest.approx([0.4, 0.3, 0.2, 0.0])
  cosine = [0.2 * (1 + np.cos(np.pi * step / 100)) for step in at]
  assert rates(Sgd(learning_rate=0.4, schedule="cosine"), at) == pytest.approx(cosine, abs=1e-7)


def test_warm_up_rises_to_the_peak_and_the_decay_still_ends_at_zero():
  recipe = Sgd(learning_rate=0.4, schedule="linear", warmup_steps=20)
  assert rates(recipe, [0, 10, 20, 60, 100]) == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.0])
  assert rates(Sgd(learning_rate=0.4, warmup_steps=20), [10, 20, 99]) == pytest.approx([0.2, 0.4, 0.4])


def test_the_rate_falls_by_a_factor_at_regular_steps_after_the_peak():
  recipe = Sgd(learning_rate=0.4, schedule="steps", decay_every=30)
  at = [0, 29, 30, 59, 60, 90, 99]
  assert rates(recipe, at) == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.0004, 0.0004])
  late = Sgd(learning_rate=0.4, schedule="steps", decay_every=30, decay_factor=0.5, warmup_steps=20)
  assert rates(late, [10, 20, 49, 50, 80]) == pytest.approx([0.2, 0.4, 0.4, 0.2, 0.1])
  long = Sgd(learning_rate=1.0, schedule="steps", decay_every=320_000, decay_factor=0.96)
  at = [drop * 320_000 - before for drop in (1, 10, 31) for before in (1, 0)]
  powers = [0.96**drop for drop in (0, 1, 9, 10, 30, 31)]
  schedule = jax.jit(learning_rate_schedule(long, 10_000_000))
  assert [float(schedule(step)) for step in at] == pytest.approx(powers, rel=1e-5)


def test_the_schedule_reaches_the_update():
  recipe = Sgd(learning_rate=1.0, schedule="linear")
  np.testing.assert_allclose(run(recipe, lambda w: np.ones(3)), np.array([1.0, -2.0, 3.0]) - 50.5, rtol=1e-5)


@pytest.mark.parametrize(
  ("recipe", "field", "value"),
  [
    *((recipe, "learning_rate", -0.1) for recipe in (Sgd, Adam, AdamW, RmsProp, AdaGrad)),
    (Sgd, "learning_rate", float("nan")),
    (Adam, "warmup_steps", -1),
    *((AdaGrad, "clip_norm", value) for value in (0.0, -1.0, float("nan"))),
    *((Sgd, "momentum", value) for value in (-0.1, 1.0)),
    *((RmsProp, name, 1.0) for name in ("momentum", "decay")),
    *((AdamW, name, 1.0) for name in ("b1", "b2")),
    *((recipe, "eps", -1e-8) for recipe in (Adam, RmsProp)),
    *((recipe, "weight_decay", -0.1) for recipe in (Sgd, AdamW, RmsProp)),
    (RmsProp, "initial", -1.0),
    (Sgd, "decay_every", 0),
    *((Sgd, "decay_factor", value) for value in (0.0, 1.1, float("nan"))),
  ],
)
def test_a_number_that_makes_no_sense_is_refused(recipe, field, value):
  with pytest.raises(UserError, match=f"--task….{field}={value} (is|has)"):
    recipe(**{field: value})


def test_drops_of_the_rate_need_their_interval():
  with pytest.raises(UserError, match=r"--task….schedule=steps needs --task….decay_every"):
    Sgd(schedule="steps")


@pytest.mark.parametrize("warmup_steps", [100, 500])
def test_a_warm_up_that_leaves_no_step_is_refused(warmup_steps):
  Sgd(warmup_steps=99).build(100)
  with pytest.raises(UserError, match=f"--task….warmup_steps={warmup_steps} leaves none of the 100 steps"):
    Sgd(warmup_steps=warmup_steps).build(100)
