"""Workflow files: YAML in, checked specs out. Every mistake is a ConfigError that names file, line and key.

    name: checkup                       # [a-z][a-z0-9_-]*
    description: what it is for
    params:
      repo: {required: true, description: the folder to look at}      # or default: …
      parts: {default: "docs, src"}
    tasks:
      inventory:
        agent: research
        run:                            # argv lists, or texts for bash
          - [git, -C, "{{ params.repo }}", log, -1]
          - wc -l {{ params.repo }}/*.md > {{ workflow.dir }}/lines.txt
          - echo '{"files":' $(ls | wc -l)'}' > "$AI_INFRA_RESULT"     # the result of the task, as JSON
        expect: [{file: lines.txt}, {output_matches: "total"}]
      look:
        agent: data
        needs: [inventory]
        for_each: "{{ params.parts }}"  # or a list; the tasks are look-1, look-2, …
        when: tasks.inventory.result.files > 0
        run: [[du, -s, "{{ item }}"]]
        soft_timeout_s: 60              # then it is told: SIGTERM
        timeout_s: 90                   # then all of it is killed
        retry: {max_attempts: 3, delay_s: 1, max_delay_s: 30, only_for: ["exit:75", timeout]}
      report:
        agent: infra
        needs: [inventory, look]        # look: all of them
        needs_rule: all_done            # or any_done, or all_succeeded, the default
        run: ['echo {{ tasks.inventory.result.files }}; cat "$AI_INFRA_INPUTS"']

Further keys of a task: description, priority, max_attempts, retry_delay_s, env, cwd; locks (names: of the
tasks that have one in common one runs at a time), delay_s and deadline_s (from the submission on); undo (like
run) and undo_on_failure, see undo.py. `atomic: true` stands at the top. Checks of `expect`: exit_code,
output_matches, file, json ({file, path, equals}), command.

What templates and conditions may name is in names.py, how texts are filled in template.py, conditions in
condition.py, for_each in foreach.py, retry rules in retry.py. A condition that is false ends its task as
COMPLETED and skipped: what needs it runs. An upstream's result that is not there fails the task, without
another try.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ai_infra.core.ids import WorkflowId, is_name
from ai_infra.core.yamlfile import Located, load_yaml
from ai_infra.tasks.task import TaskSpec, WorkflowHeader
from ai_infra.tasks.workflow_reader import Reader
from ai_infra.tasks.workflow_tasks import MAX_TASKS, read_tasks

_TOP = ("name", "description", "atomic", "params", "tasks")
_PARAM = ("required", "default", "description")


def load_workflow(
    path: Path,
    params: Mapping[str, str],
    *,
    agents: Collection[str],
    workflow_dir: Path,
    workflow_id: WorkflowId,
) -> tuple[WorkflowHeader, list[TaskSpec]]:
    """Read the workflow in `path`, with `params` filled in; its tasks get the ids `<workflow_id>.<name>`.

    Raises ConfigError.
    """
    file = load_yaml(path)
    reader = Reader(file, {})
    _check_top(reader)
    given = _params(reader, params)
    header = WorkflowHeader(
        id=workflow_id,
        name=file.value["name"],
        description=reader.text("description"),
        params=given,
        dir=str(workflow_dir),
        atomic=reader.flag("atomic"),
    )
    values = {f"params.{name}": value for name, value in given.items()}
    values |= {"workflow.id": workflow_id, "workflow.dir": str(workflow_dir)}
    return header, read_tasks(file, values, agents, workflow_id)


def check_workflow(path: Path, *, agents: Collection[str]) -> None:
    """Raise ConfigError unless `path` could be run, given its parameters."""
    required = {name: "x" for name, about in _params_of(load_yaml(path)).items() if not about}
    load_workflow(
        path, required, agents=agents, workflow_dir=Path("/workflow"), workflow_id=WorkflowId("check")
    )


def _params_of(file: Located) -> dict[str, bool]:
    """Each parameter, and whether it has a default; empty where the file is not well formed."""
    params = file.at("params")
    names = params if isinstance(params, dict) else {}
    return {name: file.at("params", name, "default") is not None for name in names}


def _check_top(reader: Reader) -> None:
    file = reader.file
    if not isinstance(file.value, dict):
        raise file.error("a workflow file is a mapping with the keys name and tasks")
    file.check_keys(_TOP)
    name = file.value.get("name")
    if not isinstance(name, str) or not is_name(name):
        raise file.error("must be a name: a small letter, then small letters, digits, - or _", "name")
    tasks = reader.mapping("tasks")
    if not tasks:
        raise file.error("is missing or empty; a workflow has at least one task", "tasks")
    if len(tasks) > MAX_TASKS:
        raise file.error(f"holds {len(tasks)} tasks, more than {MAX_TASKS}", "tasks")


def _params(reader: Reader, given: Mapping[str, str]) -> dict[str, str]:
    """The value of every parameter: as given, else its default."""
    known = reader.mapping("params")
    for name in given:
        if name not in known:
            names = f"known parameters: {', '.join(map(str, known))}" if known else "it has none"
            raise reader.file.error(f"the workflow has no parameter {name!r}; {names}", "params")
    return {name: _param(reader, name, given) for name in known}


def _param(reader: Reader, name: str, given: Mapping[str, str]) -> str:
    file = reader.file
    if not isinstance(name, str) or not is_name(name):
        raise file.error("is not a name for a parameter", "params", name)
    reader.mapping("params", name)
    file.check_keys(_PARAM, "params", name)
    required = file.at("params", name, "required")
    if required is not None and not isinstance(required, bool):
        raise file.error("must be true or false", "params", name, "required")
    value = given.get(name)
    if value is None and file.at("params", name, "default") is not None:
        value = reader.scalar("params", name, "default")
    if value is None and required:
        about = reader.text("params", name, "description")
        raise file.error(f"this parameter must be given{f' ({about})' if about else ''}", "params", name)
    if value is not None and "\0" in value:
        raise file.error("holds a NUL byte", "params", name)
    return value or ""
