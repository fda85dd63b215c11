"""The handbook's claims as a page: a table with a verdict for each, and the figures that show them."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from dlcourse.errors import UserError
from dlcourse.evaluators import Report
from dlcourse.handbook import chapter1, chapter2, chapter3, chapter4, chapter5
from dlcourse.handbook.claim import Claim, Finding
from dlcourse.report.write import markdown, save

CLAIMS = chapter1.CLAIMS + chapter2.CLAIMS + chapter3.CLAIMS + chapter4.CLAIMS + chapter5.CLAIMS
_HTML = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>The handbook, measured</title>
<style>
  body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
  article { border-top: 1px solid #ccc; padding: .6rem 0 }
  h2 { font-size: 1rem; margin: .2rem 0 } p { margin: .2rem 0 } img { max-width: 34rem; width: 100% }
  .verdict { font-weight: bold } .source { color: #666 }
  .confirmed { color: #176b2c } .corrected { color: #a33a00 }
</style>
<h1>The handbook, measured</h1>
<p>{{ summary }}</p>
{% for claim, finding in rows %}
<article id="{{ claim.key }}">
  <h2>H{{ claim.section }} · {{ claim.says }}</h2>
  <p><span class="verdict {{ finding.verdict }}">{{ finding.verdict }}</span>: {{ finding.value }}</p>
  {% if claim.right %}
  <p>{{ claim.right }}</p>
  {% endif %}
  <p class="source">{{ finding.source }}</p>
  {% if finding.figure %}
  <img src="{{ claim.key }}.png" alt="{{ claim.says }}">
  {% endif %}
</article>
{% endfor %}
</html>
""")


class Row(NamedTuple):
  """A claim with what was found."""

  claim: Claim
  finding: Finding


def of_section(section: str | None) -> tuple[Claim, ...]:
  """The claims of a chapter or section with what is below it; of all, if none is named.

  Args:
    section: such as "2" or "H2.10.2".

  Raises:
    UserError: no claim is there.
  """
  if section is None:
    return CLAIMS
  number = section.removeprefix("H").removesuffix(".")
  found = tuple(claim for claim in CLAIMS if f"{claim.section}.".startswith(f"{number}."))
  if not found:
    known = ", ".join(dict.fromkeys(".".join(claim.section.split(".")[:2]) for claim in CLAIMS))
    raise UserError(f"no claim of section {section!r} is measured; there are some of: {known}")
  return found


def write_page(claims: Sequence[Claim], folder: pathlib.Path) -> list[Row]:
  """Measures claims, and writes `index.html`, `index.md`, `claims.json` and a PNG of each figure.

  Args:
    claims: in the order of the page.
    folder: is made where it is not there; files of these names in it are replaced.

  Raises:
    UserError: a table that a claim is read from is not there.
  """
  rows = [Row(claim, claim.measure()) for claim in claims]
  figures = {claim.key: finding.figure for claim, finding in rows if finding.figure}
  save(Report(tables={"claims": [_cells(row) for row in rows]}, figures=figures), folder)
  (folder / "index.html").write_text(_HTML.render(rows=rows, summary=summary(rows)), encoding="utf-8")
  (folder / "index.md").write_text(_markdown(rows), encoding="utf-8")
  return rows


def summary(rows: Sequence[Row]) -> str:
  """How many claims there are of each verdict."""
  verdicts = [row.finding.verdict for row in rows]
  counts = (f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
  return f"{len(rows)} claims: {', '.join(counts)}"


def _cells(row: Row) -> dict[str, str]:
  claim, finding = row
  return {
    "section": f"H{claim.section}",
    "claim": claim.says,
    "verdict": finding.verdict,
    "found": finding.value,
    "right": claim.right,
    "source": finding.source,
  }


def _markdown(rows: Sequence[Row]) -> str:
  cells = [{name: text.replace("|", "\\|") for name, text in _cells(row).items()} for row in rows]
  figures = [f"\n![{claim.says}]({claim.key}.png)\n" for claim, finding in rows if finding.figure]
  return "".join([f"# The handbook, measured\n\n{summary(rows)}\n\n", markdown(cells), *figures])
