"""The last screen's answers: ranked, ties joined, failures listed."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from attention_impls import load, names
from bench.cases import image, workload_case
from bench.model import Case, Crashed, Measured, Ok, Record, TaskRun
from bench.summary import answers, cell_words, counter_lines, failure_lines, print_answers


def timed(variant: str, seconds: float, *, side: int = 224, spread: float = 0.001) -> Record:
    rounds = tuple((seconds * (1 + spread * k),) for k in (-1, 0, 1))
    return Record(
        case=workload_case(variant, "reference", image(side), dtype="float32", passes="forward"),
        variant_revision=1,
        outcome=Ok(
            measurements=(
                Measured(metric="latency", rounds=rounds),
                Measured(metric="peak_memory", rounds=((int(seconds * 1e9),),)),
            ),
            executed="reference",
            batch=1,
        ),
    )


def trained(variant: str, seed: int, accuracy: float) -> Record:
    return Record(
        case=Case(
            variant=variant, backend="reference", level="model",
            stimulus=TaskRun(task="digits", seed=seed),
        ),
        variant_revision=1,
        outcome=Ok(
            measurements=(Measured(metric="accuracy", rounds=((accuracy,),)),), executed="-"
        ),
    )  # fmt: skip


def test_ties_share_a_rank_and_the_next_rank_skips() -> None:
    records = [timed("inline", 1.0e-3), timed("softmax", 1.01e-3), timed("soft", 2e-3)]
    first = next(iter(answers(records, noise_floor=0.03)))
    assert first.question == "fastest forward, 224 px (196 tokens, float32)"
    assert first.ranking == "1. inline 1 ms = softmax 1.01 ms   3. soft 2 ms"


def test_rows_beyond_noise_and_interval_do_not_tie() -> None:
    records = [timed("inline", 1.0e-3), timed("softmax", 1.2e-3)]
    first = next(iter(answers(records, noise_floor=0.03)))
    assert first.ranking == "1. inline 1 ms   2. softmax 1.2 ms"


def test_sizes_that_only_one_variant_completed_are_not_ranked() -> None:
    crashed = Crashed(exit_code=1, reason="x")
    big = timed("inline", 1e-2, side=2048)
    failed = timed("softmax", 1, side=2048)
    records = [
        timed("inline", 1e-3), timed("softmax", 2e-3), big,
        Record(case=failed.case, variant_revision=1, outcome=crashed),
    ]  # fmt: skip
    assert all("2048" not in answer.question for answer in answers(records, None))


def test_accuracy_is_the_mean_over_seeds() -> None:
    records = [trained("inline", s, a) for s, a in enumerate((0.94, 0.95, 0.96))]
    records += [trained("softmax", s, a) for s, a in enumerate((0.10, 0.11, 0.12))]
    (answer,) = answers(records, None)
    assert answer.question == "most accurate, digits (3 seeds)"
    assert answer.ranking == "1. inline 95.0%   2. softmax 11.0%"
    (alone,) = answers(records[:1], None)
    assert alone.question == "most accurate, digits (1 seed)"


def test_failures_are_counted_by_reason() -> None:
    case = timed("inline", 1.0).case
    crash = Record(case=case, variant_revision=1, outcome=Crashed(exit_code=1, reason="boom"))
    assert cell_words([crash, timed("softmax", 1.0)]) == "1 of 2 measured; 1 crashed"
    assert list(failure_lines([crash, crash])) == ["2 x inline: crashed: boom"]
    assert list(failure_lines([timed("softmax", 1.0)])) == []


def counted(variant: str, formula: int, torch: int, fvcore: int | None) -> Record:
    record = timed(variant, 1.0)
    counts = {"flops": formula, "flops_torch": torch, "flops_fvcore": fvcore}
    measured = tuple(
        Measured(metric=name, rounds=((count,),)) for name, count in counts.items() if count
    )
    return replace(record, outcome=Ok(measurements=measured, executed="reference", batch=1))


def test_a_formula_that_no_counter_confirms_is_told_once_a_variant() -> None:
    wrong = counted("softmax", 1_000_000, 2_000_000, 2_000_000)
    (line,) = counter_lines([wrong, wrong])
    assert line.startswith(
        "softmax: the formula gives 1,000,000, flops_torch 2,000,000, flops_fvcore 2,000,000, in"
    )
    assert line.endswith("correct core_flops, or declare the rest in uncounted")
    assert list(counter_lines([counted("softmax", 7, 7, None), timed("inline", 1.0)])) == []


def test_what_a_variant_declares_uncounted_is_no_mistake() -> None:
    declared = next(name for name in names() if load(name).uncounted is not None)
    assert list(counter_lines([counted(declared, 1, 2, 2)])) == []


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_narrow_terminal_shows_whole_questions_and_rankings(width: int) -> None:
    text = io.StringIO()
    found = tuple(answers([timed("inline", 1.0e-3), timed("softmax", 2e-3)], noise_floor=0.03))
    print_answers(found, Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(text.getvalue().split())
    for answer in found:
        assert " ".join(answer.question.split()) in shown
        assert " ".join(answer.ranking.split()) in shown
