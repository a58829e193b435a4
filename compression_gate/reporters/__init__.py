"""Forms the report takes. Every one renders the verdict and the records; none recomputes anything."""

from compression_gate.registry import Plugin

REPORTERS = {
    "markdown": Plugin(
        target="compression_gate.reporters.markdown:rendered", summary="reports/report.md, as a forge shows it"
    ),
    "terminal": Plugin(
        target="compression_gate.reporters.terminal:show", summary="the tables that run and check print"
    ),
}
