"""Plain PyTorch stages: data, networks, pretexts and downstream tasks, usable without the orchestrator."""
