"""The PPO runner, one for every reward model: loop.py is where to begin."""
