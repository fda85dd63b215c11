"""Every claim of the handbook is measured, and found to be what has been declared of it."""

import collections
import json

import matplotlib.figure
import pytest

from dlcourse.errors import UserError
from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.page import CLAIMS, of_section, summary, write_page


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_a_claim_is_found_as_declared(claim):
  finding = claim.measure()
  assert finding.verdict == claim.verdict, finding.value
  assert finding.value
  assert finding.source
  assert bool(claim.right) == (claim.verdict == "corrected")


def test_names_are_unique_and_sections_of_the_handbook():
  assert max(collections.Counter(claim.key for claim in CLAIMS).values()) == 1
  assert all(part.isdigit() for claim in CLAIMS for part in claim.section.split("."))


def test_a_section_holds_what_is_below_it_and_no_namesake():
  assert {claim.section for claim in of_section("H2.10.2")} >= {"2.10.2.8"}
  assert of_section("2") == tuple(claim for claim in CLAIMS if claim.section.startswith("2."))
  assert of_section(None) == CLAIMS


@pytest.mark.parametrize("section", ["99", "1.10", "two", ""])
def test_a_section_without_claims_is_refused_with_those_there_are(section):
  with pytest.raises(UserError, match=r"no claim of section .*2\.10"):
    of_section(section)


def test_the_page_says_verdict_value_and_what_is_right_and_escapes_them(tmp_path):
  figure = matplotlib.figure.Figure(figsize=(1, 1))
  holds = Claim("a", "2.1", "x < y | z", lambda: Finding("1 < 2", True, "theory", figure), "confirmed")
  wrong = Claim("b", "2.2", "all", lambda: Finding("none", False, "paper"), "corrected", "It is none.")
  rows = write_page([holds, wrong], tmp_path)
  assert summary(rows) == "2 claims: 1 confirmed, 1 corrected"
  page, text = (tmp_path / "index.html").read_text(), (tmp_path / "index.md").read_text()
  assert "H2.1 · x &lt; y | z" in page
  assert page.count("<img") == 1
  assert (tmp_path / "a.png").exists()
  assert page.index("1 &lt; 2") < page.index("corrected</span>: none") < page.index("It is none.")
  assert "x < y \\| z" in text
  assert [row["verdict"] for row in json.loads((tmp_path / "claims.json").read_text())] == [
    "confirmed",
    "corrected",
  ]
