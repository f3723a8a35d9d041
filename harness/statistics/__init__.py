"""Point estimates and their intervals, from arrays of numbers alone: no files, no torch.

`intervals.interval` is the interval of every reported number, and `intervals.Interval` the record that it returns.
cells, variance: arrays [S seeds, P prompts], their resamples, and the two-way random-effects mean.
comparisons, ranking, length_control: reward models against each other.   collapse: distributions before and after.
monotonicity, gao: gold against the proxy reward.   best_of_n, credit, cost, power: one module per question.
"""
