"""Chapter 3, section 12: Transformers, on the tasks of the recurrent networks."""

import dataclasses

from dlcourse.experiments import recurrent

from dlcourse.data.sentences import Sentences
from dlcourse.data.text import Text
from dlcourse.evaluators.baselines import TfIdf
from dlcourse.evaluators.classification import ConfusionMatrix, Roc
from dlcourse.evaluators.samples import TextSamples
from dlcourse.experiment import Best, Experiment
from dlcourse.models.bert import BERT, Bert, BertClassifier, BertMasked, bert_layer
from dlcourse.models.encoder_decoder import TransformerEncoderDecoder
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.optim import AdamW
from dlcourse.tasks.masked import MaskLanguage
from dlcourse.tasks.supervised import Classify, ModelLanguage
from dlcourse.tasks.translate import Translate

_SMALLEST = (
  *("--data.batch_size=32", "--steps=2", "--task.optimizer.warmup_steps=0"),
  *("--task.model.layer.hidden_dim=8", "--task.model.layer.num_heads=2", "--task.longest=8"),
)


def char_gpt() -> Experiment:
  """GPT: a causal Transformer on the characters of Shakespeare (Radford et al., 2018; H3.12.4).

  Result: test 1.98 bits a character, 1.375 nats (validation 1.379; 1 seed, 804,180 parameters), 16.0 min on one
  core of a busy 2-core AMD EPYC; `dlcourse train transformer.char_gpt`.
  """
  return Experiment(
    data=Text("shakespeare", batch_size=16, seq_len=128),
    task=ModelLanguage(
      LanguageModel(
        Transformer(
          Layer(hidden_dim=128, num_heads=4), num_layers=4, causal=True, positions="rotary", window=128
        ),
        embed_dim=128,
        tied=True,
      ),
      AdamW(learning_rate=3e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.1),
    ),
    evaluators=(TextSamples(),),
    steps=5_000,
    eval_every=500,
    small=(
      *("--data.batch_size=8", "--data.seq_len=8", "--steps=2", "--task.optimizer.warmup_steps=0"),
      *("--task.model.body.layer.hidden_dim=8", "--task.model.body.layer.num_heads=2"),
      *("--task.model.embed_dim=8", "--task.model.body.num_layers=2", "--evaluators.0.length=20"),
    ),
    best=Best("loss"),
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
  """BERT's first task: hidden words of film reviews from those around them (Devlin et al., 2019; H3.12.4)."""
  return Experiment(
    data=Sentences("imdb", batch_size=64, vocab_size=5_000, longest=64, buckets=1),
    task=MaskLanguage(
      BertMasked(Bert(bert_layer(128, 4), num_layers=4, max_length=64)),
      AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.01),
    ),
    steps=1_000,
    eval_every=250,
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
