"""The Practical Work: classifiers of one's own images, with all that has to be handed in.

`dlcourse lab --data=FOLDER` looks at the images and sets the sizes; `dlcourse train lab.cnn` does not.
"""

import flax.linen as nn

from dlcourse.data.augment import Augmentation, Shift
from dlcourse.data.images import Images
from dlcourse.evaluators.calibration import Calibration
from dlcourse.evaluators.classification import ConfusionMatrix, Roc
from dlcourse.evaluators.explain import Explain
from dlcourse.evaluators.image_baselines import ImageBaselines
from dlcourse.evaluators.per_class import PerClass
from dlcourse.experiment import Best, Experiment
from dlcourse.models.efficientnet import EFFICIENTNET_LITE
from dlcourse.models.mlp import MLP
from dlcourse.models.small_cnn import SmallCNN
from dlcourse.optim import Adam, AdamW
from dlcourse.task import TaskRecipe
from dlcourse.tasks.supervised import Classify
from dlcourse.tasks.transfer import Transfer

_SMALL = (
  *("--data.folds=50", "--data.per_class=10", "--data.validation=0.1", "--data.batch_size=8", "--steps=2"),
  *("--evaluators.0.pictures=2", "--evaluators.4.most=40"),
  *("--evaluators.5.images=2", "--evaluators.5.scored=2", "--evaluators.5.steps=2"),
)


def _lab(
  data: Images, task: TaskRecipe, explain: Explain, steps: int, *smaller: str, init_from: str | None = None
) -> Experiment:
  return Experiment(
    data=data,
    task=task,
    init_from=init_from,
    evaluators=(ConfusionMatrix(), Roc(), PerClass(), Calibration(), ImageBaselines(), explain),
    best=Best("loss", patience=10),
    steps=steps,
    eval_every=50,
    log_every=25,
    small=(*_SMALL, *smaller),
  )


def _classify(model: nn.Module) -> Classify:
  return Classify(model, AdamW(learning_rate=1e-3, schedule="cosine", weight_decay=0.01))


def _images(*augment: Augmentation) -> Images:
  return Images("mnist_5k", batch_size=64, size=28, augment=augment, validation=0.15)


def cnn() -> Experiment:
  """Option 1: convolutions and pooling, with dropout, shifted images and early stopping (Practical Work).

  Result: test accuracy 98.4 % on 5,000 digits (best of scikit-learn 93.9 %), 1,836 steps, 1.7 min on one shared
  core of a 2-core AMD EPYC, 1 seed; `dlcourse lab`.
  """
  return _lab(
    _images(Shift(2)),
    _classify(SmallCNN()),
    Explain(),
    3_000,
    *("--task.model.filters", "2", "4", "--task.model.dense_dim=4"),
  )


def mlp() -> Experiment:
  """Option 2: a perceptron of several layers on the pixels in a row, with the same against overfitting.

  Result: test accuracy 96.6 % on 4,500 digits in a folder (best of scikit-learn 93.9 %), 1,960 steps, 11 s on
  one shared core of a 2-core AMD EPYC, 1 seed; `dlcourse lab --data=FOLDER --model=mlp`.
  """
  return _lab(_images(Shift(2)), _classify(MLP()), Explain(), 3_000)


def transfer() -> Experiment:
  """A new classifier on what EfficientNet-Lite0 has learnt from ImageNet (H2.9): for photographs, if few.

  Result: test accuracy 75.0 % on 100 CIFAR-10 images of each class in a folder (best of scikit-learn 34.0 %,
  `cnn` 36.5 %), 525 steps, 12 s and 80 s for features and report, one shared core of a 2-core AMD EPYC, 1 seed;
  `dlcourse lab --data=FOLDER --model=transfer`.
  """
  data = Images("mnist_5k", batch_size=32, size=160, fit="resize", scale="efficientnet_lite", validation=0.15)
  return _lab(
    data,
    Transfer(EFFICIENTNET_LITE[0], Adam(learning_rate=1e-3)),
    Explain(steps=16, scored=8),
    1_000,
    *("--data.source=digits", "--data.size=32"),
    init_from="pip:efficientnet_lite0",
  )
