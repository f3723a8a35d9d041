"""Stages and how they are executed: keys, folders, processes, trackers."""
