"""Forms the report takes. Every one renders the verdict and the records; none recomputes anything."""

from compression_gate.registry import Plugin

REPORTERS = {
    "markdown": Plugin(
        target="compression_gate.reporters.markdown:rendered", summary="reports/report.md, as a forge shows it"
    ),
    "html": Plugin(
        target="compression_gate.reporters.html:rendered", summary="reports/report.html, one file that needs no network"
    ),
    "junit": Plugin(
        target="compression_gate.reporters.junit:rendered", summary="reports/junit.xml, every check a test case"
    ),
    "terminal": Plugin(
        target="compression_gate.reporters.terminal:show", summary="the tables that run and check print"
    ),
}
