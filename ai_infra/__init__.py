"""ai-infra: a supervised team of AI agents on one server, in one tmux session.

The map of the package, its words and its reasons are in `README.md` beside this file.
"""

__version__ = "0.1.0"
