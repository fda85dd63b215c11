"""What a person sees while a run trains: a progress bar, or plain lines where there is no terminal."""

import time
from collections.abc import Mapping
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

HEADLINES = ("loss", "accuracy", "elbo", "perplexity", "d_loss", "g_loss")


def headline(values: Mapping[str, float]) -> str:
  """The few numbers of a line of metrics that fit beside a bar."""
  return "  ".join(f"{name} {values[name]:.4g}" for name in HEADLINES if name in values)


class Display:
  """A context: bar and lines on standard error, on the first process only."""

  def __init__(self, name: str, step: int, steps: int):
    self._steps, self._step = steps, step
    self._console = Console(stderr=True, quiet=jax.process_index() != 0)
    self._bar = Progress(
      TextColumn(name),
      BarColumn(),
      MofNCompleteColumn(),
      TextColumn("{task.fields[rate]:.4g} steps/s"),
      TextColumn("{task.fields[values]}"),
      TimeRemainingColumn(),
      console=self._console,
      disable=not self._console.is_terminal or jax.process_index() != 0,
    )
    self._task = self._bar.add_task(name, total=steps, completed=step, rate=0.0, values="")
    self._since = (time.perf_counter(), step)
    self._drawn = 0.0

  def __enter__(self) -> "Display":
    self._bar.start()
    if self._step:
      done = self._step >= self._steps
      self.note("already trained to its end" if done else f"going on from step {self._step}")
    return self

  def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
    self._bar.update(self._task, completed=self._step)
    self._bar.stop()

  def advance(self, step: int) -> None:
    """Moves the bar, ten times a second at most: drawing must not cost steps."""
    self._step = step
    now = time.perf_counter()
    if now - self._drawn > 0.1:
      self._drawn = now
      self._bar.update(self._task, completed=step)

  def show(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Metrics of a split: beside the bar, or as a line."""
    if split == "train":
      now, (then, before) = time.perf_counter(), self._since
      self._since, rate = (now, step), (step - before) / max(now - then, 1e-9)
      self._bar.update(self._task, completed=step, rate=rate, values=headline(values))
      if not self._console.is_terminal:
        left = (self._steps - step) / rate
        self.note(f"step {step}/{self._steps}  {headline(values)}  {rate:.4g} steps/s  {left:.0f} s left")
    else:
      self.note(f"step {step}  {split}  {headline(values)}")

  def note(self, text: str) -> None:
    """One line for the person, above the bar."""
    self._console.print(text, highlight=False, markup=False, soft_wrap=True)
