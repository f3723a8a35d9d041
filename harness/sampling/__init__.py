"""Sampling responses from a policy: the decoding loop, KV caches, other engines."""
