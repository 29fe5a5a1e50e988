"""Callbacks for where people train: `lightning` for PyTorch Lightning, `transformers` for Hugging Face's Trainer.

Each module needs the package of its name, an extra of Tailcut, and is imported by itself:
`from tailcut.integrations.lightning import TruncationCallback`.
"""
