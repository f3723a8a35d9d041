"""Finished cells on disk, grouped into arms: all training seeds of one task, reward model and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.seeds import Seed, make_seed, shown
from rlhf_bench.harness.text.types import Row


@dataclass(frozen=True)
class CellFiles:
    """One finished cell on disk: its record (cells/NAME.json) and the results folder that holds its stages.

    `found.find_cells` makes it of a record in which every stage has finished.
    """

    record: Row
    root: Path
    path: Path | None = None  # of the record
    content: str = ""  # hash of all that a report reads of its stages; "" where nothing was read
    parts: Mapping[str, str] = field(default_factory=dict)  # the same of each stage, by kind/label-key

    def folder(self, role: str) -> Path:
        """The folder of the stage with this role, such as "sft" or "generations"; KeyError without one."""
        if role not in self._folders:
            # as `Stage.place` wrote it: the key has the length that it has in the folder's name
            kind, label, key = self.record["stages"][role]
            self._folders[role] = self.root / kind / f"{label}-{key}"
        return self._folders[role]

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Those that were asked for: a report asks thousands of times, and paths take time to make."""
        return {}

    @cached_property
    def _judged(self) -> Mapping[str, Path]:
        return {name: self.root / kind / f"{label}-{key}" for name, (kind, label, key) in self.record["judges"].items()}

    @property
    def seed(self) -> Seed:
        """What tells it apart from the other cells of its arm."""
        return make_seed(self.record["seed"], **self.record.get("layers", {}))

    @property
    def drawn(self) -> str:
        """Names the data of a cell whose data seed may have drawn prompts of its own; "" without a data seed."""
        return str(self.record["origin"]["sha256"]) if "data" in self.record.get("layers", {}) else ""

    def part(self, folder: Path) -> str:
        """Hash of what a report reads of a stage's folder; "" where nothing was read."""
        return self.parts.get(f"{folder.parent.name}/{folder.name}", "")

    def stage_parts(self) -> list[str]:
        """The hashes of all stages but verdicts, in order of the record."""
        return [self.part(self.folder(role)) for role in self.record["stages"]]

    def judged(self) -> Mapping[str, Path]:
        """The folder of each judge's verdicts, by the judge's name."""
        return self._judged


@dataclass(frozen=True)
class Arm:
    """All training seeds of one (task, reward model, settings), in order of seed.

    `key` is the `seedless_key` of the generations' stage, cut to the length in names of folders: it differs between
    arms that differ in any setting, optimiser or code.
    """

    task: str
    reward_model: str
    key: str
    cells: tuple[CellFiles, ...]
    known: dict[tuple[str, ...], str] = field(default_factory=dict, compare=False, repr=False)
    """What `depends` returned before."""

    @property
    def seeds(self) -> tuple[Seed, ...]:
        """The training seeds, ascending, in the order of `cells`."""
        return tuple(cell.seed for cell in self.cells)

    @property
    def shown(self) -> tuple[int | str, ...]:
        """The training seeds as reports store them."""
        return tuple(map(shown, self.seeds))

    def depends(self, *judges: str) -> str:
        """Hash of all that numbers of the arm and of these judges are computed from; "" where it is not known."""
        if judges not in self.known:
            cells = []
            for cell in self.cells:
                folders = cell.judged()
                plain = {name: value for name, value in cell.record.items() if name != "judges"}
                cells.append([plain, cell.stage_parts(), [cell.part(folders[judge]) for judge in judges]])
            sound = all(part for _, *parts in cells for own in parts for part in own)
            made = [self.task, self.reward_model, self.key, list(judges), cells]
            self.known[judges] = store.content_key(made) if sound else ""
        return self.known[judges]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The data of each cell, by which prompts are told apart; "" without data seeds."""
        return tuple(cell.drawn for cell in self.cells)


def arms_of(cells: Sequence[CellFiles]) -> list[Arm]:
    """Cells grouped into arms, seeds ascending; arms in order of task, reward model and key.

    Of several cells with one arm and seed the first counts.
    """
    groups: dict[tuple[str, str, str], dict[Seed, CellFiles]] = {}
    for cell in cells:
        r = cell.record
        # by seed: one cell copied into two folders is still one cell
        groups.setdefault((r["task"], r["reward_model"], r["arm"]), {}).setdefault(cell.seed, cell)
    return [Arm(*name, tuple(found[seed] for seed in sorted(found))) for name, found in sorted(groups.items())]
