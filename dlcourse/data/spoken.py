"""Strings of spoken characters, to be written down without segmentation (Graves et al., 2006; H3.7.2, H3.11.2).

The recordings are real, the strings are composed. Shapes: B strings, L characters of the longest, N samples.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data import archives
from dlcourse.data.audio import log_mel, num_frames, read_wav
from dlcourse.data.procedural import EVALUATION, made, mixed
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.errors import check_at_least, check_between

LOUDNESS = 0.1  # root mean square of a recording before its gain
SHORTEST_GAP, LONGEST_GAP = 0.02, 0.25  # seconds of silence before, between and after characters
QUIETER = 20.0  # decibels from the loudest noise to the softest
_LICENCE = "BSD-3-Clause (captcha)"
_CITATION = "H. Yang: captcha 0.7.1, pypi.org/project/captcha, after D. Chestnykh's of the same name"


class Voice(NamedTuple):
  """One recording of every character.

  Attributes:
    characters: what is said in each.
    recordings: float32 [N] each, of one loudness and without silence at their ends.
    rate: samples a second, in hertz.
  """

  characters: tuple[str, ...]
  recordings: tuple[np.ndarray, ...]
  rate: int


@dataclasses.dataclass(frozen=True)
class SpokenStrings(DataRecipe):
  """Digits and letters spoken one after another, as a log-mel spectrogram of a frame every 10 ms.

  There is one recording of each of 36 characters, by one voice, and it is in all splits. What differs is the
  strings, of which none is in two splits; the speed (and so the pitch) and loudness of every character and the
  silence before it; the noise. How well another voice would be understood is not measured.
  Training strings are drawn anew for every (seed, step), those of evaluation once.
  """

  batch_size: int = 32
  """Strings in a global batch, over all devices."""
  shortest: int = 3
  """Characters of a string, at least."""
  longest: int = 6
  """Characters of a string, at most."""
  speed: float = 0.1
  """By what share a character is played slower or faster, at most."""
  gain: float = 6.0
  """By how many decibels a character is softer or louder, at most."""
  signal_to_noise: float = 0.0
  """Decibels from white noise up to the characters before their gain, at least; at most 20 more."""
  bands: int = 32
  """Mel bands of a frame."""
  strings: int = 400
  """Strings of each split in evaluation."""
  held_out: float = 0.2
  """Share of all possible strings that is not trained on: one half validates, the other tests."""
  split_seed: int = 0
  """Seed of the splits and of the strings of evaluation."""

  def __post_init__(self) -> None:
    """Refuses strings of nothing, and splits that strings of two characters cannot fill."""
    check_at_least(1, {f"data.{name}": getattr(self, name) for name in ("batch_size", "bands", "strings")})
    check_at_least(2, {"data.shortest": self.shortest})
    check_at_least(self.shortest, {"data.longest": self.longest})
    check_at_least(0, {"data.split_seed": self.split_seed})
    check_between(0, 0.5, {"data.speed": self.speed})
    check_between(0, 60, {"data.gain": self.gain})
    check_between(-60, 120, {"data.signal_to_noise": self.signal_to_noise})
    check_between(0.05, 0.9, {"data.held_out": self.held_out})

  def build(self) -> Data:
    """Loads, composes; see `Data`. A batch has inputs, lengths, labels, label_lengths and mask [B].

    Class 0 is the blank; inputs are log energies as `log_mel` gives them, and `prepare` scales each band of a
    string to mean 0 and deviation 1.

    Raises:
      UserError: the recordings cannot be had, or the fields do not fit them.
    """
    voice = load_voice()
    splits = {}
    for number, name in enumerate(("train", "validation", "test")):
      rng = np.random.default_rng((self.split_seed, number, EVALUATION))
      splits[name] = self._strings(voice, name, self.strings, rng)
    data = made(
      splits,
      lambda count, rng: self._strings(voice, "train", count, rng),
      self.batch_size,
      Spec({}, ("<blank>", *voice.characters), prepare=_standardised),
      f"strings of {self.shortest} to {self.longest} characters with gaps and noise, composed of one recording "
      f"of each of {len(voice.characters)}, the same in all splits, from the package captcha 0.7.1. "
      f"Licence: {_LICENCE}. Citation: {_CITATION}",
    )
    # Of what the inputs follow from: their own last bits are not the same on all processors.
    fields = np.array(dataclasses.astuple(self), np.float64)
    said = [part["labels"] for part in splits.values()]
    return data._replace(digest=digest_of([*voice.recordings, *said, fields]))

  def _strings(self, voice: Voice, split: str, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`count` strings of a split, spoken."""
    labels = np.zeros((0, self.longest), np.int64)
    while len(labels) < count:
      some = self._drawn(len(voice.characters), 2 * count, rng)
      labels = np.concatenate([labels, some[self._split_of(some) == split]])
    labels = labels[:count]
    label_lengths = np.count_nonzero(labels, axis=1)
    sounds = [
      log_mel(self._spoken(voice, row[:length] - 1, rng), voice.rate, self.bands)
      for row, length in zip(labels, label_lengths, strict=True)
    ]
    inputs, lengths = side_by_side(sounds, self._most_frames(voice))
    return {
      "inputs": inputs,
      "lengths": lengths,
      "labels": labels.astype(np.int32),
      "label_lengths": label_lengths.astype(np.int32),
    }

  def _drawn(self, characters: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, L] strings of classes from 1, 0 after the end of each."""
    lengths = rng.integers(self.shortest, self.longest + 1, (count, 1))
    labels = rng.integers(1, characters + 1, (count, self.longest))
    return np.where(np.arange(self.longest) < lengths, labels, 0)

  def _split_of(self, labels: np.ndarray) -> np.ndarray:
    """[B] the split of each string: a function of its characters and of the seed."""
    keys = np.zeros(len(labels), np.uint64)
    for column in labels.T.astype(np.uint64):
      keys = keys * np.uint64(257) + column  # modulo 2⁶⁴
    share = mixed(keys, self.split_seed)
    return np.select([share < self.held_out / 2, share < self.held_out], ["validation", "test"], "train")

  def _spoken(self, voice: Voice, characters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N] samples of one string."""
    count = len(characters)
    speeds = rng.uniform(1 - self.speed, 1 + self.speed, count)
    gains = 10 ** (rng.uniform(-self.gain, self.gain, count) / 20)
    gaps = rng.uniform(SHORTEST_GAP, LONGEST_GAP, count + 1)
    said = [
      gain * played(voice.recordings[i], speed)
      for i, speed, gain in zip(characters, speeds, gains, strict=True)
    ]
    samples = joined(said, np.round(gaps * voice.rate).astype(int))
    below = self.signal_to_noise + rng.uniform(0.0, QUIETER)  # decibels
    noise = LOUDNESS * 10 ** (-below / 20) * rng.standard_normal(len(samples), np.float32)
    return samples + noise

  def _most_frames(self, voice: Voice) -> int:
    """Frames of a string, at most."""
    slowest = round(max(map(len, voice.recordings)) / (1 - self.speed))
    gap = round(LONGEST_GAP * voice.rate)
    return num_frames(self.longest * (slowest + gap) + gap, voice.rate)


def load_voice() -> Voice:
  """The ten digits and 26 letters of the package captcha, at 8 kHz.

  Raises:
    UserError: as `archives.fetch`.
  """
  files = sorted(archives.fetch("captcha_voice").glob("*.wav"))
  read = [read_wav(file) for file in files]
  return Voice(
    characters=tuple(file.name[0] for file in files),
    recordings=tuple(levelled(samples) for samples, _ in read),
    rate=read[0][1],
  )


def levelled(samples: np.ndarray) -> np.ndarray:
  """A recording [N] without the zeros at its ends, and with the root mean square `LOUDNESS`.

  Zeros stand after the letters and not after the digits, which would tell one from the other.
  """
  kept = np.trim_zeros(samples)
  return kept * (LOUDNESS / np.sqrt(np.mean(kept**2)))


def played(samples: np.ndarray, speed: float) -> np.ndarray:
  """A recording [N] at another speed and so at another pitch, by linear interpolation: [round(N / speed)]."""
  places = speed * np.arange(round(len(samples) / speed))
  return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def joined(parts: list[np.ndarray], gaps: np.ndarray) -> np.ndarray:
  """Sounds one after another.

  Args:
    parts: n arrays.
    gaps: [n + 1] zeros before each, and after the last.
  """
  silences = [np.zeros(gap, np.float32) for gap in gaps]
  pieces = [piece for pair in zip(silences, parts, strict=False) for piece in pair]
  return np.concatenate([*pieces, silences[-1]])


def _standardised(key: jax.Array | None, batch: dict) -> dict:
  del key
  inputs, lengths = batch["inputs"], batch["lengths"]
  counts = (jnp.arange(inputs.shape[1]) < lengths[:, None])[..., None]  # [B, T, 1]
  scaled = jax.nn.standardize(inputs, axis=1, where=counts, epsilon=1e-6)
  return {**batch, "inputs": jnp.where(counts, scaled, 0.0)}
