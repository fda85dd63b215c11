"""The tabs for what a generative model makes: pictures, or text."""

import tempfile
from pathlib import Path

import gradio as gr

from dlcourse.app import page
from dlcourse.errors import UserError
from dlcourse.evaluators.samples import Request
from dlcourse.trained import Trained, sample

_MOST_SEED = 2**31 - 1


def build_pictures(trained: Trained) -> None:
  """The tab for pictures, or points of the plane as a file."""
  told = trained.program.task.conditional and trained.data.spec.classes
  with gr.Row():
    count = gr.Slider(1, 64, 16, step=1, label="Samples")
    temperature = gr.Slider(0, 2, 1, step=0.05, label="Temperature", info="below 1: likelier, and more alike")
    condition = _condition(told)
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=_MOST_SEED)
  draw = gr.Button("Draw", variant="primary")
  said = gr.HTML()
  picture = gr.Image(label="Samples", type="filepath", interactive=False, buttons=["download"])
  points = gr.File(label="Points", visible=False)

  def drawn(count, temperature, condition, seed):
    try:
      request = Request(int(count), temperature=temperature, condition=condition)
      first = _sampled(trained, request, int(seed or 0))[0]
    except UserError as error:
      return page.problem(error), None, gr.File(visible=False)
    if first.suffix == ".csv":
      return "", None, gr.File(str(first), visible=True)
    return "", str(first), gr.File(visible=False)

  draw.click(drawn, [count, temperature, condition, seed], [said, picture, points])


def build_text(trained: Trained) -> None:
  """The tab for text: what goes on from a beginning, or answers it."""
  spec = trained.data.spec
  answers = "inputs" in spec.batch
  prompt = gr.Textbox(
    label="What is to be answered or translated" if answers else "How the text begins (may be empty)", lines=2
  )
  with gr.Row():
    length = gr.Slider(1, 2000, 300, step=1, label="Length in symbols", visible=not answers)
    temperature = gr.Slider(0, 2, 0.8, step=0.05, label="Temperature", info="0: always the likeliest symbol")
    condition = _condition(() if answers else spec.classes)
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=_MOST_SEED)
  write = gr.Button("Write", variant="primary")
  said = gr.HTML()
  text = gr.Textbox(label="Text", lines=10, interactive=False, buttons=["copy"])

  def written(prompt, length, temperature, condition, seed):
    try:
      request = Request(1, prompt or None, int(length), temperature, condition)
      return "", _sampled(trained, request, int(seed or 0))[0].read_text(encoding="utf-8")
    except UserError as error:
      return page.problem(error), ""

  write.click(written, [prompt, length, temperature, condition, seed], [said, text])


def _condition(classes: tuple[str, ...]) -> gr.Dropdown:
  choices = [("each in turn", None), *((name, name) for name in classes or ())]
  return gr.Dropdown(choices, value=None, label="Class", visible=bool(classes))


def _sampled(trained: Trained, request: Request, seed: int) -> list[Path]:
  """The files that `dlcourse sample` would write, in Gradio's folder and not in the workdir."""
  folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
  return sample(trained._replace(path=folder), request, seed)
