import pytest

from dlcourse.models.trace import Layer
from dlcourse.report.layers import grouped, summary_rows


def layer(path, kind="Conv", block=None, network="", parameters=1, field=None):
  shapes = ((8, 8, 2), (8, 8, 4), (8, 8, 2), (4, 4, 3))  # of the block, of the layer
  return Layer(network, path, kind, block or kind, *shapes, parameters, 1_000, 2_000, field)


LAYERS = [
  layer("conv1", parameters=1_234_567, field=3),
  layer("conv2_1/conv", block="Block"),
  layer("conv2_1/norm", "Norm", "Block"),
  layer("conv2_2/conv", block="Block", field=5),
  layer("conv2_2/norm", "Norm", "Block", field=9),
  layer("output", "Dense"),
]


@pytest.mark.parametrize(
  ("limit", "names", "blocks"),
  [
    (6, [each.path for each in LAYERS], [1] * 6),
    (5, ["conv1", "conv2_1", "conv2_2", "output"], [1] * 4),
    (3, ["conv1", "conv2", "output"], [1, 2, 1]),
    (1, ["conv1", "conv2", "output"], [1, 2, 1]),
  ],
)
def test_layers_are_grouped_no_more_than_need_be(limit, names, blocks):
  groups = grouped(LAYERS, limit)
  assert [group.name for group in groups] == names
  assert [group.blocks for group in groups] == blocks
  assert [each for group in groups for each in group.layers] == LAYERS


def test_a_group_has_the_shapes_of_its_block_and_the_field_of_its_last_layer():
  stage = grouped(LAYERS, 3)[1]
  assert (stage.kind, stage.input, stage.output) == ("Block", (8, 8, 2), (8, 8, 4))
  assert (stage.parameters, stage.receptive_field) == (4, 9)


def test_the_blocks_of_a_backbone_are_those_inside_it():
  layers = [layer(f"backbone/conv1_{i}/{part}", block="Block") for i in (1, 2) for part in "ab"] + [
    layer("output")
  ]
  assert [group.name for group in grouped(layers, 3)] == ["backbone/conv1_1", "backbone/conv1_2", "output"]


def test_a_stage_of_one_block_has_its_name_and_networks_are_not_mixed():
  layers = [layer(f"{n}/conv1_1/{part}", block="Block", network=n) for n in "gd" for part in "ab"]
  assert [group.name for group in grouped(layers, 1)] == ["g/conv1_1", "d/conv1_1"]


def test_the_table_has_sums_and_repeats():
  *rows, last = summary_rows(LAYERS, limit=3)
  assert [row["kind"] for row in rows] == ["Conv", "Block × 2", "Dense"]
  assert rows[0] == {
    "layer": "conv1",
    "kind": "Conv",
    "output": "4 × 4 × 3",
    "parameters": "1,234,567",
    "multiply-adds": "1,000",
    "connections": "2,000",
    "receptive field": "3",
  }
  assert rows[2]["receptive field"] == ""
  sums = (last["layer"], last["parameters"], last["multiply-adds"], last["connections"])
  assert sums == ("all", "1,234,572", "6,000", "12,000")
