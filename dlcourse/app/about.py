"""The tab that says what the model is."""

from collections.abc import Mapping, Sequence

import gradio as gr

from dlcourse.app import page
from dlcourse.models.trace import Layer
from dlcourse.report.layers import NOTE, summary_rows


def build(card: Mapping[str, str], layers: Sequence[Layer]) -> None:
  """The tab: the card, and the table of the layers."""
  gr.HTML(page.table([{"": name, " ": text} for name, text in card.items()], header=False))
  gr.HTML(page.table(summary_rows(layers)) + page.note(NOTE))
