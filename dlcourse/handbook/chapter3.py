"""Claims of chapter 3: recurrent layers, their gradients, gates and costs, and attention."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import gap, parameters, published, recorded, rows_by
from dlcourse.models.attention import scaled_dot_product
from dlcourse.models.mlp import MLP
from dlcourse.models.positions import sinusoidal
from dlcourse.models.resnet import RESNET
from dlcourse.theory import bptt, costs
from dlcourse.theory.recurrent_counts import recurrent_parameters

_COSTS = "experiments/results/costs.md: launch/costs.py, one core of a 2-core AMD EPYC"
_GAPS = "1 seed, one core of a 2-core AMD EPYC; commit 13a9745"


def _sizes() -> Finding:
  convolutional, dense = (
    [parameters(model, 1, side, side, 3) for side in (32, 48)]
    for model in (RESNET[18].clone(num_classes=10), MLP(num_classes=10))
  )
  value = f"parameters for images of 32 and 48 pixels: MLP {dense[0]:,} and {dense[1]:,}, "
  value += f"ResNet-18, which ends in a mean over all places, {convolutional[0]:,} for both"
  return Finding(value, convolutional[0] != convolutional[1], "models.mlp, models.resnet, by shapes")


def _bag() -> Finding:
  sentences = ("the cat eats the mouse", "the mouse eats the cat")
  words = [sorted(sentence.split()) for sentence in sentences]
  value = "counts of words are the same: " + ", ".join(
    f"{word} {words[0].count(word)}" for word in dict.fromkeys(words[0])
  )
  return Finding(value, words[0] == words[1], "counted")


def _gap_row(study: str, row: str) -> dict[int, float]:
  """Distance -> accuracy, where guessing has one of 8."""
  return {int(at): share for at, share in rows_by(recorded(study)[0])[row].items() if at != "run"}


def _window() -> Finding:
  found = _gap_row("recurrent.memory_gap", "window")
  value = f"accuracy at distance 10: {found[10]:g}, at 20: {found[20]:g}, where guessing has 0.125"
  return Finding(value, found[10] == 1 and found[20] < 0.2, f"study recurrent.memory_gap, {_GAPS}")


def _layer(steps: int = 12, inputs: int = 3, hidden: int = 5) -> tuple[bptt.Rnn, np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  shapes = ((inputs, hidden), (hidden, hidden), (hidden,))
  rnn = bptt.Rnn(*(rng.normal(scale=0.3, size=shape) for shape in shapes))
  return rnn, rng.normal(size=(steps, inputs)), rng.normal(size=(steps, hidden))


def _bptt() -> Finding:
  rnn, x, direct = _layer()

  def loss(rnn):
    h, total = jnp.zeros(len(rnn.bias)), 0.0
    for now, weight in zip(x, direct, strict=True):
      h = jnp.tanh(now @ rnn.inputs + h @ rnn.recurrent + rnn.bias)
      total += h @ weight
    return total

  with jax.enable_x64(True):
    automatic = jax.grad(loss)(bptt.Rnn(*map(jnp.asarray, rnn)))
  by_hand = bptt.backward(rnn, x, bptt.forward(rnn, x, np.zeros(5)), direct).weights
  difference = max(gap(a, b) for a, b in zip(by_hand, automatic, strict=True))
  return Finding(f"differs from autodiff by {difference:.1g}", difference < 1e-12, "theory.bptt.backward")


def _flow(activation: bptt.Activation, radius: float) -> bptt.Flow:
  return bptt.compare_flows((radius,), (), activation)[0]


def _vanishing() -> Finding:
  flow = _flow("tanh", 0.8)
  value = f"norm of every Jacobian at most {flow.bound:.3f}: the gradient falls by {flow.rate:.3f} a step, "
  value += f"to {flow.norms[-1]:.1e} after 100"
  return Finding(value, flow.rate < flow.bound < 1, "theory.bptt.compare_flows")


def _spectral_norm() -> Finding:
  matrix = np.array([[0.5, 10.0], [0.0, 0.5]])
  eigenvalue, norm = np.abs(np.linalg.eigvals(matrix)).max(), np.linalg.norm(matrix, 2)
  value = f"((0.5, 10), (0, 0.5)) has the eigenvalue {eigenvalue:g} and the spectral norm {norm:.2f}"
  return Finding(value, bool(abs(eigenvalue - norm) < 1e-9), "numpy.linalg")


def _exploding() -> Finding:
  tanh, relu = _flow("tanh", 1.25), _flow("relu", 1.25)
  value = f"W_hh with eigenvalues of modulus 1.25: gradients change by {tanh.rate:.3f} a step with tanh, by "
  value += f"{relu.rate:.3f} with ReLU, half of whose slopes are 0"
  return Finding(value, tanh.rate > 1 and relu.rate > 1, "theory.bptt.compare_flows")


def _clipping() -> Finding:
  rng = np.random.default_rng(0)
  trees = [
    {name: np.float32(scale * rng.normal(size=size)) for name, size in (("a", (4, 3)), ("b", 3))}
    for scale in (0.01, 10)
  ]
  clipper = optax.clip_by_global_norm(1.0)
  pairs = [(bptt.clip(tree, 1.0), clipper.update(tree, clipper.init(tree))[0]) for tree in trees]
  difference = max(gap(ours[name], theirs[name]) for ours, theirs in pairs for name in ours)
  value = f"short and long gradients differ from optax.clip_by_global_norm by {difference:.1g}"
  return Finding(value, difference < 1e-6, "theory.bptt.clip")


def _parallel() -> Finding:
  rnn, x, _ = _layer()
  sums = x @ rnn.inputs + rnn.bias  # of all steps, at once
  later = bptt.Rnn(np.eye(5), rnn.recurrent, np.zeros(5))
  difference = gap(bptt.forward(later, sums, np.zeros(5)), bptt.forward(rnn, x, np.zeros(5)))
  value = f"states from W_xh x_t of all steps at once differ by {difference:.1g}; with as many inputs as units "
  return Finding(f"{value}that is half of all multiplications", difference > 1e-6, "theory.bptt.forward")


def _memory() -> Finding:
  memory = bptt.compare_flows((), (5.0,))[0]
  simple = _flow("tanh", 0.8)
  value = f"along the memory a gradient changes by {memory.rate:.3f} a step (forget bias 5), to "
  value += f"{memory.norms[-1]:.2f} after 100; in a simple layer of radius 0.8 by {simple.rate:.3f}"
  return Finding(value, memory.norms[-1] > 0.1, "theory.bptt.compare_flows")


def _counts(cell: str, other: str, share: float) -> Finding:
  ours, theirs = (recurrent_parameters(name, 100, 256) for name in (cell, other))
  value = f"100 inputs, 256 units: {ours:,} and {theirs:,}, a ratio of {ours / theirs:.4f}"
  if cell == "gru_original":
    value += f"; with the second bias of cuDNN, PyTorch and Keras {recurrent_parameters('gru', 100, 256):,}"
  return Finding(
    value, abs(ours / theirs - share) < 0.01, "theory.recurrent_counts, equal to the layers by test"
  )


def _cost(table: int, length: int | None, *columns: str) -> list[float]:
  """Of sequences of a length, or the exponent of all; tables are of time and of memory."""
  first = ("ms", "MiB beside parameters, input and gradients")[table]
  found = rows_by(recorded("costs")[table], first)["exponent" if length is None else str(float(length))]
  return [float(found[column]) for column in columns]


def _linear() -> Finding:
  (exponent,) = _cost(0, None, "LSTM")
  value = f"time grows as the {exponent:g}th power of the length, from 256 to 4,096 steps"
  return Finding(value, abs(exponent - 1) < 0.1, _COSTS)


def _constant_time() -> Finding:
  short, long = (_cost(0, length, "Transformer")[0] for length in (512, 4096))
  far = _gap_row("transformer.memory_gap", "transformer")[320]
  value = (
    f"accuracy over a distance of 320: {far:g}; but 8 times the steps take {long / short:.0f} times the time"
  )
  return Finding(value, long <= short, f"study transformer.memory_gap, {_GAPS}; {_COSTS}")


def _queries() -> list[np.ndarray]:
  return list(np.random.default_rng(0).normal(size=(3, 1, 6, 1, 4)).astype(np.float32))


def _attention() -> Finding:
  query, key, value = _queries()
  scores = np.exp(query[0, :, 0] @ key[0, :, 0].T / np.sqrt(4))
  by_hand = scores / scores.sum(-1, keepdims=True) @ value[0, :, 0]
  difference = gap(scaled_dot_product(query, key, value)[0][0, :, 0], by_hand)
  return Finding(f"differs from the formula by {difference:.1g}", difference < 1e-6, "models.attention")


def _no_order() -> Finding:
  order = np.random.default_rng(1).permutation(6)
  straight, mixed = (scaled_dot_product(*(x[:, at] for x in _queries()))[0] for at in (np.arange(6), order))
  difference = gap(straight[:, order], mixed)
  value = f"elements in another order give the same outputs in that order (difference {difference:.1g})"
  return Finding(value, difference < 1e-6, "models.attention")


def _sinusoids() -> Finding:
  made = sinusoidal(jnp.arange(50), 8)
  by_hand = [[f(p / 10000 ** (2 * i / 8)) for i in range(4) for f in (np.sin, np.cos)] for p in range(50)]
  difference = gap(made, by_hand)
  return Finding(f"differs from the formula by {difference:.1g}", difference < 1e-5, "models.positions")


def _short() -> Finding:
  lstm, transformer = _cost(0, 16, "LSTM", "Transformer")
  value = f"a training step on 16 elements: LSTM {lstm:g} ms, Transformer {transformer:g} ms (d = 128)"
  return Finding(value, lstm < transformer, _COSTS)


def _less_memory() -> Finding:
  lstm, transformer = _cost(1, 4096, "LSTM", "Transformer")
  return Finding(
    f"4,096 elements: LSTM {lstm:g} MiB, Transformer {transformer:g} MiB", lstm < transformer, _COSTS
  )


def _quadratic() -> Finding:
  linear, quadratic = costs.transformer_products(128, 128)
  (exponent,) = _cost(0, None, "Transformer")
  value = (
    f"at T = d = 128, {linear / (linear + quadratic):.0%} of the products are those of d² T; measured exponent "
  )
  value += f"{exponent:g} from 256 to 4,096"
  return Finding(value, exponent > 1.95, f"theory.costs; {_COSTS}")


def _efficient() -> Finding:
  performer, linformer = _cost(0, None, "Performer", "Linformer")
  value = f"time grows as the power {performer:g} of the length (Performer) and {linformer:g} (Linformer)"
  return Finding(value, max(performer, linformer) < 1.2, _COSTS)


CLAIMS = (
  Claim(
    "fixed_sizes",
    "3.2.3",
    "Feedforward networks need inputs of one fixed size.",
    _sizes,
    "corrected",
    "Dense layers do. A convolution with a pooling over all places takes any size.",
  ),
  Claim(
    "bag",
    "3.2.4",
    "By vocabulary alone, two sentences of the cat and the mouse are the same.",
    _bag,
    "confirmed",
  ),
  Claim("window", "3.3.3", "A sliding window forgets what is beyond it.", _window, "confirmed"),
  Claim("bptt", "3.5.5", "∂L/∂h_t = ∂L/∂y_t ∂y_t/∂h_t + ∂L/∂h_(t+1) ∂h_(t+1)/∂h_t.", _bptt, "confirmed"),
  Claim(
    "vanishing_through_time",
    "3.5.6",
    "Jacobians of norm below 1 make gradients vanish exponentially.",
    _vanishing,
    "confirmed",
  ),
  Claim(
    "spectral_norm",
    "3.5.6",
    "The spectral norm is the largest eigenvalue.",
    _spectral_norm,
    "corrected",
    "It is the largest singular value; they agree for symmetric and other normal matrices.",
  ),
  Claim(
    "exploding",
    "3.5.7",
    "With eigenvalues above 1 gradients explode.",
    _exploding,
    "corrected",
    "That is necessary, and not sufficient: slopes of the activation may prevent it (Pascanu et al., 2013).",
  ),
  Claim(
    "clipping",
    "3.5.7",
    "Clipping scales a gradient to the threshold if its norm is above it.",
    _clipping,
    "confirmed",
  ),
  Claim(
    "parallel",
    "3.8.2",
    "Recurrence prevents any parallel computation within a sequence.",
    _parallel,
    "corrected",
    "Only W_hh h_(t-1) waits; what inputs add is computed for all steps at once.",
  ),
  Claim(
    "lstm_history",
    "3.9.1",
    "The LSTM of 1997 has three gates.",
    published(
      "input and output gates, 1997; the forget gate came in 2000", False, "Gers, Schmidhuber & Cummins, 2000"
    ),
    "corrected",
    "The network of 1997 has two: it could not forget.",
  ),
  Claim(
    "memory_path",
    "3.9.3",
    "Gradients pass along the memory of an LSTM over long sequences.",
    _memory,
    "confirmed",
  ),
  Claim(
    "lstm_parameters",
    "3.9.4",
    "An LSTM has about 4 times the parameters of a simple layer.",
    lambda: _counts("lstm", "rnn", 4),
    "confirmed",
  ),
  Claim(
    "gru_history",
    "3.10.1",
    "The GRU is of Cho et al., 2014.",
    published(
      "there, with the reset before the product", True, "Cho et al., 2014, arXiv:1406.1078, section 2.3"
    ),
    "confirmed",
  ),
  Claim(
    "gru_parameters",
    "3.10.3",
    "A GRU has about 25 % fewer parameters than an LSTM.",
    lambda: _counts("gru_original", "lstm", 0.75),
    "confirmed",
  ),
  Claim(
    "linear_time", "3.12.1", "Time of a recurrent layer grows linearly with the length.", _linear, "confirmed"
  ),
  Claim(
    "constant_time",
    "3.12.2",
    "Self-attention captures dependencies of any length in constant time.",
    _constant_time,
    "corrected",
    "The way between two elements has constant length; the time of a layer grows with the square of theirs.",
  ),
  Claim("attention", "3.12.2", "Attention(Q, K, V) = softmax(Q Kᵀ / √d) V.", _attention, "confirmed"),
  Claim("no_order", "3.12.3", "Attention by itself knows no order.", _no_order, "confirmed"),
  Claim(
    "sinusoids",
    "3.12.3",
    "PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) the cosine.",
    _sinusoids,
    "confirmed",
  ),
  Claim(
    "glue",
    "3.12.4",
    "Transformers gain 5 to 15 % over the best recurrent networks on GLUE, SQuAD and WMT.",
    published(
      "GLUE, average: BiLSTM with ELMo and attention 71.0, GPT 75.1, BERT 79.6 (base) and 82.1 (large)",
      None,
      "Devlin et al., 2019, table 1",
    ),
    "needs hardware",
  ),
  Claim(
    "short_sequences",
    "3.12.5",
    "For a few dozen elements recurrent networks can be faster.",
    _short,
    "confirmed",
  ),
  Claim("less_memory", "3.12.5", "Recurrent networks need less memory.", _less_memory, "confirmed"),
  Claim(
    "quadratic",
    "3.12.5",
    "A Transformer's complexity is O(T²).",
    _quadratic,
    "corrected",
    "It is 12 d² T + 2 d T² a layer: the first term, which O(T²) hides, is the larger one up to T = 6 d.",
  ),
  Claim(
    "efficient", "3.12.5", "Linformer and Performer are efficient for long sequences.", _efficient, "confirmed"
  ),
)
