"""The names that a model was trained on, for images whose objects have others too.

Nobody can say a name never heard. Where the trained names are given, object names and captions of regions are measured
on the objects that have one: an object counts under the longest trained name that its own ends with, so that a race car
is a car (and, by the same rule, a hot dog a dog). A trained name that is said and not present counts as wrong. Places
are measured on all objects; so are mAP and the scores of whole captions, which cannot be taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelllm_hf.data.scenes import ObjectLibrary
from pixelllm_hf.evaluation.images import EvaluationDataError

BUILTIN = "builtin"


@dataclass(frozen=True)
class SeenClasses:
    """names: in lower case, singular. source: where they come from, for reports."""

    names: frozenset[str]
    source: str = ""

    @classmethod
    def read(cls, source: str | Path) -> SeenClasses:
        """Of a text file with one name a line, or those of the package's own cut-outs ("builtin")."""
        if str(source) == BUILTIN:
            return cls(frozenset(ObjectLibrary.builtin().names), BUILTIN)
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        names = frozenset(" ".join(line.lower().split()) for line in lines) - {""}
        if not names:
            raise EvaluationDataError(f"{source} has no name; write one a line.")
        return cls(names, Path(source).name)

    def counted_as(self, name: str) -> str | None:
        """The trained name that an object of this name counts under, if there is one.

        >>> SeenClasses(frozenset({"car", "fish"})).counted_as("race car")
        'car'
        >>> SeenClasses(frozenset({"car", "fish"})).counted_as("clownfish")
        """
        words = name.lower().split()
        endings = (" ".join(words[i:]) for i in range(len(words)))
        return next((ending for ending in endings if ending in self.names), None)

    def report(self, names: Iterable[str]) -> dict[str, Any]:
        """What becomes of these names: {"source", "counted": {trained name: [names]}, "not_counted": [names]}."""
        counted: dict[str, list[str]] = {}
        others: list[str] = []
        for name in sorted(set(names)):
            trained = self.counted_as(name)
            (others if trained is None else counted.setdefault(trained, [])).append(name)
        return {"source": self.source, "counted": dict(sorted(counted.items())), "not_counted": others}
