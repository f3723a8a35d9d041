"""The harness: nouns, seams, stages, PPO, statistics and the command line."""
