"""Pieces of the page as HTML in which nothing that comes from files of other people means anything."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

MOST_BARS = 20  # classes that are shown

CSS = """
.bar { display: grid; grid-template-columns: minmax(4rem, 30%) 1fr 4rem; gap: .5rem; align-items: center;
       padding: .15rem 0; }
.bar > :first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar > :last-child { text-align: right; font-variant-numeric: tabular-nums; }
.bar i { display: block; height: .8rem; border-radius: .2rem; background: var(--primary-500); min-width: 1px; }
.answer { font-size: 1.4rem; font-weight: 600; margin-bottom: .5rem; overflow-wrap: anywhere; }
.note { padding: .5rem .75rem; border-left: .25rem solid var(--primary-500); overflow-wrap: anywhere;
        background: var(--background-fill-secondary); }
.note.problem { border-color: #dc2626; }
.note.right { border-color: #16a34a; }
.note.wrong { border-color: #dc2626; }
.wide { overflow-x: auto; }
.wide table { border-collapse: collapse; width: 100%; }
.wide :is(td, th) { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border: 0;
                    border-bottom: 1px solid var(--border-color-primary); overflow-wrap: break-word; }
"""


def escaped(text: str) -> str:
  """A text as it is, for HTML and for the templates that Gradio fills in."""
  return html.escape(text).replace("{", "&#123;").replace("$", "&#36;")


def note(text: str, kind: str = "") -> str:
  """A line to be read; its kind is problem, right, wrong or none."""
  return f'<p class="note {kind}">{escaped(text)}</p>'


def problem(error: Exception) -> str:
  """What cannot be used; the flags that a message names are fields of the page."""
  return note(str(error).replace("--", ""), "problem")


def answer(classes: Sequence[str], shares: np.ndarray) -> str:
  """The likeliest class, and a bar for the probability of every class, the likeliest first.

  Args:
    classes: their names.
    shares: [classes], their probabilities.
  """
  order = np.argsort(-shares, kind="stable")
  best, rest = order[0], order[MOST_BARS:]
  parts = [f'<div class="answer">{escaped(classes[best])}: {shares[best]:.2%}</div>']
  parts += [_bar(classes[i], float(shares[i])) for i in order[:MOST_BARS]]
  if len(rest):
    parts.append(_bar(f"{len(rest)} others", float(shares[rest].sum())))
  return "".join(parts)


def _bar(name: str, share: float) -> str:
  label = escaped(name)
  return (
    f'<div class="bar" title="{label}: {share:.8f}"><span>{label}</span>'
    f'<i style="width:{share:.4%}"></i><span>{share:.4f}</span></div>'
  )


def table(rows: Sequence[Mapping[str, str]], header: bool = True) -> str:
  """Rows of texts; columns are the keys of the first."""
  head = "".join(f"<th>{escaped(name)}</th>" for name in rows[0]) if header else ""
  body = ("".join(f"<td>{escaped(cell)}</td>" for cell in row.values()) for row in rows)
  return f'<div class="wide"><table><tr>{head}</tr>{"".join(f"<tr>{row}</tr>" for row in body)}</table></div>'


def tally(right: int, known: int) -> str:
  """The running accuracy in words."""
  if not known:
    return note("No correct class has been given yet.")
  return note(f"{right} of {known} right: accuracy {right / known:.1%}")


def verdict(right: bool | None, truth: str | None) -> str:
  """Whether the prediction is the correct class; nothing where that is not known."""
  if right is None or truth is None:
    return ""
  return note("right" if right else f"wrong: it is {truth}", "right" if right else "wrong")
