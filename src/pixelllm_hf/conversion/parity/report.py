"""Run every golden file of a directory through our modules and tell how well they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..scenic import ScenicNamesError
from . import data, dense_captioning, detection, end_to_end, heads, masks, pixellm, vision
from .golden import Agreement, Computed, Golden, compare

Check = Callable[[Golden], Computed]
PIXELLLM: dict[str, Check] = {
    "sam_vit": vision.sam_vit,
    "eva02_vit": vision.eva02_vit,
    "utils": vision.utils,
    "prompt_encoder": heads.prompt_encoder,
    "prompt_adapter": heads.prompt_adapter,
    "visual_project_layers": heads.visual_project_layers,
    "t5_text_head": heads.t5_text_head,
    "bert_text_head": heads.bert_text_head,
    "point_predictor": heads.point_predictor,
    "losses": heads.losses,
    "mask_adapter_decoder": masks.mask_adapter_decoder,
    "box_decoder": detection.box_decoder,
    "data_transforms": data.data_transforms,
    "e2e_refer": end_to_end.e2e_refer,
    "e2e_densecap": dense_captioning.e2e_densecap,
}
# By the folder of the golden files: files of both families have the same names.
CHECKS: dict[str, dict[str, Check]] = {"pixelllm": PIXELLLM, "pixellm": pixellm.CHECKS}
_SHOWN_LATER = 8


@dataclass
class FileReport:
    """One row of the table: a golden file, its outputs that were compared, and those that need later work."""

    name: str
    agreements: list[Agreement] = field(default_factory=list)
    later: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def worst(self) -> Agreement | None:
        return max(self.agreements, key=lambda agreement: (agreement.load, agreement.max_rel), default=None)

    @property
    def ok(self) -> bool:
        return not self.problem and all(agreement.ok for agreement in self.agreements)

    @property
    def status(self) -> str:
        if not self.ok:
            return "FAILED"
        return "ok" if self.agreements else "not covered yet"

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.name,
            "status": self.status,
            "problem": self.problem,
            "outputs": [agreement.to_dict() for agreement in self.agreements],
            "not_covered_yet": self.later,
        }


def check_directory(directory: Path, *, only: Sequence[str] = ()) -> list[FileReport]:
    """A report for every golden file directly in a directory, or for those named in only."""
    directory = Path(directory)
    paths = sorted(path for path in directory.glob("*.safetensors") if not only or path.stem in only)
    if not paths:
        raise ValueError(
            f"expected a directory with golden files (*.safetensors{f' named {list(only)}' if only else ''}), but "
            f"{directory} has none. Point --golden at the folder that holds sam_vit.safetensors and its siblings."
        )
    return [check_file(path) for path in paths]


def check_file(path: Path) -> FileReport:
    """Run one golden file; what goes wrong becomes the report's problem instead of ending the run."""
    name = path.stem
    try:
        golden = Golden.read(path)
    except ValueError as error:
        return FileReport(name, problem=str(error))
    checks = CHECKS.get(path.absolute().parent.name, PIXELLLM)
    if name not in checks:
        return FileReport(name, problem="no check knows a golden file of this name")
    torch.manual_seed(0)  # parts without golden weights must at least be the same in every run
    try:
        computed = checks[name](golden)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        return FileReport(name, problem=_one_line(error))
    return compare_file(golden, computed)


def compare_file(golden: Golden, computed: Computed) -> FileReport:
    """Every output is compared or named as later work; one that was forgotten is a problem."""
    report = FileReport(golden.name)
    forgotten = []
    for name, expected in golden.outputs.items():
        if (reason := computed.why_later(name)) is not None:
            report.later[name] = reason
        elif name in computed.values:
            valid, value_range = computed.valid.get(name), computed.ranges.get(name)
            report.agreements.append(compare(name, expected, computed.values[name], valid, value_range))
        else:
            forgotten.append(name)
    if forgotten:
        report.problem = f"no value was computed for {', '.join(forgotten)}"
    return report


def table(reports: Sequence[FileReport]) -> str:
    """The reports as text: a row per file, then each output beyond tolerance, then what is not covered yet."""
    header = f"{'file':<24}{'outputs':>8}{'max abs':>11}{'max rel':>11}  {'status':<16} worst output"
    lines = [header, "-" * len(header)]
    for report in reports:
        worst = report.worst
        numbers = f"{_largest(report, 'max_abs'):>11.2e}{_largest(report, 'max_rel'):>11.2e}" if worst else f"{'':>22}"
        status = report.status + (f" ({len(report.later)} later)" if report.agreements and report.later else "")
        where = worst.name if worst else ""
        lines.append(f"{report.name:<24}{len(report.agreements):>8}{numbers}  {status:<16} {where}")
    for report in reports:
        if report.problem:
            lines.append(f"! {report.name}: {report.problem}")
        lines += [
            f"! {report.name}: {bad.name} {bad.problem or f'max rel {bad.max_rel:.2e} > {bad.tolerance:.0e}'}"
            for bad in report.agreements
            if not bad.ok
        ]
    if any(report.later for report in reports):
        lines += ["", "not covered yet:"]
    for report in reports:
        for reason in dict.fromkeys(report.later.values()):
            names = [name for name, why in report.later.items() if why == reason]
            shown = _folders(names, report) if report.agreements else ["everything"]
            more = f" … {len(shown) - _SHOWN_LATER} more" if len(shown) > _SHOWN_LATER else ""
            lines.append(f"  {report.name}: {', '.join(shown[:_SHOWN_LATER])}{more} ({len(names)}) wait for {reason}")
    return "\n".join(lines)


def passed(reports: Sequence[FileReport], *, strict: bool = False) -> bool:
    """Whether everything agrees; strict also wants everything covered."""
    return all(report.ok and not (strict and report.later) for report in reports)


def _largest(report: FileReport, error: str) -> float:
    return max(getattr(agreement, error) for agreement in report.agreements)


def _folders(names: Sequence[str], report: FileReport) -> list[str]:
    """Names of outputs, with `folder/*` for those whose folder has nothing that was compared."""
    covered = {agreement.name.split("/")[0] for agreement in report.agreements}
    folders = {name: name.split("/")[0] for name in names}
    return list(dict.fromkeys(name if folders[name] in covered else f"{folders[name]}/*" for name in names))


def _one_line(error: Exception) -> str:
    if isinstance(error, ScenicNamesError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


__all__ = ["CHECKS", "FileReport", "check_directory", "check_file", "compare_file", "passed", "table"]
