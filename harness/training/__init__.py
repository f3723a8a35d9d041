"""Supervised training through TRL: SFT, reward models, DPO."""
