#!/usr/bin/env python3
"""Writes the tables of blobfs/docs/CONFIG.md. Run it after a change of blobfs/config."""

import re
from pathlib import Path

from blobfs.config.key_table import ignored_keys, taken_keys

CONFIG = Path(__file__).parents[1] / "blobfs/docs/CONFIG.md"


def main() -> None:
    text = CONFIG.read_text()
    for name, table in (("taken", taken_keys()), ("ignored", ignored_keys())):
        before, _, after = re.split(f"(?s)(?<=<!-- {name} -->\n)(.*)(?=<!-- /{name} -->)", text)
        text = f"{before}{table}\n{after}"
    CONFIG.write_text(text)


if __name__ == "__main__":
    main()
