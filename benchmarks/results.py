"""Write docs/results.md from the report of a run: python benchmarks/results.py runs/report/report.json [MORE ...]

The tables are those of the report itself; nothing is typed in by hand but the paragraph on how to read them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_bench.reports.markdown import escape, fenced, table_lines
from rlhf_bench.reports.tables import all_tables

HEAD = """# Results of the built-in reward models

Written by `python benchmarks/results.py` from reports of `bench run`; every number is in the reports' JSON and is
recomputed from stored rows. What a reader should know first:

- The controlled world has exact gold utility, and a policy of .18M parameters trained from nothing. What holds here
  need not hold for a pretrained one.
- Settings were chosen on seed 0, the reward models' by pair accuracy, before the seeds below were run once.
- `scalar` and the seq2seq reward models see the same pairs for the same number of epochs, two texts a pair; what each
  training cost stands in the manifest of the report.
- One run of three seeds: read the intervals. An interval that holds 0 (or .5 for a win rate) shows no effect.
- Sampled and greedy decoding are both shown: at temperature 1 a part of any gain is noise that was removed.
"""


def lines(reports: list[Mapping[str, Any]]) -> Iterator[str]:
    yield HEAD
    for report in reports:
        origin = report["data"][0]
        yield f"## {escape(origin['task'])}, seeds {', '.join(map(str, report['manifest']['seeds']))}"
        yield from ("", escape(origin["description"]), "", *fenced(report["manifest"]["command"]))
        for table in all_tables(report):
            yield from table_lines(table, "###")
        seconds = report["manifest"]["seconds_total"]
        yield from (f"All stages together: {seconds / 60:.1f} minutes of one core.", "")


def main() -> None:
    reports = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    if not reports:
        sys.exit(__doc__)
    out = Path(__file__).resolve().parents[1] / "docs" / "results.md"
    out.write_text("\n".join(lines(reports)).rstrip() + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
