"""The PPO runner that every reward model shares."""
