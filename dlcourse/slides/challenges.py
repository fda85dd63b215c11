"""What was met in a training and what was done about it: sentences, each with its number from the workdir."""

from collections.abc import Iterator, Mapping
from typing import Any

from dlcourse.slides.recorded import Recorded, interval
from dlcourse.slides.words import Voice

IMBALANCED = 1.5  # images of the most frequent class for one of the rarest
WEAK = 0.9  # recall below which a class is badly recognised
GAP = 0.01  # by which the accuracy in training is higher
FEW = 30  # test images of a class

Fact = tuple[str, ...]  # what was met, and below it what was done or measured


def challenges(run: Recorded, say: Voice) -> list[Fact]:
  """What the training met, as far as it has been recorded."""
  return [
    *_of_the_folder(run, say),
    *_imbalance(run, say),
    *_overfitting(run, say),
    *_stop(run, say),
    *_weak(run, say),
  ]


def limits(run: Recorded, say: Voice) -> list[str]:
  """How far the numbers reach."""
  name, count = min(run.tested_per_class.items(), key=lambda pair: pair[1])
  said = [say("limit_runs", seed=run.record["seed"])]
  if 0 < count < FEW:
    low, high = interval(round(run.recalls[name] * count), count)
    said.append(say("limit_few", n=count, name=name, low=say.share(low), high=say.share(high)))
  return [*said, say("limit_source")]


def augmentations(settings: Mapping[str, Any], say: Voice) -> list[str]:
  """What is done to the training images, in words."""
  found = []
  for index in range(settings.get("data.augment!", 0)):
    prefix = f"data.augment.{index}"
    fields = {
      path[len(prefix) + 1 :]: value for path, value in settings.items() if path.startswith(f"{prefix}.")
    }
    numbers = {name: say.number(v) if isinstance(v, float) else v for name, v in fields.items()}
    kind = settings[f"{prefix}!"]
    found.append(say(kind, **numbers) if say.knows(kind) else kind)
  return found


def dropout(settings: Mapping[str, Any]) -> float:
  """The largest share of units that is dropped anywhere in the network; 0 where none is."""
  shares = [v for path, v in settings.items() if path.startswith("task.") and path.endswith(".dropout")]
  return max((share for share in shares if isinstance(share, float)), default=0.0)


def stratified(run: Recorded) -> bool:
  """Whether the splits are as large as those that are made here, class by class; others come with the data."""
  if run.splits:
    return run.splits == ("all",)
  sizes, settings = run.record.get("data", {}), run.settings
  if not {"data.folds", "data.validation"} <= set(settings) or not {"train", "validation", "test"} <= set(
    sizes
  ):
    return False
  rest = sizes["train"] + sizes["validation"]
  test, validation = (rest + sizes["test"]) / settings["data.folds"], rest * settings["data.validation"]
  off = max(abs(sizes["test"] - test), abs(sizes["validation"] - validation))
  return off <= len(run.classes)  # each class is rounded by itself


def _of_the_folder(run: Recorded, say: Voice) -> Iterator[Fact]:
  broken = [row for row in run.found.get("broken", []) if isinstance(row, dict) and "file" in row]
  if broken:
    yield say("broken", n=say.count(len(broken))), say("for_one", what=broken[0]["file"]), say("left_out")
  for kind, done in (("repeated", "kept_once"), ("contradictions", "left_out"), ("leaks", None)):
    groups = [group for group in run.found.get(kind, []) if isinstance(group, list) and group]
    if groups:
      files = say.count(sum(map(len, groups)))
      first = ", ".join(map(str, groups[0][:2]))
      fact = (say(kind, groups=say.count(len(groups)), n=files), say("for_one", what=first))
      yield (*fact, say(done)) if done and run.splits == ("all",) else fact  # see `image_lists.read_list`


def _imbalance(run: Recorded, say: Voice) -> Iterator[Fact]:
  counts = {name: n for name, n in (run.per_class or run.tested_per_class).items() if n}
  most, least = max(counts, key=counts.get), min(counts, key=counts.get)
  ratio = counts[most] / counts[least]
  if ratio < IMBALANCED:
    return
  key = "imbalance" if run.per_class else "imbalance_test"
  numbers = {"n": say.count(counts[most]), "m": say.count(counts[least]), "ratio": say.number(ratio)}
  fact = [say(key, most=most, least=least, **numbers)]
  if stratified(run):
    fact.append(say("imbalance_stratified"))
  if "macro_f1" in run.test:
    scores = {"f1": say.share(run.test["macro_f1"]), "accuracy": say.share(run.test["accuracy"])}
    fact.append(say("imbalance_done", **scores))
  if least in run.recalls:
    fact.append(say("imbalance_recall", least=least, recall=say.share(run.recalls[least])))
  yield tuple(fact)


def _overfitting(run: Recorded, say: Voice) -> Iterator[Fact]:
  last, best = run.result["steps"], run.result["best_step"]
  pairs = {
    step: [run.at(split, "accuracy", step) for split in ("train", "validation")] for step in (last, best)
  }
  if None in pairs[last]:
    return
  key = "gap" if pairs[last][0] - pairs[last][1] > GAP else "no_gap"
  train, validation = map(say.share, pairs[last])
  fact = [say(key, train=train, validation=validation, step=say.count(last))]
  if best != last and None not in pairs[best]:
    train, validation = map(say.share, pairs[best])
    fact.append(say("gap_best", train=train, validation=validation, step=say.count(best)))
  changed = augmentations(run.settings, say)
  while_learning = ["the_dropout"] * bool(dropout(run.settings)) + ["the_augment"] * bool(changed)
  if while_learning:
    fact.append(say("gap_while", what=say.joined([say(key) for key in while_learning])))
  yield (*fact, _against(run.settings, changed, say))


def _against(settings: Mapping[str, Any], changed: list[str], say: Voice) -> str:
  share, decay = dropout(settings), settings.get("task.optimizer.weight_decay") or 0.0
  used = [say("used_dropout", share=say.number(share))] if share else []
  used += [say("used_decay", value=say.number(decay))] if decay else []
  used += [say("used_augment", what=", ".join(changed))] if changed else []
  return say("against", what=say.joined(used)) if used else say("used_nothing")


def _stop(run: Recorded, say: Voice) -> Iterator[Fact]:
  patience, most = run.settings.get("best.patience"), run.settings["steps"]
  done, best = run.result["steps"], run.result["best_step"]
  if patience is None or best is None:
    return
  kept = say("weights_best", best=say.count(best))
  if done >= most:
    yield say("not_stopped", most=say.count(most)), kept
    return
  metric = run.settings["best.metric"]
  named = say(metric).lower() if say.knows(metric) else metric
  why = say("stopped_why", metric=named, best=say.count(best), n=patience)
  yield say("stopped", step=say.count(done), most=say.count(most)), why, kept


def _weak(run: Recorded, say: Voice) -> Iterator[Fact]:
  name, recall = next(iter(run.recalls.items()))
  if recall >= WEAK:
    return
  of = run.tested_per_class[name]
  fact = [
    say("weak", name=name, recall=say.share(recall), right=say.count(round(recall * of)), of=say.count(of))
  ]
  others = [(other, n) for label, other, n in run.confusions if label == name]
  yield (*fact, say("weak_confused", other=others[0][0], n=others[0][1]))
