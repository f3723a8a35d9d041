"""The Python API: what the commands do, as functions that return their results.

    from rlhf_bench.harness import api

    report = api.run("dialogsum", ["seq2seq-token", "scalar"], seeds=3)
    report.to_pandas()

The commands call the functions of this module, so both give the same numbers and reuse each other's results folder.

Every error that a user can cause is a BenchError.  Nothing is printed; functions that compute take `progress`, a
function that is called with (event, stage name, done, total), where the event is start, step or end:
`progress=api.print_progress` writes one line for each finished stage.

Stages run side by side in processes of their own when `jobs` is 2 or more, or by default where the policy is small.
A script needs no `if __name__ == "__main__":` for that, and notebooks can do it too.  A function that computes in this
process sets its number of CPU threads to `threads`, for torch and for all else in the process.
"""

from rlhf_bench.harness.api.arguments import Seeds, Setting, Settings, print_progress
from rlhf_bench.harness.api.experiments import ExperimentResult, experiment
from rlhf_bench.harness.api.judging import judge, score
from rlhf_bench.harness.api.reports import Report, load_report, report
from rlhf_bench.harness.api.runs import PlannedStage, RunPlan, plan, run
from rlhf_bench.harness.results.text_rewards import TextRewards

__all__ = [
    "ExperimentResult",
    "PlannedStage",
    "Report",
    "RunPlan",
    "Seeds",
    "Setting",
    "Settings",
    "TextRewards",
    "experiment",
    "judge",
    "load_report",
    "plan",
    "print_progress",
    "report",
    "run",
    "score",
]
