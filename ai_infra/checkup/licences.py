"""Licences: which one a text is, and what a project's metadata says it is. Pure; knows the common ones."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping

# The first whose phrases all occur wins, so the more particular stand first.
_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("LGPL-2.0", ("gnu library general public license", "version 2")),
    ("GPL-3.0", ("gnu general public license", "version 3")),
    ("GPL-2.0", ("gnu general public license", "version 2")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license - v 2.0",)),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("Zlib", ("the origin of this software must not be misrepresented",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software for any purpose",
              "with or without fee is hereby granted. the software is provided")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose",
             "provided that the above copyright notice")),
    ("ISC", ("permission to use, copy, modify, and distribute this software for any purpose",
             "provided that the above copyright notice")),
    ("MIT", ("permission is hereby granted, free of charge, to any person obtaining a copy",
             "the above copyright notice and this permission notice")),
    ("MIT-0", ("permission is hereby granted, free of charge, to any person obtaining a copy",)),
    ("BSD-4-Clause", ("redistribution and use in source and binary forms",
                      "all advertising materials mentioning features")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote products")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("Proprietary", ("all rights reserved", "confidential")),
)  # fmt: skip

_FILE = re.compile(r"(licen[cs]e|copying|unlicense)([-._].*)?", re.IGNORECASE)
_TITLES = 1200  #: GNU and Mozilla texts name each other; only the head says which one it is


def is_licence_file(path: str) -> bool:
    """Whether a tracked path is a licence text: LICENSE, COPYING.LESSER, LICENCE.md, LICENSES/MIT.txt."""
    folder, _, name = path.rpartition("/")
    if folder == "LICENSES":
        return True
    return folder == "" and _FILE.fullmatch(name) is not None and not name.endswith((".py", ".js", ".sh"))


def licence_of(text: str) -> str | None:
    """The SPDX name of a licence text; None for one that is not known."""
    if tag := re.search(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+)", text[:2000]):
        return tag[1].removesuffix("-only").removesuffix("-or-later")
    words = re.sub(r"[\s*#>]+", " ", text.lower())
    for name, phrases in _PHRASES:
        place = words[:_TITLES] if "GPL" in name or name.startswith(("MPL", "EPL", "PSF")) else words
        if all(phrase in place for phrase in phrases):
            return name
    return None


def metadata_licence(files: Mapping[str, bytes]) -> dict[str, str]:
    """file → licence as the package metadata at the top of the repository names it."""
    found: dict[str, str] = {}
    for name, read in _READERS.items():
        if name in files:
            try:
                value = read(files[name].decode("utf-8", "replace"))
            except (ValueError, TypeError, AttributeError, RecursionError):
                continue
            if isinstance(value, str) and value.strip() and len(value) < 120:
                found[name] = value.strip()
    return found


def agrees(expression: str, texts: set[str]) -> bool:
    """Whether a metadata expression names one of the licences whose texts are there; unclear words agree."""
    named = {name for name, pattern in _ALIASES.items() if re.search(pattern, expression, re.IGNORECASE)}
    return not named or bool(named & texts)


_ALIASES = {
    "AGPL-3.0": r"\bAGPL",
    "LGPL-3.0": r"\bLGPL.*3",
    "LGPL-2.1": r"\bLGPL.*2",
    "GPL-3.0": r"\bGPL.?v?-?3|\bGPL-3",
    "GPL-2.0": r"\bGPL.?v?-?2|\bGPL-2",
    "MPL-2.0": r"\bMPL",
    "Apache-2.0": r"\bApache",
    "MIT": r"\bMIT\b(?!-)",
    "BSD-3-Clause": r"\bBSD\b(?!-[024])",
    "BSD-2-Clause": r"\bBSD\b(?!-[034])",
    "ISC": r"\bISC",
    "Unlicense": r"\bUnlicense",
}


def _pyproject(text: str) -> object:
    data = tomllib.loads(text)
    value = data.get("project", {}).get("license") or data.get("tool", {}).get("poetry", {}).get("license")
    return value.get("text") if isinstance(value, dict) else value


def _package_json(text: str) -> object:
    value = json.loads(text).get("license")
    return value.get("type") if isinstance(value, dict) else value


def _composer(text: str) -> object:
    value = json.loads(text).get("license")
    return " OR ".join(value) if isinstance(value, list) else value


def _cargo(text: str) -> object:
    data = tomllib.loads(text)
    return data.get("package", {}).get("license") or data.get("workspace", {}).get("package", {}).get(
        "license"
    )


def _setup_cfg(text: str) -> object:
    match = re.search(r"^license\s*=\s*(\S.*)$", text, re.MULTILINE)
    return match[1] if match else None


def _setup_py(text: str) -> object:
    match = re.search(r"""^[ \t]*license\s*=\s*["']([^"'\n]+)["']""", text, re.MULTILINE)
    return match[1] if match else None


_READERS = {
    "pyproject.toml": _pyproject,
    "package.json": _package_json,
    "composer.json": _composer,
    "Cargo.toml": _cargo,
    "setup.cfg": _setup_cfg,
    "setup.py": _setup_py,
}
