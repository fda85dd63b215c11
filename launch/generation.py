"""Tokens a second of greedy generation from a GPT-2 with a cache, here and in `transformers`.

    python launch/generation.py --layers=4 --width=128 --tokens=256 --batches=1,16

Both have the same random weights and one thread, take turns, and have to write the same tokens. Times are CPU
seconds, which do not count what others do on a busy core. Needs the extra `parity`.
"""

import argparse
import os
import statistics
import time

from dlcourse import platform

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
platform.tune_malloc()  # before JAX starts its threads

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from dlcourse.interop.hugging_face import from_hugging_face  # noqa: E402
from dlcourse.models.gpt import gpt  # noqa: E402
from dlcourse.tasks.supervised import sample_tokens  # noqa: E402

VOCABULARY, HEADS, ROUNDS = 1_000, 4, 5


def main() -> None:
  """One line a batch size."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--layers", type=int, default=4)
  parser.add_argument("--width", type=int, default=128)
  parser.add_argument("--tokens", type=int, default=256, help="to write, after a prompt of one")
  parser.add_argument("--batches", default="1,16", help="texts that are written side by side")
  args = parser.parse_args()
  torch.set_num_threads(1)
  torch.manual_seed(0)
  theirs = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=VOCABULARY, n_positions=args.tokens + 1, n_embd=args.width, n_layer=args.layers, n_head=HEADS
    )
  ).eval()
  arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
  model = gpt(args.width, HEADS, args.layers, args.tokens + 1).clone(vocab_size=VOCABULARY)
  variables = from_hugging_face(
    model, jax.eval_shape(model.init, jax.random.key(0), (), np.zeros((1, 2), int)), arrays
  )
  for size in map(int, args.batches.split(",")):
    compare(theirs, model, variables, size, args.tokens)


def compare(theirs, model, variables, size: int, tokens: int) -> None:
  """Both in turn; prints medians."""
  prompt = np.random.default_rng(0).integers(VOCABULARY, size=(size, 1))
  text = np.pad(prompt, ((0, 0), (0, tokens))).astype(np.int32)
  request = {"tokens": text, "given": text * 0, "temperature": np.zeros(size, np.float32)}
  compiled = jax.jit(lambda variables, request: sample_tokens(model, variables, jax.random.key(0), request))

  def ours():
    return np.asarray(compiled(variables, request))

  def hugging_face():
    with torch.no_grad():
      ids = torch.tensor(prompt)
      return theirs.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, eos_token_id=VOCABULARY,
        min_new_tokens=tokens, max_new_tokens=tokens,
      ).numpy()  # fmt: skip

  np.testing.assert_array_equal(ours(), hugging_face())
  rates = {"ours": [], "transformers": []}
  for _ in range(ROUNDS):
    for name, write in (("ours", ours), ("transformers", hugging_face)):
      start = time.process_time()
      write()
      rates[name].append(size * tokens / (time.process_time() - start))
  mine, other = (statistics.median(rates[name]) for name in rates)
  print(
    f"batch {size}: {mine:,.0f} tokens/s; transformers {other:,.0f}; {mine / other:.1f} times as many",
    flush=True,
  )


if __name__ == "__main__":
  main()
