"""Chapter 3: recurrent networks."""

from dlcourse.data.text import Text
from dlcourse.evaluators.samples import TextSamples
from dlcourse.experiment import Best, Experiment
from dlcourse.models.recurrent import CharLSTM
from dlcourse.optim import Adam
from dlcourse.tasks.supervised import ModelLanguage


def char_lstm() -> Experiment:
  """LSTM language model on the characters of Shakespeare (H3.9, H3.11.4).

  Result: test perplexity 4.76 ± 0.08 a character, 1.56 nats (3 seeds, 95 % interval), 6.7 min each, busy 2-core
  AMD EPYC; `dlcourse study overview.slices`.
  """
  return Experiment(
    data=Text("shakespeare", batch_size=32, seq_len=128),
    task=ModelLanguage(CharLSTM(hidden_dim=256), Adam(learning_rate=3e-3, schedule="cosine", clip_norm=1.0)),
    evaluators=(TextSamples(),),
    steps=2_000,
    eval_every=500,
    small=(
      "--data.batch_size=8",
      "--data.seq_len=8",
      "--task.model.hidden_dim=8",
      "--task.model.embed_dim=4",
      "--evaluators.0.length=20",
      "--steps=2",
    ),
    best=Best("loss"),
  )
