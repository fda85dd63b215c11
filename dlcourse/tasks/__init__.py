"""Ways of learning, one file each: a recipe that builds a `dlcourse.task.Task`."""
