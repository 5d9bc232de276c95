"""How a result gets here, what is checked, and how to challenge one."""

from collections.abc import Iterator

from leaderboard.blocks import Block, Bullets, CodeBlock, Document, Paragraph, Section
from leaderboard.page import Page
from leaderboard.pieces import Code, Link
from leaderboard.results import View


def _documents(_view: View) -> Iterator[Document]:
    yield Document(
        path="submit.html",
        title="Submit a result",
        summary="How a result gets onto these pages, what is checked, and how to challenge one.",
        blocks=tuple(_blocks()),
    )


def _blocks() -> Iterator[Block]:
    yield Paragraph(
        ("A result is one folder, written by a run and added by a pull request. Nobody types it.",),
        "lead",
    )
    yield Section("commands", "Measure and check", (
        CodeBlock(
            "git clone REPOSITORY attnbench && cd attnbench\n"
            "python -m pip install nox\n"
            "nox -s bench -- --plan standard --submitted-by your-account\n"
            ".nox/attnbench/bin/attnbench submit RUN --account your-account"
        ),
        Bullets((
            ("On a quiet machine, from a clean checkout: both are recorded and shown.",),
            (Code("submit"), (" applies every rule, refuses what is not yours or not new, and "
             "prints the git commands; the pull request changes nothing else.")),
            ("Failures belong to it. Out of memory is an answer.",),
            ("The first quiet run counts, not the best of ten.",),
        )),
    ))  # fmt: skip
    yield Section("checks", "What is checked", (
        Bullets((
            (("Form: strict JSON of the published schema; names, digests and sha256 agree with "
              "the contents; a changed leaf anywhere is found."),),
            ("What can be computed is computed again: FLOPs, parameters, hashes.",),
            (("Physics: nothing faster than the ceilings that the same run measured, no memory "
              "below what inputs need, times that grow with the work."),),
            ("Statistics: enough rounds, samples that vary as samples do, none copied.",),
            ("Nothing that is already there may change or disappear.",),
        )),
        Paragraph((
            Code("attnbench check"), (" is the only validator; it runs on your machine as it runs "
            "for the pull request."),
        )),
    ))  # fmt: skip
    yield Section("trust", "What that shows, and what not", (
        Paragraph((
            ("A static site cannot prove on which hardware a run was made, nor when. It shows "
             "who submitted it, the conditions, every sample, and the command that repeats it; "
             "other runs of the same case stand beside it on its page. From rules, git and "
             "other runs follows "),
            Link("how far each row can be trusted", "methodology.html#tiers"), ". ",
            Link("Marks that a run can carry", "flags.html"), ".",
        )),
    ))  # fmt: skip
    yield Section("challenge", "Challenge a result", (
        Bullets((
            (("Open the result's page and run the command under Repeat it on the same kind of "
              "machine; "), Code("attnbench repro"), " says whether the two agree."),
            ("With ", Code("--submit"), (" it records a run of this one case; submit that like "
             "any other. It stands beside the row and counts in its trust, for or against.")),
            ("Then open an issue that names the case and both runs. A third run settles it.",),
        )),
    ))  # fmt: skip
    yield Section("variant", "Add an attention, or a faster execution", (
        Paragraph((
            "One file each; ", Code("CONTRIBUTING.md"), (" in the repository has an example of "
            "every kind of contribution. A variant's code and its results come in separate pull "
            "requests."),
        )),
    ))  # fmt: skip
    yield Section("badge", "Show your result elsewhere", (
        Paragraph((
            ("For each variant and machine there is a small JSON file in the form of shields.io "
             "endpoints, linked from the variant's page. "), Link("History", "history.html"),
            " has an Atom feed.",
        )),
    ))  # fmt: skip


PAGE = Page(
    title="Submit",
    path="submit.html",
    order=57,
    documents=_documents,
    about="How a result gets here, and how to challenge one.",
)
