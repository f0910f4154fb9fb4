"""Errors: the tree, and the exit code each branch ends a command with.

    AiInfraError               everything raised on purpose; anything else that escapes is a bug
    ├── UsageError             the words of the command are wrong; call it again, corrected
    ├── ConfigError            a file of settings is wrong; says file, line and key
    ├── NotFound               ask for something else
    ├── Conflict               the state moved on, or somebody else holds it; read again
    │   └── NotRunning         the session is not up; `ai-infra up` starts it
    ├── Failed                 the work was done and its result is a failure
    ├── DeadlinePassed         it did not happen in the time given
    ├── SystemProblem          this machine lacks something: a program, a right, disk space
    └── ConnectorError         a service failed; the driver's error is __cause__
        ├── ConnectorUnavailable   no answer; trying again may help
        └── ConnectorRefused       an answer, but no for now; trying again may help

Branches follow what the caller can do next. Only `cli/` turns an error into an exit code.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Exit codes of every `ai-infra` command; `ai-infra --help` prints them."""

    OK = 0
    FAILED = 1  #: the work ran and failed, or a check found something wrong
    USAGE = 2  #: wrong flag, name or value
    NOT_RUNNING = 3  #: the session, or Redis, is not up
    NOT_FOUND = 4  #: no such task, workflow, window or file
    CONFLICT = 5  #: the state does not allow it, or somebody else is doing it
    CONFIG = 6  #: a settings or workflow file is wrong
    SYSTEM = 7  #: a program, a right or disk space is missing on this machine
    TIMEOUT = 8  #: not finished in the time given
    INTERRUPTED = 130  #: Ctrl-C


class AiInfraError(Exception):
    """Everything ai_infra raises on purpose; anything else that escapes is a bug."""

    exit_code: ClassVar[Exit] = Exit.FAILED


class UsageError(AiInfraError):
    """The words of a command are wrong."""

    exit_code = Exit.USAGE


class ConfigError(AiInfraError):
    """A settings, session or workflow file is wrong; the message names file, line and key."""

    exit_code = Exit.CONFIG


class NotFound(AiInfraError):
    """What was asked for does not exist."""

    exit_code = Exit.NOT_FOUND


class Conflict(AiInfraError):
    """The state moved on, or somebody else holds the thing."""

    exit_code = Exit.CONFLICT


class NotRunning(Conflict):
    """The session is not up."""

    exit_code = Exit.NOT_RUNNING


class Failed(AiInfraError):
    """The work was done and its result is a failure."""


class DeadlinePassed(AiInfraError):
    """It did not happen in the time given."""

    exit_code = Exit.TIMEOUT


class SystemProblem(AiInfraError):
    """This machine lacks a program, a right, or disk space."""

    exit_code = Exit.SYSTEM


class ConnectorError(AiInfraError):
    """A service refused or failed; the driver's error is `__cause__`."""


class ConnectorUnavailable(ConnectorError):
    """A service gave no answer; trying again may help."""

    exit_code = Exit.NOT_RUNNING


class ConnectorRefused(ConnectorError):
    """A service refuses for now, for want of disk, memory or replicas; trying again may help."""

    exit_code = Exit.SYSTEM
