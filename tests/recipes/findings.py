"""What tests of recipes look up."""

from conceptlab.results import Finding, Reproduction


def by_name(done: Reproduction) -> dict[str, Finding]:
    """Every finding of a run by its name."""
    return {finding.name: finding for finding in done.findings}
