"""Ends a process that is alive and gets nowhere: the others of its run would wait for it for ever."""

import faulthandler

GENEROUS = 6  # times as long, where something may have to be compiled


class Watchdog:
  """A context that ends the process, with where it was, if it is not told in time that all is well.

  It needs neither Python's lock nor its main thread, so that it also ends a process that hangs in a library.
  """

  def __init__(self, seconds: float | None):
    """Nothing is watched where `seconds` is None."""
    self._seconds = seconds

  def __enter__(self) -> "Watchdog":
    return self

  def all_is_well(self, compiling: bool = False) -> None:
    """Starts the time again; there is more of it where something is about to be compiled."""
    if self._seconds is not None:
      seconds = self._seconds * (GENEROUS if compiling else 1)
      faulthandler.dump_traceback_later(seconds, exit=True)

  def __exit__(self, *exception) -> None:
    if self._seconds is not None:
      faulthandler.cancel_dump_traceback_later()
