"""Sound as numbers: WAV files, and the log-mel spectrogram that speech recognisers read (H3.6.1, H3.11.2).

Shapes: N samples, T frames, F bins of the Fourier transform, M mel bands.
"""

import wave
from pathlib import Path

import numpy as np

from dlcourse.errors import UserError, first_line

WINDOW = 0.025  # seconds of a frame
HOP = 0.010  # seconds from frame to frame
FLOOR = 1e-6  # energy below which a band is silent: that of one step of 16 bits is less
_FORMATS = {1: ("<u1", 128.0, 128.0), 2: ("<i2", 0.0, 32768.0)}  # bytes: type, silence, full scale


def read_wav(path: Path) -> tuple[np.ndarray, int]:
  """Reads an uncompressed WAV file of 8 or 16 bits; several channels become their mean.

  Args:
    path: of the file.

  Returns:
    Samples float32 [N] in [-1, 1) and their rate in hertz.

  Raises:
    UserError: no such file, no WAV file, compressed, of other bits, cut off or empty.
  """
  if not path.is_file():
    raise UserError(f"no such file: {path}")
  try:
    with wave.open(str(path), "rb") as file:
      channels, width, rate, count, _, _ = file.getparams()
      contents = file.readframes(count)
  except (OSError, EOFError, wave.Error, RuntimeError) as error:  # RuntimeError: a seek beyond a chunk
    raise UserError(f"{path} is no WAV file of uncompressed samples ({first_line(error)})") from error
  if width not in _FORMATS:
    raise UserError(f"{path} has samples of {8 * width} bits; save it with 16")
  if rate < 1 or not count or len(contents) != count * channels * width:
    raise UserError(f"{path} is empty or cut off: {count:,} samples are announced, at {rate:,} Hz")
  kind, silence, scale = _FORMATS[width]
  samples = (np.frombuffer(contents, kind).astype(np.float32) - silence) / scale
  return samples.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def mel(frequency: np.ndarray | float) -> np.ndarray | float:
  """Pitch in mel of a frequency in hertz, by the formula of HTK (O'Shaughnessy, 1987): 1000 Hz are 1000 mel."""
  return 2595.0 * np.log10(1.0 + np.asarray(frequency) / 700.0)


def hertz(pitch: np.ndarray | float) -> np.ndarray | float:
  """The inverse of `mel`."""
  return 700.0 * (10.0 ** (np.asarray(pitch) / 2595.0) - 1.0)


def mel_corners(rate: int, bands: int) -> np.ndarray:
  """Frequencies [M + 2] in hertz, at equal distances in mel from 0 to rate / 2; the inner ones are centres."""
  return hertz(np.linspace(0.0, mel(rate / 2), bands + 2))


def mel_filters(rate: int, bands: int, size: int) -> np.ndarray:
  """Triangles over the bins of a Fourier transform, of height 1 at their centres, linear in hertz.

  Each begins at the centre of the one below and ends at that of the one above (Davis & Mermelstein, 1980).

  Args:
    rate: of the sound, in hertz.
    bands: M.
    size: samples that are transformed; F = size // 2 + 1.

  Returns:
    float64 [F, M].

  Raises:
    UserError: so many bands that one has no bin.
  """
  below, centre, above = (mel_corners(rate, bands)[i : bands + i] for i in range(3))
  bins = np.fft.rfftfreq(size, 1 / rate)[:, None]
  rising, falling = (bins - below) / (centre - below), (above - bins) / (above - centre)
  filters = np.maximum(0.0, np.minimum(rising, falling))
  if not filters.any(axis=0).all():
    raise UserError(
      f"{bands} mel bands are too many for {size} samples at {rate:,} Hz: one would hear nothing; take fewer"
    )
  return filters


def log_mel(
  samples: np.ndarray, rate: int, bands: int = 32, window: float = WINDOW, hop: float = HOP
) -> np.ndarray:
  """Natural logarithm of the energy in mel bands, frame by frame: log(max(|FFT(w · x)|² · filters, 1e-6)).

  A frame is weighted by a periodic Hann window w and filled up with zeros to a power of two. Frames lie wholly
  within the sound; one that is shorter than a frame is filled up with silence.

  Args:
    samples: [N], full scale 1.
    rate: samples a second, in hertz.
    bands: M, see `mel_filters`.
    window: seconds of a frame.
    hop: seconds from the start of a frame to that of the next.

  Returns:
    float32 [T, M].

  Raises:
    UserError: as `mel_filters`.
  """
  width, step = round(window * rate), round(hop * rate)
  size = 1 << (width - 1).bit_length()
  samples = np.pad(samples, (0, max(0, width - len(samples))))
  frames = np.lib.stride_tricks.sliding_window_view(samples, width)[::step]  # [T, width]
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
  energy = np.abs(np.fft.rfft(frames * hann, size)) ** 2  # [T, F]
  return np.log(np.maximum(energy @ mel_filters(rate, bands, size), FLOOR)).astype(np.float32)


def num_frames(count: int, rate: int, window: float = WINDOW, hop: float = HOP) -> int:
  """How many frames `log_mel` makes of so many samples."""
  return 1 + max(0, count - round(window * rate)) // round(hop * rate)
