"""The figure of how gradients fare on their way back through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcourse.report.figures import new_figure
from dlcourse.theory.bptt import Flow

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def gradient_flow_figure(flows: Sequence[Flow]) -> Figure:
  """Norms over distance, one line a flow with its rate, and dotted what its bound allows (H3.5.6, H3.5.7).

  Args:
    flows: from `theory.bptt.compare_flows`.
  """
  figure = new_figure(6.5, 4.2)
  axes = figure.subplots()
  for flow in flows:
    distance = np.arange(len(flow.norms))
    label = f"{flow.label}: {flow.rate:.3f} a step, bound {flow.bound:.3f}"
    (line,) = axes.plot(distance, flow.norms, label=label, linewidth=1.4)
    axes.plot(distance, flow.bound**distance, ":", color=line.get_color(), linewidth=1)
  axes.set(xlabel="steps before the last one", ylabel="norm of the gradient, over that at the last step")
  axes.set_yscale("log")
  axes.grid(alpha=0.3)
  axes.set_title("dotted: what the bound allows", fontsize=9)
  axes.legend(frameon=False, fontsize=8)
  return figure
