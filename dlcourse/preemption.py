"""Being asked to end: by SIGTERM, as clusters do before they take a machine back, or by Ctrl-C."""

import itertools
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

_questions = itertools.count()  # of this process, which the other processes of a run ask as well


class Notice:
  """A context in which SIGTERM, or a first Ctrl-C, is noted and stops nothing; a second one does.

  In a run of several processes JAX listens for SIGTERM, in any of them, and lets all leave after the same step.
  Outside the main thread signals cannot be caught: there no notice is ever given.
  """

  def __init__(self) -> None:
    """Nothing is caught before the context is entered."""
    self._noted = False
    self._before: dict[int, signal.Handlers] = {}

  def __enter__(self) -> "Notice":
    several = jax.process_count() > 1
    caught = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
      handler = _pass_on if several else self._note
      self._before = {number: signal.signal(number, handler) for number in caught}
    return self

  def __exit__(self, *exception) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    self._noted = True
    self.__exit__()

  def given(self) -> bool:
    """Whether to save and leave now; the processes of a run have to ask after the same steps."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(next(_questions))
    return self._noted


def _pass_on(number: int, frame: FrameType | None) -> None:
  os.kill(os.getpid(), signal.SIGTERM)  # which JAX hears
