"""Judges: each measures a trained policy's responses beside the SFT baseline's, one row per case."""
