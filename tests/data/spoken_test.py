import itertools

import jax
import numpy as np
import pytest

from dlcourse.data import spoken
from dlcourse.data.audio import FLOOR, log_mel
from dlcourse.data.spoken import (
  LONGEST_GAP,
  LOUDNESS,
  SHORTEST_GAP,
  SpokenStrings,
  Voice,
  joined,
  levelled,
  load_voice,
  played,
)
from dlcourse.errors import UserError

RATE, SPLITS = 8000, ("train", "validation", "test")
PITCHES = np.array([500.0, 1000.0, 2000.0, 3000.0])
QUIET = {"signal_to_noise": 120.0, "speed": 0.0, "gain": 0.0}


@pytest.fixture
def whistles(monkeypatch):
  """A voice that whistles: the pitch tells which character it is, and each takes longer than the last."""
  times = [np.arange(RATE // 10 + 160 * i) / RATE for i in range(4)]
  recordings = [np.sin(2 * np.pi * pitch * time) for pitch, time in zip(PITCHES, times, strict=True)]
  voice = Voice(tuple("abcd"), tuple(levelled(x.astype(np.float32)) for x in recordings), RATE)
  monkeypatch.setattr(spoken, "load_voice", lambda: voice)
  return voice


def strings(data, split):
  for batch in data.eval_batches(split):
    for row in np.flatnonzero(batch["mask"]):
      yield {name: array[row] for name, array in batch.items()}


def written(string):
  return tuple(string["labels"][: string["label_lengths"]].tolist())


def test_a_recording_has_one_loudness_and_no_zeros_at_its_ends():
  samples = levelled(np.array([0, 0, 3, 0, -4, 0], np.float32))
  np.testing.assert_allclose(samples, np.array([3, 0, -4]) * LOUDNESS / np.sqrt(25 / 3), rtol=1e-6)


@pytest.mark.parametrize(("speed", "count"), [(1.0, 800), (0.5, 1600), (1.25, 640)])
def test_speed_changes_length_and_pitch(speed, count):
  sine = np.sin(2 * np.pi * 100 * np.arange(800) / RATE).astype(np.float32)
  found = played(sine, speed)
  assert found.shape == (count,)
  expected = np.sin(2 * np.pi * 100 * speed * np.arange(count - 2) / RATE)
  np.testing.assert_allclose(found[:-2], expected, atol=1e-3)


def test_gaps_are_before_between_and_after():
  found = joined([np.ones(2), np.full(1, 2.0)], np.array([1, 0, 3]))
  assert found.tolist() == [0, 1, 1, 2, 0, 0, 0]


def test_a_string_is_heard_as_it_is_written(whistles):
  data = SpokenStrings(batch_size=8, strings=16, **QUIET).build()
  loudest = [log_mel(whistles.recordings[i], RATE).sum(axis=0).argmax() for i in range(4)]
  for string in strings(data, "test"):
    sound = string["inputs"][: string["lengths"]]
    bands = sound.argmax(axis=1)[sound.max(axis=1) > np.log(0.1)]
    places = np.flatnonzero(np.diff(bands, prepend=-1))
    heard = [loudest.index(band) + 1 for band in bands[places]]
    assert heard == [character for character, _ in itertools.groupby(written(string))]


def test_strings_keep_the_contract(whistles):
  data = SpokenStrings(batch_size=8, strings=20).build()
  assert data.spec.classes == ("<blank>", *"abcd")
  shortest = min(map(len, whistles.recordings)) / 1.1 / RATE + SHORTEST_GAP
  longest = max(map(len, whistles.recordings)) / 0.9 / RATE + LONGEST_GAP
  for batch in (data.batch(0, 0), *data.eval_batches("test")):
    assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
      k: (x.shape, x.dtype) for k, x in data.spec.batch.items()
    }
    for row in np.flatnonzero(batch["mask"]):
      count, length = batch["label_lengths"][row], batch["lengths"][row]
      assert 3 <= count <= 6
      assert 100 * count * shortest - 2 <= length <= 100 * (count * longest + LONGEST_GAP)
      assert not batch["inputs"][row, length:].any()
      assert (batch["inputs"][row, :length] >= np.float32(np.log(FLOOR))).all()
      assert batch["labels"][row, :count].min() >= 1
      assert not batch["labels"][row, count:].any()


def test_no_string_is_in_two_splits_and_training_draws_from_its_own(whistles):
  data = SpokenStrings(batch_size=64, strings=60, shortest=2, longest=4).build()
  seen = {split: {written(string) for string in strings(data, split)} for split in SPLITS}
  for step in range(4):
    batch = data.batch(5, step)
    seen["train"] |= {written({name: array[row] for name, array in batch.items()}) for row in range(64)}
  assert all(len(found) > 15 for found in seen.values())
  assert not seen["train"] & seen["test"]
  assert not seen["train"] & seen["validation"]
  assert not seen["validation"] & seen["test"]


def test_training_is_a_function_of_seed_and_step_and_evaluation_is_fixed(whistles):
  one, other = (SpokenStrings(batch_size=4, strings=8).build() for _ in range(2))
  for step in (3, 0):
    for name, array in one.batch(1, step).items():
      np.testing.assert_array_equal(array, other.batch(1, step)[name])
  assert not np.array_equal(one.batch(1, 0)["inputs"], one.batch(1, 1)["inputs"])
  assert not np.array_equal(one.batch(1, 0)["inputs"], one.batch(2, 0)["inputs"])
  for mine, theirs in zip(one.eval_batches("test"), other.eval_batches("test"), strict=True):
    np.testing.assert_array_equal(mine["inputs"], theirs["inputs"])


def test_the_digest_changes_with_fields_and_recordings(whistles, monkeypatch):
  small = {"batch_size": 4, "strings": 4}
  digests = [
    SpokenStrings(**small, **fields).build().digest
    for fields in ({}, {}, {"gain": 5.0}, {"signal_to_noise": 1.0}, {"split_seed": 1})
  ]
  monkeypatch.setattr(spoken, "load_voice", lambda: whistles._replace(recordings=whistles.recordings[::-1]))
  digests.append(SpokenStrings(**small).build().digest)
  assert digests[0] == digests[1]
  assert len(set(digests)) == 5


def test_noise_is_as_loud_as_is_asked_for(whistles):
  recipe = SpokenStrings(signal_to_noise=0.0, speed=0.0, gain=0.0)
  levels = []
  for seed in range(200):
    samples = recipe._spoken(whistles, np.array([0]), np.random.default_rng(seed))
    before = samples[: round(SHORTEST_GAP * RATE)]  # no gap is shorter
    levels.append(20 * np.log10(LOUDNESS / before.std()))
  assert -1.5 < min(levels) < 1
  assert 19 < max(levels) < 21.5
  assert np.mean(levels) == pytest.approx(10, abs=1.5)


def test_inputs_are_standardised_over_the_frames_that_count(whistles):
  data = SpokenStrings(batch_size=8, strings=8).build()
  batch = data.batch(0, 0)
  longer = {**batch, "inputs": np.pad(batch["inputs"], [(0, 0), (0, 7), (0, 0)], constant_values=9.0)}
  prepare = jax.jit(data.spec.prepare)
  found = np.asarray(prepare(None, batch)["inputs"])
  np.testing.assert_allclose(prepare(None, longer)["inputs"][:, :-7], found, atol=1e-5)
  for row, length in enumerate(batch["lengths"]):
    np.testing.assert_allclose(found[row, :length].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found[row, :length].std(axis=0), 1, atol=1e-3)
    assert not found[row, length:].any()


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"shortest": 1}, "--data.shortest=1"),
    ({"longest": 2}, "--data.longest=2"),
    ({"speed": 0.6}, "--data.speed=0.6"),
    ({"gain": -1.0}, "--data.gain=-1.0"),
    ({"signal_to_noise": float("nan")}, "--data.signal_to_noise=nan"),
    ({"bands": 0}, "--data.bands=0"),
    ({"held_out": 1.0}, "--data.held_out=1.0"),
    ({"strings": 0}, "--data.strings=0"),
  ],
)
def test_a_number_that_fits_no_string_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    SpokenStrings(**fields)


@pytest.mark.data
def test_the_real_voice():
  voice = load_voice()
  assert voice.characters == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
  assert voice.rate == 8000
  for recording in voice.recordings:
    assert 0.15 < len(recording) / 8000 < 0.5
    assert np.sqrt(np.mean(recording**2)) == pytest.approx(LOUDNESS, rel=1e-4)
  data = SpokenStrings(batch_size=4, strings=4).build()
  assert data.sizes == dict.fromkeys(SPLITS, 4)
  assert "one recording of each of 36, the same in all splits" in data.description
