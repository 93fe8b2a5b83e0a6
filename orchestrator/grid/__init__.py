"""What is asked: grids, profiles and overrides, read from YAML and checked."""
