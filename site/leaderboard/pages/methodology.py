"""How to read the numbers: what is timed, what is not, and what makes two rows tie."""

from collections.abc import Iterator

from bench.tier import TIERS
from leaderboard.blocks import Block, Bullets, Document, Paragraph, Section
from leaderboard.page import Page
from leaderboard.pieces import Code, Link, Strong
from leaderboard.results import EXACTNESS_HELP, EXACTNESS_TITLES, OUTCOME_WORDS, View

_OUTCOMES = {
    "incorrect": "its output or gradient differs from the float64 reference by more than the "
    "tolerance, so it is not timed",
    "unsupported": "the variant or the execution refuses this size, type or mask, with a reason",
    "out_of_memory": "an allocation failed under the memory limit of the run",
    "timed_out": "killed at the time limit of the run",
    "crashed": "the process raised, exited or died",
    "diverged": "a training whose loss or gradient stopped being a number, with the step",
    "not_run": "not attempted, for instance because a smaller size already failed",
}


def _documents(_view: View) -> Iterator[Document]:
    yield Document(
        path="methodology.html",
        title="How it is measured",
        summary="What is timed, what is not, noise, ties, FLOPs and exactness.",
        blocks=tuple(_blocks()),
    )


def _blocks() -> Iterator[Block]:
    yield Paragraph(
        (
            "The short form. The long one, with reasons, is ",
            Code("docs/methodology.md"),
            " in the repository.",
        ),
        "lead",
    )
    yield Section("timed", "What is timed", (
        Bullets((
            (("One call of one attention: the mixing alone (core: q, k and v are given) or with "
              "its projections (layer). Whole networks are timed only to check what their papers "
              "say of them, and stand on no ranking."),),
            (("Inputs are normally distributed, distinct for q, k and v, and fresh for each "
              "call. They are computed by a formula and have the same bits on every machine."),),
            (("Each case runs in its own process on a CPU; on a GPU a process is shared by the "
              "cases of one variant within a round and replaced after any failure."),),
            (("Before timing, output and gradients are compared with the reference in float64. "
              "What is not correct is not timed."),),
            (("On a GPU the time is the device's, with inputs that are not in its cache; the "
              "host's time stands beside it. On a CPU the allocator keeps its pages; the time "
              "with fresh pages stands beside it as cold."),),
            ("Not timed: loading data, moving it to the device, compilation, the optimiser.",),
        )),
    ))  # fmt: skip
    yield Section("rounds", "Rounds, intervals and noise", (
        Bullets((
            (("All cases are visited once a round, in shuffled order, for at least three "
              "rounds. The value shown is the median of the round medians."),),
            (("The interval is a 95 % interval of the round medians. Samples within a round "
              "share everything that can be wrong with the round, so they do not narrow it."),),
            (("Some cases run twice in each round. How much the two differ, although nothing "
              "did change, is the noise floor: nine in ten such comparisons lie within it."),),
            ("One anchor case is repeated through the run to see whether the machine drifts.",),
        )),
    ))  # fmt: skip
    yield Section("ties", "Ranks and ties", (
        Paragraph((
            ("Two rows are told apart if their values differ by more than the noise floor and "
             "their intervals do not overlap. Rows that cannot be told from the leader of a "
             "rank share that rank, written =1; the next rank counts them (1, 1, 3). A rank "
             "never spans machines, types, directions, levels, batch policies, sizes or kinds "
             "of function. There is no score over several of them."),
        )),
    ))  # fmt: skip
    yield Section("exactness", "Kinds of function", (
        Bullets(tuple(
            (f"{EXACTNESS_TITLES[kind]}: {EXACTNESS_HELP[kind]}",) for kind in EXACTNESS_TITLES
        )),
    ))  # fmt: skip
    yield Section("flops", "FLOPs and MACs", (
        Paragraph((
            ("One multiply-add is 2 FLOPs and 1 MAC. Counted are contractions (matrix products, "
             "convolutions, linear maps, FFT at 5 n log2 n) of one forward call, projections "
             "included, dense unless the algorithm skips. Exponentials, divisions and sums are "
             "not counted. Backward counts twice the forward. "),
            Link("The FLOPs page", "flops.html"),
            " compares the formula with two counters.",
        )),
    ))  # fmt: skip
    yield Section("memory", "Memory", (
        Paragraph((
            ("Peak memory is the most in use during one call above inputs and parameters. On a "
             "CPU it is the running sum of the allocator's events, exact to the byte; on a GPU "
             "the allocator's maximum minus its state before the call. Predicted memory comes "
             "from fake tensors. The most tokens that fit is found by bisection under a budget."),
        )),
    ))  # fmt: skip
    yield Section("batches", "Batch policies", (
        Bullets((
            ("1 sequence: latency is ranked.",),
            (("Fixed token budget: as many sequences as fill the budget; tokens per second are "
              "ranked."),),
            (("Largest that fits: the batch differs between rows and is printed; tokens per "
              "second are ranked."),),
        )),
    ))  # fmt: skip
    yield Section("efficiency", "Roofline efficiency", (
        Paragraph((
            ("Each run measures its machine first: the best rate of matrix products for the "
             "type, the bandwidth of a copy, the overhead of a call. The floor of a case is the "
             "longest of FLOPs over rate, least bytes over bandwidth, and overhead; efficiency "
             "is that floor over the time taken. A row above 1.02 beats its own machine: it is "
             "marked implausible and not ranked."),
        )),
    ))  # fmt: skip
    yield Section("outcomes", "Failures", (
        Paragraph(("A failure is a result: it is stored, counted and shown as a word.",)),
        Bullets(tuple((f"{word}: {_OUTCOMES[kind]}.",) for kind, word in OUTCOME_WORDS.items())),
    ))  # fmt: skip
    yield Section("marks", "Marks on rows", (
        Bullets((
            (("stale: measured with an older revision of the variant or an older protocol. "
              "Readable, not ranked."),),
            ("busy machine: other work ran during the measurement.",),
            ("implausible: faster than the machine's own ceilings allow. Not ranked.",),
        )),
    ))  # fmt: skip
    yield Section("tiers", "How far a row can be trusted", (
        Paragraph((
            ("The word in the column Trust is computed whenever these pages are built, from the "
             "rules of "), Code("attnbench check"), (", from git and from other runs; nobody "
             "types it. Each word needs all that the words before it need."),
        )),
        Bullets(tuple((Strong(tier), f": {words}") for tier, words in TIERS.items())),
        Paragraph((
            ("Reproducible needs: no finding that a person must look at, a clean commit of the "
             "repository whose file of the variant is the one that ran, its revision and "
             "protocol, and a receipt, a few values of the timed output that are computed "
             "again. Reproduced needs another account; runs of the same account and anonymous "
             "ones do not count, nor do busy or throttled ones, and those that agree must "
             "outnumber those that differ. Up to 10 % between two machines of one model is "
             "agreement."),
        )),
    ))  # fmt: skip
    yield Section("trust", "What these pages cannot show", (
        Bullets((
            (("Each run is one machine on one day. Two machines of one model differ; so do two "
              "driver versions."),),
            (("Numbers submitted by others are checked for form and for physical plausibility, "
              "and can be repeated by anyone with the printed command; they were not repeated "
              "by us unless the word in the column Trust says so."),),
            (("Hardware and time are what the run says: a file can name a machine that was not "
              "there, and one person can have two accounts."),),
            (("One layer is not a network: its share of a model's time depends on everything "
              "else in it."),),
        )),
    ))  # fmt: skip


PAGE = Page(
    title="Methodology",
    path="methodology.html",
    order=52,
    documents=_documents,
    about="What is timed, what is not, and what ties mean.",
)
