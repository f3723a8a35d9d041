"""Reward models: each maps a rollout to one reward per response token."""
