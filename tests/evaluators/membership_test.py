import types

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.membership import Membership

RNG = np.random.default_rng(0)


def report(train, test, predict=lambda state, key, batch: batch["score"]):
  splits = {"train": {"score": np.asarray(train)}, "test": {"score": np.asarray(test)}}
  data = Data(Spec({}), None, lambda split: in_order(splits[split], 32), {}, "", "")
  return Membership()(types.SimpleNamespace(predict=predict), None, data, None)


@pytest.mark.parametrize("decimals", [1, 8])  # with ties and without
def test_the_advantage_and_the_area_are_those_of_the_attacks_curve(decimals):
  train, test = RNG.normal(0.5, 1, 150).round(decimals), RNG.normal(0, 1, 70).round(decimals)
  found = report(train, test).scalars
  labels, scores = np.repeat([1, 0], [150, 70]), np.concatenate([train, test])
  false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
  assert found["membership_advantage"] == pytest.approx((true - false).max())
  assert found["membership_auc"] == pytest.approx(roc_auc_score(labels, scores))
  assert found["membership_auc_low"] < found["membership_auc"] < found["membership_auc_high"]
  assert found["membership_p"] < 0.05


def test_one_that_remembers_gives_all_away_and_one_that_prefers_what_is_new_nothing():
  high, low = RNG.uniform(0.6, 1, 90), RNG.uniform(0, 0.4, 40)
  told = report(high, low).scalars
  assert (told["membership_advantage"], told["membership_auc"]) == (1, 1)
  assert told["membership_p"] < 1e-6
  none = report(low, high).scalars
  assert (none["membership_advantage"], none["membership_auc"]) == (0, 0)
  assert none["membership_p"] == 1


def test_equal_scores_are_chance():
  same = report(np.ones(50), np.ones(40)).scalars
  assert (same["membership_advantage"], same["membership_auc"]) == (0, 0.5)


def test_tasks_that_score_nothing_are_refused():
  with pytest.raises(UserError, match="gives each image one number"):
    report([0.0], [1.0], lambda state, key, batch: {"image": batch["score"]})
  with pytest.raises(UserError, match="gives each image one number"):
    report([0.0], [1.0], lambda state, key, batch: np.zeros((len(batch["mask"]), 10)))
  with pytest.raises(UserError, match="says NaN"):
    report([0.0], [np.nan])
