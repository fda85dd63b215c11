"""The experiments of the course, one module per chapter topic (installed as `dlcourse.experiments`)."""
