"""Chapter 3, section 12: Transformers, on the tasks of the recurrent networks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from dlcourse.experiments import recurrent

from dlcourse.data.sentences import Sentences
from dlcourse.data.text import Text
from dlcourse.evaluators import Report
from dlcourse.evaluators.baselines import TfIdf
from dlcourse.evaluators.classification import ConfusionMatrix, Roc
from dlcourse.evaluators.samples import TextSamples
from dlcourse.experiment import Best, Experiment, Run, Study, load
from dlcourse.models.bert import BERT, Bert, BertClassifier, BertMasked, bert_layer
from dlcourse.models.encoder_decoder import TransformerEncoderDecoder
from dlcourse.models.sequence import Frontend, LanguageModel, SequenceClassifier
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.optim import Adam, AdamW
from dlcourse.study import along
from dlcourse.tasks.masked import MaskLanguage
from dlcourse.tasks.supervised import Classify, ModelLanguage
from dlcourse.tasks.translate import Translate

_SMALLEST = (
  *("--data.batch_size=32", "--steps=2", "--task.optimizer.warmup_steps=0"),
  *("--task.model.layer.hidden_dim=8", "--task.model.layer.num_heads=2", "--task.longest=8"),
)
_SMALLEST_GPT = (
  *("--data.batch_size=8", "--data.seq_len=8", "--steps=2", "--task.optimizer.warmup_steps=0"),
  *("--task.model.body.layer.hidden_dim=8", "--task.model.body.layer.num_heads=2"),
  *("--task.model.embed_dim=8", "--task.model.body.num_layers=2", "--evaluators.0.length=20"),
  "--data.held_out=0.01",
)


def char_gpt() -> Experiment:
  """GPT: a causal Transformer on the characters of Shakespeare (Radford et al., 2018; H3.12.4).

  Result: test 1.98 bits a character, 1.375 nats (validation 1.379; 1 seed, 804,180 parameters), 16.0 min on one
  core of a busy 2-core AMD EPYC; `dlcourse train transformer.char_gpt`.
  """
  return _small_gpt(Text("shakespeare", batch_size=16, seq_len=128), dropout=0.0)


def bpe_gpt() -> Experiment:
  """GPT on parts of words of Shakespeare, byte pairs that are learnt from it (Sennrich et al., 2016; H3.12.4).

  `bits_per_character` compares it with `char_gpt`: of the bits of a token, each of its characters has a share.

  Result: 1.787 bits a character on the test works (1 seed; `char_gpt` 1.98, over as many steps, each of which
  reads 128 characters where this one reads 128 parts of words); 31.2 min on one core of a 2-core AMD EPYC that
  others shared; `dlcourse train transformer.bpe_gpt`.
  """
  data = Text("shakespeare", batch_size=16, seq_len=128, tokens="bpe", vocab_size=2_000)
  return _small_gpt(data, dropout=0.1)


def _small_gpt(data: Text, dropout: float) -> Experiment:
  return Experiment(
    data=data,
    task=ModelLanguage(
      LanguageModel(
        Transformer(
          Layer(hidden_dim=128, num_heads=4, dropout=dropout),
          num_layers=4,
          causal=True,
          positions="rotary",
          window=128,
        ),
        embed_dim=128,
        tied=True,
      ),
      AdamW(learning_rate=3e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.1),
    ),
    evaluators=(TextSamples(),),
    steps=5_000,
    eval_every=500,
    small=(*_SMALLEST_GPT, *(("--data.vocab_size=400",) if data.tokens == "bpe" else ())),
    best=Best("loss"),
  )


def gpt2_small() -> Experiment:
  """GPT-2 of 124,439,808 parameters (Radford et al., 2019), trained as GPT-3 of that size (Brown et al., 2020).

  An update sees 512 windows of 1,024 tokens (arXiv:2005.14165, table 2.1 and appendix B), 32 at a time; where
  memory allows, --data.batch_size=512 --task.optimizer.accumulate=1 --steps=20000 trains the same. Shakespeare
  is small for it: --data.source=file:FOLDER has more.
  """
  return Experiment(
    data=Text("shakespeare", batch_size=32, seq_len=1024, tokens="bpe", vocab_size=50_257),
    task=ModelLanguage(
      LanguageModel(
        Transformer(
          Layer(768, 12, activation="gelu_tanh", dropout=0.1, compute="bfloat16"),
          num_layers=12,
          causal=True,
          positions="learned",
          max_length=1024,
          dropout=0.1,
          remat=True,
        ),
        embed_dim=768,
        tied=True,
        bias=False,
      ),
      AdamW(
        learning_rate=6e-4,
        b2=0.95,
        schedule="cosine",
        warmup_steps=715,
        clip_norm=1.0,
        weight_decay=0.1,
        accumulate=16,
      ),
    ),
    evaluators=(TextSamples(),),
    steps=320_000,
    eval_every=8_000,
    small=(*_SMALLEST_GPT, "--data.tokens=chars", "--task.optimizer.accumulate=1"),
    best=Best("loss"),
  )


def sentiment() -> Experiment:
  """Whether a film review is positive, by a Transformer that begins with random numbers (H3.12.4).

  Result: test accuracy 73.2 % (1 seed, --steps=705; an LSTM of as many parameters 78.6 %), 1.3 min on one core
  of a busy 2-core AMD EPYC; `dlcourse study transformer.versus`.
  """
  return dataclasses.replace(
    recurrent.sentiment_bilstm(),
    task=Classify(
      SequenceClassifier(
        Transformer(Layer(hidden_dim=128, num_heads=4, dropout=0.3), num_layers=2),
        Frontend(embed_dim=300, dropout=0.6),
        pooling="max",
        dropout=0.5,
      ),
      AdamW(learning_rate=5e-4, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.1),
      label_smoothing=0.1,
    ),
    small=(
      *("--data.batch_size=32", "--steps=2", "--task.optimizer.warmup_steps=0", "--data.buckets=1"),
      *("--data.longest=8", "--data.vocab_size=500", "--task.model.front.embed_dim=8"),
      *("--task.model.body.layer.hidden_dim=8", "--task.model.body.layer.num_heads=2"),
    ),
  )


def sentiment_minilm() -> Experiment:
  """Whether a film review is positive, by a published encoder of sentences that learns on (BERT's; H3.12.4).

  The encoder is MiniLM (Wang et al., 2020, arXiv:2002.10957; Reimers & Gurevych, 2019), of 22.7 M parameters.

  Result: test accuracy 83.2 % (1 seed; TF-IDF and logistic regression 77.9 %), 23.4 min on one shared core of a
  2-core AMD EPYC; `dlcourse train transformer.sentiment_minilm`.
  """
  return Experiment(
    data=Sentences("rotten_tomatoes", batch_size=32, tokens="minilm", longest=64, buckets=6),
    task=Classify(
      BertClassifier(BERT["minilm"], "mean"),
      AdamW(learning_rate=1e-4, schedule="linear", warmup_steps=60, clip_norm=1.0, weight_decay=0.01),
    ),
    evaluators=(ConfusionMatrix(), Roc(), TfIdf()),
    best=Best("accuracy", mode="max"),
    init_from="pip:minilm",
    steps=430,
    eval_every=215,
    small=(
      *("--data.batch_size=8", "--steps=2", "--task.optimizer.warmup_steps=0", "--init_from=None"),
      *("--task.model.body.num_layers=1", "--task.model.body.layer.hidden_dim=8"),
      *("--task.model.body.layer.num_heads=2", "--data.longest=8", "--data.buckets=1"),
    ),
  )


def masked_words() -> Experiment:
  """BERT's first task: hidden words of film reviews from those around them (Devlin et al., 2019; H3.12.4).

  Result: 26.6 % of the hidden tokens of 5,000 named right, perplexity 89.7, on the test split (1 seed; it stood
  at 300, and 10 %, for the first 700 steps); 19.3 min on one core of a 2-core AMD EPYC that others shared;
  `dlcourse train transformer.masked_words`.
  """
  return Experiment(
    data=Sentences("imdb", batch_size=64, vocab_size=5_000, longest=32, buckets=1),
    task=MaskLanguage(
      BertMasked(Bert(bert_layer(128, 4), num_layers=4, max_length=64)),
      AdamW(learning_rate=5e-4, schedule="cosine", warmup_steps=200, clip_norm=1.0, weight_decay=0.01),
    ),
    steps=3_000,
    eval_every=500,
    best=Best("loss"),
    small=(
      *("--data.batch_size=8", "--steps=2", "--task.optimizer.warmup_steps=0", "--data.longest=8"),
      *("--task.model.body.num_layers=1", "--task.model.body.layer.hidden_dim=8", "--data.vocab_size=500"),
      *("--task.model.body.layer.num_heads=2", "--data.test=0.01", "--data.validation=0.01"),
    ),
  )


def addition() -> Experiment:
  """Sums of numbers of up to three digits, by a Transformer that reads them and one that writes (H3.6.2).

  Result: every sum of the test split exactly right (1 seed), 5.1 min on one core of a busy 2-core AMD EPYC;
  `dlcourse train transformer.addition`.
  """
  return dataclasses.replace(
    recurrent.addition(),
    task=Translate(
      TransformerEncoderDecoder(Layer(hidden_dim=128, num_heads=4), num_layers=2),
      AdamW(learning_rate=1e-3, schedule="cosine", warmup_steps=200, clip_norm=1.0, weight_decay=1e-2),
      longest=5,
    ),
    small=(*_SMALLEST, "--data.questions=16"),
  )


def translate() -> Experiment:
  """English to French in user interfaces, by a Transformer (Vaswani et al., 2017; H3.12.4).

  Result: BLEU 28.1, loss 2.20 (1 seed; `recurrent.translate` 30.9 and 2.26), 14.7 min on one core of a 2-core
  AMD EPYC; `dlcourse train transformer.translate`.
  """
  return dataclasses.replace(
    recurrent.translate(),
    task=Translate(
      TransformerEncoderDecoder(Layer(hidden_dim=192, num_heads=6, dropout=0.2), num_layers=3, dropout=0.2),
      AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=400, clip_norm=1.0, weight_decay=0.05),
      label_smoothing=0.1,
      longest=48,
      beams=4,
    ),
    small=(*_SMALLEST, "--data.buckets=1", "--data.longest=8", "--data.vocab_size=500", "--task.beams=1"),
  )


_SMALLEST_RUN = ("--data.batch_size=32", "--steps=2", "--task.optimizer.warmup_steps=0")


def recall() -> Experiment:
  """A symbol, named some steps later, by a causal Transformer with rotary positions (H3.12.5)."""
  return dataclasses.replace(
    recurrent.recall_lstm(),
    task=Classify(
      SequenceClassifier(
        Transformer(Layer(hidden_dim=64, num_heads=4), num_layers=2, causal=True, positions="rotary"),
        Frontend(embed_dim=16),
      ),
      Adam(learning_rate=1e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0),
    ),
    small=(
      *_SMALLEST_RUN,
      *("--task.model.body.layer.hidden_dim=8", "--task.model.body.layer.num_heads=2"),
    ),
  )


def memory_gap() -> Study:
  """How many steps a symbol is remembered by Transformers of exact and linear attention, and an LSTM (H3.12.5).

  The Linformer is not causal: it mixes all places into 32. Attention is given 600 steps, and the LSTM 1,500.

  Result: every symbol named after each gap up to 320 steps by all three kinds of attention, up to 40 by the
  LSTM, which guesses from 80 on (1 seed); 48 min on one busy core of a 2-core AMD EPYC; `dlcourse study
  transformer.memory_gap`.
  """
  short = ("--steps=600", "--eval_every=300")
  kinds = {
    "transformer": ("transformer.recall", short),
    "performer": (
      "transformer.recall",
      (*short, "--task.model.body.layer.attention=performer", "--task.model.body.layer.attention_size=64"),
    ),
    "linformer": (
      "transformer.recall",
      (
        *short,
        *("--task.model.body.layer.attention=linformer", "--task.model.body.layer.attention_size=32"),
        *("--task.model.body.causal=False", "--task.model.body.positions=sinusoidal"),
      ),
    ),
    "lstm": ("recurrent.recall_lstm", ()),
  }
  return Study(
    runs=tuple(
      Run(f"{kind} {gap}", name, (f"--data.gap={gap}", *overrides))
      for gap in recurrent.GAPS
      for kind, (name, overrides) in kinds.items()
    ),
    summarise=along("steps between symbol and answer", "test", "accuracy"),
    small=_SMALLEST_RUN,
  )


# Both networks of a task have as many parameters to 5 %, and steps for as many seconds: a step takes 75.1 and
# 85.3 ms, 38.2 and 53.8 ms, 342 and 178 ms of one core of an AMD EPYC.
_VERSUS = {
  "sentiment": (
    ("LSTM", "recurrent.sentiment_bilstm", ("--steps=800",)),
    ("Transformer", "transformer.sentiment", ("--steps=705",)),
  ),
  "addition": (
    ("GRU", "recurrent.addition", ("--steps=4000",)),
    ("Transformer", "transformer.addition", ("--steps=2835", "--task.model.layer.hidden_dim=84")),
  ),
  "characters": (
    ("LSTM", "recurrent.char_lstm", ("--steps=2600", "--task.model.body.hidden_dim=406")),
    ("Transformer", "transformer.char_gpt", ("--steps=5000",)),
  ),
}
_METRICS = {"sentiment": "accuracy", "addition": "exact_match", "characters": "loss"}


def versus() -> Study:
  """Recurrent networks and Transformers of equal size after equal time, on three tasks (H3.12.1, H3.12.5).

  Result: reviews 78.6 % by an LSTM and 73.2 % by a Transformer, sums 99.95 % (GRU) and 99.9 %, characters 1.422
  nats (LSTM) and 1.375 (1 seed each); 36 min on one core of a 2-core AMD EPYC; `dlcourse study
  transformer.versus`.
  """
  return Study(
    runs=tuple(
      Run(f"{task}, {network}", name, overrides)
      for task, networks in _VERSUS.items()
      for network, name, overrides in networks
    ),
    summarise=_side_by_side,
    small=_SMALLEST_RUN,
  )


def _side_by_side(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
  rows = []
  for run, result in results:
    task, _, network = run.label.partition(", ")
    metric = _METRICS[task]
    rows.append(
      {
        "task": task,
        "network": network,
        "parameters": parameters(run.experiment, result.get("overrides", run.overrides)),
        "minutes": result["seconds"] / 60,
        "metric": metric,
        "value": result["test"].get(metric, float("nan")),
      }
    )
  return Report(tables={"versus": rows})


def parameters(name: str, overrides: Sequence[str]) -> int:
  """How many an experiment trains, by shapes alone."""
  experiment = load(name, overrides)
  spec = experiment.data.build().spec
  state = jax.eval_shape(experiment.task.build(spec, experiment.steps).init, jax.random.key(0), spec.batch)
  return sum(leaf.size for leaf in jax.tree.leaves(state.params))
