"""Plain PyTorch stages: data, networks, pretexts and downstream tasks, usable without the orchestrator."""

from trainables.start import quiet_start

quiet_start()
