"""argparse with a hint for whoever misspells a command or an option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Its mistakes end with the nearest name there is."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Left-over options are the mistake of the parser that knows the command's options, not of the outermost.
        found, rest = super().parse_known_args(args, namespace)
        options = [name for name in rest if re.match(r"--?[A-Za-z]", name)]
        if options:
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._nearest_option(options[0])}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message)
        if choice:
            message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
        super().error(message)

    def _nearest_option(self, given: str) -> str:
        return nearest(given.partition("=")[0], self._option_string_actions)


def nearest(given: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant; nothing if none is near.

    >>> nearest("captoin", ["caption", "refer"])
    '. Did you mean caption?'
    """
    found = get_close_matches(given, list(names), n=1)
    return f". Did you mean {found[0]}?" if found else ""
