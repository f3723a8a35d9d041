"""Point estimates and their intervals, from arrays of numbers alone: no files, no torch."""
