from dlcourse.progress import Display, headline


def test_the_headline_is_short_and_in_a_fixed_order():
  values = {"accuracy": 0.51239, "distortion": 7.0, "loss": 1.23456}
  assert headline(values) == "loss 1.235  accuracy 0.5124"
  assert headline({"rate": 1.0}) == ""


def test_without_a_terminal_there_is_a_line_for_every_measurement(capsys):
  with Display("cnn.mlp", 0, 100) as display:
    display.advance(10)
    display.show(10, "train", {"loss": 2.5})
    display.show(10, "validation", {"loss": 3.5})
    display.note("done [sic]")
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith("step 10/100  loss 2.5  ")
  assert lines[0].endswith(" s left")
  assert lines[1:] == ["step 10  validation  loss 3.5", "done [sic]"]


def test_a_resumed_run_says_where_it_goes_on(capsys):
  with Display("cnn.mlp", 40, 100):
    pass
  captured = capsys.readouterr()
  assert captured.err == "going on from step 40\n"
  assert captured.out == ""
