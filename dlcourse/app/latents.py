"""The tab for the latents of a generative model: sliders, and what lies between two draws."""

import math
from collections.abc import Callable

import gradio as gr
import numpy as np

from dlcourse.app import widgets
from dlcourse.app.walk import Walk, between, moved_to, walk_of
from dlcourse.trained import Trained


def build(trained: Trained) -> None:
  """The tab, of a model that `can_walk`."""
  walk = walk_of(trained)
  classes = trained.data.spec.classes if trained.program.task.conditional else ()
  seed = gr.State(0)
  with gr.Row():
    other = gr.Button("Another draw", variant="primary")
    numbered = [(name, i) for i, name in enumerate(classes)]
    label = gr.Dropdown(numbered, value=0 if classes else None, label="Class", visible=bool(classes))
  with gr.Row():
    with gr.Column():
      gr.Markdown(f"{walk.which}, moved by hand; the others stay as in one {walk.what}.")
      start = _values(walk, 0)
      sliders = [
        gr.Slider(
          _rounded(low, math.floor), _rounded(high, math.ceil), value, label=f"latent {latent}", step=0.01
        )
        for latent, low, high, value in zip(walk.moved, walk.low, walk.high, start, strict=True)
      ]
    picture = widgets.picture("Image", value=moved_to(walk, 0, 0, np.array(start)))
  ways = between(walk, 0, 0)
  gr.Markdown(f"From one {walk.what} to another, along a line")
  line = widgets.picture(None, value=ways[0])
  gr.Markdown("The same along a circle, where no point is unlikely short")
  circle = widgets.picture(None, value=ways[1])

  def moved(seed: int, label: int | None, *values: float):
    return moved_to(walk, seed, label or 0, np.array(values))

  def told(seed: int, label: int | None, *values: float):
    return moved(seed, label, *values), *between(walk, seed, label or 0)

  def drawn(seed: int, label: int | None):
    values = _values(walk, seed + 1)
    return seed + 1, *values, *told(seed + 1, label, *values)

  for slider in sliders:
    slider.release(moved, [seed, label, *sliders], picture, show_progress="hidden")
  label.input(told, [seed, label, *sliders], [picture, line, circle], show_progress="hidden")
  other.click(drawn, [seed, label], [seed, *sliders, picture, line, circle], show_progress="hidden")


def _values(walk: Walk, seed: int) -> list[float]:
  """Where the sliders stand at a draw; within what they reach."""
  found = walk.ends(1, seed)[0, walk.moved]
  return [round(float(value), 2) for value in np.clip(found, walk.low, walk.high)]


def _rounded(number: float, way: Callable[[float], int]) -> float:
  """To the two decimals that a slider shows."""
  return way(float(number) * 100) / 100
