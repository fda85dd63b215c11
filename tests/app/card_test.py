"""What is said of a model is what its workdir or its file holds."""

import json

from dlcourse.app.card import card_of, card_of_file, layers_of
from dlcourse.exported import export, open_exported
from dlcourse.trained import open_trained


def test_a_workdir_and_its_file_say_the_same_of_the_model(lenet, tmp_path):
  trained = open_trained(lenet, devices=1)
  exported = open_exported(export(trained, "h5", tmp_path / "m.h5"))
  card, of_file = (
    card_of(trained, layers_of(trained)),
    card_of_file(tmp_path / "m.h5", exported, layers_of(exported)),
  )
  for name in ("experiment", "overrides", "classes", "images", "parameters"):
    assert card[name] == of_file[name]
  assert card["experiment"] == "cnn.lenet5"
  assert card["images"].startswith("32 × 32 × 1")
  assert card["seed"] == "0"
  assert card["checkpoint"] == "step 20 of 20"
  assert "jax" in card["versions"]
  assert not any(name.startswith("test") for name in card)  # nobody has measured it
  assert of_file["checkpoint"] == "step 20"


def test_scores_are_those_of_the_result(lenet):
  result = lenet / "result.json"
  result.write_text(json.dumps({"test": {"accuracy": 0.91234, "loss": None}, "best_step": 20, "seconds": 3.21}))
  try:
    trained = open_trained(lenet, devices=1)
    card = card_of(trained, [])
  finally:
    result.unlink()
  assert card["test at step 20"] == "accuracy 0.9123"
  assert card["training"] == "3.2 s"
