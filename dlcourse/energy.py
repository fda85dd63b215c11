"""What a run costs in electricity and carbon dioxide: an estimate, with its assumptions beside it (H1.9)."""

import re
from collections.abc import Mapping
from typing import Any

GRAMS_PER_KWH = 436  # CO2 equivalent, the world's mean of 2022 (Ember, Global Electricity Review 2023)
_WATTS = {"B200": 1000, "H200": 700, "H100": 700, "A100": 400, "V100": 300, "T4": 70, "L4": 72}  # of a board
_WATTS_OTHER = 250  # of any other accelerator
_WATTS_PER_CORE = 10  # of a server's processor with its memory


def estimate(seconds: float, devices: Mapping[str, Any]) -> dict[str, Any]:
  """The energy of a training as if its devices, and nothing else, were under full load all the time.

  Args:
    seconds: of training.
    devices: "kind" (of a processor with "N cores" at its end) and "count", as a workdir records them.

  Returns:
    `watts` that are assumed, `wh` (watt-hours), `co2_g` (grams), and what is `assumed` in words.
  """
  cores = re.search(r"(\d+) cores$", devices["kind"])
  if cores:
    each, count, what = _WATTS_PER_CORE, int(cores[1]), "core"
  else:
    named = (watts for word, watts in _WATTS.items() if word in devices["kind"])
    each, count, what = next(named, _WATTS_OTHER), devices["count"], "device"
  watt_hours = each * count * seconds / 3600
  return {
    "watts": each * count,
    "wh": round(watt_hours, 3),
    "co2_g": round(watt_hours / 1000 * GRAMS_PER_KWH, 3),
    "assumed": f"{count} x {each} W a {what} under full load, {GRAMS_PER_KWH} g of CO2 a kWh",
  }
