"""A killed training ends as one that was left alone, and planted faults are seen."""

from kills import FAULTS, KINDS, left_alone, tiny, trials

NAME = "vae.mlp"


def test_whenever_it_is_killed_it_ends_bit_identical_but_with_a_fault(tmp_path):
  run = (NAME, [*tiny(NAME), *KINDS[NAME]], tmp_path)
  alone = left_alone(*run)
  assert trials(*run, alone, 2) == 2
  assert [trials(*run, alone, 1, fault) for fault in FAULTS] == [0, 0]
