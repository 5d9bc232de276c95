"""The parts of the Slurm executor without Slurm: messages, options, lives, arrays, idle tasks."""

import json
import shlex
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from bench.executor import Aside, Joined, Limits, Lost, Made, Slot
from bench.executors.slurm import Tasks
from bench.journal import Journal
from bench.measure import Journals, NothingToResumeError, Order
from bench.model import Ok, Visit, to_json
from bench.schedule import Turn
from bench.slurm import options
from bench.slurm.arrays import MOST_FAILURES, Arrays
from bench.slurm.jobs import SlurmError, Task
from bench.slurm.lives import Lives
from bench.slurm.mailbox import Inbox, Outbox
from bench.slurm.options import wishes
from bench.slurm.task import ANSWERS, LIVES, ORDER, REQUESTS, Life, serve

PLAN = tiny.plan(tiny.case())
CASE = PLAN.cases[0]
VISIT = Visit(CASE.id, 0, 0)
LIFE = Life(task="7_0", restarts=0, node="n1", gpus=("0",))
OK = Ok(measurements=(), executed="nothing")
MADE = {
    "kind": "made", "outcome": to_json(OK), "wall_s": 2.0, "measured_s": 1.0, "foreign_load": None,
}  # fmt: skip


# Messages -----------------------------------------------------------------------------------------


def test_a_message_is_read_once_and_only_when_it_is_whole(tmp_path):
    path = tmp_path / "m"
    inbox = Inbox(path)
    assert inbox.messages() == []
    Outbox(path).send({"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a": ')
    assert inbox.messages() == [{"a": 1}]
    assert inbox.messages() == []
    with path.open("ab") as file:
        file.write(b"2}\n")
    assert inbox.messages() == [{"a": 2}]


def test_the_torn_line_of_a_killed_writer_spoils_no_later_message(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    Outbox(path).send({"a": 3})
    assert Inbox(path).messages() == [{"a": 1}, {"a": 3}]


# Options ------------------------------------------------------------------------------------------


def test_kinds_of_gpus_become_requests_of_sbatch():
    kinds = wishes({"gpus": "h100:4, a100:8"}, "cuda").kinds
    assert [(kind.name, kind.count, kind.request) for kind in kinds] == [
        ("h100", 4, ("--gres=gpu:h100:1",)),
        ("a100", 8, ("--gres=gpu:a100:1",)),
    ]
    (any_,) = wishes({"gpus": "3"}, "cuda").kinds
    assert (any_.count, any_.request) == (3, ("--gres=gpu:1",))
    (group,) = wishes({"gpus": "h100:8"}, "cuda", 4).kinds
    assert (group.count, group.request) == (2, ("--gres=gpu:h100:4",))
    (default,) = wishes({}, "cuda", 4).kinds
    assert (default.count, default.request) == (1, ("--gres=gpu:4",))
    (processes,) = wishes({"tasks": "3"}, "cpu", 4).kinds
    assert (processes.count, processes.request) == (3, ())
    with pytest.raises(ValueError, match="groups of 4"):
        wishes({"gpus": "h100:6"}, "cuda", 4)
    (cpu,) = wishes({"tasks": "genoa:2", "constraint": "ib|opa"}, "cpu").kinds
    assert cpu.request == ("--constraint=genoa&(ib|opa)",)


@pytest.mark.parametrize(
    ("options", "device", "words"),
    [
        ({"gpus": "h100"}, "cuda", "--gpus h100"),
        ({"gpus": "h100:0"}, "cuda", "--gpus h100:0"),
        ({"gpus": "h100:1,h100:2"}, "cuda", "once"),
        ({"gpus": "h100:1"}, "cpu", "--tasks"),
        ({"tasks": "2"}, "cuda", "--gpus"),
        ({"venv": "v", "container": "c"}, "cpu", "one of them"),
        ({"setup": "a\nb"}, "cpu", "one line"),
        ({"poll": "0"}, "cpu", "--poll 0"),
        ({"patience": "long"}, "cpu", "--patience long"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(options, device, words):
    with pytest.raises(ValueError, match=words):
        wishes(options, device)


def test_everything_asked_for_reaches_sbatch_and_the_script(tmp_path):
    asked = {
        "partition": "gpu", "constraint": "nvlink", "exclusive": "true", "time": "4:00:00",
        "cpus": "8", "sbatch": "--qos=low --comment 'two words'", "setup": "module load cuda",
        "shared": str(tmp_path / "two words"),
    }  # fmt: skip
    found = wishes(asked, "cuda")
    for argument in (
        "--partition=gpu", "--constraint=nvlink", "--exclusive", "--time=4:00:00",
        "--cpus-per-task=8", "--qos=low", "two words", "--requeue",
    ):  # fmt: skip
        assert argument in found.arguments
    *_, setup, command = options.script(found, tmp_path / "two words", "h100").splitlines()
    assert setup == "module load cuda"
    assert shlex.split(command)[2:] == ["-m", "bench.slurm.task", f"{tmp_path}/two words", "h100"]


def test_a_task_can_run_in_a_virtual_environment_or_a_container(tmp_path):
    venv = wishes({"venv": str(tmp_path)}, "cpu")
    assert venv.interpreter == (f"{tmp_path}/bin/python",)
    container = wishes({"container": "torch.sif", "shared": str(tmp_path)}, "cuda")
    assert container.interpreter[:3] == ("apptainer", "exec", "--nv")
    assert container.interpreter[-2:] == ("torch.sif", "python")
    assert str(tmp_path) in container.interpreter


# Lives --------------------------------------------------------------------------------------------


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / LIVES).mkdir()
    return tmp_path


def born(campaign: Path, life: Life = LIFE, *, joined: bool = True) -> tuple[Outbox, Path]:
    """A task that has said hello and, perhaps, that it is ready."""
    own = campaign / LIVES / life.name
    own.mkdir()
    answers = Outbox(own / ANSWERS)
    answers.send(
        {
            "kind": "hello", "task": life.task, "restarts": life.restarts, "node": life.node,
            "device": life.device(1), "of": "red",
        }
    )  # fmt: skip
    if joined:
        header = to_json(tiny.header(PLAN))
        answers.send({"kind": "joined", "header": header, "number": 0})
    return answers, own / REQUESTS


def test_what_a_task_says_becomes_events_of_its_slot(campaign):
    told = deque()
    lives = Lives(campaign, told)
    answers, requests = born(campaign, joined=False)
    lives.read()
    assert not told, "a task that is not ready is no slot"
    answers.send({"kind": "joined", "header": to_json(tiny.header(PLAN)), "number": 0})
    lives.read()
    joined = told.popleft()
    assert isinstance(joined, Joined)
    assert joined.slot == Slot(node="n1", device="gpu 0, task 7_0", life=1)
    life = lives.of(joined.slot)
    for kind, message in (
        (Aside, {"kind": "aside", "reason": "throttling"}),
        (Made, MADE),
        (Limits, {"kind": "limits", "ceilings": []}),
        (Lost, {"kind": "failed", "reason": "no worker"}),
    ):
        lives.ask(life, {"kind": "visit"}, VISIT)
        answers.send({**message, "number": Inbox(requests).messages()[-1]["number"]})
        lives.read()
        assert isinstance(told.popleft(), kind)
    assert life.gone


def test_a_new_driver_gets_what_the_old_one_did_not_live_to_read(campaign):
    answers, _ = born(campaign)
    lives = Lives(campaign, deque())
    lives.read()
    (life,) = lives
    other = Visit(CASE.id, 1, 0)
    lives.ask(life, {"kind": "visit"}, VISIT)
    answers.send({**MADE, "number": 1})
    lives.ask(life, {"kind": "visit"}, other)
    told = deque()
    again = Lives(campaign, told)
    again.take_over({life.start})
    (life,) = again
    assert told.popleft().making == other, "it goes on with what it was asked for"
    answers.send({**MADE, "number": 2})
    again.read()
    (made,) = told
    assert (made.outcome, made.slot) == (OK, life.slot)
    assert again.left_over(life, VISIT) is None, "the old driver had written that one down"
    assert again.left_over(life, other) is None, "nothing twice"


def test_the_last_answer_of_a_task_that_has_ended_is_not_lost(campaign):
    answers, _ = born(campaign)
    lives = Lives(campaign, deque())
    lives.read()
    (ended,) = lives
    lives.ask(ended, {"kind": "visit"}, VISIT)
    answers.send({**MADE, "number": 1})
    later = Life(task="8_0", restarts=0, node="n2", gpus=("1",))
    born(campaign, later)
    told = deque()
    again = Lives(campaign, told)
    again.take_over({(later.task, later.restarts)})
    (joined,) = told
    assert joined.slot.node == "n2", "who has ended is no slot"
    made = again.left_over(again.of(joined.slot), VISIT)
    assert made is not None
    assert made.slot.node == "n1"


def test_a_visit_that_lies_ready_is_not_made_again_and_says_who_made_it(campaign):
    answers, requests = born(campaign)
    old = Lives(campaign, deque())
    old.read()
    (life,) = old
    old.ask(life, {"kind": "visit"}, VISIT)
    answers.send({**MADE, "number": 1})
    tasks = Tasks(campaign, wishes({"poll": "1000"}, "cpu"), None)
    tasks._lives.take_over({life.start})
    (joined,) = tasks._told
    tasks._told.clear()
    before = requests.read_bytes()
    turn = Turn(VISIT, CASE, "softmax/0")
    tasks.visit(joined.slot, turn, campaign)
    (made,) = tasks._told
    assert isinstance(made, Made)
    assert (made.slot, made.by) == (joined.slot, life.slot.words)
    assert requests.read_bytes() == before
    tasks.visit(joined.slot, turn, campaign)
    assert requests.read_bytes() != before, "a second time it must be made"


# Arrays -------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(campaign, monkeypatch):
    """Arrays of two red tasks whose sbatch writes down what it was given."""
    submitted = []

    def submit(arguments, script):
        submitted.append([*arguments, script.read_text()])
        return str(len(submitted))

    monkeypatch.setattr("bench.slurm.jobs.submit", submit)
    notes = []
    made = Arrays(campaign, wishes({"gpus": "red:2"}, "cuda"), notes.append)
    return made, submitted, notes


def task(arrays, key: str, state: str, node: str = "n1") -> Task:
    (name,) = {name for name in arrays.job_names if name.endswith("-red")}
    return Task(key=key, job_name=name, state=state, restarts=0, node=node, reason="None")


def test_what_ends_by_itself_is_replaced_and_what_was_cancelled_is_not(arrays):
    made, submitted, notes = arrays
    one, other = task(made, "1_0", "RUNNING"), task(made, "1_1", "RUNNING")
    made.review((one, other), set(), set())
    made.replace((one, other))
    assert submitted == []
    tasks = (replace(one, state="NODE_FAIL"), replace(other, state="CANCELLED"))
    made.review(tasks, set(), {"1_0", "1_1"})
    made.replace(tasks)
    assert len(submitted) == 1
    assert "--array=0-0" in submitted[0]
    assert notes[0] == "task 1_1 was cancelled and is not replaced"
    made.review(tasks, set(), set())
    assert len(notes) == 2, "an end is noticed once"


def test_a_task_that_vanished_is_replaced(arrays):
    made, submitted, _ = arrays
    one, other = task(made, "1_0", "RUNNING"), task(made, "1_1", "PENDING")
    made.review((one, other), set(), {"1_0"})
    made.review((other,), set(), {"1_0"})
    made.replace((other,))
    assert len(submitted) == 1


def test_tasks_that_make_nothing_are_not_started_for_ever(arrays, campaign):
    made, submitted, notes = arrays
    (campaign / "logs").mkdir()
    (campaign / "logs" / "1_0.log").write_text("no module named torch\n")
    for number in range(1, 10):
        tasks = (task(made, f"{number}_0", "FAILED"),)
        made.review(tasks, set(), set())
        made.replace(tasks)
    assert len(submitted) == MOST_FAILURES - 1
    assert "no module named torch" in notes[0]
    assert made.owed == ()


def test_work_in_between_forgives(arrays):
    made, _, _ = arrays
    for number in range(1, 10):
        made.worked("red")
        made.review((task(made, f"{number}_0", "FAILED"),), set(), set())
    assert made.owed == ("red",)


def test_a_node_that_cannot_take_part_is_left_out(arrays):
    made, submitted, _ = arrays
    made.refused("red", "n1")
    made.replace(())
    assert "--exclude=n1" in submitted[0]


def test_a_refusal_of_sbatch_later_on_ends_no_run(arrays, monkeypatch):
    made, _, notes = arrays

    def refuse(arguments, script):
        raise SlurmError("sbatch: QOSMaxSubmitJobPerUserLimit")

    monkeypatch.setattr("bench.slurm.jobs.submit", refuse)
    made.replace(())
    assert notes == ["sbatch: QOSMaxSubmitJobPerUserLimit"]
    assert made.owed == ("red",)


# Tasks --------------------------------------------------------------------------------------------


class Answering:
    """A slot that is always ready."""

    def __init__(self, kind="joined"):
        self.kind = kind
        self.asked = []

    def answer(self, request, tell):
        self.asked.append(request["kind"])
        tell({"kind": "trained", "epoch": {}})
        return {"kind": self.kind}


def ordered(campaign: Path, patience_s: float) -> None:
    order = {"open": {"kind": "open", "together": 1}, "patience_s": patience_s}
    (campaign / ORDER).write_text(json.dumps(order))


def test_a_task_gets_ready_alone_and_waits_only_so_long_for_a_driver(campaign):
    ordered(campaign, 0.2)
    server = Answering()
    serve(campaign, "red", LIFE, server)
    assert server.asked == ["open"]
    said = Inbox(campaign / LIVES / LIFE.name / ANSWERS).messages()
    assert [message["kind"] for message in said] == ["hello", "trained", "joined"]
    assert said[1]["number"] == said[2]["number"] == 0


def test_a_task_answers_until_it_is_released(campaign, monkeypatch):
    ordered(campaign, 60.0)
    requests = campaign / LIVES / LIFE.name / REQUESTS
    server = Answering("made")
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        outbox = Outbox(requests)
        outbox.send({"kind": "visit", "number": 1} if len(pauses) == 1 else {"kind": "release"})

    monkeypatch.setattr("time.sleep", pause)
    serve(campaign, "red", LIFE, server)
    assert server.asked == ["open", "visit"]
    assert len(pauses) == 2


def test_a_slot_that_fails_ends_its_task_with_a_status(campaign):
    ordered(campaign, 60.0)
    with pytest.raises(SystemExit) as ended:
        serve(campaign, "red", LIFE, Answering("failed"))
    assert ended.value.code == 1


def test_a_life_is_read_from_what_slurm_says():
    variables = {
        "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2",
        "SLURMD_NODENAME": "n9", "SLURM_JOB_GPUS": "5,6",
    }  # fmt: skip
    life = Life.here(variables)
    assert life == Life(task="12_3", restarts=2, node="n9", gpus=("5", "6"))
    assert [life.device(1), life.device(2)] == ["gpu 5", "gpus 5+6"]
    with pytest.raises(ValueError, match="SLURM_ARRAY_JOB_ID"):
        Life.here({})


# Journals -----------------------------------------------------------------------------------------


def test_a_kind_that_had_not_joined_may_join_a_resumed_run_on_a_cluster(tmp_path):
    order = Order(
        plan=PLAN, device="cpu", threads=1, results=tmp_path / "results", resume=False, only=None,
        submitted_by="anonymous", executor="slurm",
    )  # fmt: skip
    journals = Journals(order)
    code = journals._code
    here = replace(
        tiny.header(PLAN), suite_version=code.suite_version, commit=code.commit,
        variants=code.variants, tasks=code.tasks,
    )  # fmt: skip
    there = replace(here, environment=replace(here.environment, hardware_id="other-1c-1g"))
    with journals:
        journals.of(here)
    resumed = replace(order, resume=True)
    with Journals(resumed) as again:
        assert isinstance(again.of(there), Journal)
        again.of(here)
    for path in (tmp_path / ".attnbench").glob("*other*"):
        path.unlink()
    with Journals(replace(resumed, executor="local")) as alone, pytest.raises(NothingToResumeError):
        alone.of(there)
