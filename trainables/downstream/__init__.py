"""Downstream tasks: finetuning a segmentation network, and what is measured on it."""
