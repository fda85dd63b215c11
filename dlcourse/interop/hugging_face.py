"""BERT, GPT-2 and T5 under the names, and in the layouts, of Hugging Face's `transformers`, and back.

There each layer has arrays of its own, "h.3.ln_1.weight"; here those of all layers lie in one, and are taken
apart on the way: "stack/layers/3/attention_norm/scale". GPT-2 has queries, keys and values in one array.

Shapes: L layers.
"""

import functools
import itertools
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from dlcourse.errors import UserError
from dlcourse.interop.fill import Naming, fill, paths_of, take
from dlcourse.models.bert import Bert, BertClassifier, BertMasked
from dlcourse.models.encoder_decoder import TransformerEncoderDecoder
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Transformer


class Family(NamedTuple):
  """What Hugging Face calls the parts of some networks.

  Attributes:
    label: of all names together.
    layers: path of a layer here, with * for a number -> its name there.
    transposed: whether kernels are [O, I] there.
    fused: whether queries, keys and values lie in one array there.
    prefix: of the names of a body under a head.
    bare: pattern of such names where a file has them without the prefix.
    copies: name of an array that is another one once more -> the name of that.
    spare: pattern of names that no model needs.
    heads: beginnings of names that a model without such a layer does not need.
  """

  label: str
  layers: Mapping[str, str]
  transposed: bool = True
  fused: bool = False
  prefix: str = ""
  bare: str = "$"
  copies: Mapping[str, str] = {}
  spare: str = ""
  heads: tuple[str, ...] = ()


_PARTS = ("query", "key", "value")
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias", "output_bias": "bias"}


def _under(here: str, there: str, layers: Mapping[str, str]) -> dict[str, str]:
  return {f"{here}/{ours}": f"{there}.{theirs}" for ours, theirs in layers.items()}


_BERT = Family(
  label="Hugging Face's BERT",
  layers={
    "body/word": "bert.embeddings.word_embeddings",
    "body/place": "bert.embeddings.position_embeddings",
    "body/segment": "bert.embeddings.token_type_embeddings",
    "body/norm": "bert.embeddings.LayerNorm",
    **_under(
      "body/stack/layers/*",
      "bert.encoder.layer.*",
      {
        **{f"attention/{part}": f"attention.self.{part}" for part in _PARTS},
        "attention/out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "mlp_norm": "output.LayerNorm",
      },
    ),
    "pooler": "bert.pooler.dense",
    "output": "classifier",
    "dense": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "": "cls.predictions",  # the bias that stands alone
  },
  prefix="bert.",
  bare=r"(embeddings|encoder|pooler)\.",
  copies={
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
  },
  spare=r"bert\.embeddings\.position_ids|cls\.seq_relationship\..*",
  heads=("bert.pooler.", "classifier.", "cls."),
)
_GPT2 = Family(
  label="Hugging Face's GPT-2",
  layers={
    "embed": "transformer.wte",
    "body/placed/table": "transformer.wpe",
    **_under(
      "body/stack/layers/*",
      "transformer.h.*",
      {
        "attention_norm": "ln_1",
        "attention/query+key+value": "attn.c_attn",
        "attention/out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "widen": "mlp.c_fc",
        "narrow": "mlp.c_proj",
      },
    ),
    "body/stack/norm": "transformer.ln_f",
  },
  transposed=False,
  fused=True,
  prefix="transformer.",
  bare=r"(wte|wpe|h|ln_f)\.",
  copies={"lm_head.weight": "transformer.wte.weight"},
  spare=r"transformer\.h\.\d+\.attn\.(masked_)?bias",  # masks
)
_ATTENTION = {**{f"/{part}": f".{part[0]}" for part in _PARTS}, "/out": ".o"}
_T5 = Family(
  label="Hugging Face's T5",
  layers={
    "embed": "shared",
    **_under(
      "encoder/layers/*",
      "encoder.block.*",
      {
        **{f"attention{ours}": f"layer.0.SelfAttention{theirs}" for ours, theirs in _ATTENTION.items()},
        "attention_norm": "layer.0.layer_norm",
        "widen": "layer.1.DenseReluDense.wi",
        "narrow": "layer.1.DenseReluDense.wo",
        "mlp_norm": "layer.1.layer_norm",
      },
    ),
    **_under(
      "decoder/layers/*",
      "decoder.block.*",
      {
        **{f"attention{ours}": f"layer.0.SelfAttention{theirs}" for ours, theirs in _ATTENTION.items()},
        "attention_norm": "layer.0.layer_norm",
        **{
          f"source_attention{ours}": f"layer.1.EncDecAttention{theirs}" for ours, theirs in _ATTENTION.items()
        },
        "source_norm": "layer.1.layer_norm",
        "widen": "layer.2.DenseReluDense.wi",
        "narrow": "layer.2.DenseReluDense.wo",
        "mlp_norm": "layer.2.layer_norm",
      },
    ),
    "encoder/norm": "encoder.final_layer_norm",
    "decoder/norm": "decoder.final_layer_norm",
    "encoder_placed/table": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "decoder_placed/table": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "output": "lm_head",
  },
  copies=dict.fromkeys(
    ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
  ),
  spare=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",  # never used
)
_T5_GATED = _T5._replace(
  layers={
    **_T5.layers,
    **{
      f"{side}/layers/*/{ours}": f"{side}.block.*.layer.{number}.DenseReluDense.{theirs}"
      for side, number in (("encoder", 1), ("decoder", 2))
      for ours, theirs in (("gate", "wi_0"), ("widen", "wi_1"))
    },
  }
)
LABELS = frozenset(family.label for family in (_BERT, _GPT2, _T5))
TRANSFORMERS = (Bert, BertClassifier, BertMasked, LanguageModel, TransformerEncoderDecoder)


def hugging_face_naming(model: nn.Module, variables: Mapping[str, Any]) -> Naming:
  """Names and layouts of a model's arrays in `transformers`, each layer's by themselves.

  Args:
    model: see `from_hugging_face`.
    variables: of the model, or their shapes alone: {collection: tree}.

  Raises:
    UserError: Hugging Face has no such model.
  """
  family = _family(model)
  names = {path: _name(family, model, path) for path in paths_of(_parted(family, variables))}
  _check_whole(family, model, names)
  heads = [head for head in family.heads if not any(name.startswith(head) for name in names.values())]
  layout = functools.partial(_transposed, family.transposed)
  spare = "|".join([family.spare, *(f"{re.escape(head)}.*" for head in heads)])
  return Naming(family.label, names, layout, layout, spare, functools.partial(_renamed, family))


def from_hugging_face(
  model: nn.Module,
  variables: Mapping[str, Any],
  state: Mapping[str, Any],
  strict: bool = True,
  without: Collection[str] = (),
  source: str = "",
) -> dict[str, Any]:
  """The variables of a model, with the weights of one of Hugging Face.

  Args:
    model: Bert, BertClassifier, BertMasked; a LanguageModel that is a GPT-2; a TransformerEncoderDecoder that
      is a T5, gated or not.
    variables: of the model, or their shapes alone: {collection: tree}.
    state: the `state_dict` of a BertModel, BertForSequenceClassification, BertForMaskedLM or
      BertForPreTraining, of a GPT2LMHeadModel, of a T5ForConditionalGeneration; key -> array.
    strict: see `fill.fill`.
    without: see `fill.fill`.
    source: see `fill.fill`.

  Raises:
    UserError: arrays are missing, left over, or of another shape, or Hugging Face has no such model.
  """
  family, naming = _family(model), hugging_face_naming(model, variables)
  parted = _parted(family, variables)
  filled = fill(parted, _without_copies(family, naming, state), naming, strict, without, source)
  return _joined(family, variables, filled)


def as_hugging_face(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A `state_dict` of a model's variables: the inverse of `from_hugging_face`.

  Arrays that are others once more, such as tied output layers, are not in it, as they are not in files of
  `save_pretrained`.

  Raises:
    UserError: Hugging Face has no such model.
  """
  family, naming = _family(model), hugging_face_naming(model, variables)
  state = take(_parted(family, variables), naming)
  return {name.removeprefix(family.prefix) if type(model) is Bert else name: state[name] for name in state}


def _family(model: nn.Module) -> Family:
  match model:
    case Bert() | BertClassifier() | BertMasked():
      return _BERT
    case LanguageModel(body=Transformer()):
      return _GPT2
    case TransformerEncoderDecoder():
      return _T5_GATED if model.layer.gated else _T5
  raise UserError(f"Hugging Face's names are known for BERT, GPT-2 and T5, and {type(model).__name__} is none")


def _name(family: Family, model: nn.Module, path: str) -> str:
  layer, leaf = _general(model, path), path.rpartition("/")[2]
  if layer not in family.layers or leaf not in _LEAVES:
    raise UserError(f"{family.label} has nothing that could be {path!r}")
  number = re.search(r"/(\d+)/", path)
  name = family.layers[layer].replace("*", number[1] if number else "*")
  return f"{name}.{_LEAVES[leaf]}"


def _general(model: nn.Module, path: str) -> str:
  """A layer as `Family.layers` has it, from the path of an array."""
  layer = re.sub(r"/\d+/", "/*/", path.partition("/")[2]).rpartition("/")[0]
  return f"body/{layer}" if type(model) is Bert else layer


def _check_whole(family: Family, model: nn.Module, paths: Collection[str]) -> None:
  """Raises a `UserError` where there is not all that the family has, but for its heads: `positions` differ."""
  missing = {layer for layer in family.layers if "/" in layer} - {_general(model, path) for path in paths}
  if missing:
    raise UserError(f"{family.label} has {min(missing)!r}, which this {type(model).__name__} has not")


def _transposed(transposed: bool, path: str, array: np.ndarray) -> np.ndarray:
  return array.T if transposed and path.endswith("/kernel") else array


def _renamed(family: Family, name: str) -> str:
  """With a prefix, and with PyTorch's names of a norm's arrays for TensorFlow's in the oldest files."""
  name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
  return f"{family.prefix}{name}" if re.match(family.bare, name) else name


def _without_copies(family: Family, naming: Naming, state: Mapping[str, Any]) -> dict[str, Any]:
  """Without arrays that are others once more; one that differs stays, for nothing here is like it."""
  state, found = dict(state), {naming.renamed(name): name for name in state}
  for copy, original in family.copies.items():
    name = found.get(original, original)
    tied = copy not in naming.names.values()
    if tied and copy in state and np.array_equal(state[copy], state.get(name, state[copy])):
      state[name] = state.pop(copy)
  return state


def _parted(family: Family, variables: Mapping[str, Any]) -> dict[str, Any]:
  """Each layer's arrays by themselves, and what is fused there in one; of shapes, arrays of 0."""
  arrays = {path: _array(leaf) for path, leaf in paths_of(variables).items()}
  if family.fused:
    for path in [path for path in arrays if "/attention/query/" in path]:
      arrays[_fused(path)] = np.concatenate([arrays.pop(part) for part in _parts(path)], axis=-1)
  parted = {}
  for path, array in arrays.items():
    if "/layers/" in path:
      parted |= {_numbered(path, i): layer for i, layer in enumerate(array)}
    else:
      parted[path] = array
  return unflatten_dict(parted, sep="/")


def _joined(family: Family, variables: Mapping[str, Any], parted: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `_parted`, for arrays with the shapes of `variables`."""
  arrays, shapes = paths_of(parted), {path: leaf.shape for path, leaf in paths_of(variables).items()}

  def whole(path):
    if "/layers/" not in path:
      return arrays[path]
    source = _fused(path) if family.fused else path
    stacked = np.stack([arrays[_numbered(source, i)] for i in range(shapes[path][0])])
    if source == path:
      return stacked
    ends = list(itertools.accumulate(shapes[part][-1] for part in _parts(path)))
    return np.split(stacked, ends[:-1], axis=-1)[_parts(path).index(path)]

  return unflatten_dict({path: whole(path) for path in shapes}, sep="/")


def _numbered(path: str, number: int) -> str:
  return path.replace("/layers/", f"/layers/{number}/")


def _fused(path: str) -> str:
  """Where an array of queries, keys or values lies among others; elsewhere, where it lies."""
  return re.sub("/attention/(query|key|value)/", f"/attention/{'+'.join(_PARTS)}/", path)


def _parts(path: str) -> list[str]:
  return [re.sub("/attention/[^/]+/", f"/attention/{part}/", path) for part in _PARTS]


def _array(leaf: Any) -> np.ndarray:
  return np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
