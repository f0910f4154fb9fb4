"""The one place that builds the parts of each process (`window.py`) and of each command (`command.py`)."""
