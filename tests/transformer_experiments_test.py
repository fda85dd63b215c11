"""What the experiments with Transformers promise of their sizes."""

import jax
import numpy as np
import pytest
from dlcourse.experiments import transformer
from networks import count

from dlcourse.experiment import load


def test_gpt2_small_has_the_published_size_and_sees_half_a_million_tokens_an_update():
  experiment = transformer.gpt2_small()
  model = experiment.task.model.clone(vocab_size=experiment.data.vocab_size)
  shapes = jax.eval_shape(model.init, jax.random.key(0), (), np.zeros((1, 2), int))
  assert count(shapes["params"]) == 124_439_808
  data = experiment.data
  assert data.batch_size * data.seq_len * experiment.task.optimizer.accumulate == 512 * 1024


@pytest.mark.data
@pytest.mark.parametrize("task", transformer._VERSUS)
def test_networks_that_are_compared_have_as_many_parameters(task):
  first, second = (transformer.parameters(name, overrides) for _, name, overrides in transformer._VERSUS[task])
  assert second == pytest.approx(first, rel=0.05)


def test_all_that_remember_are_asked_after_the_same_gaps():
  study = transformer.memory_gap()
  kinds = {run.label.rpartition(" ")[0] for run in study.runs}
  assert kinds == {"transformer", "performer", "linformer", "lstm"}
  gaps = {
    kind: [
      load(run.experiment, run.overrides).data.gap for run in study.runs if run.label.startswith(f"{kind} ")
    ]
    for kind in kinds
  }
  assert len({tuple(each) for each in gaps.values()}) == 1
