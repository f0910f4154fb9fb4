"""Licences: by the words of a text, and by what metadata says."""

from __future__ import annotations

import pytest

from ai_infra.checkup.licences import agrees, is_licence_file, licence_of, metadata_licence

# The first words of each, as they stand in many layouts; not the whole text.
TEXTS = {
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy of this.\n"
    "The above copyright notice and this permission notice shall be included in all copies.",
    "Apache-2.0": "                          Apache License\n                    Version 2.0, January 2004",
    "BSD-3-Clause": "Redistribution and use in source and binary forms, with or without\n * modification.\n"
    "Neither the name may be used to endorse or promote products derived from this.",
    "BSD-2-Clause": "Redistribution and use in source and binary forms, with or without modification.",
    "GPL-3.0": "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007",
    "GPL-2.0": "GNU GENERAL PUBLIC LICENSE\n   Version 2, June 1991",
    "LGPL-2.1": "GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February 1999",
    "LGPL-3.0": "GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n the GNU General",
    "AGPL-3.0": "GNU AFFERO GENERAL PUBLIC LICENSE\n  Version 3, 19 November 2007",
    "MPL-2.0": "Mozilla Public License Version 2.0",
    "ISC": "Permission to use, copy, modify, and/or distribute this software for any purpose"
    " with or without fee is hereby granted, provided that the above copyright notice appear in all copies.",
    "Unlicense": "This is free and unencumbered software released into the public domain.",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_licence_is_known_by_its_words(name: str) -> None:
    assert licence_of(TEXTS[name]) == name


def test_an_spdx_line_speaks_for_itself_and_other_words_are_unknown() -> None:
    assert licence_of("SPDX-License-Identifier: GPL-3.0-or-later\n") == "GPL-3.0"
    assert licence_of("Do as you like.") is None


def test_a_licence_that_mentions_another_is_itself() -> None:
    text = TEXTS["Apache-2.0"] + "\n" * 100 + "x " * 2000 + TEXTS["GPL-3.0"]
    assert licence_of(text) == "Apache-2.0"


@pytest.mark.parametrize(
    "path", ["LICENSE", "LICENCE.md", "COPYING", "COPYING.LESSER", "LICENSES/MIT.txt", "UNLICENSE"]
)
def test_licence_files(path: str) -> None:
    assert is_licence_file(path)


@pytest.mark.parametrize("path", ["src/LICENSE", "licenses.py", "license.js", "README"])
def test_other_files(path: str) -> None:
    assert not is_licence_file(path)


def test_metadata_of_five_kinds_and_of_damaged_files() -> None:
    files = {
        "pyproject.toml": b'[project]\nname = "x"\nlicense = {text = "MIT"}\n',
        "package.json": b'{"license": "ISC"}',
        "composer.json": b'{"license": ["MIT", "GPL-2.0"]}',
        "Cargo.toml": b'[package]\nlicense = "MIT OR Apache-2.0"\n',
        "setup.cfg": b"[metadata]\nlicense = BSD\n",
        "setup.py": b"setup(\n    license='Apache 2.0',\n)",
    }
    assert metadata_licence(files) == {
        "pyproject.toml": "MIT",
        "package.json": "ISC",
        "composer.json": "MIT OR GPL-2.0",
        "Cargo.toml": "MIT OR Apache-2.0",
        "setup.cfg": "BSD",
        "setup.py": "Apache 2.0",
    }
    assert metadata_licence({"package.json": b"{", "pyproject.toml": b"["}) == {}
    assert metadata_licence({"package.json": b"[]"}) == {}


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("MIT", "MIT", True),
        ("MIT License", "Apache-2.0", False),
        ("MIT OR Apache-2.0", "Apache-2.0", True),
        ("GPL-3.0-or-later", "GPL-3.0", True),
        ("GPLv2", "GPL-3.0", False),
        ("BSD", "BSD-3-Clause", True),
        ("see LICENSE", "MIT", True),
    ],
)
def test_metadata_and_text_agree_or_not(words: str, text: str, expected: bool) -> None:
    assert agrees(words, {text}) is expected
