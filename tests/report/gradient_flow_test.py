import numpy as np

from dlcourse.report.gradient_flow import gradient_flow_figure
from dlcourse.theory.bptt import Flow


def test_each_flow_is_a_line_beside_its_bound_on_a_logarithmic_axis():
  flows = [Flow("fades", 0.5 ** np.arange(4), 0.5, 0.8), Flow("grows", 2.0 ** np.arange(3), 2.0, 2.5)]
  (axes,) = gradient_flow_figure(flows).axes
  assert axes.get_yscale() == "log"
  drawn = [line.get_ydata() for line in axes.get_lines()]
  for found, expected in zip(
    drawn, [flows[0].norms, 0.8 ** np.arange(4), flows[1].norms, 2.5 ** np.arange(3)], strict=True
  ):
    np.testing.assert_allclose(found, expected)
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ["fades: 0.500 a step, bound 0.800", "grows: 2.000 a step, bound 2.500"]


def test_the_figure_is_drawn(tmp_path):
  file = tmp_path / "flow.png"
  gradient_flow_figure([Flow("to nothing", np.array([1.0, 1e-300, 0.0]), 1e-300, 0.5)]).savefig(file)
  assert file.stat().st_size > 5_000
