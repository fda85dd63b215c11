import wave

import numpy as np
import pytest
from scipy import signal

from dlcourse.data.audio import (
  FLOOR,
  HOP,
  WINDOW,
  hertz,
  log_mel,
  mel,
  mel_corners,
  mel_filters,
  num_frames,
  read_wav,
)
from dlcourse.errors import UserError

RATE, BANDS, SIZE = 8000, 32, 256


def write(path, contents, channels=1, width=2, rate=RATE):
  with wave.open(str(path), "wb") as file:
    file.setnchannels(channels)
    file.setsampwidth(width)
    file.setframerate(rate)
    file.writeframes(contents)
  return path


def refused(path):
  with pytest.raises(UserError, match=path.name) as info:
    read_wav(path)
  message = str(info.value)
  assert "\n" not in message
  return message


def sine(frequency, seconds=0.5, amplitude=1.0):
  return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def test_samples_of_16_and_of_8_bits(tmp_path):
  samples, rate = read_wav(write(tmp_path / "a.wav", np.array([0, 16384, -32768], "<i2").tobytes(), rate=11025))
  assert (samples.tolist(), rate, samples.dtype) == ([0.0, 0.5, -1.0], 11025, np.float32)
  samples, _ = read_wav(write(tmp_path / "b.wav", bytes([128, 192, 0]), width=1))
  assert samples.tolist() == [0.0, 0.5, -1.0]


def test_stereo_becomes_its_mean(tmp_path):
  contents = np.array([[16384, 0], [-8192, 8192]], "<i2").tobytes()
  assert read_wav(write(tmp_path / "a.wav", contents, channels=2))[0].tolist() == [0.25, 0.0]


def test_a_file_that_is_none_is_refused_by_name(tmp_path):
  assert "no such file" in refused(tmp_path / "none.wav")
  text = tmp_path / "text.wav"
  text.write_text("hello")
  assert "no WAV file" in refused(text)
  assert "24 bits" in refused(write(tmp_path / "wide.wav", bytes(6), width=3))
  assert "empty or cut off" in refused(write(tmp_path / "empty.wav", b""))


def test_a_file_that_is_cut_off_or_damaged_is_refused_or_read_but_never_breaks(tmp_path):
  whole = write(tmp_path / "whole.wav", np.arange(8, dtype="<i2").tobytes()).read_bytes()
  part = tmp_path / "part.wav"
  for size in range(len(whole)):
    part.write_bytes(whole[:size])
    refused(part)
  for place in range(44):
    for value in (0, 1, 2, 127, 255):
      part.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
      try:
        samples, rate = read_wav(part)
      except UserError:
        refused(part)
        continue
      assert samples.ndim == 1
      assert np.isfinite(samples).all()
      assert rate >= 1


def test_compressed_sound_is_refused(tmp_path):
  path = tmp_path / "law.wav"
  contents = bytearray(write(path, bytes(8)).read_bytes())
  contents[20] = 7  # µ-law
  path.write_bytes(contents)
  assert "no WAV file of uncompressed samples" in refused(path)


def test_the_scale_of_mel_and_its_inverse():
  np.testing.assert_allclose(mel(np.array([0.0, 700.0, 1000.0])), [0, 2595 * np.log10(2), 1000], atol=0.02)
  np.testing.assert_allclose(hertz(mel(np.array([20.0, 440.0, 3999.0]))), [20, 440, 3999])
  steps = np.diff(mel(mel_corners(RATE, BANDS)))
  np.testing.assert_allclose(steps, mel(4000) / (BANDS + 1))


def test_triangles_are_one_at_their_centre_and_add_up_to_one_between_the_outer_centres():
  corners = mel_corners(RATE, BANDS)
  bins = np.fft.rfftfreq(SIZE, 1 / RATE)
  filters = mel_filters(RATE, BANDS, SIZE)
  assert filters.shape == (129, BANDS)
  inner = (bins >= corners[1]) & (bins <= corners[-2])
  np.testing.assert_allclose(filters[inner].sum(axis=1), 1.0)
  for band in range(BANDS):
    expected = np.interp(bins, corners[band : band + 3], [0, 1, 0])
    np.testing.assert_allclose(filters[:, band], expected, atol=1e-12)


def test_bands_without_a_bin_are_refused():
  with pytest.raises(UserError, match="100 mel bands are too many"):
    mel_filters(RATE, 100, SIZE)


@pytest.mark.parametrize("frequency", [310.0, 1000.0, 2222.0, 3333.0])
def test_a_sine_is_loudest_in_the_band_whose_centre_is_nearest(frequency):
  nearest = np.abs(mel(mel_corners(RATE, BANDS)[1:-1]) - mel(frequency)).argmin()
  assert (log_mel(sine(frequency), RATE, BANDS).argmax(axis=1) == nearest).all()


@pytest.mark.parametrize("amplitude", [1.0, 0.1])
def test_bands_of_a_sine_hold_its_energy(amplitude):
  # Parseval: the two-sided sum of |FFT|² is F · Σ(w · x)²; half of it lies in the bins that are kept.
  width = round(WINDOW * RATE)
  hann = signal.get_window("hann", width)
  found = np.exp(log_mel(sine(1500.0, amplitude=amplitude), RATE, BANDS).astype(float)).sum(axis=1)
  np.testing.assert_allclose(found, SIZE / 2 * amplitude**2 * np.sum(hann**2) / 2, rtol=1e-3)


def test_silence_is_at_the_floor():
  sound = log_mel(np.zeros(1000), RATE, BANDS)
  assert sound.dtype == np.float32
  np.testing.assert_array_equal(sound, np.float32(np.log(FLOOR)))


def test_equal_to_the_transform_of_scipy():
  samples = np.random.default_rng(0).normal(size=3000)
  width, step = round(WINDOW * RATE), round(HOP * RATE)
  hann = signal.get_window("hann", width)
  sizes = {"nperseg": width, "noverlap": width - step, "nfft": SIZE}
  _, _, spectrum = signal.stft(samples, RATE, hann, **sizes, boundary=None, padded=False, scaling="spectrum")
  energy = np.abs(spectrum * hann.sum()).T ** 2  # `spectrum` divides by the sum of the window
  expected = np.log(energy @ mel_filters(RATE, BANDS, SIZE))
  np.testing.assert_allclose(log_mel(samples, RATE, BANDS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (199, 1), (200, 1), (279, 1), (280, 2), (8000, 98)])
def test_frames_lie_within_the_sound(count, frames):
  sound = log_mel(np.ones(count), RATE, BANDS)
  assert sound.shape == (frames, BANDS)
  assert num_frames(count, RATE) == frames


def test_a_click_is_in_the_frames_that_hold_it():
  samples = np.zeros(1600)
  samples[850] = 1.0  # frames start every 80 samples and hold 200
  loud = np.flatnonzero((log_mel(samples, RATE, BANDS) > np.log(FLOOR)).any(axis=1))
  assert loud.tolist() == [9, 10]  # of 9 and 10, and of 8 its end, where the window is near 0
