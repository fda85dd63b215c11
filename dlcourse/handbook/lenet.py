"""Claims of section 10 of chapter 2: LeNet-5 layer by layer, and its softmax."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import parameters, published
from dlcourse.models.lenet import C3_TABLE, LeNet5, Subsample
from dlcourse.models.summary import summarise
from dlcourse.models.trace import Layer
from dlcourse.report.drawing import architecture
from dlcourse.theory import geometry
from dlcourse.theory.softmax import softmax

LAYERS = ((5, 1), (2, 2), (5, 1), (2, 2), (5, 1))  # (kernel, stride) of C1 … C5
_SOURCE = "models.lenet.LeNet5 by models.summary; theory.counts agrees by test"
# Which maps of C3 see each map of S2, as the handbook prints its table I.
_PRINTED = (
  (0, 4, 5, 6, 9, 10, 11, 12, 14, 15),
  (0, 1, 5, 6, 7, 10, 11, 12, 13, 15),
  (0, 1, 2, 6, 7, 8, 11, 13, 14, 15),
  (1, 2, 3, 6, 7, 8, 9, 12, 14, 15),
  (2, 3, 4, 7, 8, 9, 10, 12, 13, 15),
  (3, 4, 5, 8, 9, 10, 11, 13, 14, 15),
)


def _layers() -> dict[str, Layer]:
  image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
  layers = summarise(lambda x: LeNet5(num_classes=10).init(jax.random.key(0), x), image)
  return {layer.path: layer for layer in layers}


def _layer(name: str, side: int, count: int, connections: int) -> Finding:
  """What a layer has, against the side, the parameters and the connections that are printed."""
  layer = _layers()[name]
  found = (layer.output[0] if len(layer.output) == 3 else 1, layer.parameters, layer.connections)
  value = f"{' x '.join(map(str, layer.output))}, {found[1]:,} parameters, {found[2]:,} connections"
  return Finding(value, found == (side, count, connections), _SOURCE)


def _c1() -> Finding:
  found = _layer("C1", 28, 156, 122_304)
  return found._replace(figure=architecture([*_layers().values()]))


def _bracket() -> Finding:
  printed, meant = (14 - 5 + 0 / 2) + 1, geometry.output_size(14, 5, 2)
  value = (
    f"as it is printed, at stride 2: {printed:g}; by the formula above it: {meant}; at stride 1 both give 10"
  )
  return Finding(value, printed == meant, "theory.geometry.output_size")


def _groups() -> Finding:
  groups = [C3_TABLE[:6], C3_TABLE[6:12], C3_TABLE[12:15], C3_TABLE[15:]]
  found = [sum(25 * len(row) + 1 for row in group) for group in groups]
  value = f"{' + '.join(map(str, found))} = {_layers()['C3'].parameters:,}"
  right = found == [456, 606, 303, 151] and sum(found) == _layers()["C3"].parameters == 1_516
  return Finding(value, right, _SOURCE)


def _table() -> Finding:
  ours = tuple(tuple(i for i, row in enumerate(C3_TABLE) if source in row) for source in range(6))
  value = f"{sum(map(len, ours))} connections of 96, equal to the table in every cell: {ours == _PRINTED}"
  return Finding(value, ours == _PRINTED, "models.lenet.C3_TABLE; LeCun et al., 1998, table I")


def _shared(rows: tuple[tuple[int, ...], ...]) -> set[int]:
  """How many maps neighbours of a ring share."""
  return {len({*a} & {*b}) for a, b in itertools.pairwise((*rows, rows[0]))}


def _overlaps() -> Finding:
  first, second = _shared(C3_TABLE[:6]), _shared(C3_TABLE[6:12])
  return Finding(f"first six share {first}, second six {second}", (first, second) == ({2}, {3}), "C3_TABLE")


def _last_overlap() -> Finding:
  third = _shared(C3_TABLE[12:15])
  return Finding(f"each two of the three share {third} maps: {C3_TABLE[12:15]}", third == {1}, "C3_TABLE")


def _trainable_pooling() -> Finding:
  """The text trains a coefficient and a bias a map; the table of the end says plain average pooling."""
  trained = [parameters(Subsample(), 1, 28, 28, maps) for maps in (6, 16)]
  plain = jax.eval_shape(
    lambda x: nn.avg_pool(x, (2, 2), (2, 2)), jax.ShapeDtypeStruct((1, 28, 28, 6), jnp.float32)
  )
  value = f"trainable: {trained[0]} and {trained[1]} parameters; average pooling to {plain.shape[1:]}: 0"
  return Finding(value, trained == [0, 0], "models.lenet.Subsample; LeCun et al., 1998, section II.B")


def _squashing() -> Finding:
  value = (
    f"1.7159 tanh(2/3) = {1.7159 * np.tanh(2 / 3):.4f} and tanh(1) = {np.tanh(1):.4f}: the paper's is scaled"
  )
  return Finding(value, False, "LeCun et al., 1998, equation 6 and appendix A")


def _softmax_sum() -> Finding:
  powers = np.exp([5.0, 2.0, -1.0])
  shares = softmax([5.0, 2.0, -1.0])
  value = (
    f"{', '.join(f'{power:.2f}' for power in powers)}, sum {powers.sum():.2f}; {shares[0]:.2%}, {shares[1]:.2%}"
  )
  right = [f"{power:.1f}" for power in powers] == ["148.4", "7.4", "0.4"] and f"{powers.sum():.1f}" == "156.2"
  return Finding(value, right and f"{shares[0]:.0%} {shares[1]:.1%}" == "95% 4.7%", "theory.softmax")


def _softmax_third() -> Finding:
  third = softmax([5.0, 2.0, -1.0])[2]
  return Finding(f"{third:.3%}; 0.4 / 156.2 = {0.4 / 156.2:.3%}", f"{third:.1%}" == "0.3%", "theory.softmax")


CLAIMS = (
  Claim(
    "c1",
    "2.10.2.1",
    "C1: 28 x 28 maps, 156 parameters, 122,304 connections.",
    _c1,
    "confirmed",
  ),
  Claim(
    "s2",
    "2.10.2.2",
    "S2: 14 x 14, 12 trainable parameters, 5,880 connections.",
    lambda: _layer("S2", 14, 12, 5_880),
    "confirmed",
  ),
  Claim(
    "c3",
    "2.10.2.4",
    "C3: 10 x 10, 151,600 connections.",
    lambda: _layer("C3", 10, 1_516, 151_600),
    "confirmed",
  ),
  Claim(
    "c3_bracket",
    "2.10.2.4",
    "The side of C3 is (14 - 5 + 0/1) + 1 = 10.",
    _bracket,
    "corrected",
    "The stride divides the whole difference, (14 - 5 + 0)/1 + 1: right only because the stride is 1.",
  ),
  Claim("c3_table", "2.10.2.4", "Table I says which maps of S2 feed C3.", _table, "confirmed"),
  Claim(
    "c3_overlaps",
    "2.10.2.4",
    "The first six maps of C3 overlap by 2 maps of S2, the second six by 3.",
    _overlaps,
    "confirmed",
  ),
  Claim(
    "c3_last_overlap",
    "2.10.2.4",
    "The next three maps of C3 overlap by 1.",
    _last_overlap,
    "corrected",
    "By 2, as its own table I shows.",
  ),
  Claim(
    "c3_groups",
    "2.10.2.4",
    "C3 has 456 + 606 + 303 + 151 = 1,516 parameters.",
    _groups,
    "confirmed",
  ),
  Claim(
    "s4",
    "2.10.2.5",
    "S4: 5 x 5, 32 trainable parameters, 2,000 connections.",
    lambda: _layer("S4", 5, 32, 2_000),
    "confirmed",
  ),
  Claim(
    "c5",
    "2.10.2.6",
    "C5: 120 maps of 1 x 1, 48,120 parameters and connections.",
    lambda: _layer("C5", 1, 48_120, 48_120),
    "confirmed",
  ),
  Claim(
    "f6",
    "2.10.2.7",
    "F6: 84 units, 10,164 parameters and connections.",
    lambda: _layer("F6", 1, 10_164, 10_164),
    "confirmed",
  ),
  Claim(
    "pooling_kind",
    "2.10.2.8",
    "The layers S2 and S4 are average poolings.",
    _trainable_pooling,
    "corrected",
    "As published, and by the handbook's own counts (12 and 32), each map has a coefficient and a bias.",
  ),
  Claim(
    "squashing",
    "2.10.2.8",
    "The activation of LeNet-5 is tanh.",
    _squashing,
    "corrected",
    "1.7159 tanh(2/3 a), which takes 1 to 1.",
  ),
  Claim(
    "rbf_output",
    "2.10.2.8",
    "LeNet-5 ends in a fully connected softmax layer.",
    published(
      "ten Euclidean radial basis units, each the distance of F6 to a fixed bitmap of 84 pixels; a softmax "
      "layer as in this project has 850 parameters",
      False,
      "LeCun et al., 1998, section II.B and figure 2",
    ),
    "corrected",
    "The published network ends in radial basis units; a softmax is how it is built today.",
  ),
  Claim(
    "softmax",
    "2.10.2.8",
    "exp of 5, 2, -1 is 148.4, 7.4, 0.4, together 156.2; the first two classes have 95 % and 4.7 %.",
    _softmax_sum,
    "confirmed",
  ),
  Claim(
    "softmax_third",
    "2.10.2.8",
    "The third class has 0.3 %.",
    _softmax_third,
    "corrected",
    "0.24 %: the 0.3 comes of rounding twice.",
  ),
)
