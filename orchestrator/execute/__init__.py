"""Running a plan: which stage when, on Ray Tune or in this process."""
