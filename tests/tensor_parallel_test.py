"""Blocks of Transformers split over devices: the same steps, what lies where, what moves, what is refused."""

import re

import jax
import numpy as np
import pytest

from dlcourse import metrics
from dlcourse.checkpoint import Checkpoints, Progress
from dlcourse.errors import UserError
from dlcourse.experiment import load
from dlcourse.parallel import compile_task, make_mesh

STEPS, LAYERS = 3, 2
# The gradient of a key's bias is 0 but for rounding, which Adam would divide by as little without this eps.
ADAM = (
  f"--steps={STEPS}",
  "--data.batch_size=8",
  "--task.optimizer.warmup_steps=0",
  "--task.optimizer.eps=1e-3",
)
TINY = {
  "transformer.char_gpt": (
    *ADAM,
    "--data.seq_len=8",
    f"--task.model.body.num_layers={LAYERS}",
    "--task.model.body.layer.hidden_dim=16",
    "--task.model.body.layer.num_heads=4",
    "--task.model.embed_dim=16",
  ),
  "transformer.addition": (*ADAM, "--data.questions=64", "--task.model.layer.hidden_dim=16"),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
  """(name, devices, tensor, mode, overrides) -> data and program."""
  corpus = tmp_path_factory.mktemp("corpus") / "letters.txt"
  corpus.write_text("".join(np.random.default_rng(0).choice(list("abcdef \n"), 3000)))

  def build(name, devices=1, tensor=None, mode="tensor", overrides=()):
    source = [f"--data.source=file:{corpus}"] if name == "transformer.char_gpt" else []
    experiment = load(name, [*TINY.get(name, ()), *source, *overrides])
    data = experiment.data.build()
    task = experiment.task.build(data.spec, STEPS)
    return data, compile_task(task, data.spec.batch, make_mesh(devices, None, mode, tensor), mode)

  return build


@pytest.fixture(scope="module")
def on_one_device(compiled):
  """name -> parameters before and after the steps, and the loss."""
  known = {}

  def run(name):
    if name not in known:
      data, program = compiled(name, mode="jit")
      start = jax.device_get(program.init(jax.random.key(0)).params)
      known[name] = (start, *steps(data, program))
    return known[name]

  return run


def steps(data, program):
  state, parts = program.init(jax.random.key(0)), []
  for step in range(STEPS):
    state, measured = program.train_step(state, data.batch(0, step))
    parts.append(measured)
  return jax.device_get(state.params), metrics.read(metrics.accumulate(parts))["loss"]


def largest_difference(a, b):
  return max(np.max(np.abs(x - y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(
  ("name", "devices", "tensor"),
  [
    ("transformer.char_gpt", 4, 4),
    ("transformer.char_gpt", 8, 4),
    ("transformer.char_gpt", 8, 2),
    ("transformer.char_gpt", 8, 8),  # with half a head each
    ("transformer.addition", 8, 4),
  ],
)
def test_split_blocks_equal_whole_ones(compiled, on_one_device, name, devices, tensor):
  start, params, loss = on_one_device(name)
  many, many_loss = steps(*compiled(name, devices, tensor))
  worst = largest_difference(params, many)
  print(f"{name} {devices // tensor}x{tensor}: loss {abs(loss - many_loss):.1e}, parameters {worst:.1e}")
  assert abs(loss - many_loss) <= 1e-5
  assert worst <= 1e-5
  assert largest_difference(params, start) > 1e-3


def shards(tree):
  """{path: (shape, shape on a device)}; of an optimizer state, the parts that have the names of parameters."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
  return {path: (leaf.shape, leaf.sharding.shard_shape(leaf.shape)) for path, leaf in named.items()}


def test_parameters_and_moments_lie_in_parts(compiled):
  _, program = compiled("transformer.char_gpt", 8, 4)
  state = program.init(jax.random.key(0))
  lies = shards(state.params)
  block = "body/stack/layers"
  for name in ("query", "key", "value"):
    assert lies[f"{block}/attention/{name}/kernel"] == ((2, 16, 16), (2, 16, 4))
    assert lies[f"{block}/attention/{name}/bias"] == ((2, 16), (2, 4))
  assert lies[f"{block}/attention/out/kernel"] == ((2, 16, 16), (2, 4, 16))
  assert lies[f"{block}/widen/kernel"] == ((2, 16, 64), (2, 16, 16))
  assert lies[f"{block}/widen/bias"] == ((2, 64), (2, 16))
  assert lies[f"{block}/narrow/kernel"] == ((2, 64, 16), (2, 16, 16))
  split = {path for path, (whole, part) in lies.items() if whole != part}
  assert len(split) == 10  # and no embedding, norm, or bias of what is summed
  moments = shards(state.opt_state)
  for moment in ("mu", "nu"):
    of = {path.split(f"/{moment}/")[1]: lie for path, lie in moments.items() if f"/{moment}/" in path}
    assert of == lies
  kernel = state.params["body"]["stack"]["layers"]["widen"]["kernel"]
  rows = {shard.device: np.asarray(shard.data) for shard in kernel.addressable_shards}
  assert len(rows) == 8
  assert len({row.tobytes() for row in rows.values()}) == 4  # each part on two devices


def test_both_attentions_of_a_decoder_are_split(compiled):
  _, program = compiled("transformer.addition", 8, 4)
  lies = shards(program.state.params)
  split = {path for path, (whole, part) in lies.items() if whole != part}
  blocks = {path.rpartition("/layers/")[0] for path in split}
  assert blocks == {"encoder", "decoder"}
  assert len(split) == 10 + 17  # of a block: 7 in each attention, 3 in the MLP


def test_forward_pass_moves_two_sums_a_layer_and_no_parameters(compiled):
  data, program = compiled("transformer.char_gpt", 4, 4)
  batch = {name: data.batch(0, 0)[name] for name in data.spec.batch}
  step = jax.jit(program.task.eval_step)
  text = step.lower(program.state, jax.random.key(0), batch).compile().as_text()
  moved = re.findall(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text
  )
  assert moved == ["all-reduce"] * 2 * LAYERS


def test_a_checkpoint_goes_from_split_to_whole_and_back(compiled, tmp_path):
  _, split = compiled("transformer.char_gpt", 8, 4)
  _, whole = compiled("transformer.char_gpt", 2, mode="jit")
  first = split.init(jax.random.key(3))
  moved = first
  for turn, program in enumerate((whole, split)):
    with Checkpoints(tmp_path / str(turn)) as checkpoints:
      checkpoints.save(moved, Progress())
      moved = checkpoints.restore(program.state, int(moved.step))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(moved))
    assert jax.tree.all(jax.tree.map(lambda x, shape: x.sharding == shape.sharding, moved, program.state))


def test_generation_equals_that_of_one_device(compiled):
  data, split = compiled("transformer.addition", 8, 4)
  _, whole = compiled("transformer.addition", mode="jit")
  key, batch = jax.random.key(0), data.batch(0, 0)
  one, many = (program.predict(program.init(key), key, batch) for program in (whole, split))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


def test_default_is_all_devices_of_the_process():
  assert dict(make_mesh(8, None, "tensor").shape) == {"data": 1, "model": 8}
  assert dict(make_mesh(8).shape) == {"data": 8, "model": 1}


def test_a_batch_is_shared_by_the_data_axis_alone(compiled):
  compiled("transformer.char_gpt", 8, 4, overrides=["--data.batch_size=2"])
  with pytest.raises(UserError, match="a batch of 3 cannot be shared by 2 devices"):
    compiled("transformer.char_gpt", 8, 4, overrides=["--data.batch_size=3"])


def test_a_network_without_blocks_is_refused(compiled):
  with pytest.raises(UserError, match="here are none") as refused:
    compiled("cnn.mlp", 8, 2, overrides=["--data.source=digits", "--data.batch_size=8", "--data.size=8"])
  assert "\n" not in str(refused.value)


def test_widths_that_do_not_split_are_refused(compiled):
  layer = ("--task.model.body.layer.hidden_dim=20", "--task.model.body.layer.num_heads=2")
  odd = (*layer, "--task.model.embed_dim=20")
  with pytest.raises(UserError, match=r"--tensor=8 .* widths \[20, 80\]; --tensor=4 does"):
    compiled("transformer.char_gpt", 8, 8, overrides=odd)


@pytest.mark.parametrize(
  ("mode", "tensor", "said"), [("tensor", 3, "divide the 8 devices"), ("jit", 2, "--parallel=tensor, not")]
)
def test_meshes_that_cannot_be_are_refused(mode, tensor, said):
  with pytest.raises(UserError, match=said):
    make_mesh(8, None, mode, tensor)
