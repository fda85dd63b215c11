"""What an LSTM and Transformers cost against the length of the sequence: a study of H3.12.1 and H3.12.5.

    python launch/costs.py --out=costs    # costs.md and two figures: about four minutes

On one core, in CPU seconds, all in turn; of several measurements the least counts, as what others do on a busy
machine can only add to it. One layer each, at a small width too: training steps (gradients of the parameters
and of the input) with the memory that XLA says it needs beside both, and generation of a token after so many
others, with what is kept from one token to the next.
"""

import argparse
import functools
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dlcourse import platform

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
platform.tune_malloc()  # before JAX starts its threads

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from dlcourse.models.recurrent import RecurrentStack  # noqa: E402
from dlcourse.models.sequence import LanguageModel  # noqa: E402
from dlcourse.models.transformer import Layer, Transformer  # noqa: E402
from dlcourse.report.figures import new_figure  # noqa: E402
from dlcourse.theory.costs import crossing, fitted_exponent, fitted_terms  # noqa: E402

WIDTH, NARROW, HEADS = 128, 32, 4
SMALL = f", d = {NARROW}"  # ends the names of what has it
KEPT = 64  # features of a performer, places that a linformer keeps
SHORTEST = 16  # steps of a sequence
VOCABULARY = 84  # symbols of Shakespeare
WRITTEN, REWRITTEN = 64, 4  # tokens that a measurement writes; where each reads all before it again
MEASURED = 0.05  # CPU seconds of a measurement, at least

LAYERS = {
  "LSTM": ("lstm", WIDTH),
  "Transformer": ("softmax", WIDTH),
  "Performer": ("performer", WIDTH),
  "Linformer": ("linformer", WIDTH),
  f"LSTM{SMALL}": ("lstm", NARROW),
  f"Transformer{SMALL}": ("softmax", NARROW),
}

Curve = dict[int, list[float]]  # length -> values


class Contestant(NamedTuple):
  """Something that is timed.

  Attributes:
    run: does it `times` times.
    times: what a time is divided by.
    bytes: memory that it needs.
  """

  run: Callable[[], object]
  times: int
  bytes: int


def main() -> None:
  """Measures, prints Markdown, and writes it with the figures into `--out`."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--longest", type=int, default=4096, help="steps of a sequence, to a power of two")
  parser.add_argument("--batch_size", type=int, default=1, help="sequences of a training step")
  parser.add_argument("--rounds", type=int, default=7, help="measurements of each")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("costs"), help="folder")
  args = parser.parse_args()
  if args.longest < 4 * WRITTEN:
    parser.error(f"--longest={args.longest} leaves nothing to fit: at least {4 * WRITTEN}")
  args.out.mkdir(parents=True, exist_ok=True)
  sizes = [SHORTEST << k for k in range((args.longest // SHORTEST).bit_length())]
  parts = training(sizes, args), generation([size for size in sizes if size >= WRITTEN], args)
  (args.out / "costs.md").write_text("\n".join(parts), encoding="utf-8")


def training(sizes: list[int], args: argparse.Namespace) -> str:
  """Measures training steps and draws them; returns their tables."""
  times, memory = compete(
    {name: functools.partial(training_step, *layer, args.batch_size) for name, layer in LAYERS.items()},
    sizes,
    args.rounds,
  )
  milliseconds, mebibytes = scaled(times, 1e3), scaled(memory, 2**-20)
  device = platform.device_name(jax.devices()[0])
  text = "\n".join([
    f"Training step of one layer, batch {args.batch_size}, d = {WIDTH} unless another is named; one core of",
    f"{device}; least of {args.rounds} times. Exponents are of the upper half of the lengths.\n",
    table("ms", milliseconds),
    table("MiB beside parameters, input and gradients", mebibytes),
    *(comparison(times, width, suffix) for width, suffix in ((WIDTH, ""), (NARROW, SMALL))),
  ])  # fmt: skip
  print(text, flush=True)
  panels = {"ms, a training step": milliseconds, "MiB, while it is taken": mebibytes}
  save(args.out / "training_costs.png", panels, "steps of the sequence")
  return text


def generation(sizes: list[int], args: argparse.Namespace) -> str:
  """Measures generation and draws it; returns its tables."""
  longest = sizes[-1]
  recurrent = LanguageModel(RecurrentStack("lstm", WIDTH), WIDTH, tied=True, vocab_size=VOCABULARY)
  body = Transformer(Layer(WIDTH, HEADS), 1, causal=True, positions="learned", max_length=longest)
  transformer = LanguageModel(body, WIDTH, tied=True, vocab_size=VOCABULARY)
  contestants = {
    "LSTM, streaming": continuing(recurrent),
    "Transformer, cache": continuing(transformer),
    "Transformer, all again": rereading(transformer),
  }
  times, memory = compete(contestants, sizes, args.rounds)
  microseconds, kibibytes = scaled(times, 1e6), scaled(memory, 2**-10)
  text = "\n".join([
    f"\nOne token more, after as many as there are steps; one text, one layer, d = {WIDTH}.\n",
    table("µs a token", microseconds),
    table("KiB kept from token to token", kibibytes),
    crossed(times, "Transformer, cache", "LSTM, streaming"),
  ])  # fmt: skip
  print(text, flush=True)
  panels = {"µs, a token": microseconds, "KiB, kept from token to token": kibibytes}
  save(args.out / "generation_costs.png", panels, "tokens before it")
  return text


# What is measured.


def training_step(kind: str, width: int, batch_size: int, steps: int) -> Contestant:
  """The gradients of a layer as a network has it: of its parameters and of what it reads."""
  if kind == "lstm":
    body = RecurrentStack(kind, width)
  else:
    layer = Layer(width, HEADS, attention=kind, attention_size=KEPT)
    body = Transformer(layer, num_layers=1, max_length=steps)
  x = jax.random.normal(jax.random.key(0), (batch_size, steps, width))
  variables = initialised(body, x)
  params = variables.pop("params")  # the directions of a performer stay

  def loss(params, x):
    return (body.apply({**variables, "params": params}, x, train=True).outputs ** 2).mean()

  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile()
  memory = compiled.memory_analysis().temp_size_in_bytes
  return Contestant(lambda: compiled(params, x), 1, memory)


def continuing(model: LanguageModel) -> Callable[[int], Contestant]:
  """Writes with what the model carries: a state, or a cache with room for as many tokens as there will be."""
  variables = initialised(model, model.initial_carry(1), np.zeros((1, 2), int))

  def step(variables, carry, token):
    carry, logits = model.apply(variables, carry, token[:, None])
    return carry, logits[:, -1].argmax(axis=-1)

  write = jax.jit(functools.partial(repeated, step))

  def contestant(steps: int) -> Contestant:
    start = model.initial_carry(1, steps), jnp.zeros(1, int)
    before = write(variables, *start, steps - WRITTEN)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(before[0]))
    return Contestant(lambda: write(variables, *before, WRITTEN), WRITTEN, kept)

  return contestant


def rereading(model: LanguageModel) -> Callable[[int], Contestant]:
  """Writes from the text alone, which is read from its beginning for each token."""
  variables = initialised(model, model.initial_carry(1), np.zeros((1, 2), int))

  def step(variables, text, token):
    text = jnp.concatenate([text[:, 1:], token[:, None]], axis=1)
    return text, model.apply(variables, (), text)[1][:, -1].argmax(axis=-1)

  write = jax.jit(functools.partial(repeated, step))

  def contestant(steps: int) -> Contestant:
    text = jnp.zeros((1, steps), int)
    return Contestant(lambda: write(variables, text, text[:, 0], REWRITTEN), REWRITTEN, text.nbytes)

  return contestant


def repeated(step: Callable, variables: dict, carry: object, token: jax.Array, tokens: int) -> tuple:
  """As many tokens, each the likeliest after those before, inside one program."""
  return jax.lax.fori_loop(0, tokens, lambda _, state: step(variables, *state), (carry, token))


def initialised(model: nn.Module, *args: object) -> dict:
  """Parameters; compiled without optimisation, which would take longer than it saves."""
  options = {"xla_backend_optimization_level": 0}
  return dict(jax.jit(model.init, compiler_options=options)(jax.random.key(0), *args))


def compete(
  contestants: Mapping[str, Callable[[int], Contestant]], sizes: list[int], rounds: int
) -> tuple[dict[str, Curve], dict[str, Curve]]:
  """Measures all in turn, at all lengths in every round: CPU seconds, and bytes."""
  built = {(name, size): build(size) for size in sizes for name, build in contestants.items()}
  times: dict[str, Curve] = {name: {size: [] for size in sizes} for name in contestants}
  memory: dict[str, Curve] = {name: {} for name in contestants}
  for (name, size), contestant in built.items():
    jax.block_until_ready(contestant.run())
    memory[name][size] = [contestant.bytes]
  for number in range(rounds):
    for name, size in built if number % 2 else reversed(built):
      times[name][size].append(seconds(built[name, size]))
  return times, memory


def seconds(contestant: Contestant) -> float:
  """CPU seconds that it takes once."""
  count, start = 0, time.process_time()
  while time.process_time() - start < MEASURED:
    jax.block_until_ready(contestant.run())
    count += contestant.times
  return (time.process_time() - start) / count


# What is said of it.


def scaled(curves: Mapping[str, Curve], factor: float) -> dict[str, Curve]:
  """The same in other units."""
  return {
    name: {size: [factor * value for value in values] for size, values in curve.items()}
    for name, curve in curves.items()
  }


def upper(curve: Curve) -> tuple[list[int], list[float]]:
  """The larger half of the lengths, and the least value at each."""
  sizes = sorted(curve)[-(len(curve) // 2) :]
  return sizes, [min(curve[size]) for size in sizes]


def table(unit: str, curves: Mapping[str, Curve]) -> str:
  """Least values as Markdown, a row a length, and the exponents below."""
  rows = [[unit, *curves], [":--", *["--:"] * len(curves)]]
  for size in next(iter(curves.values())):
    rows.append([f"{size:,}", *(number(min(curve[size])) for curve in curves.values())])
  rows.append(["**exponent**", *(f"**{fitted_exponent(*upper(curve)):z.2f}**" for curve in curves.values())])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def number(value: float) -> str:
  """Three digits, or all before the point."""
  return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def comparison(times: Mapping[str, Curve], width: int, suffix: str) -> str:
  """Where the two parts of a Transformer layer cost the same, and where the LSTM costs as much as it."""
  linear, quadratic = fitted_terms(*upper(times[f"Transformer{suffix}"]))
  balance = f"{linear / quadratic:,.0f}" if quadratic else "none"
  return (
    f"d = {width}: in the Transformer, what grows with T and with T² costs the same at T = {balance} (by its "
    f"products 6 d = {6 * width}).\n" + crossed(times, f"Transformer{suffix}", f"LSTM{suffix}")
  )


def crossed(times: Mapping[str, Curve], first: str, second: str) -> str:
  """Which of two costs less, and where that changes."""
  sizes = sorted(times[first])
  costs = [[min(times[name][size]) for size in sizes] for name in (first, second)]
  where = crossing(sizes, *costs)
  ratios = [a / b for a, b in zip(*costs, strict=True)]
  ends = f"{first} / {second}: {ratios[0]:.2f} at {sizes[0]}, {ratios[-1]:.2f} at {sizes[-1]:,}; "
  return ends + ("they do not cross.\n" if where is None else f"they cross at {where:,.0f}.\n")


def save(file: pathlib.Path, panels: Mapping[str, Mapping[str, Curve]], xlabel: str) -> None:
  """One panel a quantity, one line a contestant through its least values; both axes are logarithmic."""
  figure = new_figure(10.5, 4.4)
  for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
    colours: dict[str, str] = {}
    for name, curve in curves.items():
      colour = colours.setdefault(name.removesuffix(SMALL), f"C{len(colours)}")
      style = "o--" if name.endswith(SMALL) else "o-"
      least = [min(values) for values in curve.values()]
      axes.loglog(list(curve), least, style, color=colour, label=name, markersize=3.5, linewidth=1.4)
    axes.set_xticks(list(curve), [f"{size:,}" for size in curve], fontsize=8)
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
  figure.savefig(file, dpi=150)


if __name__ == "__main__":
  main()
