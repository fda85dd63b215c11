"""The log of a run: each step once, readable at any time, and whole again after a full disk."""

import json
import logging

import pytest

from dlcourse.errors import UserError
from dlcourse.metrics_log import MetricsLog, read_metrics


def steps(path):
  return [row["step"] for row in read_metrics(path)]


def logged(path, restored, numbers):
  log = MetricsLog(path, restored)
  for number in numbers:
    log.write(number, "train", {"loss": 1.0 / number})
  log.close()


def test_a_resumed_log_drops_what_will_happen_again(tmp_path):
  logged(tmp_path, 0, [1, 2, 3, 4])
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 5, "split": "tr')  # killed while writing
  assert steps(tmp_path) == [1, 2, 3, 4]
  logged(tmp_path, 2, [3, 4, 5])
  assert steps(tmp_path) == [1, 2, 3, 4, 5]
  assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_the_log_is_readable_while_it_is_written(tmp_path):
  log = MetricsLog(tmp_path, 0)
  log.write(1, "validation", {"loss": 0.5, "accuracy": 0.25})
  assert read_metrics(tmp_path) == [{"step": 1, "split": "validation", "loss": 0.5, "accuracy": 0.25}]
  log.close()


def test_tensorboard_reads_the_same_numbers(tmp_path):
  logged(tmp_path, 0, [1, 2])
  logged(tmp_path, 1, [2, 3])
  said = [event for file in sorted((tmp_path / "tensorboard").iterdir()) for event in events(file)]
  values = [(event.step, value.tag, value.simple_value) for event in said for value in event.summary.value]
  assert {tag for _, tag, _ in values} == {"loss/train"}
  assert [(step, loss) for step, _, loss in values] == [(1, 1.0), (2, 0.5), (2, 0.5), (3, pytest.approx(1 / 3))]
  # where a later session begins, TensorBoard drops what an earlier one said of the same steps
  assert [event.step for event in said if event.session_log.status == event.session_log.START] == [1, 2]


def events(file):
  from tensorboardX.proto.event_pb2 import Event

  data = file.read_bytes()
  while data:
    size = int.from_bytes(data[:8], "little")
    yield Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]


def test_no_log_has_no_rows(tmp_path):
  assert read_metrics(tmp_path) == []


def test_a_damaged_line_in_the_middle_is_said(tmp_path, caplog):
  logged(tmp_path, 0, [1, 2, 3])
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:9], lines[2]]) + "\n")
  with caplog.at_level(logging.WARNING):
    assert steps(tmp_path) == [1, 3]
  assert "line 2 is damaged" in caplog.text


class NearlyFull:
  """A file on a disk with room for so many bytes."""

  def __init__(self, file, room):
    self._file, self.room = file, room

  def write(self, data):
    if not self.room:
      raise OSError(28, "No space left on device")
    count = self._file.write(data[: self.room])
    self.room -= count
    return count

  def close(self):
    self._file.close()


@pytest.mark.parametrize("room", [0, 50, 200])
def test_lines_wait_for_a_full_disk_and_are_said_once(tmp_path, caplog, room):
  log = MetricsLog(tmp_path, 0)
  log._file = disk = NearlyFull(log._file, room)
  with caplog.at_level(logging.WARNING):
    for step in (1, 2, 3, 4, 5, 6):
      log.write(step, "train", {"loss": 1.0})
  assert caplog.text.count("cannot be written: No space left on device; training goes on") == 1
  assert len(steps(tmp_path)) < 6
  disk.room = 10_000
  log.write(7, "train", {"loss": 1.0})
  assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
  log.close()


def test_lines_that_never_find_room_are_an_error_at_the_end(tmp_path):
  log = MetricsLog(tmp_path, 0)
  log._file = NearlyFull(log._file, 0)
  log.write(1, "train", {"loss": 1.0})
  with pytest.raises(UserError, match="cannot be written: No space left on device"):
    log.close()
