"""The tables of languages.py: which names belong to which language, and how comments are marked in it.

Data only; to teach the check-up a language, add a row.
"""

from __future__ import annotations

Blocks = tuple[tuple[bytes, bytes], ...]  #: pairs of start and end
Style = tuple[tuple[bytes, ...], Blocks]  #: starts of line comments, block comments

STYLES: dict[str, Style] = {
    "c": ((b"//",), ((b"/*", b"*/"),)),
    "hash": ((b"#",), ()),
    "dash": ((b"--",), ()),
    "angle": ((), ((b"<!--", b"-->"),)),
    "lisp": ((b";",), ()),
    "none": ((), ()),
}

# name | sort | comment style | extensions and whole names, in lower case
TABLE = """
Ada|code|dash|.adb .ads
Assembly|code|hash|.s .asm
Batch|code|none|.bat .cmd
C|code|c|.c .h
C#|code|c|.cs
C++|code|c|.cc .cpp .cxx .hpp .hh .hxx .ipp
CMake|code|hash|.cmake cmakelists.txt
CSS|markup|c|.css .scss .sass .less
Clojure|code|lisp|.clj .cljs .cljc .edn
CoffeeScript|code|hash|.coffee
Crystal|code|hash|.cr
Cython|code|hash|.pyx .pxd
D|code|c|.d
Dart|code|c|.dart
Dockerfile|code|hash|dockerfile containerfile .dockerfile
Elixir|code|hash|.ex .exs
Elm|code|dash|.elm
Emacs Lisp|code|lisp|.el
Erlang|code|none|.erl .hrl
F#|code|c|.fs .fsx .fsi
Fish|code|hash|.fish
Fortran|code|none|.f90 .f95 .f03 .f
GLSL|code|c|.glsl .vert .frag
Go|code|c|.go
GraphQL|code|hash|.graphql .gql
Groovy|code|c|.groovy .gradle jenkinsfile
HCL|code|hash|.tf .tfvars .hcl
HTML|markup|angle|.html .htm .xhtml
Haskell|code|dash|.hs .lhs
Haxe|code|c|.hx
Java|code|c|.java
JavaScript|code|c|.js .mjs .cjs .jsx
Jinja|markup|none|.j2 .jinja .jinja2
Julia|code|hash|.jl
Kotlin|code|c|.kt .kts
Lua|code|dash|.lua
Makefile|code|hash|makefile gnumakefile .mk .mak
Meson|code|hash|meson.build
Nim|code|hash|.nim
Nix|code|hash|.nix
OCaml|code|none|.ml .mli
Objective-C|code|c|.m .mm
PHP|code|c|.php .phtml
PL/SQL|code|dash|.pls .pkb .pks
Pascal|code|c|.pas
Perl|code|hash|.pl .pm .t
PowerShell|code|hash|.ps1 .psm1 .psd1
Puppet|code|hash|.pp
Protocol Buffers|code|c|.proto
Python|code|hash|.py .pyi .pyw sconstruct wscript
R|code|hash|.r
Racket|code|lisp|.rkt
Ruby|code|hash|.rb .rake .gemspec rakefile gemfile vagrantfile
Rust|code|c|.rs
SQL|code|dash|.sql
Scala|code|c|.scala .sc
Scheme|code|lisp|.scm
Shell|code|hash|.sh .bash .zsh .ksh .bats .bashrc .profile .bash_profile .zshrc
Solidity|code|c|.sol
Svelte|code|angle|.svelte
Swift|code|c|.swift
Tcl|code|hash|.tcl
Thrift|code|c|.thrift
Twig|markup|none|.twig
TypeScript|code|c|.ts .tsx .mts .cts
VHDL|code|dash|.vhd .vhdl
Vala|code|c|.vala
Verilog|code|c|.v .sv .svh
Vim script|code|none|.vim .vimrc
Visual Basic|code|none|.vb .bas
Vue|code|angle|.vue
Zig|code|c|.zig
AsciiDoc|prose|none|.adoc .asciidoc
Markdown|prose|angle|.md .markdown .mdx
Org|prose|none|.org
Plain text|prose|none|.txt license copying authors readme changelog notice contributors
Roff|prose|none|.1 .2 .3 .4 .5 .6 .7 .8 .man
TeX|prose|none|.tex .sty .cls .bib
reStructuredText|prose|none|.rst
CSV|data|none|.csv .tsv
Diff|data|none|.diff .patch
Gettext|data|hash|.po .pot
INI|data|hash|.ini .cfg .editorconfig .coveragerc .flake8 .pylintrc .gitmodules .desktop .service .properties
JSON|data|none|.json .jsonc .json5 .jsonl .ndjson .geojson .webmanifest composer.lock .ipynb
SVG|data|angle|.svg
TOML|data|hash|.toml cargo.lock poetry.lock uv.lock
XML|data|angle|.xml .xsd .xsl .xslt .plist .csproj .vcxproj .pom .xlf .xliff .resx .ui .wsdl
YAML|data|hash|.yml .yaml yarn.lock
"""

INTERPRETERS = {
    "python": "Python",
    "pypy": "Python",
    "sh": "Shell",
    "bash": "Shell",
    "dash": "Shell",
    "ksh": "Shell",
    "zsh": "Shell",
    "bats": "Shell",
    "fish": "Fish",
    "node": "JavaScript",
    "deno": "TypeScript",
    "perl": "Perl",
    "ruby": "Ruby",
    "php": "PHP",
    "lua": "Lua",
    "awk": "Awk",
    "gawk": "Awk",
    "tclsh": "Tcl",
    "expect": "Tcl",
    "make": "Makefile",
    "osascript": "AppleScript",
    "rscript": "R",
    "julia": "Julia",
    "groovy": "Groovy",
    "pwsh": "PowerShell",
    "escript": "Erlang",
    "runhaskell": "Haskell",
    "nodejs": "JavaScript",
}

EXTRA_BLOCKS: dict[str, Blocks] = {
    "Python": ((b'"""', b'"""'), (b"'''", b"'''")),
    "SQL": ((b"/*", b"*/"),),
    "HCL": ((b"/*", b"*/"),),
    "Lua": ((b"--[[", b"]]"),),
    "Haskell": ((b"{-", b"-}"),),
    "OCaml": ((b"(*", b"*)"),),
    "PowerShell": ((b"<#", b"#>"),),
    "Vue": ((b"/*", b"*/"),),
    "Ruby": ((b"=begin", b"=end"),),
    "Perl": ((b"=pod", b"=cut"), (b"=head1", b"=cut")),
}
EXTRA_LINES: dict[str, tuple[bytes, ...]] = {
    "INI": (b";",), "Batch": (b"rem ", b"REM ", b"::"), "Erlang": (b"%",), "TeX": (b"%",),
    "Fortran": (b"!",), "Vim script": (b'"',), "Visual Basic": (b"'",), "Roff": (b'.\\"',), "Vue": (b"//",),
    "Svelte": (b"//",), "Assembly": (b";", b"//", b"@"),
}  # fmt: skip
