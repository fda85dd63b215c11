"""Claims of chapter 1: the neuron, activations, optimizers and regularisation."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso, Ridge

from dlcourse import optim
from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import gap, published
from dlcourse.models.dense import Dense
from dlcourse.report.figures import new_figure
from dlcourse.theory import optimizers, perceptron
from dlcourse.theory.activations import ACTIVATIONS, largest_slope, softmax_slopes, value_range
from dlcourse.theory.softmax import softmax

_NORMAL = np.random.default_rng(0).normal(size=100_000)


def _curves(
  x: np.ndarray, lines: dict[str, np.ndarray], xlabel: str, ylabel: str, yscale: str = "linear"
) -> Figure:
  figure = new_figure(6, 4)
  axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, yscale=yscale)
  for (name, y), style in zip(lines.items(), itertools.cycle(["-", "--", "-."])):
    axes.plot(x, y, style, label=name)
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def _xor() -> Finding:
  proof = perceptron.impossible(perceptron.INPUTS, perceptron.XOR)
  if proof is None:
    return Finding("a line separates XOR", False, "theory.perceptron")
  trace = perceptron.learn(perceptron.XOR, (-0.2, 0.1), -0.2, 0.1)
  value = f"shares {np.round(proof, 2).tolist()} give both classes the same mean, so that no line parts them; "
  value += f"100 passes of the perceptron made {len(trace.updates)} updates, and were not done"
  return Finding(value, not trace.separates, "theory.perceptron.impossible, learn")


def _neuron() -> Finding:
  rng = np.random.default_rng(0)
  x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 3), (3, 1), (1,)))
  layer = Dense(1).apply({"params": {"kernel": w, "bias": b}}, x)
  by_hand = [[sum(row[i] * w[i, 0] for i in range(3)) + b[0]] for row in x]
  difference = gap(layer, by_hand)
  return Finding(
    f"the sum by hand differs from a dense layer of one unit by {difference:.1g}",
    difference < 1e-6,
    "models.dense",
  )


def _range(name: str, low: float) -> Finding:
  """Whether the values of an activation begin where the handbook prints it."""
  near, far = value_range(name, 30), value_range(name, 300)
  found = -math.inf if far.low < 2 * near.low < 0 else far.low
  where = "" if math.isinf(found) or abs(near.at_low) > 20 else f", at x = {near.at_low:.3f}"
  least = "no least value" if math.isinf(found) else f"least value {found:.4f}"
  value = f"{least}{where}, largest for x up to 300: {far.high:g}"
  return Finding(value, found == low or abs(found - low) < 1e-9, "theory.activations.value_range")


def _vanishing() -> Finding:
  slope = largest_slope("sigmoid")
  value = f"slope at most {slope:g}; of a gradient {slope**10:.1e} is left after ten units with weights of 1"
  return Finding(value, slope**10 < 1e-5, "theory.activations.largest_slope")


def _centred() -> Finding:
  means = {name: float(ACTIVATIONS[name].value(_NORMAL).mean()) for name in ("sigmoid", "tanh")}
  value = (
    f"mean output for standard normal inputs: tanh {abs(means['tanh']):.3f}, sigmoid {means['sigmoid']:.3f}"
  )
  return Finding(value, abs(means["tanh"]) < 0.01 < 0.4 < means["sigmoid"], "theory.activations")


def _relu() -> Finding:
  right, left = (ACTIVATIONS["relu"].slope(np.array([x]))[0] for x in (1e6, -1e-6))
  value = (
    f"slope {right:g} at a million, {left:g} at -0.000001: a unit whose inputs are all there learns no more"
  )
  x = np.linspace(-4, 4, 401)
  figure = _curves(
    x, {name.replace("_", " "): f.value(x) for name, f in ACTIVATIONS.items()}, "x", "activation"
  )
  return Finding(value, right == 1 and left == 0, "theory.activations", figure)


def _leaky() -> Finding:
  x = np.linspace(-5, 5, 101)
  difference = gap(np.maximum(0.01 * x, x), jax.nn.leaky_relu(x))
  value = f"max(0.01 x, x) is jax.nn.leaky_relu (difference {difference:.1g}); its slope is 0.01 at least"
  return Finding(
    value, difference < 1e-6 and ACTIVATIONS["leaky_relu"].slope(x).min() == 0.01, "theory.activations"
  )


def _gelu() -> Finding:
  x = np.linspace(-8, 8, 1601)
  exact = ACTIVATIONS["gelu"].value(x)
  same, other = (gap(exact, jax.nn.gelu(x, approximate=approximate)) for approximate in (False, True))
  value = f"x Φ(x) is BERT's (difference {same:.1g}, rounding); GPT-2's tanh form is off by up to {other:.1g}"
  return Finding(value, same < 1e-6, "theory.activations; jax.nn.gelu")


def _softmax_sum() -> Finding:
  shares = softmax(np.random.default_rng(0).normal(scale=50, size=(1000, 10)))
  value = (
    f"of 1,000 rows: sums off 1 by {gap(shares.sum(-1), 1):.1g}, values {shares.min():.1g} to {shares.max():g}"
  )
  return Finding(value, bool(gap(shares.sum(-1), 1) < 1e-12 and shares.min() >= 0), "theory.softmax")


def _softmax_saturates() -> Finding:
  small, large = (np.abs(softmax_slopes(softmax(scale * np.array([5, 2, -1])))).max() for scale in (0.1, 20))
  value = f"largest derivative for (0.5, 0.2, -0.1): {small:.2f}; for (100, 40, -20): {large:.1g}"
  return Finding(value, bool(large < 1e-20 < small), "theory.activations.softmax_slopes")


def _difference_from_optax(ours: optimizers.Rule, theirs: optax.GradientTransformation) -> float:
  """Over 100 steps in Rosenbrock's valley."""
  start = np.array([-0.5, 0.8])
  points = optimizers.trajectory(ours, lambda theta, t: optimizers.rosenbrock_slope(theta), start, 100)
  with jax.enable_x64(True):
    theta = jnp.asarray(start)
    state = theirs.init(theta)
    for _ in range(100):
      updates, state = theirs.update(jnp.asarray(optimizers.rosenbrock_slope(np.asarray(theta))), state, theta)
      theta = optax.apply_updates(theta, updates)
    return gap(points[-1], theta)


def _sgd() -> Finding:
  difference = _difference_from_optax(optimizers.sgd(1e-3), optax.sgd(1e-3))
  return Finding(
    f"100 steps differ from optax.sgd by {difference:.1g}", difference < 1e-12, "theory.optimizers"
  )


def _momentum_rule() -> Finding:
  difference = _difference_from_optax(optimizers.momentum(1e-4), optax.sgd(1e-4, 0.9))
  value = (
    f"with θ <- θ + v after it, 100 steps differ from optax.sgd with momentum by {difference:.1g}; as printed, "
  )
  return Finding(f"{value}θ never changes", False, "theory.optimizers; Polyak, 1964")


def _momentum_is_faster() -> Finding:
  """A bowl 100 times as steep one way, with the best constants that theory knows (Polyak, 1964)."""
  steep = np.array([1.0, 100.0])
  rules = {
    "plain": optimizers.sgd(2 / (1 + 100)),
    "momentum": optimizers.momentum((2 / (1 + 10)) ** 2, ((10 - 1) / (10 + 1)) ** 2),
  }
  paths = {
    name: optimizers.trajectory(rule, lambda x, t: steep * x, np.ones(2), 1000) for name, rule in rules.items()
  }
  lengths = {name: np.linalg.norm(path, axis=1) for name, path in paths.items()}
  steps = {name: int(np.argmax(length < 1e-6)) for name, length in lengths.items()}
  value = (
    f"steps to within 1e-6 of the bottom of x² + 100 y²: plain {steps['plain']}, momentum {steps['momentum']}"
  )
  figure = _curves(
    np.arange(101),
    {name: y[:101] for name, y in lengths.items()},
    "updates",
    "distance from the bottom",
    yscale="log",
  )
  return Finding(value, 0 < steps["momentum"] < steps["plain"], "theory.optimizers", figure)


def _adam_rule() -> Finding:
  def first(corrected):
    rule = optimizers.adam(0.001, corrected=corrected)
    return -optimizers.trajectory(rule, lambda theta, t: np.array([3.0]), np.zeros(1), 1)[1, 0] / 0.001

  value = f"the first step is {first(False):.2f} η long as printed, {first(True):.2f} η as in the paper"
  return Finding(
    value, abs(first(False) - first(True)) < 1e-3, "theory.optimizers; Kingma & Ba, 2015, algorithm 1"
  )


def _adam_defaults() -> Finding:
  adam = optim.Adam()
  value = f"here, as in optax: β₁ = {adam.b1}, β₂ = {adam.b2}, ε = {adam.eps:g}"
  return Finding(value, (adam.b1, adam.b2, adam.eps) == (0.9, 0.999, 1e-8), "optim.Adam; Kingma & Ba, 2015")


def _rmsprop() -> Finding:
  momentum = optim.RmsProp().momentum
  return Finding(
    f"here, as in optax, momentum is {momentum:g} unless it is asked for", momentum == 0, "optim.RmsProp"
  )


def _sparse() -> Finding:
  """Two means are learnt from noisy examples, one seen at each step, one at every hundredth; 20 times."""
  noise = np.random.default_rng(0).normal(scale=0.5, size=(2001, 2, 20))

  def error(rule):
    def gradient(theta, t):
      seen = np.array([[1.0], [t % 100 == 0]])
      return (seen * (theta.reshape(2, 20) - 1 + noise[t])).ravel()

    return float(np.mean((optimizers.trajectory(rule, gradient, np.zeros(40), 2000)[-1] - 1) ** 2))

  rates = 10 ** np.arange(-3, 0.01, 0.25)
  best = {f.__name__: min(error(f(rate)) for rate in rates) for f in (optimizers.sgd, optimizers.adagrad)}
  value = "mean square error of both after 2,000 steps, each with the best of 13 rates: "
  value += f"SGD {best['sgd']:.4f}, AdaGrad {best['adagrad']:.4f}"
  return Finding(value, best["adagrad"] < best["sgd"], "theory.optimizers, a frequent and a rare number")


def _adagrad_slows() -> Finding:
  points = optimizers.trajectory(optimizers.adagrad(1.0), lambda theta, t: np.ones(1), np.zeros(1), 10_000)
  last = float(points[-2, 0] - points[-1, 0])
  return Finding(
    f"of η, step 10,000 of equal gradients has {last:.4f}: it falls as 1 / √t",
    last < 0.011,
    "theory.optimizers",
  )


def _decoupled() -> Finding:
  """Two weights whose gradients are noise alone, of 0.1 and of 10: only decay should move them."""
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(501, 2, 100)) * np.array([[0.1], [10.0]])

  def left(rule, coupled):
    def gradient(theta, t):
      return noise[t].ravel() + coupled * theta

    ends = optimizers.trajectory(rule, gradient, np.ones(200), 500)[-1]
    return ends.reshape(2, 100).mean(axis=1)

  l2, adamw = left(optimizers.adam(1e-3), 0.5), left(optimizers.adam(1e-3, decay=0.5), 0.0)
  value = f"what is left of weights with small and large gradients: L2 in Adam {l2[0]:.2f} and {l2[1]:.2f}, "
  value += f"AdamW {adamw[0]:.2f} and {adamw[1]:.2f}"
  even = abs(adamw[0] - adamw[1]) < abs(l2[0] - l2[1])
  return Finding(value, bool(even), "theory.optimizers; Loshchilov & Hutter, 2019")


def _weights(model: Lasso | Ridge) -> np.ndarray:
  return model.fit(*load_diabetes(return_X_y=True)).coef_


def _l1() -> Finding:
  lasso, ridge = (int(np.sum(_weights(model) == 0)) for model in (Lasso(alpha=0.5), Ridge(alpha=0.5)))
  value = f"of ten weights for scikit-learn's diabetes data {lasso} are 0 with L1, {ridge} with L2"
  return Finding(value, lasso > 0 == ridge, "scikit-learn's Lasso and Ridge, alpha 0.5")


def _l2() -> Finding:
  kept, free = (np.abs(_weights(Ridge(alpha=alpha))) for alpha in (0.5, 1e-9))
  value = f"of ten weights for scikit-learn's diabetes data the largest goes from {free.max():.0f} to "
  value += f"{kept.max():.0f}, the smallest is {kept.min():.1f}"
  return Finding(value, bool(kept.min() > 0 and kept.max() < free.max()), "scikit-learn's Ridge, alpha 0.5")


def _dropout() -> Finding:
  x = jnp.ones((100, 1000))
  shares = {}
  for p in (0.2, 0.5):
    kept = nn.Dropout(p, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)})
    shares[p] = float((kept == 0).mean()), float(kept.mean())
  value = "; ".join(
    f"p = {p}: {zero:.3f} of 100,000 are 0, mean {mean:.3f}" for p, (zero, mean) in shares.items()
  )
  holds = all(abs(zero - p) < 0.01 and abs(mean - 1) < 0.02 for p, (zero, mean) in shares.items())
  return Finding(f"{value} (what is kept is divided by 1 - p)", holds, "flax.linen.Dropout")


def _batch_norm() -> Finding:
  x = jnp.asarray(np.random.default_rng(0).normal(7.0, 3.0, (256, 8)), jnp.float32)
  layer = nn.BatchNorm(use_running_average=False)
  made, _ = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
  means, deviations = np.asarray(made.mean(0)), np.asarray(made.std(0))
  value = (
    f"means to {gap(means, 0):.1g}, deviations {deviations.min():.4f} to {deviations.max():.4f}, from 7 and 3"
  )
  return Finding(value, bool(gap(means, 0) < 1e-4 and gap(deviations, 1) < 1e-3), "flax.linen.BatchNorm")


def _ranges() -> tuple[Claim, ...]:
  """The column "Range" of the table of activations."""
  unbounded = "It is bounded below: "
  rows = {
    "sigmoid": ("[0, 1]", 0.0, ""),
    "tanh": ("[-1, 1]", -1.0, ""),
    "relu": ("[0, ∞)", 0.0, ""),
    "leaky_relu": ("(-∞, ∞)", -math.inf, ""),
    "elu": ("(-∞, ∞)", -math.inf, f"{unbounded}(-α, ∞), with α = 1 in most networks."),
    "gelu": ("(-∞, ∞)", -math.inf, f"{unbounded}[-0.170, ∞)."),
    "swish": ("(-∞, ∞)", -math.inf, f"{unbounded}[-0.278, ∞)."),
  }
  return tuple(
    Claim(
      f"range_{name}",
      "1.4.2",
      f"The range of {name.replace('_', ' ')} is {printed}.",
      lambda name=name, low=low: _range(name, low),
      "corrected" if right else "confirmed",
      right,
    )
    for name, (printed, low, right) in rows.items()
  )


CLAIMS = (
  Claim(
    "perceptron",
    "1.2",
    "Neural networks go back to Rosenblatt's perceptron, in the 1950s.",
    published(
      "1958; formal neurons without learning: McCulloch & Pitts, 1943",
      True,
      "Rosenblatt, 1958, Psychological Review 65",
    ),
    "confirmed",
  ),
  Claim("xor", "1.2", "XOR is a theoretical limit of the perceptron.", _xor, "confirmed"),
  Claim("neuron", "1.4.1", "A neuron is f(Σ w_i x_i + b).", _neuron, "confirmed"),
  *_ranges(),
  Claim("softmax_sum", "1.4.2", "Softmax lies in [0, 1] and sums to 1.", _softmax_sum, "confirmed"),
  Claim("vanishing", "1.4.2", "Gradients vanish through sigmoids.", _vanishing, "confirmed"),
  Claim("centred", "1.4.2", "Tanh is centred on zero, the sigmoid is not.", _centred, "confirmed"),
  Claim("relu", "1.4.2", "ReLU does not saturate for positive inputs, and can die.", _relu, "confirmed"),
  Claim("leaky", "1.4.2", "Leaky ReLU is max(0.01 x, x), and prevents dead units.", _leaky, "confirmed"),
  Claim("gelu", "1.4.2", "GELU is x Φ(x), and used by BERT and GPT.", _gelu, "confirmed"),
  Claim("softmax_saturates", "1.4.2", "Softmax saturates with large values.", _softmax_saturates, "confirmed"),
  Claim("sgd", "1.4.4", "SGD is θ <- θ - η ∇L(θ).", _sgd, "confirmed"),
  Claim(
    "momentum_rule",
    "1.4.4",
    "The variant with momentum is v <- β v - η ∇L(θ).",
    _momentum_rule,
    "corrected",
    "That is its first half; θ <- θ + v follows.",
  ),
  Claim("momentum", "1.4.4", "Momentum accelerates convergence.", _momentum_is_faster, "confirmed"),
  Claim(
    "adam_rule",
    "1.4.4",
    "Adam is θ <- θ - η m / (√v + ε).",
    _adam_rule,
    "corrected",
    "m and v start at 0 and are divided by 1 - β₁ᵗ and 1 - β₂ᵗ first, or early steps are too long.",
  ),
  Claim("adam_defaults", "1.4.4", "β₁ = 0.9, β₂ = 0.999, ε = 1e-8.", _adam_defaults, "confirmed"),
  Claim("rmsprop", "1.4.4", "RMSprop has no momentum by default.", _rmsprop, "confirmed"),
  Claim("sparse", "1.4.4", "AdaGrad is effective for sparse data.", _sparse, "confirmed"),
  Claim("adagrad_slows", "1.4.4", "The learning rate of AdaGrad falls quickly.", _adagrad_slows, "confirmed"),
  Claim("adamw", "1.4.4", "AdamW corrects the weight decay of Adam.", _decoupled, "confirmed"),
  Claim("l1", "1.4.5", "L1 promotes sparse weights.", _l1, "confirmed"),
  Claim("l2", "1.4.5", "L2 encourages small weights that are not zero.", _l2, "confirmed"),
  Claim("dropout", "1.4.5", "Dropout switches each neuron off with probability p.", _dropout, "confirmed"),
  Claim(
    "batch_norm",
    "1.4.5",
    "Batch normalization normalizes each activation over the batch.",
    _batch_norm,
    "confirmed",
  ),
)
