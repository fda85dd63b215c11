"""Chapter 3: recurrent networks."""

import dataclasses

import flax.linen as nn

from dlcourse.data.captions import DigitCaptions
from dlcourse.data.expressions import Expressions
from dlcourse.data.forecast import Weather
from dlcourse.data.pairs import Pairs
from dlcourse.data.pens import PenStrings
from dlcourse.data.procedural import Addition, MemoryGap
from dlcourse.data.sentences import Sentences
from dlcourse.data.series import Series
from dlcourse.data.tagged import Tagged
from dlcourse.data.text import Text
from dlcourse.evaluators import Report
from dlcourse.evaluators.baselines import NearestNeighbour, TfIdf
from dlcourse.evaluators.classification import ConfusionMatrix, Roc
from dlcourse.evaluators.forecast_baselines import ForecastBaselines
from dlcourse.evaluators.samples import TextSamples
from dlcourse.evaluators.significance import paired_bootstrap
from dlcourse.evaluators.tagging import TagScores
from dlcourse.evaluators.text_scores import Alignments, Bleu, ErrorRates, ExactMatch
from dlcourse.experiment import Best, Experiment, Run, Study
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import AttentionName, EncoderDecoder, ImageEncoder, SequenceEncoder
from dlcourse.models.sequence import Frontend, LanguageModel, SequenceClassifier, SequenceTagger, SlidingWindow
from dlcourse.models.tree import TreeClassifier
from dlcourse.optim import Adam, AdamW
from dlcourse.report.gradient_flow import gradient_flow_figure
from dlcourse.study import along, mean_by_label, together
from dlcourse.tasks.sequences import Forecast, Tag
from dlcourse.tasks.supervised import Classify, ModelLanguage
from dlcourse.tasks.transcribe import Transcribe
from dlcourse.tasks.translate import Translate
from dlcourse.theory.bptt import compare_flows

_SMALLEST = ("--data.batch_size=32", "--steps=2", "--task.model.body.hidden_dim=8")
_SHORT = ("--data.buckets=1", "--data.longest=8", "--data.vocab_size=500")


def char_lstm() -> Experiment:
  """LSTM language model on the characters of Shakespeare (H3.9, H3.11.4); --task.model.body.cell for others.

  Result: test 2.30 bits a character, 1.591 nats (1 seed), 4.4 min on one core of a busy 2-core AMD EPYC;
  `dlcourse train recurrent.char_lstm`. With --task.model.body.cell=gru 2.19 bits and 3.2 min, with rnn 2.37
  bits and 1.4 min. With --task.model.body.forget_bias=1, which remembers from the start, 2.33 bits.
  """
  return Experiment(
    data=Text("shakespeare", batch_size=32, seq_len=128),
    task=ModelLanguage(
      LanguageModel(RecurrentStack("lstm", hidden_dim=256, forget_bias=0.0)),
      Adam(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
    ),
    evaluators=(TextSamples(),),
    steps=2_000,
    eval_every=500,
    small=(
      *(*_SMALLEST, "--data.seq_len=8", "--data.held_out=0.01"),
      *("--task.model.embed_dim=4", "--evaluators.0.length=20"),
    ),
    best=Best("loss"),
  )


def conditional_lm() -> Experiment:
  """LSTM language model that is told which work of Shakespeare it writes (H3.7.5, H3.11.4).

  Result: test 2.25 bits a character, 1.562 nats (1 seed; 2.30 untold), 4.3 min on one core of a busy 2-core AMD
  EPYC; `dlcourse train recurrent.conditional_lm`.
  """
  return dataclasses.replace(
    char_lstm(), data=Text("shakespeare", batch_size=32, seq_len=128, conditional=True)
  )


def sentiment_bilstm() -> Experiment:
  """Whether a film review is positive, by an LSTM in both directions, from random word vectors (H3.7.3).

  Result: test accuracy 78.6 % (1 seed; TF-IDF and logistic regression 77.7 %), 1.0 min on one core of a busy
  2-core AMD EPYC; `dlcourse train recurrent.sentiment_bilstm`.
  """
  return Experiment(
    data=Sentences("rotten_tomatoes", batch_size=64, vocab_size=10_000, longest=48),
    task=Classify(
      SequenceClassifier(
        RecurrentStack(
          "lstm",
          hidden_dim=128,
          bidirectional=True,
          dropout=0.3,
          dropout_kind="variational",
          recurrent_dropout=0.3,
        ),
        Frontend(embed_dim=300, dropout=0.6),
        pooling="max",
        dropout=0.5,
      ),
      AdamW(learning_rate=1e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.1),
      label_smoothing=0.1,
    ),
    evaluators=(ConfusionMatrix(), Roc(), TfIdf()),
    best=Best("accuracy", mode="max"),
    steps=800,
    eval_every=100,
    small=(*_SMALLEST, *_SHORT, "--task.model.front.embed_dim=8"),
  )


def ecg() -> Experiment:
  """Five kinds of heartbeat, by convolutions and an LSTM (ECG5000; H1.7.3, H3.7.4).

  Result: test accuracy 94.4 %, macro recall 51.9 % and macro AUC 0.920 (1 seed), 0.3 min on one core of a
  busy 2-core AMD EPYC; `dlcourse train recurrent.ecg`.
  """
  return Experiment(
    data=Series("ecg5000", batch_size=32),
    task=Classify(
      SequenceClassifier(
        RecurrentStack("lstm", hidden_dim=64),
        Frontend(filters=(32, 64), width=7, pool=2, dropout=0.2),
        pooling="max",
        dropout=0.3,
      ),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.01),
    ),
    evaluators=(ConfusionMatrix(), Roc()),
    best=Best(None),
    steps=600,
    eval_every=100,
    small=(*_SMALLEST, "--evaluators.0.pictures=2", "--task.model.front.filters", "4"),
  )


def pen_classify() -> Experiment:
  """Digits from eight points of the path of the pen, by a bidirectional GRU (H3.7.2).

  Result: test accuracy 99.59 % (1 seed, fold 0; nearest neighbour 99.36 %), 2.1 min on one core of a busy
  2-core AMD EPYC; `dlcourse train recurrent.pen_classify`.
  """
  return Experiment(
    data=Series("penbased", batch_size=64),
    task=Classify(
      SequenceClassifier(RecurrentStack("gru", hidden_dim=128, num_layers=2, bidirectional=True)),
      AdamW(learning_rate=4e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.01),
    ),
    evaluators=(ConfusionMatrix(), Roc(), NearestNeighbour()),
    best=Best(None),
    steps=4_000,
    eval_every=500,
    small=(*_SMALLEST, "--evaluators.0.pictures=2"),
  )


def pen_ctc() -> Experiment:
  """Strings of pen-written digits, read without segmentation by CTC (Graves et al., 2006; H3.7.2, H3.11.2).

  Result: 1.4 % of characters and 7.7 % of strings wrong (1 seed), 14.7 min on one core of a busy 2-core AMD
  EPYC; `dlcourse train recurrent.pen_ctc`.
  """
  return Experiment(
    data=PenStrings(batch_size=64),
    task=Transcribe(
      SequenceTagger(RecurrentStack("lstm", hidden_dim=64, num_layers=2, bidirectional=True, dropout=0.1)),
      AdamW(learning_rate=3e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.01),
    ),
    evaluators=(ErrorRates(),),
    best=Best("loss"),
    steps=3_000,
    eval_every=500,
    small=(*_SMALLEST, "--task.optimizer.warmup_steps=0", "--data.strings=16"),
  )


def weather() -> Experiment:
  """The temperature in six hours from two days of hourly weather, by a GRU (H3.7.4, H3.11.3).

  Result: test RMSE 4.49 °F, 21 % below persistence (5.68); ridge autoregression 4.39 (1 seed), 0.5 min on one
  core of a busy 2-core AMD EPYC; `dlcourse train recurrent.weather`.
  """
  return Experiment(
    data=Weather(batch_size=128),
    task=Forecast(
      SequenceClassifier(RecurrentStack("gru", hidden_dim=64), dropout=0.1),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.05),
      change=True,
    ),
    evaluators=(ForecastBaselines(),),
    best=Best("loss"),
    steps=2_000,
    eval_every=100,
    small=_SMALLEST,
  )


def weather_window() -> Experiment:
  """The temperature in six hours, by a perceptron that sees the last day: no recurrence (H3.3.3).

  Result: test RMSE 4.55 °F (1 seed), 1.0 min on one core of a busy 2-core AMD EPYC; `dlcourse train
  recurrent.weather_window`.
  """
  return dataclasses.replace(
    weather(),
    task=Forecast(
      SequenceClassifier(SlidingWindow(width=24, hidden_dim=128), dropout=0.1),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.05),
      change=True,
    ),
  )


def tweets() -> Experiment:
  """Whether a tweet is negative, neutral or positive, by an LSTM in both directions (H1.7.2).

  Result: test macro-F1 74.0 % (1 seed; TF-IDF and logistic regression 74.6 %), 2.8 min on one core of a busy
  2-core AMD EPYC; `dlcourse train recurrent.tweets`.
  """
  return dataclasses.replace(
    sentiment_bilstm(),
    data=Sentences("tweets", batch_size=64, vocab_size=10_000, longest=48),
    best=Best("loss"),
    steps=2_200,
    eval_every=220,
  )


def activity() -> Experiment:
  """What a person does, from six channels of a watch, by convolutions and a GRU (H3.6.2).

  Result: test accuracy 89.2 % on two persons not trained on (1 seed), 0.1 min on one core of a busy 2-core
  AMD EPYC; `dlcourse train recurrent.activity`.
  """
  return Experiment(
    data=Series("activity", batch_size=32),
    task=Classify(
      SequenceClassifier(
        RecurrentStack("gru", hidden_dim=64), Frontend(filters=(32, 32), pool=2, dropout=0.3), pooling="mean"
      ),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.05),
    ),
    evaluators=(ConfusionMatrix(),),
    best=Best(None),
    steps=600,
    eval_every=100,
    small=(*_SMALLEST, "--evaluators.0.pictures=2", "--task.model.front.filters", "4"),
  )


def _tagging(source: str) -> Experiment:
  return Experiment(
    data=Tagged(source, batch_size=32),
    task=Tag(
      SequenceTagger(
        RecurrentStack("lstm", hidden_dim=128, bidirectional=True, dropout=0.3, dropout_kind="variational"),
        Frontend(embed_dim=100, dropout=0.3),
        dropout=0.3,
      ),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.05),
    ),
    evaluators=(TagScores(),),
    best=Best("loss"),
    steps=1_800,
    eval_every=300,
    small=(*_SMALLEST, *_SHORT, "--task.model.front.embed_dim=8"),
  )


def named_entities() -> Experiment:
  """The named entities of news, a tag a word, by an LSTM in both directions (CoNLL-2003; H3.6.2, H3.7.3).

  Result: F1 of whole names 77.7 %, 95.8 % of tags (1 seed), 1.1 min on one core of a busy 2-core AMD EPYC;
  `dlcourse train recurrent.named_entities`.
  """
  return _tagging("named_entities")


def parts_of_speech() -> Experiment:
  """The parts of speech of news, a tag a word, by an LSTM in both directions (CoNLL-2003; H3.6.2, H3.7.3).

  Result: 92.6 % of tags right (1 seed), 3.5 min on one core of a busy 2-core AMD EPYC; `dlcourse train
  recurrent.parts_of_speech`.
  """
  return _tagging("parts_of_speech")


_SMALLEST_PAIRS = (
  *("--data.batch_size=32", "--steps=2", "--task.model.hidden_dim=8", "--task.model.embed_dim=8"),
  *("--task.longest=8", "--task.optimizer.warmup_steps=0"),
)
_SMALLEST_READER = ("--task.model.encoder.body.hidden_dim=8", "--task.model.encoder.front.embed_dim=8")


def _translate(attention: AttentionName) -> Experiment:
  return Experiment(
    data=Pairs("gettext_fr", batch_size=64),
    task=Translate(
      EncoderDecoder(
        SequenceEncoder(
          RecurrentStack("gru", hidden_dim=128, bidirectional=True), Frontend(embed_dim=128, dropout=0.3)
        ),
        attention=attention,
        cell="gru",
        hidden_dim=256,
        embed_dim=128,
        dropout=0.3,
      ),
      AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.05),
      label_smoothing=0.1,
      longest=48,
      beams=4,
    ),
    evaluators=(Bleu(), *((Alignments(),) if attention != "none" else ())),
    best=Best("loss"),
    steps=2_400,
    eval_every=400,
    small=(*_SMALLEST_PAIRS, *_SMALLEST_READER, *_SHORT, "--task.beams=1"),
  )


def translate() -> Experiment:
  """English to French in user interfaces, by GRUs with attention (Bahdanau et al., 2015; H3.11.1).

  Result: BLEU 30.9 ± 1.5 (3 seeds, 95 % interval; `translate_without_attention` 14.4 ± 2.4), 8.4 min each on
  one core of a 2-core AMD EPYC; `dlcourse study recurrent.translations`.
  """
  return _translate("additive")


def translate_without_attention() -> Experiment:
  """English to French in user interfaces, through one vector (Sutskever et al., 2014; H3.11.1).

  Result: BLEU 14.4 ± 2.4 (3 seeds, 95 % interval), 6.7 min each on one core of a 2-core AMD EPYC; `dlcourse
  study recurrent.translations`.
  """
  return _translate("none")


def summarise() -> Experiment:
  """What an operation is called that a manual describes in two sentences (H3.7.3: summarisation).

  Result: BLEU 56.1 (1 seed), 10.8 min on one core of a 2-core AMD EPYC; `dlcourse train recurrent.summarise`.
  """
  return dataclasses.replace(translate(), data=Pairs("aws_operations", batch_size=64, longest=96))


def addition() -> Experiment:
  """Sums of numbers of up to three digits, written down digit by digit (Sutskever et al., 2014; H3.6.2).

  Result: 99.95 % of sums exactly right (1 seed), 2.0 min on one core of a busy 2-core AMD EPYC; `dlcourse
  train recurrent.addition`.
  """
  return Experiment(
    data=Addition(digits=3),
    task=Translate(
      EncoderDecoder(
        SequenceEncoder(RecurrentStack("gru", hidden_dim=128, bidirectional=True), Frontend(embed_dim=32)),
        cell="gru",
        embed_dim=32,
      ),
      AdamW(learning_rate=3e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=1e-3),
      longest=5,
    ),
    evaluators=(ExactMatch(), Alignments()),
    best=Best("loss"),
    steps=4_000,
    eval_every=500,
    small=(*_SMALLEST_PAIRS, *_SMALLEST_READER, "--data.questions=16"),
  )


def caption() -> Experiment:
  """Pictures of two or three digits to their names, letter by letter: one-to-many (Xu et al., 2015; H3.6.2).

  Result: 89.1 % exactly right, 4.0 % of characters wrong (1 seed), 2.4 min on one core of a busy 2-core AMD
  EPYC; `dlcourse train recurrent.caption`.
  """
  return Experiment(
    data=DigitCaptions(),
    task=Translate(
      EncoderDecoder(ImageEncoder(), cell="gru", embed_dim=32),
      AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.01),
      longest=20,
    ),
    evaluators=(ExactMatch(), ErrorRates()),
    best=Best("loss"),
    steps=2_000,
    eval_every=400,
    small=(*_SMALLEST_PAIRS, "--data.images=16"),
  )


def expressions() -> Experiment:
  """The value of nested expressions, by a recursive network (Tai et al., 2015; course content of chapter 3).

  Result: test accuracy 56.6 % (1 seed; the LSTM of `expressions_in_a_row` 48.3 %), 3.3 min on one core of a
  busy 2-core AMD EPYC; `dlcourse train recurrent.expressions`.
  """
  return Experiment(
    data=Expressions(form="tree"),
    task=Classify(
      TreeClassifier(hidden_dim=128),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.01),
    ),
    evaluators=(ConfusionMatrix(pictures=0),),
    best=Best("loss"),
    steps=3_000,
    eval_every=500,
    small=("--data.batch_size=8", "--steps=2", "--task.model.hidden_dim=8", "--data.expressions=200"),
  )


def expressions_in_a_row() -> Experiment:
  """The value of the same expressions, read from left to right by an LSTM that is not told of their nesting.

  Result: test accuracy 48.3 % (1 seed), 2.3 min on one core of a busy 2-core AMD EPYC; `dlcourse train
  recurrent.expressions_in_a_row`.
  """
  return dataclasses.replace(
    expressions(),
    data=Expressions(form="sequence"),
    task=Classify(
      SequenceClassifier(RecurrentStack("lstm", hidden_dim=128, bidirectional=True)),
      AdamW(learning_rate=2e-3, schedule="cosine", clip_norm=1.0, weight_decay=0.01),
    ),
    small=(*_SMALLEST, "--data.expressions=200"),
  )


def _recall(body: nn.Module) -> Experiment:
  return Experiment(
    data=MemoryGap(gap=20),
    task=Classify(
      SequenceClassifier(body, Frontend(embed_dim=16)),
      Adam(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
    ),
    best=Best("accuracy", mode="max"),
    steps=1_500,
    eval_every=250,
    small=_SMALLEST,
  )


def recall_lstm() -> Experiment:
  """A symbol, named some steps later, by an LSTM (H3.9.3)."""
  return _recall(RecurrentStack("lstm", hidden_dim=64))


def recall_window() -> Experiment:
  """A symbol, named some steps later, by a perceptron that sees the last 16 (H3.3.3)."""
  return _recall(SlidingWindow(width=16, hidden_dim=64))


GAPS = (5, 10, 20, 40, 80, 160, 320)


def memory_gap() -> Study:
  """How many steps a symbol is remembered by each cell and by a sliding window (H3.8.1, H3.9.3).

  Result: accuracy above 90 % up to 40 steps for the LSTM, 20 for the GRU, 10 for the window of 16, and 40 for
  the simple cell with orthogonal weights, which failed at 20 and has 82.5 % at 80 (1 seed, 1,500 steps each);
  12 min on one core of a busy 2-core AMD EPYC; `dlcourse study recurrent.memory_gap`.
  """
  return Study(
    runs=tuple(
      Run(f"{kind} {gap}", f"recurrent.{name}", (f"--data.gap={gap}", *cell))
      for kind, name, cell in (
        ("window", "recall_window", ()),
        *((kind, "recall_lstm", (f"--task.model.body.cell={kind}",)) for kind in ("rnn", "gru", "lstm")),
      )
      for gap in GAPS
    ),
    summarise=along("steps between symbol and answer", "test", "accuracy"),
    small=_SMALLEST,
  )


def gradient_flow() -> Study:
  """Gradients on their way back through time: simple layers of three radii, and an LSTM's memory (H3.5.6).

  Result: tanh layers of radius 0.8, 1 and 1.25 pass on 0.780, 0.935 and 1.019 of a gradient a step, the
  memory of an LSTM 0.732 with the forget bias 1 and 0.993 with 5; `dlcourse study recurrent.gradient_flow`,
  seconds.
  """

  def summarise(results: list) -> Report:
    del results  # nothing is trained
    flows = compare_flows()
    rows = [{"layer": flow.label, "factor a step": flow.rate, "bound": flow.bound} for flow in flows]
    return Report(tables={"gradient_flow": rows}, figures={"gradient_flow": gradient_flow_figure(flows)})

  return Study(runs=(), summarise=summarise)


def seeds_and_order() -> Study:
  """How far results of one network spread over initialisations and orders of presentation (H3.8.4).

  Result: accuracy of 5 seeds with 95 % interval 77.8 % ± 1.1 (LSTM), 76.9 ± 1.0 (GRU), 63.6 ± 2.2 (simple
  cell), 12 min on one core of a busy 2-core AMD EPYC; `dlcourse study recurrent.seeds_and_order`.
  """
  return Study(
    runs=tuple(
      Run(cell, "recurrent.sentiment_bilstm", (f"--task.model.body.cell={cell}",), seed)
      for cell in ("rnn", "lstm", "gru")
      for seed in range(5)
    ),
    summarise=mean_by_label("accuracy", "loss"),
    small=_SMALLEST,
  )


def translations() -> Study:
  """Translation with and without attention, three seeds each, compared sentence by sentence (H3.11.1).

  Result: BLEU 30.9 ± 1.5 against 14.4 ± 2.4; by the paired bootstrap attention is 17.1, 17.5 and 15.0 BLEU
  better, p = 0.001 each; 45 min in all on one core of a 2-core AMD EPYC; `dlcourse study
  recurrent.translations`.
  """
  return Study(
    runs=tuple(
      Run(label, f"recurrent.{name}", seed=seed)
      for label, name in (("attention", "translate"), ("one vector", "translate_without_attention"))
      for seed in range(3)
    ),
    summarise=together(
      mean_by_label("bleu", "loss", "perplexity"), paired_bootstrap("attention", "one vector")
    ),
  )
