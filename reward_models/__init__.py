"""Response to reward per token."""
