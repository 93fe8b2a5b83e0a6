"""What is kept: the store (the truth) and MLflow (the view)."""
