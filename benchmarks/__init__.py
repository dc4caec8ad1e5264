"""Claims about speed and quality, each from a command, with baselines in the same run."""
