"""The official METEOR jar of pycocoevalcap as a subprocess."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import numpy as np

from pixelllm_hf.evaluation.meteor_words import JAR, installed_folder


class MeteorJarError(RuntimeError):
    """The jar stopped or answered something that is no statistics."""


def jar_problem() -> str | None:
    """Why the jar cannot run here, or None."""
    if installed_folder() is None:
        return "pycocoevalcap is not installed"
    return None if shutil.which("java") else "there is no java on the PATH"


class MeteorJar:
    """One Java process, started on entering and ended on leaving; the start takes some seconds.

    pycocoevalcap's own wrapper is not used: it hangs at interpreter exit after an empty batch, and leaves the encoding
    to the locale.
    """

    def __enter__(self) -> MeteorJar:
        folder = installed_folder()
        command = ["java", "-Dfile.encoding=UTF-8", "-jar", "-Xmx2G", JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def statistics(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(N,23) of the best reference of each sample; captions must be single lines without "|||"."""
        rows = [self._ask(" ||| ".join(["SCORE", *r, h])) for h, r in zip(hypotheses, references, strict=True)]
        return np.array(rows, np.float64).reshape(-1, 23)

    def _ask(self, line: str) -> list[float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        answer = ""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            values = [float(word) for word in answer.split()]
        except (OSError, ValueError) as error:
            raise MeteorJarError(f"the METEOR jar failed on {line!r}: {answer!r}.") from error
        if len(values) != 23:
            raise MeteorJarError(f"the METEOR jar answered {answer!r} to {line!r}; 23 numbers were expected.")
        return values
